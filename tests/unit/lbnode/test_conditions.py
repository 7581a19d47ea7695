"""What a Service is told."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from lbnode.conditions import ACCEPTED, ANNOUNCED, Condition, accepted, announced, merge
from lbnode.facts import Rejection, Verdict
from lbnode.model import IPAddress, ServiceName

VIP = ip_address("203.0.113.7")
OTHER = ip_address("203.0.113.8")
WEB = ServiceName("shop", "web")
YES = Verdict(True, "Announced")


def report(**verdicts: Verdict) -> dict[IPAddress, Verdict]:
    return {{"vip": VIP, "other": OTHER}[name]: verdict for name, verdict in verdicts.items()}


def test_a_service_with_an_address_is_accepted_and_told_which() -> None:
    condition = accepted([VIP], [], [])
    assert (condition.status, condition.reason) == ("True", "Accepted")
    assert "203.0.113.7" in condition.message


def test_a_service_without_an_address_is_told_why_not() -> None:
    refusal = Rejection(WEB, "PoolExhausted", "pool default: no address is left. Add a network to the pool.")
    condition = accepted([], [refusal], [])
    assert (condition.status, condition.reason) == ("False", "PoolExhausted")
    assert condition.message == refusal.message


def test_a_refused_port_leaves_the_service_accepted_but_is_told() -> None:
    condition = accepted([VIP], [Rejection(WEB, "InvalidPort", "port 2: 0 is no port.")], [])
    assert condition.status == "True"
    assert "port 2: 0 is no port." in condition.message


def test_an_address_that_one_edge_node_announces_is_announced_and_the_other_node_says_why_not() -> None:
    condition = announced(
        [VIP], {"edge1": report(vip=YES), "edge2": report(vip=Verdict(False, "Draining", "by annotation"))}
    )
    assert condition.status == "True"
    assert "203.0.113.7 by edge1." in condition.message
    assert "not by edge2: Draining (by annotation)." in condition.message


def test_an_address_that_nobody_announces_makes_the_service_unannounced_even_when_another_address_is() -> None:
    condition = announced([VIP, OTHER], {"edge1": report(vip=YES, other=Verdict(False, "NoReadyEndpoints"))})
    assert (condition.status, condition.reason) == ("False", "NoReadyEndpoints")


def test_silent_edge_nodes_leave_it_unknown() -> None:
    condition = announced([VIP], {"edge1": None, "edge2": None})
    assert (condition.status, condition.reason) == ("Unknown", "EdgeNodesSilent")


def test_no_edge_node_at_all_is_said_with_the_way_out() -> None:
    condition = announced([VIP], {})
    assert condition.reason == "NoEdgeNode"
    assert "edgeNodeSelector" in condition.message


def written(
    before: list[dict[str, Any]], *wanted: Condition, now: str = "2026-01-01T00:00:00Z"
) -> tuple[list[dict[str, Any]], list[str]]:
    patches, happenings = merge(before, wanted, 3, now)
    return patches, [f"{h.kind} {h.reason}" for h in happenings]


def test_a_first_condition_is_written_with_its_event() -> None:
    patches, events = written([], Condition(ACCEPTED, "True", "Accepted", "m"))
    assert patches == [
        {
            "type": ACCEPTED,
            "status": "True",
            "reason": "Accepted",
            "message": "m",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ]
    assert events == ["Normal Accepted"]


def test_an_unchanged_condition_writes_nothing() -> None:
    first, _ = written([], Condition(ACCEPTED, "True", "Accepted", "m"))
    assert written(first, Condition(ACCEPTED, "True", "Accepted", "m"), now="2026-02-02T00:00:00Z") == ([], [])


def test_a_new_message_keeps_the_transition_time_and_makes_no_event() -> None:
    first, _ = written([], Condition(ANNOUNCED, "True", "Announced", "by edge1"))
    patches, events = written(
        first, Condition(ANNOUNCED, "True", "Announced", "by edge1, edge2"), now="2026-02-02T00:00:00Z"
    )
    assert patches[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert events == []


def test_a_turn_to_false_is_a_warning_with_a_new_time() -> None:
    first, _ = written([], Condition(ANNOUNCED, "True", "Announced", "by edge1"))
    patches, events = written(
        first, Condition(ANNOUNCED, "False", "NoReadyEndpoints", "none"), now="2026-02-02T00:00:00Z"
    )
    assert patches[0]["lastTransitionTime"] == "2026-02-02T00:00:00Z"
    assert events == ["Warning NoReadyEndpoints"]


def test_conditions_of_others_are_not_touched() -> None:
    patches, _ = written([{"type": "example.org/Mine", "status": "True"}], Condition(ACCEPTED, "True", "Accepted", "m"))
    assert [p["type"] for p in patches] == [ACCEPTED]
