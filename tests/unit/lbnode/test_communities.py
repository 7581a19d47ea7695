from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.communities import canonical, in_order


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        # IANA "BGP Well-known Communities", as 32-bit numbers there: 0xFFFFFF01 and so on.
        ("no-export", 0xFFFFFF01),
        ("no-advertise", 0xFFFFFF02),
        ("no-export-subconfed", 0xFFFFFF03),
        ("no-peer", 0xFFFFFF04),
        ("graceful-shutdown", 0xFFFF0000),
        ("accept-own", 0xFFFF0001),
        ("llgr-stale", 0xFFFF0006),
        ("no-llgr", 0xFFFF0007),
        ("blackhole", 0xFFFF029A),
    ],
)
def test_a_well_known_name_is_its_number(text: str, numbers: int) -> None:
    assert canonical(text) == f"{numbers >> 16}:{numbers & 0xFFFF}"
    assert canonical(f" {text.upper()} ") == canonical(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("65010:100", "65010:100"), ("065010:007", "65010:7"), ("1:2:4294967295", "1:2:4294967295")]
)
def test_numbers_stay_without_their_leading_zeros(text: str, expected: str) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text", ["", "65010", "65536:1", "1:65536", "1:2:4294967296", "1:2:3:4", "-1:2", "1: 2", "١:1", "1:"]
)
def test_what_is_no_community_is_refused_with_both_ways_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 1997.*RFC 8092.*65010:100 or 65010:1:2"):
        canonical(text)


def test_an_unknown_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'no-exprot' is no well-known name\. Use one of .*no-export, "):
        canonical("no-exprot")


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), max_size=6))
def test_the_order_does_not_depend_on_how_they_were_written(pairs: list[tuple[int, int]]) -> None:
    texts = [f"{a}:{b}" for a, b in pairs]
    assert in_order(texts) == in_order(reversed(texts)) == tuple(f"{a}:{b}" for a, b in sorted(set(pairs)))


def test_standard_communities_come_before_large_ones() -> None:
    assert in_order(["1:1:1", "65000:1", "9:9"]) == ("9:9", "65000:1", "1:1:1")
