"""Counters of IPVS, against the layout of ``linux/ip_vs.h`` written out by hand."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.ipvs_traffic import TrafficMessage, traffic_of
from lbnode.errors import Retry
from lbnode.model import Counters, DestinationTraffic, Protocol, VirtualKey

WEB = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
WEB6 = VirtualKey(ip_address("2001:db8:113::1"), Protocol.TCP, 80)
WORKER, WORKER6 = ip_address("198.18.0.21"), ip_address("2001:db8::21")


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def statistics(*numbers: int) -> bytes:
    """``ip_vs_genl_fill_stats64``: connections, packets in and out, bytes in and out, then five rates."""
    return b"".join(attribute(kind, struct.pack("=Q", n)) for kind, n in enumerate(numbers, 1))


def answer(fields: bytes) -> TrafficMessage:
    payload = struct.pack("=BBH", 5, 1, 0) + attribute(2 | 0x8000, fields)
    message = TrafficMessage(struct.pack("=IHHII", 16 + len(payload), 0x1C, 0, 1, 0) + payload)
    message.decode()
    return message


def test_connections_packets_and_bytes_that_came_in_are_read_and_the_others_are_not() -> None:
    fields = (
        attribute(1, WORKER.packed + bytes(12))
        + attribute(2, b"\x00\x50")
        + attribute(7, struct.pack("=I", 3))
        + attribute(8, struct.pack("=I", 5))
        + attribute(10, statistics(1, 1, 1, 1, 1))  # the same in 32 bits, which overflow
        + attribute(11, struct.pack("=H", 2))
        + attribute(12, statistics(7, 100, 200, 2**40, 400, 1, 2, 3, 4, 5))
    )
    assert traffic_of(WEB, answer(fields)) == DestinationTraffic(WEB, WORKER, Counters(7, 100, 2**40), 3, 5)


def test_a_worker_of_ipv6_is_read_whole() -> None:
    fields = attribute(1, WORKER6.packed) + attribute(11, struct.pack("=H", 10)) + attribute(12, statistics(1, 2, 0, 3))
    assert traffic_of(WEB6, answer(fields)) == DestinationTraffic(WEB6, WORKER6, Counters(1, 2, 3))


def test_padding_between_the_counters_is_passed_over() -> None:
    """Machines that cannot read 64 bits at any address get ``IPVS_STATS_ATTR_PAD`` before each."""
    padded = b"".join(attribute(11, b"") + attribute(k, struct.pack("=Q", n)) for k, n in ((1, 9), (2, 8), (4, 7)))
    fields = attribute(1, WORKER.packed + bytes(12)) + attribute(12, padded)
    assert traffic_of(WEB, answer(fields)).total == Counters(9, 8, 7)


@given(st.binary(max_size=60))
def test_statistics_that_are_cut_off_or_garbled_are_read_as_far_as_they_make_sense(garbled: bytes) -> None:
    fields = attribute(1, WORKER.packed + bytes(12)) + attribute(12, garbled)
    assert traffic_of(WEB, answer(fields)).worker == WORKER


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        attribute(7, struct.pack("=I", 3)),  # no address
        attribute(1, b"\xc6\x12"),  # two bytes of one
        attribute(1, WORKER.packed) + attribute(11, struct.pack("=H", 10)),  # four, said to be of IPv6
    ],
)
def test_an_answer_without_a_readable_worker_is_asked_for_again(fields: bytes) -> None:
    with pytest.raises(Retry, match="cannot be read"):
        traffic_of(WEB, answer(fields))
