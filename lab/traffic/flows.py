"""Long-lived flows: each keeps exchanging lines with one pod until told to stop, and remembers how it broke, if it did.

A flow is broken when it is reset, ended by the other side, left without an answer, or answered by another pod than the one it
began with. A broken flow is not reopened. Lost datagrams alone do not break a UDP flow: a question is asked three times.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lab.traffic import answer

Transport = Literal["tcp", "udp"]
UDP_TRIES = 3


class Channel(Protocol):
    """One socket that carries questions and answers."""

    async def open(self, timeout_seconds: float) -> answer.Answer: ...

    async def ask(self, timeout_seconds: float) -> answer.Answer: ...

    def close(self) -> None: ...


class TcpChannel:
    """One TCP connection from `source` (an address; any free port) to `target`."""

    def __init__(self, target: tuple[str, int], source: str | None) -> None:
        self._target, self._source = target, source
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, timeout_seconds: float) -> answer.Answer:
        async with asyncio.timeout(timeout_seconds):
            local = (self._source, 0) if self._source else None
            self._reader, self._writer = await asyncio.open_connection(*self._target, local_addr=local)
            return await self._line(self._reader)

    async def ask(self, timeout_seconds: float) -> answer.Answer:
        if self._writer is None or self._reader is None:
            raise RuntimeError("open() comes before ask()")
        async with asyncio.timeout(timeout_seconds):
            self._writer.write(answer.QUESTION)
            await self._writer.drain()
            return await self._line(self._reader)

    @staticmethod
    async def _line(reader: asyncio.StreamReader) -> answer.Answer:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return answer.parse(line)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class UdpChannel:
    """One connected UDP socket; answers are matched to questions by arrival, late ones of earlier tries are dropped."""

    def __init__(self, target: tuple[str, int], source: str | None) -> None:
        self._socket = socket.socket(answer.family_of(target[0]), socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._target, self._source = target, source

    async def open(self, timeout_seconds: float) -> answer.Answer:
        if self._source:
            self._socket.bind((self._source, 0))
        self._socket.connect(self._target)
        return await self.ask(timeout_seconds)

    async def ask(self, timeout_seconds: float) -> answer.Answer:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(2048):
                pass
        for attempt in range(1, UDP_TRIES + 1):
            await loop.sock_sendall(self._socket, answer.QUESTION)
            try:
                async with asyncio.timeout(timeout_seconds / UDP_TRIES):
                    return answer.parse(await loop.sock_recv(self._socket, 2048))
            except TimeoutError:
                if attempt == UDP_TRIES:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    def close(self) -> None:
        self._socket.close()


def reason_of(error: Exception) -> str:
    """One word for how an exchange failed: timeout, eof, reset, refused, or the error's own name."""
    match error:
        case TimeoutError():
            return "timeout"
        case EOFError():
            return "eof"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case ConnectionRefusedError():
            return "refused"
        case _:
            return type(error).__name__


@dataclass(slots=True)
class Flow:
    """One flow and what became of it. `samples` are (time, milliseconds) of each exchange."""

    number: int
    channel: Channel
    first: answer.Answer | None = None
    broken: str | None = None
    broken_at: float | None = None
    samples: list[tuple[float, float]] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def alive(self) -> bool:
        return self.first is not None and self.broken is None

    async def open(self, timeout_seconds: float) -> None:
        began = time.monotonic()
        try:
            self.first = await self.channel.open(timeout_seconds)
        except (OSError, EOFError, ValueError) as error:
            self._break(f"open: {reason_of(error)}", began)
        else:
            self._sample(began)

    async def exchange(self, timeout_seconds: float) -> None:
        async with self.lock:
            if not self.alive:
                return
            began = time.monotonic()
            try:
                said = await self.channel.ask(timeout_seconds)
            except (OSError, EOFError, ValueError) as error:
                self._break(reason_of(error), began)
                return
            self._sample(began)
            if self.first is not None and said.pod != self.first.pod:
                self._break("other pod", began)

    def _sample(self, began: float) -> None:
        self.samples.append((round(began, 4), round((time.monotonic() - began) * 1000, 1)))

    def _break(self, reason: str, began: float) -> None:
        self.broken, self.broken_at = reason, round(began, 4)
        self.channel.close()


@dataclass(frozen=True, slots=True)
class FlowsPlan:
    """What to open. `sources` are used in turn; the flows exchange a line every `interval_seconds`, spread evenly."""

    transport: Transport
    target: tuple[str, int]
    count: int
    sources: tuple[str, ...] = ()
    interval_seconds: float = 1.0
    open_timeout_seconds: float = 3.0
    exchange_timeout_seconds: float = 6.0
    opening_at_once: int = 64


class Flows:
    """A set of flows over their life: `open`, then `check` as often as wanted, then `close`."""

    def __init__(self, plan: FlowsPlan) -> None:
        self.plan = plan
        kind = TcpChannel if plan.transport == "tcp" else UdpChannel
        sources: Sequence[str | None] = plan.sources or (None,)
        self.flows = [Flow(n, kind(plan.target, sources[n % len(sources)])) for n in range(plan.count)]
        self._keeping: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        gate = asyncio.Semaphore(self.plan.opening_at_once)

        async def one(flow: Flow) -> None:
            async with gate:
                await flow.open(self.plan.open_timeout_seconds)

        await asyncio.gather(*(one(flow) for flow in self.flows))
        if self.plan.interval_seconds > 0:
            self._keeping = [asyncio.create_task(self._keep(flow)) for flow in self.flows if flow.alive]

    async def _keep(self, flow: Flow) -> None:
        await asyncio.sleep(random.random() * self.plan.interval_seconds)
        while flow.alive:
            await flow.exchange(self.plan.exchange_timeout_seconds)
            await asyncio.sleep(self.plan.interval_seconds)

    async def check(self) -> None:
        """One exchange on every flow that is still whole."""
        await asyncio.gather(*(flow.exchange(self.plan.exchange_timeout_seconds) for flow in self.flows))

    async def close(self) -> None:
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for flow in self.flows:
            flow.channel.close()

    def state(self) -> dict[str, object]:
        """Counts for a person, and each broken flow with its time, pod and node."""
        opened = [f for f in self.flows if f.first is not None]
        broken = [f for f in opened if f.broken is not None]
        return {
            "time": time.monotonic(),
            "opened": len(opened),
            "not_opened": dict(Counter(f.broken or "never tried" for f in self.flows if f.first is None)),
            "broken": len(broken),
            "reasons": dict(Counter(f.broken for f in broken)),
            "pods": dict(Counter(f.first.pod for f in opened if f.first)),
            "nodes": dict(Counter(f.first.node for f in opened if f.first)),
            "clients": sorted({f.first.client for f in opened if f.first}),
            "exchanges": sum(len(f.samples) for f in self.flows),
            "broken_flows": [
                {"flow": f.number, "at": f.broken_at, "reason": f.broken, "pod": f.first.pod, "node": f.first.node}
                for f in broken
                if f.first
            ],
        }

    def samples(self) -> list[dict[str, object]]:
        """Every flow with every exchange: the raw material behind :meth:`state`."""
        return [
            {
                "flow": f.number,
                "pod": f.first.pod if f.first else None,
                "node": f.first.node if f.first else None,
                "broken": f.broken,
                "broken_at": f.broken_at,
                "exchanges": f.samples,
            }
            for f in self.flows
        ]
