"""The one loop that every role runs: woken by events, at a bounded rate, and run anyway at each resync.

Only here is caught broadly, and what an error says decides what happens next (:mod:`lbnode.errors`): ``ConfigError`` is told and the
pass ends with the last good state in force, ``Retry`` runs the pass again after its delay, anything else is a bug: told with its
traceback, and the next resync tries again. Nothing is undone on an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from lbnode.errors import ConfigError, Retry
from lbnode.settings import AgentSettings, DataPlane, PendingSettings, other_dataplane, parse_json, with_dataplane

#: From the begin of one pass to the begin of the next, at least. What happens after a quiet time waits for nothing; events that come faster share
#: passes. The longest that one waits on top of the pass that it may have just missed.
PASS_INTERVAL_SECONDS = 0.02
#: And from its end on, whatever it took: what else the process does, probes and answers, has its turn.
BREATH_SECONDS = 0.003
#: A pass may take at most this share of the time between two resyncs, so that reading a large table never fills the CPU.
#: Not less: on a busy machine a pass takes a second, and what breaks must be repaired or withdrawn within three.
BUSY_SHARE = 0.5
SETTINGS_POLL_SECONDS = 1.0
_ROLLED = "It is taken when the pod is replaced, one node after the other: kubectl -n samegate-system rollout status daemonset samegate-edge"

log = structlog.get_logger()
Value = TypeVar("Value")


class Loop:
    """Runs passes one after the other, never two at once.

    Args:
        resync_seconds: time from one pass to the next when nothing happens.
        failed: told ``ConfigError``, ``Retry`` or ``Bug`` at the end of a pass with one.
        succeeded: called at the end of a pass without an error.
    """

    def __init__(
        self,
        resync_seconds: float,
        failed: Callable[[str], None] = lambda kind: None,
        succeeded: Callable[[], None] = lambda: None,
    ) -> None:
        self._failed = failed
        self._succeeded = succeeded
        self._resync_seconds = resync_seconds
        self._woken = asyncio.Event()
        self.stopping = asyncio.Event()
        #: Text of the last error, empty after a pass without one.
        self.last_error = ""
        self.last_pass_seconds = time.monotonic()
        #: Set before :meth:`stop` when the process must end for another reason than SIGTERM.
        self.restarting = False
        self.failure: BaseException | None = None

    def wake(self) -> None:
        """Ask for a pass soon."""
        self._woken.set()

    def stop(self) -> None:
        """End after the pass that runs now."""
        self.stopping.set()
        self._woken.set()

    def restart(self) -> None:
        """End as :meth:`stop`, for a new process to start without any farewell."""
        self.restarting = True
        self.stop()

    async def run(self, pass_once: Callable[[], Awaitable[None]]) -> None:
        """Run passes until stopped."""
        loop = asyncio.get_running_loop()
        while not self.stopping.is_set():
            self._woken.clear()
            started = loop.time()
            delay = await self._guarded_pass(pass_once)
            pause = max(delay, (loop.time() - started) * (1 / BUSY_SHARE - 1) if delay >= self._resync_seconds else 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            if not self.stopping.is_set():
                await asyncio.sleep(max(BREATH_SECONDS, started + PASS_INTERVAL_SECONDS - loop.time()))

    async def _guarded_pass(self, pass_once: Callable[[], Awaitable[None]]) -> float:
        try:
            await pass_once()
        except ConfigError as error:
            self._tell("ConfigError", str(error))
            return self._resync_seconds
        except Retry as error:
            self._tell("Retry", str(error))
            return error.after_seconds
        except Exception as error:
            self.last_error = repr(error)
            self._failed("Bug")
            log.exception("pass.bug")
            return self._resync_seconds
        else:
            self.last_error = ""
            self._succeeded()
            return self._resync_seconds
        finally:
            self.last_pass_seconds = time.monotonic()

    def _tell(self, kind: str, text: str) -> None:
        self._failed(kind)
        # The same error each second would drown the log: it is told when it appears and when it changes.
        if text != self.last_error:
            log.warning("pass.failed", kind=kind, error=text)
        self.last_error = text


class WatchedFile(Generic[Value]):
    """A file that is read when its text changes; a bad or unreadable one after a good one leaves the good one in force.

    ``error`` says why the file is refused now, and is empty while it is not; ``pending`` why it waits for the next agent. ``first`` reads the text at
    the start, if not ``read``: where there is no good one yet, one may have to do that is not taken later.

    Raises:
        ConfigError: the file is missing or wrong at the start, when there is no good one yet.
    """

    decoding_errors = "strict"

    def __init__(
        self, path: Path, read: Callable[[str, str], Value], first: Callable[[str, str], Value] | None = None
    ) -> None:
        self._path = path
        self._read = read
        self._text = self._text_now()
        self.current: Value = (first or read)(self._text, str(path))
        self.error = self.pending = ""
        if first is not None:
            try:
                self.current = read(self._text, str(path))
            except PendingSettings as waiting:
                self.pending = str(waiting)
            except ConfigError as error:
                self.error = str(error)
        #: Changes with ``current``.
        self.version = 0

    def _text_now(self) -> str:
        try:
            return self._path.read_text("utf-8", errors=self.decoding_errors)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(str(self._path), f"cannot be read: {error}", "Put a readable file there") from None

    def poll(self) -> bool:
        """Look once; ``True`` when ``current``, ``error`` or ``pending`` changed."""
        before = (self.current, self.error, self.pending)
        try:
            text = self._text_now()
            if text == self._text and not self.error and not self.pending:
                return False
            self.current, self.error, self.pending = self._read(text, str(self._path)), "", ""
            self._text = text
        except PendingSettings as waiting:
            self.error, self.pending = "", str(waiting)
        except ConfigError as error:
            self.error, self.pending = str(error), ""
        if (self.current, self.error, self.pending) == before:
            return False
        self.version += self.current != before[0]
        if self.error:
            log.error("settings.refused", error=self.error)
        elif self.pending:
            log.warning("settings.pending", text=self.pending)
        else:
            log.info("settings.changed")
        return True

    async def follow(self, changed: Callable[[], None]) -> None:
        """Poll until cancelled. Kubelet swaps a symlink, which no file watch on the file itself sees."""
        while True:
            await asyncio.sleep(SETTINGS_POLL_SECONDS)
            if self.poll():
                changed()


class SettingsFile(WatchedFile[AgentSettings]):
    """The mounted ConfigMap. ``own`` is the data plane that the agent was started with, where that is decided elsewhere: settings that ask for another
    one are pending, and at the start they are taken but for it.
    """

    #: Bytes that are no UTF-8 become characters that no JSON outside its strings has, and are told by their place in the text.
    decoding_errors = "surrogateescape"

    def __init__(self, path: Path, own: DataPlane | None = None) -> None:
        if own is None:
            super().__init__(path, parse_json)
            return

        def read(text: str, where: str) -> AgentSettings:
            settings = parse_json(text, where)
            if settings.dataplane != own:
                raise other_dataplane(settings.dataplane, own, _ROLLED)
            return settings

        def first(text: str, where: str) -> AgentSettings:
            return with_dataplane(parse_json(text, where), own, _ROLLED)

        super().__init__(path, read, first)


def on_termination(act: Callable[[], None]) -> None:
    """Call ``act`` on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, act)
