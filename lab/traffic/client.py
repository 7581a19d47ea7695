"""Starting the traffic programs inside a network namespace, and reading what they say."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, cast

from lab import netns
from lab.traffic.connections import ConnectionsPlan, Sample
from lab.traffic.flows import FlowsPlan
from lab.traffic.transfer import Transfer

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_ANSWER_SECONDS = 60.0


class TrafficFailed(Exception):
    """A traffic program ended without an answer; the message holds what it wrote to stderr."""


@dataclass(frozen=True, slots=True)
class FlowsState:
    """Counts over a set of flows at one moment; see `lab.traffic.flows.Flows.state`."""

    opened: int
    broken: int
    not_opened: dict[str, int]
    reasons: dict[str, int]
    pods: dict[str, int]
    nodes: dict[str, int]
    clients: tuple[str, ...]
    exchanges: int
    broken_flows: tuple[dict[str, Any], ...]
    samples: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, raw: dict[str, Any]) -> FlowsState:
        known: dict[str, Any] = {field.name: raw[field.name] for field in dataclasses.fields(cls) if field.name in raw}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in known.items()
        }
        return cls(**values)

    def broken_except(self, *, node: str) -> int:
        """Broken flows whose pod is on any other node."""
        return sum(1 for flow in self.broken_flows if flow["node"] != node)

    @property
    def summary(self) -> dict[str, object]:
        """Without the long lists."""
        short = dataclasses.asdict(self)
        del short["samples"], short["clients"]
        return short


class _Program:
    def __init__(self, namespace: str | None, command: str, plan: dict[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process; end() closes it
        self._process = subprocess.Popen(
            netns.enter(namespace, [sys.executable, "-m", "lab.traffic", command]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=_CHECKOUT,
        )  # fmt: skip
        self._in, self._out = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self._command = command
        self.tell(json.dumps(plan))

    def tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # It has ended; answer() says why.
            self._in.write(line + "\n")
            self._in.flush()

    def answer(self, timeout_seconds: float = _ANSWER_SECONDS) -> dict[str, Any]:
        """Its next line.

        Raises TrafficFailed if it ends, or says nothing for `timeout_seconds`.
        """
        watchdog = threading.Timer(timeout_seconds, self._process.kill)
        watchdog.start()
        try:
            line = self._out.readline()
        finally:
            watchdog.cancel()
        if not line:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            raise TrafficFailed(
                f"lab.traffic {self._command} gave no answer within {timeout_seconds:g} s: {self._errors.read()[-2000:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._in, self._out, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class RunningFlows:
    """Flows that are open while the `with` block runs. `opened` is their state after opening."""

    def __init__(self, namespace: str | None, plan: FlowsPlan) -> None:
        self._program = _Program(namespace, "flows", dataclasses.asdict(plan))
        self._stopped: FlowsState | None = None
        try:
            self.opened = FlowsState.read(self._program.answer())
        except BaseException:
            self._program.end()
            raise

    def check(self) -> FlowsState:
        """One exchange on each flow now, then the state."""
        self._program.tell("check")
        return FlowsState.read(self._program.answer())

    def stop(self) -> FlowsState:
        """The last state, with raw samples; the flows are closed."""
        if self._stopped is None:
            self._program.tell("stop")
            self._stopped = FlowsState.read(self._program.answer())
            self._program.end()
        return self._stopped

    def __enter__(self) -> RunningFlows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.end()


class RunningConnections:
    """New connections that are being made while the `with` block runs."""

    def __init__(self, namespace: str | None, plan: ConnectionsPlan) -> None:
        self._program = _Program(namespace, "connections", dataclasses.asdict(plan))
        self._samples: tuple[Sample, ...] | None = None

    def stop(self) -> tuple[Sample, ...]:
        """No more of them; what became of each."""
        if self._samples is None:
            self._program.tell("stop")
        return self.wait()

    def wait(self) -> tuple[Sample, ...]:
        """Until the planned count is made."""
        if self._samples is None:
            self._samples = tuple(Sample(**raw) for raw in self._program.answer(600)["samples"])
            self._program.end()
        return self._samples

    def __enter__(self) -> RunningConnections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.end()


@dataclass(frozen=True, slots=True)
class Client:
    """Clients in `namespace` (none: this one)."""

    namespace: str | None

    def flows(self, plan: FlowsPlan) -> RunningFlows:
        return RunningFlows(self.namespace, plan)

    def connections(self, plan: ConnectionsPlan) -> RunningConnections:
        return RunningConnections(self.namespace, plan)

    def _once(self, command: str, plan: dict[str, Any]) -> dict[str, Any]:
        program = _Program(self.namespace, command, plan)
        try:
            return program.answer()
        finally:
            program.end()

    def transfer(
        self,
        target: tuple[str, int],
        direction: Literal["get", "put"],
        wanted_bytes: int,
        source: str | None = None,
        timeout_seconds: float = 8,
    ) -> Transfer:
        raw = self._once("transfer", {
            "target": target, "direction": direction, "wanted_bytes": wanted_bytes, "source": source, "timeout_seconds": timeout_seconds,
        })  # fmt: skip
        raw.pop("complete")
        return Transfer(**raw)

    def start_transfer(
        self,
        target: tuple[str, int],
        direction: Literal["get", "put"],
        wanted_bytes: int,
        source: str | None,
        timeout_seconds: float,
        wait: float,
    ) -> RunningTransfer:
        """A transfer that begins `wait` seconds after its connection is up."""
        return RunningTransfer(_Program(self.namespace, "transfer", {
            "target": target, "direction": direction, "wanted_bytes": wanted_bytes, "source": source,
            "timeout_seconds": timeout_seconds, "wait": wait,
        }))  # fmt: skip

    def ports(
        self,
        transport: Literal["tcp", "udp"],
        address: str,
        ports: list[int],
        source: str | None = None,
        timeout_seconds: float = 1.0,
    ) -> dict[int, str]:
        plan = {
            "transport": transport,
            "address": address,
            "ports": ports,
            "source": source,
            "timeout_seconds": timeout_seconds,
        }
        return {int(port): verdict for port, verdict in self._once("ports", plan)["ports"].items()}

    def packet(
        self, packet: bytes, listen: tuple[str, int] | None = None, wait_seconds: float = 1.0
    ) -> list[dict[str, str]]:
        """Send one packet made by hand; the datagrams heard at `listen` afterwards."""
        heard: list[dict[str, str]] = self._once(
            "packet", {"packet": packet.hex(), "listen": listen, "wait_seconds": wait_seconds}
        )["heard"]
        return heard


class RunningTransfer:
    def __init__(self, program: _Program) -> None:
        self._program = program

    def wait(self) -> Transfer:
        try:
            raw = self._program.answer()
        finally:
            self._program.end()
        raw.pop("complete")
        return Transfer(**raw)
