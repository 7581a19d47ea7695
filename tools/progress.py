"""What a run says while it works: a live line on a terminal, one line per step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

#: A pipe hears of a step that is still running this often: between a log nobody reads and a job taken for dead.
HEARTBEAT_SECONDS = 60.0


class Step:
    """A running step. `detail` is what it does now; `result` is what its last line says."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self.result = "done"

    def detail(self, text: str) -> None:
        self._show(text)


class Progress:
    """Plain lines, for a pipe or a log, and for a Python that has no rich yet."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """One step; its line tells the elapsed seconds, and whether it failed."""
        started = spoke = self._clock()

        def show(text: str) -> None:
            nonlocal spoke
            now = self._clock()
            if now - spoke >= HEARTBEAT_SECONDS:
                spoke = now
                self.say(f"  {name}: still at it after {now - started:.0f} s: {text}")

        step = Step(show)
        try:
            yield step
        except BaseException as error:
            self.say(f"  {name}: failed ({type(error).__name__}, {self._clock() - started:.1f} s)")
            raise
        self.say(f"  {name}: {step.result} ({self._clock() - started:.1f} s)")


class LiveProgress(Progress):
    """A spinner with the current detail, through rich."""

    def __init__(self, console: Any, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console.file, clock)
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(name, total=None, detail="")
            width = max(20, self._console.width - len(name) - 20)
            with super().step(name) as step:
                step._show = lambda text: bars.update(task, detail=text[-width:])
                yield step


def for_terminal(stream: TextIO | None = None) -> Progress:
    """Live where the stream is a terminal and rich is there, plain otherwise."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return Progress(stream)
    try:
        from rich.console import Console
    except ImportError:
        return Progress(stream)
    return LiveProgress(Console(file=stream))
