"""A table's fingerprint, on entries laid out by hand."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.xtables import without_counters


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
