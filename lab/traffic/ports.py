"""Which ports of an address answer, from a client's point of view."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Literal

from lab.traffic.flows import Transport, reason_of

Verdict = Literal["open", "refused", "silent"]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.outcome: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.outcome.done():
            self.outcome.set_result("open")

    def error_received(self, exc: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_result("refused")


async def probe(transport: Transport, address: str, port: int, source: str | None, timeout_seconds: float) -> Verdict:
    """`open` if a handshake completes or a datagram is answered, `refused` if turned down (reset, ICMP), else `silent`."""
    local = (source, 0) if source else None
    try:
        async with asyncio.timeout(timeout_seconds):
            if transport == "tcp":
                _, writer = await asyncio.open_connection(address, port, local_addr=local)
                writer.close()
                return "open"
            endpoint, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                _Datagrams, remote_addr=(address, port), local_addr=local
            )
            try:
                endpoint.sendto(b"\n")
                return await protocol.outcome
            finally:
                endpoint.close()
    except OSError as error:
        return "silent" if reason_of(error) == "timeout" else "refused"


async def scan(
    transport: Transport,
    address: str,
    ports: Iterable[int],
    source: str | None = None,
    timeout_seconds: float = 1.0,
    at_once: int = 64,
) -> dict[int, Verdict]:
    """The verdict on each port, at most `at_once` probes at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(port: int) -> tuple[int, Verdict]:
        async with gate:
            return port, await probe(transport, address, port, source, timeout_seconds)

    return dict(await asyncio.gather(*(one(port) for port in ports)))
