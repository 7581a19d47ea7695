"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bench.schedule import turns


def test_contenders_take_turns_and_begin_in_turn() -> None:
    assert "".join(c for _, c in turns("abc", 4)) == "abcbcacababc"


@given(st.integers(1, 6), st.integers(0, 12))
def test_each_round_has_each_contender_once(contenders: int, rounds: int) -> None:
    assert Counter(turns(range(contenders), rounds)) == Counter(
        (r, c) for r in range(rounds) for c in range(contenders)
    )


@given(st.integers(1, 6), st.integers(1, 4))
def test_over_whole_turns_each_is_first_equally_often(contenders: int, times: int) -> None:
    order = list(turns(range(contenders), contenders * times))
    assert set(Counter(c for _, c in order[::contenders]).values()) == {times}


def test_nobody_has_no_turn() -> None:
    assert list(turns((), 5)) == []
