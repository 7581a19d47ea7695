"""Which change was seen when; and that the cluster which the benchmark writes is one that the agent serves."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import churn_objects
from bench.endpoint_churn import Applied, Change, apart, delays, endless_pairs, read_log, windows
from lbnode.facts import WorkerHealth
from lbnode.object_reader import read_snapshot
from lbnode.translate.edge import translate_edge

SERVICES, WORKERS = 3, 4


def change(at: float, drained: bool, worker: str = "w") -> Change:
    return Change(at, "vip", worker, drained)


def applied(at: float, drained: bool, worker: str = "w") -> Applied:
    return Applied(at, "vip", worker, drained)


def test_a_change_waits_until_its_own_destination_is_so() -> None:
    changes = [change(1.0, True), change(2.0, True, "x"), change(5.0, False)]
    found, missing = delays(changes, [applied(1.5, True), applied(4.0, True, "x"), applied(5.25, False)])
    assert {c.sent_seconds: round(d, 6) for c, d in found} == {1.0: 0.5, 2.0: 2.0, 5.0: 0.25}
    assert missing == []


def test_what_was_applied_before_a_change_is_not_its_effect() -> None:
    found, missing = delays([change(2.0, True)], [applied(1.0, True)])
    assert (found, missing) == ([], [change(2.0, True)])


def test_a_change_that_was_overtaken_before_it_was_seen_is_missing() -> None:
    found, missing = delays([change(1.0, True), change(2.0, False)], [applied(2.5, False)])
    assert [(c.sent_seconds, d) for c, d in found] == [(2.0, 0.5)]
    assert missing == [change(1.0, True)]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.001, 5.0)), max_size=30))
def test_changes_that_are_all_seen_have_the_delays_they_were_given(given_delays: list[tuple[int, float]]) -> None:
    changes, seen, states = [], [], Counter[int]()
    for number, (worker, delay) in enumerate(given_delays):
        # Ten seconds apart, so that no change overtakes another.
        at, drained = 10.0 * number, states[worker] % 2 == 0
        states[worker] += 1
        changes.append(change(at, drained, str(worker)))
        seen.append(applied(at + delay, drained, str(worker)))
    found, missing = delays(changes, seen)
    assert missing == []
    assert [round(d, 9) for _, d in found] == pytest.approx([d for _, d in given_delays])


def test_a_log_that_is_still_being_written_is_read_as_far_as_it_goes() -> None:
    text = "1.500000 synced\n2.000000 198.19.0.1 198.18.0.100 1\n3.00"
    assert read_log(text) == (1.5, [Applied(2.0, "198.19.0.1", "198.18.0.100", True)])
    assert read_log("") == (None, [])


def test_every_endpoint_changes_once_before_any_changes_again() -> None:
    pairs = endless_pairs(3, 4, seed=1)
    first, second = list(islice(pairs, 12)), list(islice(pairs, 12))
    assert set(first) == set(second) == {(s, e) for s in range(3) for e in range(4)}
    assert first != second


@given(st.integers(1, 200), st.integers(1, 7))
def test_windows_hold_everything_once_and_in_order(count: int, parts: int) -> None:
    found: list[Any] = list(range(count))
    cut = windows(found, parts)
    assert [x for window in cut for x in window] == found
    assert len(cut) == parts


def test_the_cluster_is_served_with_a_destination_for_each_endpoint() -> None:
    snapshot = read_snapshot(
        body | {"metadata": {**body["metadata"]}} for _, body in churn_objects.cluster(SERVICES, WORKERS)
    )
    workers = {churn_objects.worker_address(n) for n in range(WORKERS)}
    health = WorkerHealth(frozenset(workers))
    plan = translate_edge(snapshot, churn_objects.settings(), churn_objects.EDGE, health, frozenset(), frozenset())
    assert {s.key.address for s in plan.state.services} == {churn_objects.vip(n) for n in range(SERVICES)}
    assert all({d.address for d in s.destinations if not d.drained} == workers for s in plan.state.services)


def test_an_endpoint_that_is_told_unready_is_the_one_of_that_worker() -> None:
    paths = dict(churn_objects.cluster(1, WORKERS))
    body = paths[churn_objects.SLICES_PATH]
    _, list_name, index, *rest = churn_objects.readiness_pointer(2).split("/")
    assert rest == ["conditions", "ready"]
    assert body[list_name][int(index)]["nodeName"] == "w2"
    assert body[list_name][int(index)]["conditions"]["ready"] is True


def test_the_agent_has_a_processor_that_nothing_else_has_where_there_are_two() -> None:
    assert apart({0, 1}) == ({1}, {0})
    assert apart({2, 3, 5}) == ({5}, {2, 3})
    assert apart({4}) == ({4}, {4})
