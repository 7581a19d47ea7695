"""Grace for endpoints that the API calls unready for reasons of its own."""

from __future__ import annotations

import pytest

from lbnode.grace import API_RECOVERY_SECONDS, RECOVERY_SECONDS, UNREADY_SECONDS, Memory, Place, step
from lbnode.model import ServiceName
from tests.unit.lbnode.kube_objects import endpoint, endpoint_slice, node, snapshot

WEB = ServiceName("default", "web")
PLACE: Place = (WEB, "worker1")


class Clock:
    """Feeds steps in time: ``see`` returns whether the place has grace."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 1000.0
        self.away: float | None = None

    def see(self, state: str | None, ready: str = "True", after: float = 0.0) -> bool:
        self.now += after
        endpoints = [] if state is None else [endpoint("198.18.131.2", "worker1", state)]
        cluster = snapshot(node("worker1", "198.18.0.21", ready=ready), endpoint_slice(endpoints))
        self.memory, graced = step(self.memory, cluster, self.now, self.away)
        return PLACE in graced


def test_a_ready_endpoint_needs_no_grace() -> None:
    assert not Clock().see("ready")


def test_an_endpoint_that_turns_unready_has_a_second() -> None:
    clock = Clock()
    clock.see("ready")
    assert clock.see("unready", after=UNREADY_SECONDS / 2)
    assert not clock.see("unready", after=UNREADY_SECONDS)


def test_an_endpoint_that_was_never_ready_has_none() -> None:
    clock = Clock()
    clock.see("unready", ready="Unknown")
    assert not clock.see("unready", after=0.1)


def test_after_its_grace_is_over_an_endpoint_does_not_get_another_by_a_later_trouble() -> None:
    clock = Clock()
    clock.see("ready")
    assert not clock.see("unready", after=10)
    assert not clock.see("unready", ready="Unknown", after=10)


@pytest.mark.parametrize("state", [None, "terminating", "gone"])
def test_endpoints_that_terminate_or_vanish_have_none(state: str | None) -> None:
    clock = Clock()
    clock.see("ready")
    assert not clock.see(state, after=0.1)


def test_pods_that_lag_behind_their_returned_node_have_a_minute() -> None:
    clock = Clock()
    clock.see("ready")
    assert clock.see("unready", ready="Unknown", after=0.5)
    assert clock.see("unready", ready="Unknown", after=300)
    assert clock.see("unready", after=5)
    assert clock.see("unready", after=RECOVERY_SECONDS - 6)
    assert not clock.see("unready", after=7)


def test_slices_that_arrive_before_nodes_after_an_outage_have_grace() -> None:
    """The outage is over for slices; the Node in the copy is still the one from before it, and Ready."""
    clock = Clock()
    clock.see("ready")
    clock.away = clock.now + 120
    assert clock.see("unready", after=120.1)
    assert clock.see("unready", ready="Unknown", after=0.5)
    assert clock.see("unready", after=10)
    assert not clock.see("ready", after=10)


def test_while_the_api_server_is_away_no_grace_ends_and_then_it_lasts_for_three_minutes() -> None:
    clock = Clock()
    clock.see("ready")
    clock.see("unready", ready="Unknown", after=0.5)
    for _ in range(20):
        clock.away = clock.now + 30
        assert clock.see("unready", after=30)
    assert clock.see("unready", after=API_RECOVERY_SECONDS - 1)
    assert not clock.see("unready", after=2)


def test_the_trouble_of_one_node_is_no_grace_for_another() -> None:
    clock = Clock()
    clock.see("ready")
    clock.memory, _ = step(
        clock.memory,
        snapshot(
            node("worker1", "198.18.0.21"),
            node("worker2", "198.18.0.22", ready="Unknown"),
            endpoint_slice([endpoint("198.18.131.2", "worker1", "ready")]),
        ),
        clock.now,
        None,
    )
    assert not clock.see("unready", after=5)
