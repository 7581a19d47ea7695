"""The pace of LISTs, judged by counting in every window."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.pace import Pace, pause_seconds

INTERVAL_SECONDS = 5.0
ASKED = st.lists(st.floats(0, 30), max_size=60)


def granted(pace: Pace, pauses: list[float]) -> list[float]:
    """When each goes, if each is asked for so long after the one before went, and goes as soon as it may."""
    now, times = 0.0, []
    for pause in pauses:
        now += pause
        now += pace.wait_seconds(now)
        pace = pace.taken(now)
        times.append(now)
    return times


@given(ASKED, st.integers(1, 4))
def test_no_window_has_more_than_its_share(pauses: list[float], at_once: int) -> None:
    times = granted(Pace(at_once, INTERVAL_SECONDS), pauses)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= at_once + (times[last] - start) / INTERVAL_SECONDS + 1e-6


@given(ASKED)
def test_one_at_once_is_never_sooner_than_the_interval(pauses: list[float]) -> None:
    times = granted(Pace(1, INTERVAL_SECONDS), pauses)
    assert all(b - a >= INTERVAL_SECONDS - 1e-6 for a, b in pairwise(times))


def test_as_many_as_may_go_at_once_do_not_wait_and_the_next_waits_the_rest_of_the_interval() -> None:
    pace = Pace(3, INTERVAL_SECONDS)
    for _ in range(3):
        assert pace.wait_seconds(100.0) == 0
        pace = pace.taken(100.0)
    assert pace.wait_seconds(100.0) == 5
    assert pace.wait_seconds(102.0) == 3


@pytest.mark.parametrize(("idle_seconds", "may_go"), [(5, 1), (10, 2), (15, 3), (600, 3)])
def test_what_was_not_used_comes_back_with_time_and_does_not_pile_up(idle_seconds: float, may_go: int) -> None:
    pace = Pace(3, INTERVAL_SECONDS)
    for _ in range(3):
        pace = pace.taken(100.0)
    now, count = 100.0 + idle_seconds, 0
    while pace.wait_seconds(now) == 0:
        pace, count = pace.taken(now), count + 1
    assert count == may_go


@pytest.mark.parametrize(
    ("questions", "awaited", "seconds"),
    [(0, False, 0.5), (50, False, 0.5), (1000, False, 10), (0, True, 0.1), (10, True, 0.1), (1000, True, 10)],
)
def test_rounds_are_five_times_as_often_while_an_answer_is_awaited_unless_there_is_much_to_ask(
    questions: int, awaited: bool, seconds: float
) -> None:
    assert pause_seconds(questions, awaited) == pytest.approx(seconds)
