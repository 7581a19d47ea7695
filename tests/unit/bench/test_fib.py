"""Reading routes from netlink messages that are laid out by hand, as linux/netlink.h and linux/rtnetlink.h have them."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fib import messages, next_hops

BGP, KERNEL = 186, 2  # RTPROT_BGP, RTPROT_KERNEL
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)


def attribute(kind: int, payload: bytes) -> bytes:
    """struct rtattr: length with header, type, payload, padding to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def route(*attributes: bytes, family: int = socket.AF_INET, protocol: int = BGP) -> bytes:
    """struct rtmsg: family, two prefix lengths, tos, table, protocol, scope, type, flags; a destination first."""
    return struct.pack("=8BI", family, 32, 0, 0, 254, protocol, 0, 1, 0) + attribute(1, bytes(4)) + b"".join(attributes)


def hop(gateway: IPv4Address) -> bytes:
    """struct rtnexthop: length, flags, hops, interface; then attributes of its own."""
    inner = attribute(5, gateway.packed)
    return struct.pack("=HBBi", 8 + len(inner), 0, 0, 7) + inner


@given(st.lists(ADDRESSES, min_size=1, max_size=130))
def test_all_gateways_of_a_multipath_route_are_read(gateways: list[IPv4Address]) -> None:
    multipath = attribute(9, b"".join(map(hop, gateways)))
    assert next_hops(route(attribute(30, bytes(4)), multipath)) == [g.packed for g in gateways]


@given(ADDRESSES)
def test_the_gateway_of_a_route_with_one_is_read(gateway: IPv4Address) -> None:
    assert next_hops(route(attribute(4, bytes(4)), attribute(5, gateway.packed))) == [gateway.packed]


@pytest.mark.parametrize(
    "message", [route(protocol=KERNEL), route(family=socket.AF_INET6)], ids=["of the kernel", "of IPv6"]
)
def test_a_route_that_is_none_of_bgps_does_not_count(message: bytes) -> None:
    assert next_hops(message) is None


def test_an_attribute_that_is_cut_off_ends_the_reading() -> None:
    assert next_hops(route(b"\x00\x00\x05\x00")) == []


@given(st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=20)), max_size=8))
def test_messages_of_a_datagram_are_told_apart(wanted: list[tuple[int, bytes]]) -> None:
    datagram = b"".join(
        struct.pack("=IHHII", 16 + len(payload), kind, 2, 1, 0) + payload + bytes(-len(payload) % 4)
        for kind, payload in wanted
    )
    assert list(messages(datagram)) == wanted
