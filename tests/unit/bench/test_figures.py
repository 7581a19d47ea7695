"""Figures and verdicts of a row, against numpy and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import NoSamples, Row, figures, growth_per_minute, percentile

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)
ROUNDS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=12)


def row(**changed: object) -> Row:
    return Row("key", "what", "s", "ours", **changed)  # type: ignore[arg-type]


@given(ROUNDS)
def test_figures_are_those_of_numpy(rounds: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*rounds, strict=True)
    found = figures(row(against="theirs"), {"ours": ours, "theirs": theirs})
    assert (found.min, found.max) == (np.min(ours), np.max(ours))
    assert math.isclose(found.median, np.median(ours), rel_tol=1e-12)
    assert found.ratio is not None
    assert math.isclose(found.ratio, np.median(np.divide(ours, theirs)), rel_tol=1e-9)


def test_a_round_that_was_slow_for_both_changes_no_ratio() -> None:
    found = figures(row(against="theirs", target=0.5), {"ours": [1, 2, 50], "theirs": [2, 4, 100]})
    assert (found.ratio, found.met) == (0.5, True)


@pytest.mark.parametrize(
    ("theirs", "changed", "met"),
    [
        ([2.0, 2.0], {"target": 0.5}, True),
        ([1.9, 1.9], {"target": 0.5}, False),
        ([1.0, 1.0], {"target": 0.95, "direction": "at least"}, True),
        ([1.1, 1.1], {"target": 0.95, "direction": "at least"}, False),
        # Twice as much as the other, of which four were there: half of what they should have come to.
        ([0.5, 0.5], {"target": 0.6, "direction": "at least", "per": 4.0}, False),
        ([0.25, 0.25], {"target": 0.6, "direction": "at least", "per": 4.0}, True),
    ],
)
def test_a_ratio_is_held_against_its_target(theirs: list[float], changed: dict[str, object], met: bool) -> None:
    assert figures(row(against="theirs", **changed), {"ours": [1.0, 1.0], "theirs": theirs}).met is met


def test_without_anything_to_compare_with_every_round_must_meet_the_target() -> None:
    good, bad = (figures(row(target=50.0), {"ours": values}) for values in ([10, 49, 50], [10, 10, 51]))
    assert (good.met, bad.met) == (True, False)
    assert good.ratio is None


def test_a_row_that_only_reports_meets_and_misses_nothing() -> None:
    assert figures(row(), {"ours": [1.0]}).met is None


@pytest.mark.parametrize("samples", [{}, {"ours": []}, {"ours": [1.0]}, {"ours": [1.0, 2.0], "theirs": [1.0]}])
def test_rounds_that_cannot_be_compared_are_refused_by_name(samples: dict[str, list[float]]) -> None:
    with pytest.raises(NoSamples, match=r"ours.*again"):
        figures(row(against="theirs"), samples)


def test_something_compared_with_nothing_is_refused() -> None:
    with pytest.raises(NoSamples):
        figures(row(against="theirs"), {"ours": [1.0], "theirs": [0.0]})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(values, percent / 100)
    assert found == np.percentile(values, percent, method="inverted_cdf")


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(NoSamples):
        percentile([], 0.99)


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 1000)), min_size=3, unique_by=lambda p: p[0], max_size=30)
)
def test_growth_is_the_slope_of_numpys_line(points: list[tuple[int, int]]) -> None:
    times, values = zip(*points, strict=True)
    slope = np.polyfit(times, values, 1)[0]
    assert math.isclose(growth_per_minute(times, values), 60 * slope, rel_tol=1e-6, abs_tol=1e-6)


def test_one_moment_shows_no_growth() -> None:
    assert growth_per_minute([5.0], [100.0]) == 0.0
    assert growth_per_minute([5.0, 5.0], [100.0, 200.0]) == 0.0
