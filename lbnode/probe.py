"""Asking workers through their tunnels whether they are there, and other agents what they see.

A probe is one ICMP echo to the worker's probe address, which routes into the tunnel. It has the size of the largest packet that the
fabric takes once it is encapsulated, and may not be fragmented: so its answer shows the tunnel, the decapsulation, the way back and
the MTU at once. It uses the kernel's ping sockets (``icmp(7)``), which need no capability but a group in ``ping_group_range``.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lbnode.errors import ConfigError, Retry
from lbnode.model import TUNNEL_OVERHEAD_BYTES, IPAddress

#: Header sizes (RFC 791, RFC 8200, RFC 792).
IP_HEADER_BYTES = {4: 20, 6: 40}
ICMP_HEADER_BYTES = 8
#: Echo request and reply by IP version (RFC 792, RFC 4443).
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
#: linux/in.h and linux/in6.h; Python's socket module lacks them. PROBE sets "don't fragment" and ignores a learnt path MTU, so that an
#: ICMP error that somebody made up cannot shrink the probe.
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
#: A random token of the prober, then the number of the packet.
TOKEN_BYTES = 16
#: Largest answer that :func:`fetch_status` reads.
LONGEST_STATUS_BYTES = 4 * 1024 * 1024

#: Why a probe failed, by the kernel's error. Everything else is ``SendFailed`` with the errno in the detail.
REASONS = {
    errno.ENETUNREACH: "NoRoute",
    errno.EHOSTUNREACH: "Unreachable",
    errno.ECONNREFUSED: "Unreachable",
    errno.EADDRNOTAVAIL: "NoSource",
    errno.EMSGSIZE: "TooBig",
    errno.EPERM: "Filtered",
    errno.EACCES: "Filtered",
    errno.ENETDOWN: "DeviceDown",
    errno.ENODEV: "DeviceDown",
    errno.ENXIO: "DeviceDown",
}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe of one worker. ``reason`` is ``Answered`` or one CamelCase word; ``rtt_ms`` is ``None`` unless answered."""

    worker: IPAddress
    ok: bool
    reason: str
    rtt_ms: float | None = None
    detail: str = ""


def echo_payload_bytes(fabric_mtu_bytes: int, version: int) -> int:
    """ICMP payload of a packet that is exactly ``fabric_mtu_bytes`` long inside its tunnel."""
    return fabric_mtu_bytes - TUNNEL_OVERHEAD_BYTES[version] - IP_HEADER_BYTES[version] - ICMP_HEADER_BYTES


def widened_group_range(text: str, group: int) -> str | None:
    """The least ``ping_group_range`` that holds ``group`` and all that ``text`` holds; ``None`` when ``text`` does already."""
    low, high = (int(word) for word in text.split())
    if low <= group <= high:
        return None
    # The kernel's default, "1 0", is the empty range.
    return f"{group} {group}" if low > high else f"{min(low, group)} {max(high, group)}"


def ensure_ping_allowed(sysctl_base: Path, group: int | None = None) -> str | None:
    """Let this process open ping sockets; the former value of ``net.ipv4.ping_group_range`` when it had to be changed.

    Args:
        sysctl_base: where ``/proc/sys/net`` of the node is mounted.
        group: the group to admit, this process's by default.

    Raises:
        ConfigError: the sysctl can be neither read nor written.
    """
    group = os.getegid() if group is None else group
    path = sysctl_base / "ipv4/ping_group_range"
    way_out = f"Mount the node's /proc/sys/net at {sysctl_base}, or set on the node: sysctl -w net.ipv4.ping_group_range='{group} {group}'"
    try:
        former = path.read_text().strip()
        wider = widened_group_range(former, group)
        if wider is None:
            return None
        path.write_text(wider)
    except (OSError, ValueError) as error:
        raise ConfigError(
            str(path), f"probes need group {group} in it, and it cannot be changed: {error}", way_out
        ) from None
    return former


class Prober:
    """Probes workers; sockets stay open between rounds, one for each target, so that the kernel sorts the answers.

    Args:
        fabric_mtu_bytes: MTU between edge nodes and workers.
        timeout_ms: how long an answer may take.
        sources: the addresses to send from by IP version, asked anew for each socket; without it the kernel chooses.
        mark: the packet mark to send with (``SO_MARK``, which needs CAP_NET_ADMIN), 0 for none.
    """

    def __init__(
        self,
        fabric_mtu_bytes: int,
        timeout_ms: int,
        sources: Callable[[], Mapping[int, IPAddress]] | None = None,
        mark: int = 0,
    ) -> None:
        self._sources = sources
        self._mark = mark
        self._fabric_mtu_bytes = fabric_mtu_bytes
        self._timeout_seconds = timeout_ms / 1000
        self._token = os.urandom(TOKEN_BYTES)
        self._number = 0
        self._sockets: dict[IPAddress, socket.socket] = {}

    async def probe(self, targets: Mapping[IPAddress, IPAddress]) -> tuple[ProbeResult, ...]:
        """One round over ``targets`` (worker address to probe address), all at once, in their order.

        Raises:
            ConfigError: this process may not open ping sockets.
        """
        for gone in self._sockets.keys() - set(targets.values()):
            self._sockets.pop(gone).close()
        return tuple(await asyncio.gather(*(self._probe_one(w, p) for w, p in targets.items())))

    async def rounds(
        self, targets: Callable[[], Mapping[IPAddress, IPAddress]], interval_ms: int
    ) -> AsyncIterator[tuple[ProbeResult, ...]]:
        """Rounds for ever, one begun each ``interval_ms``; one that was late does not make the next ones hurry."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            yield await self.probe(targets())
            await asyncio.sleep(max(0.0, started + interval_ms / 1000 - loop.time()))

    def close(self) -> None:
        """Close all sockets."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    async def _probe_one(self, worker: IPAddress, address: IPAddress) -> ProbeResult:
        loop = asyncio.get_running_loop()
        self._number += 1
        packet, payload = self._packet(self._number, address.version)
        started = loop.time()
        try:
            opened = self._socket(address)
            async with asyncio.timeout(self._timeout_seconds):
                opened.send(packet)
                while True:
                    answer = await loop.sock_recv(opened, 65535)
                    # Late answers to earlier packets come by here too.
                    if answer[:1] == bytes([ECHO_REPLY[address.version]]) and answer[ICMP_HEADER_BYTES:] == payload:
                        return ProbeResult(worker, True, "Answered", (loop.time() - started) * 1000)
        except TimeoutError:
            return ProbeResult(worker, False, "Timeout", detail=f"no answer in {self._timeout_seconds * 1000:g} ms")
        except OSError as error:
            # A socket keeps its route and its error; the next round starts with a fresh one.
            if (broken := self._sockets.pop(address, None)) is not None:
                broken.close()
            reason = REASONS.get(error.errno or 0, "SendFailed")
            return ProbeResult(
                worker, False, reason, detail=f"{errno.errorcode.get(error.errno or 0, '?')}: {error.strerror}"
            )

    def _packet(self, number: int, version: int) -> tuple[bytes, bytes]:
        head = self._token + struct.pack("!Q", number)
        payload = head.ljust(echo_payload_bytes(self._fabric_mtu_bytes, version), b"\x5a")
        # The kernel fills in the identifier and the checksum.
        return struct.pack("!BBHHH", ECHO_REQUEST[version], 0, 0, 0, number & 0xFFFF) + payload, payload

    def _socket(self, address: IPAddress) -> socket.socket:
        if (opened := self._sockets.get(address)) is not None:
            return opened
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if address.version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        try:
            fresh = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, protocol)
        except PermissionError:
            group = os.getegid()
            raise ConfigError(
                "net.ipv4.ping_group_range",
                f"group {group} may not open ping sockets",
                f"Set on the node: sysctl -w net.ipv4.ping_group_range='{group} {group}'",
            ) from None
        try:
            if address.version == 4:
                fresh.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
            else:
                fresh.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
            if self._mark:
                fresh.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            if self._sources is not None:
                if (source := self._sources().get(address.version)) is None:
                    raise OSError(errno.EADDRNOTAVAIL, "no address to send from yet")
                fresh.bind((str(source), 0))
            fresh.connect((str(address), 0))
        except OSError:
            fresh.close()
            raise
        self._sockets[address] = fresh
        return fresh


async def fetch_status(url: str, timeout_seconds: float) -> dict[str, Any]:
    """The JSON object at ``http://HOST:PORT/PATH``, e.g. another agent's ``/v1/status``.

    Raises:
        Retry: no connection, no answer in time, a status other than 200, or no JSON object of at most 4 MiB.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"URL {url}", "agents speak plain http on node addresses", "Write http://HOST:PORT/PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    request = (
        f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                writer.write(request.encode("ascii"))
                head = await reader.readuntil(b"\r\n\r\n")
                length = _content_length(head)
                if length > LONGEST_STATUS_BYTES:
                    raise Retry(f"{url} answers with {length} bytes, more than {LONGEST_STATUS_BYTES}")
                body = await reader.readexactly(length)
            finally:
                writer.close()
        status = json.loads(body)
    except TimeoutError:
        raise Retry(f"{url} did not answer within {timeout_seconds:g} s") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, RecursionError) as error:
        raise Retry(f"{url} cannot be read: {error.__class__.__name__}: {error}") from None
    if not isinstance(status, dict):
        raise Retry(f"{url} answers with JSON that is no object")
    return status


def _content_length(head: bytes) -> int:
    first, *headers = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or words[1] != "200":
        raise ValueError(f"the answer is {first!r}")
    for header in headers:
        name, _, value = header.partition(":")
        if name.strip().lower() == "content-length":
            # int() would take a sign, blanks and underscores.
            if not value.strip().isascii() or not value.strip().isdigit():
                break
            return int(value)
    raise ValueError("the answer has no Content-Length")
