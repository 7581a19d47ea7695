"""An event loop in which minutes pass in moments: its clock jumps to the next timer as soon as nothing else is to do."""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

#: Looks for what is under way on the loopback, before the clock jumps. The kernel delivers it as a rule before ``send`` returns, so they are not for
#: waiting; a sleep would be, and take longer than the simulated time on a busy machine.
_LOOKS = 3
#: Real seconds without a timer and without anything arriving: a test that waits for nothing.
_STUCK_SECONDS = 20.0


class _Selector(selectors.DefaultSelector):
    """Lets time pass instead of waiting for it."""

    now_seconds = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        for _ in range(_LOOKS):
            if (ready := super().select(0)) or timeout == 0:
                return ready
            os.sched_yield()
        if timeout is not None:
            self.now_seconds += timeout
            return []
        if not (ready := super().select(_STUCK_SECONDS)):
            raise RuntimeError("the simulation waits for something that will not come")
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Real sockets, simulated seconds. What is handed to threads is done on the spot, for a thread's time would not count."""

    def __init__(self) -> None:
        self._simulated = _Selector()
        super().__init__(self._simulated)

    def time(self) -> float:
        return self._simulated.now_seconds

    def jump(self, seconds: float) -> None:
        """Let the clock stand elsewhere at once, as nothing did that happens in between."""
        self._simulated.now_seconds += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


def simulate(main: Coroutine[Any, Any, Any]) -> Any:
    """Run it to its end in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)
