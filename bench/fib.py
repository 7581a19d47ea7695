"""What a router's kernel forwards by BGP, read often and at small cost, also where a thousand routes have a hundred next hops each.

`ip -json route` takes seconds for that; here the dump's bytes are counted as they come (rtnetlink(7)). Run in the router's namespace by
`python -m bench.fib ADDRESS INTERVAL_SECONDS`, it writes a line of JSON a reading until it is ended.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address

# linux/rtnetlink.h and linux/netlink.h.
_RTM_NEWROUTE, _RTM_GETROUTE, _NLMSG_DONE, _RTPROT_BGP = 24, 26, 3, 186
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_RTA_GATEWAY, _RTA_MULTIPATH = 5, 9
_HEADER, _ROUTE, _ATTRIBUTE, _NEXT_HOP = (
    struct.Struct("=IHHII"),
    struct.Struct("=8BI"),
    struct.Struct("=HH"),
    struct.Struct("=HBBi"),
)
_RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fib:
    """At `at_seconds` (monotonic): how many routes there were, how many of them had the address among their next hops, and how many next hops the
    poorest and all of them together had."""

    at_seconds: float
    routes: int
    with_address: int
    fewest_hops: int
    hops: int


def next_hops(message: bytes) -> list[bytes] | None:
    """The packed gateways of a route's message, without netlink header; ``None`` when it is no IPv4 route by BGP."""
    family, *_, protocol, _, _, _ = _ROUTE.unpack_from(message)
    if family != socket.AF_INET or protocol != _RTPROT_BGP:
        return None
    found: list[bytes] = []
    for kind, payload in _attributes(message, _ROUTE.size):
        if kind == _RTA_GATEWAY:
            found.append(payload)
        elif kind == _RTA_MULTIPATH:
            at = 0
            while at + _NEXT_HOP.size <= len(payload):
                length = _NEXT_HOP.unpack_from(payload, at)[0]
                inner = _attributes(payload[at : at + length], _NEXT_HOP.size)
                found += [gateway for name, gateway in inner if name == _RTA_GATEWAY]
                at += max((length + 3) & ~3, _NEXT_HOP.size)
    return found


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each netlink message."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        yield kind, datagram[at + _HEADER.size : at + length]
        at += max((length + 3) & ~3, _HEADER.size)


def read(route_socket: socket.socket, address: IPv4Address) -> Fib:
    """One reading. Times are of its begin: what it does not see was gone by then or later."""
    started = time.monotonic()
    request = _ROUTE.pack(socket.AF_INET, *([0] * 7), 0)
    route_socket.send(
        _HEADER.pack(_HEADER.size + len(request), _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + request
    )
    routes = with_address = hops = 0
    fewest = sys.maxsize
    while True:
        for kind, payload in messages(route_socket.recv(_RECEIVE_BYTES)):
            if kind == _NLMSG_DONE:
                return Fib(started, routes, with_address, fewest if routes else 0, hops)
            gateways = next_hops(payload) if kind == _RTM_NEWROUTE else None
            if gateways is not None:
                routes += 1
                with_address += address.packed in gateways
                hops += len(gateways)
                fewest = min(fewest, len(gateways))


def watch(address: IPv4Address, interval_seconds: float) -> None:
    """Read until ended."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route_socket:
        while True:
            print(json.dumps(asdict(read(route_socket, address))), flush=True)
            time.sleep(interval_seconds)


if __name__ == "__main__":
    watch(IPv4Address(sys.argv[1]), float(sys.argv[2]))
