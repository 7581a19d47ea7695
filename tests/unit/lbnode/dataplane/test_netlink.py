"""Netlink bytes, against the layouts of the kernel's headers written out by hand, and hostile input."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.netlink import NLMSG_ERROR, attribute, attributes, error_number, messages, nested
from lbnode.dataplane.xtables import without_counters


def test_an_attribute_is_length_type_payload_and_padding() -> None:
    assert attribute(3, b"lo\0") == struct.pack("=HH", 7, 3) + b"lo\0" + b"\0"
    assert nested(18, attribute(1, b"ipip")) == struct.pack("=HH", 12, 18 | 0x8000) + struct.pack("=HH", 8, 1) + b"ipip"


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_read_back(values: dict[int, bytes]) -> None:
    assert attributes(b"".join(attribute(k, v) for k, v in values.items())) == values


@given(st.binary(max_size=200))
def test_hostile_bytes_end_the_parsing_and_raise_nothing(data: bytes) -> None:
    attributes(data)
    list(messages(data))
    error_number(data)


def test_messages_are_split_by_their_length_and_errors_are_positive_numbers() -> None:
    one = struct.pack("=IHHII", 20, NLMSG_ERROR, 0, 7, 0) + struct.pack("=i", -17)
    two = struct.pack("=IHHII", 17, 99, 2, 8, 0) + b"x" + b"\0\0\0"
    found = list(messages(one + two))
    assert [(kind, flags, sequence) for kind, flags, sequence, _ in found] == [(NLMSG_ERROR, 0, 7), (99, 2, 8)]
    assert error_number(found[0][3]) == 17
    assert found[1][3] == b"x"


def entry(rule: bytes, packets: int) -> bytes:
    """A ``struct ipt_entry``: 84 bytes of match, cache, two offsets, mark, two counters, then the rule's own bytes."""
    return bytes(84) + struct.pack("=IHHIQQ", 0, 112, 112 + len(rule), packets, packets, packets * 60) + rule


@given(
    st.lists(st.binary(max_size=6).map(lambda b: b.ljust(8, b"\1")), max_size=5),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_a_fingerprint_sees_rules_and_not_counters(rules: list[bytes], before: int, after: int) -> None:
    one, two = (b"".join(entry(r, n) for r in rules) for n in (before, after))
    assert without_counters(one, 90, 92, 96) == without_counters(two, 90, 92, 96)
    if rules:
        other = b"".join(entry(r, before) for r in [*rules[:-1], rules[-1][:-1] + b"\2"])
        assert without_counters(one, 90, 92, 96) != without_counters(other, 90, 92, 96)
