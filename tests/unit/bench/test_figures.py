"""What becomes of samples, by hand and by numpy."""

from __future__ import annotations

import json

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Case, document, figures, orders, raw

seconds = st.floats(1e-6, 1e3)
pairs = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=20)


def case(
    samples: tuple[float, ...], rival: tuple[float, ...] = (), target: float | None = None, **more: object
) -> Case:
    return Case("c", "what is done", "s", samples, "rival" if rival else "", rival, target, **more)  # type: ignore[arg-type]


def test_a_round_that_was_slow_for_both_does_not_change_the_ratio() -> None:
    assert case((1.0, 10.0, 1.2), (2.0, 20.0, 2.4)).ratio == 0.5


@given(pairs)
def test_figures_are_those_of_numpy(rounds: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*rounds, strict=True)
    said = figures(case(ours, theirs, 1.0))
    expected = [numpy.min(ours), numpy.median(ours), numpy.max(ours), numpy.median(numpy.divide(ours, theirs))]
    assert [said[k] for k in ("min", "median", "max", "ratio")] == pytest.approx(expected)
    assert said["met"] == (expected[3] <= 1.0)


@pytest.mark.parametrize(("target", "met"), [(0.5, True), (0.49, False), (None, None)])
def test_a_target_is_met_up_to_its_very_value(target: float | None, met: bool | None) -> None:
    assert case((1.0, 1.0), (2.0, 2.0), target).met is met


@pytest.mark.parametrize(("limit", "met"), [(2.0, True), (1.9, False), (None, None)])
def test_a_case_without_rival_is_held_against_its_own_limit(limit: float | None, met: bool | None) -> None:
    assert case((1.0, 2.0, 9.0), limit=limit).met is met


def test_samples_without_their_rivals_of_the_same_round_are_refused() -> None:
    with pytest.raises(ValueError, match="case c: 2 samples against 1 of rival"):
        case((1.0, 2.0), (1.0,))


def test_a_case_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="case c: no sample"):
        case(())


def test_the_document_has_the_agreed_keys_and_is_json() -> None:
    whole = json.loads(json.dumps(document({"cores": 2}, [case((1.0,), (2.0,), 0.5)])))
    assert whole["conditions"] == {"cores": 2}
    assert {"min", "median", "max", "ratio", "target", "met"} <= set(whole["cases"]["c"])
    assert raw([case((1.0,), (2.0,))]) == {"c": {"samples": [1.0], "rival": [2.0]}}


@given(st.integers(1, 40))
def test_each_party_goes_first_in_half_of_the_rounds(rounds: int) -> None:
    order = orders(rounds, ("a", "b"))
    assert all(sorted(each) == ["a", "b"] for each in order)
    assert abs(sum(1 if each[0] == "a" else -1 for each in order)) <= 1
