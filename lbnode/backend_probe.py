"""Asking the pods of this node as a client would: the edge of :mod:`lbnode.active_probe`.

Each pod is asked in its own pace, one probe at a time, and all pods together with at most so many at once. A probe opens its own socket and
closes it, so that it stands for a new client; an answer is read only as far as it decides.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from lbnode.active_probe import ActiveProbe, Backend, HttpGet, TcpConnect, UdpExchange
from lbnode.model import IPAddress

#: How often is looked for pods whose turn has come; the shortest interval that settings allow is this.
TICK_SECONDS = 0.1
#: A status line that is longer is none (RFC 9112 names no limit; those of servers are tens of bytes).
LONGEST_STATUS_LINE_BYTES = 1024
LONGEST_DATAGRAM_BYTES = 65535

#: Why a probe failed, by the kernel's error. Everything else is ``SendFailed`` with the errno in the detail.
REASONS = {
    errno.ECONNREFUSED: "Refused",
    errno.ECONNRESET: "Reset",
    errno.EPIPE: "Reset",
    errno.EHOSTUNREACH: "Unreachable",
    errno.ENETUNREACH: "Unreachable",
    errno.ETIMEDOUT: "Timeout",
    errno.EPERM: "Filtered",
    errno.EACCES: "Filtered",
}


@dataclass(frozen=True, slots=True)
class BackendResult:
    """One probe of one pod. ``reason`` is ``Passed`` or one CamelCase word."""

    ok: bool
    reason: str
    detail: str = ""


PASSED = BackendResult(True, "Passed")


async def ask(address: IPAddress, port: int, probe: ActiveProbe) -> BackendResult:
    """One probe. Takes at most the probe's timeout, and never raises but for a bug."""
    timeout_ms = probe.pace.timeout_ms
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            match probe.question:
                case TcpConnect():
                    return await _tcp(address, port)
                case HttpGet() as get:
                    return await _http(address, port, get)
                case UdpExchange() as exchange:
                    return await _udp(address, port, exchange)
                case never:
                    assert_never(never)
    except TimeoutError:
        return BackendResult(False, "Timeout", f"no answer in {timeout_ms} ms")
    except OSError as error:
        number = error.errno or 0
        shown = f"{errno.errorcode.get(number, '?')}: {error.strerror}"
        return BackendResult(False, REASONS.get(number, "SendFailed"), shown)


async def _tcp(address: IPAddress, port: int) -> BackendResult:
    _, writer = await asyncio.open_connection(str(address), port)
    writer.close()
    return PASSED


async def _http(address: IPAddress, port: int, get: HttpGet) -> BackendResult:
    host = f"[{address}]" if address.version == 6 else str(address)
    request = (
        f"GET {get.path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: samegate-probe\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(str(address), port, limit=LONGEST_STATUS_LINE_BYTES)
    try:
        writer.write(request.encode("ascii"))
        line = await reader.readline()
    except ValueError:
        return BackendResult(False, "NotHttp", f"no status line in {LONGEST_STATUS_LINE_BYTES} bytes")
    finally:
        # Not close(): the rest of the answer is of no interest, and a server that goes on sending must not hold the socket.
        writer.transport.abort()
    if not line:
        return BackendResult(False, "Closed", "the connection ended without an answer")
    status = status_of(line)
    if status is None:
        return BackendResult(False, "NotHttp", f"the answer begins with {line[:40]!r}")
    if not any(low <= status <= high for low, high in get.statuses):
        return BackendResult(False, "WrongStatus", f"status {status}")
    return PASSED


def status_of(line: bytes) -> int | None:
    """The status code of an HTTP/1 status line (RFC 9112 section 4: ``HTTP/1.1 200 ...``), or ``None``."""
    words = line.rstrip(b"\r\n").split(b" ", 2)
    if not line.endswith(b"\n") or len(words) < 2 or words[0] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return None
    code = words[1]
    return int(code) if len(code) == 3 and code.isdigit() else None


async def _udp(address: IPAddress, port: int, exchange: UdpExchange) -> BackendResult:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as opened:
        # Connected, so that a closed port is told by the kernel and nobody else's datagrams come in.
        opened.connect((str(address), port))
        opened.send(exchange.payload)
        answer = await asyncio.get_running_loop().sock_recv(opened, LONGEST_DATAGRAM_BYTES)
    if not answer.startswith(exchange.expect):
        return BackendResult(False, "WrongAnswer", f"the answer begins with {answer[:40]!r}")
    return PASSED


class BackendProber:
    """Asks for ever.

    Args:
        wanted: the pods to ask now, looked at each tick.
        took: told each result of a pod that is still wanted.
        at_once: the most probes under way, looked at each tick.
    """

    def __init__(
        self,
        wanted: Callable[[], Mapping[Backend, ActiveProbe]],
        took: Callable[[Backend, ActiveProbe, BackendResult], None],
        at_once: Callable[[], int],
    ) -> None:
        self._wanted = wanted
        self._took = took
        self._at_once = at_once
        self._begun_seconds: dict[Backend, float] = {}
        self._under_way: dict[Backend, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                self.tick(asyncio.get_running_loop().time())
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._under_way.values():
                task.cancel()

    def tick(self, now_seconds: float) -> None:
        """Begin the probes whose turn has come, the longest waiting first, as far as there is room."""
        wanted = self._wanted()
        self._begun_seconds = {b: at for b, at in self._begun_seconds.items() if b in wanted}
        for backend in due(wanted, self._begun_seconds, now_seconds):
            if len(self._under_way) >= self._at_once():
                break
            if backend not in self._under_way:
                self._begun_seconds[backend] = now_seconds
                self._under_way[backend] = asyncio.create_task(self._one(backend, wanted[backend]))

    async def _one(self, backend: Backend, probe: ActiveProbe) -> None:
        try:
            result = await ask(backend.address, backend.port, probe)
            if self._wanted().get(backend) == probe:
                self._took(backend, probe, result)
        finally:
            self._under_way.pop(backend, None)


def due(
    wanted: Mapping[Backend, ActiveProbe], begun_seconds: Mapping[Backend, float], now_seconds: float
) -> list[Backend]:
    """The pods whose interval is over, the longest overdue first; those that were never asked come before all others."""
    never = float("-inf")
    turns = {b: begun_seconds.get(b, never) + p.pace.interval_ms / 1000 for b, p in wanted.items()}
    return sorted((b for b, at in turns.items() if at <= now_seconds), key=lambda b: turns[b])
