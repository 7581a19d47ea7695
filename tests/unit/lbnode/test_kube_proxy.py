"""When a node's kube-proxy counts as delivering, told as the order of events at one Service of one worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode import kube_proxy
from lbnode.kube_proxy import RULES_SECONDS, Memory
from lbnode.model import ServiceName

WEB = ServiceName("shop", "web")
NONE: frozenset[ServiceName] = frozenset()
HERE = frozenset({WEB})


def said(memory: Memory, answer: bool | None, now: float) -> Memory:
    return kube_proxy.heard(memory, {WEB: answer}, now)


def lacking(memory: Memory, now: float, delivered: frozenset[ServiceName] = NONE) -> bool:
    return WEB in kube_proxy.without_endpoints(memory, delivered, now)


def replaced(now: float) -> Memory:
    """The only pod terminates, kube-proxy says that none is ready, and then that one is."""
    memory = said(Memory(), True, now - 20)
    memory = kube_proxy.seen(memory, HERE, now - 10)
    memory = said(memory, False, now - 9)
    memory = kube_proxy.seen(memory, HERE, now)
    return said(memory, True, now)


def test_a_new_pod_counts_only_when_the_rules_that_named_the_terminating_one_are_surely_gone() -> None:
    memory = replaced(now=100.0)
    assert lacking(memory, 100.0)
    assert lacking(memory, 100.0 + RULES_SECONDS - 0.1)
    assert not lacking(memory, 100.0 + RULES_SECONDS + 0.1)


def test_it_counts_at_once_where_no_pod_terminates() -> None:
    memory = said(said(Memory(), False, 100.0), True, 101.0)
    assert not lacking(memory, 101.0)


def test_a_pod_that_terminates_beside_others_that_were_ready_all_the_time_changes_nothing() -> None:
    memory = kube_proxy.seen(said(said(Memory(), True, 90.0), True, 100.0), HERE, 100.0)
    assert not lacking(memory, 100.0)


def test_own_delivery_does_not_make_up_for_rules_that_name_a_terminating_pod() -> None:
    memory = kube_proxy.seen(said(Memory(), False, 100.0), HERE, 100.0)
    assert lacking(memory, 100.1, delivered=HERE)
    memory = kube_proxy.seen(memory, NONE, 100.0)
    assert lacking(memory, 100.1, delivered=HERE)
    assert not lacking(memory, 100.1 + RULES_SECONDS, delivered=HERE)


def test_a_pod_goes_on_terminating_between_two_looks_however_far_apart_they_are() -> None:
    memory = kube_proxy.seen(said(Memory(), False, 100.0), HERE, 100.0)
    assert lacking(memory, 100.0 + 10 * RULES_SECONDS, delivered=HERE)


def test_own_delivery_makes_up_for_a_kube_proxy_that_has_no_endpoint_at_all() -> None:
    assert not lacking(said(Memory(), False, 100.0), 100.0, delivered=HERE)


@pytest.mark.parametrize("before", [True, False])
def test_silence_keeps_the_last_answer(before: bool) -> None:
    memory = said(said(Memory(), before, 100.0), None, 200.0)
    assert lacking(memory, 200.0) is not before


def test_one_that_never_answered_has_no_endpoint() -> None:
    assert lacking(said(Memory(), None, 100.0), 100.0)


def test_a_service_that_is_no_longer_asked_for_is_forgotten() -> None:
    memory = kube_proxy.heard(kube_proxy.seen(replaced(100.0), NONE, 100.0), {}, 100.5)
    assert kube_proxy.without_endpoints(memory, NONE, 100.5) == NONE
    assert kube_proxy.seen(memory, NONE, 100.5 + RULES_SECONDS).ended_seconds == {}


@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.booleans(), st.floats(0, 5)), max_size=30))
def test_whatever_happened_a_steady_answer_is_believed_after_the_time_of_rules(
    events: list[tuple[bool | None, bool, float]],
) -> None:
    memory, now = Memory(), 100.0
    for answer, terminates, pause in events:
        now += pause
        memory = said(kube_proxy.seen(memory, HERE if terminates else NONE, now), answer, now)
    yes, no = said(memory, True, now), said(memory, False, now)
    assert not lacking(yes, now + RULES_SECONDS + 0.001)
    assert lacking(no, now)
