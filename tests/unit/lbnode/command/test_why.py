"""The chain of conditions: exactly one fails first, those before it hold, those after it are not claimed to be known."""

from __future__ import annotations

from typing import Any

import pytest

from lbnode.command.pages import Agent
from lbnode.command.why import why
from tests.unit.lbnode.command.rack import EDGES, VIP, agent, edge_page, edge_status, nodes, view, web, web_slice


def edge1(reason: str, detail: str = "because", **status: Any) -> dict[str, Agent]:
    line = {"announce": False, "announced": False, "reason": reason, "detail": detail}
    return {"edge1": agent("edge", "edge1", edge_status("edge1", vip=line, **status), edge_page())}


def steps(change: dict[str, Agent], where: str = "edge1") -> list[tuple[str, str, str]]:
    chains = why(view(change=change), VIP).data["chains"]
    return [(s["condition"], s["state"], s["said"]) for c in chains if c["where"] == where for s in c["steps"]]


#: Each reason of lbnode.announce, translate and surroundings, and a word of the condition that it fails (docs/runbook.md says what each means).
REASONS = {
    "NotWanted": "Service wants it",
    "Deleting": "Service wants it",
    "Draining": "drain",
    "NotAnEdgeNode": "labels",
    "EdgeNodeIsWorker": "labels",
    "NodeUnknown": "labels",
    "KubeProxyIpvs": "kube-proxy",
    "FilterMissing": "filter",
    "SysctlDiffers": "sysctls",
    "NoWorker": "endpoints",
    "NoReadyEndpoints": "endpoints",
    "DataPlaneDiffers": "kernel",
    "Starting": "healthy",
    "AllProbesFail": "healthy",
    "NoHealthyWorker": "healthy",
    "NoEndpointsOnWorkers": "healthy",
    "BelowWatermark": "healthy",
    "ActiveProbesFail": "healthy",
    "NodeNotSelected": "chosen",
    "NodeExcluded": "chosen",
}


@pytest.mark.parametrize(("reason", "word"), REASONS.items())
def test_every_reason_fails_its_condition_after_conditions_that_hold(reason: str, word: str) -> None:
    found = steps(edge1(reason))
    states = [state for _, state, _ in found]
    failing = states.index("FAILS")
    assert word in found[failing][0]
    assert found[failing][2] == f"{reason}: because"
    assert set(states[:failing]) == {"ok"}
    assert set(states[failing + 1 :]) == {"not looked at"}


def test_a_reason_of_a_newer_agent_is_passed_on_and_nothing_is_claimed_of_the_chain() -> None:
    found = steps(edge1("MoonPhase", "it is full"))
    assert (
        "the agent announces it",
        "FAILS",
        "MoonPhase: it is full (a reason that this command does not know)",
    ) in found
    assert [s for c, s, _ in found[1:] if c != "the agent announces it"].count("ok") == 0


def test_a_block_that_is_new_is_recognised_by_the_agents_own_word() -> None:
    found = steps(edge1("SomeNewProxy", "no", blocked=["SomeNewProxy", "no"]))
    assert next(c for c, s, _ in found if s == "FAILS") == "the node may serve: labels, kube-proxy"


def test_a_silent_edge_node_fails_at_its_agent() -> None:
    found = steps({"edge1": agent("edge", "edge1")})
    assert found[0] == ("its agent answers", "FAILS", "connection refused")
    assert {s for _, s, _ in found[1:]} == {"not looked at"}


def test_a_route_that_bird_has_not_taken_fails_there() -> None:
    line = {"announced": False}
    found = steps({"edge1": agent("edge", "edge1", edge_status("edge1", vip=line), edge_page())})
    assert next(c for c, s, _ in found if s == "FAILS") == "BIRD has the route"


def test_an_announcement_that_no_router_hears_fails_at_the_sessions() -> None:
    down = {"tor1": {"state": "Active", "bfd": "Down", "exported": 0, "last_error": "no answer"}}
    found = steps({"edge1": agent("edge", "edge1", edge_status("edge1", sessions=down), edge_page())})
    assert found[-1] == ("a router hears it", "FAILS", "sessions up: none; tor1 Active: no answer")


def test_a_held_announcement_fails_nowhere() -> None:
    line = {"reason": "AllProbesFail", "detail": "none could be asked"}
    found = steps({"edge1": agent("edge", "edge1", edge_status("edge1", vip=line), edge_page())})
    assert {s for _, s, _ in found} == {"ok"}
    assert any("AllProbesFail" in said for _, _, said in found)


def test_the_verdict_names_who_announces_and_the_first_failure_of_who_does_not() -> None:
    answer = why(view(change=edge1("NoHealthyWorker", "0 of 3")), VIP)
    assert answer.code == 1
    assert answer.data["announced_by"] == ["edge2"]
    assert [f["where"] for f in answer.data["first_failures"]] == ["edge1"]
    assert getattr(answer.parts[-1], "text", "").startswith(
        f"{VIP} is announced by edge2. Not by: edge1: enough workers"
    )


def test_a_vip_is_found_by_its_service_too() -> None:
    assert why(view(), "default/web").data == why(view(), VIP).data


def refused() -> dict[str, Any]:
    service = web(vip=None)
    service["status"]["conditions"][0] |= {"status": "False", "reason": "PoolExhausted", "message": "all 256 addresses"}
    return service


def unseen() -> dict[str, Any]:
    service = web(vip=None)
    del service["status"]["conditions"]
    return service


@pytest.mark.parametrize(
    ("service", "condition", "said"),
    [
        (web(vip=None, loadBalancerClass="example.com/other"), "it is samegate's", "example.com/other"),
        (web(vip=None, type="ClusterIP"), "it is samegate's", "its type is ClusterIP"),
        (refused(), "the controller has accepted it", "PoolExhausted: all 256 addresses"),
        (unseen(), "the controller has accepted it", "leading controller: samegate-controller-1"),
        (web(vip=None), "it has an address", "none was allocated"),
        (web(vip="198.51.100.9"), "its address is in a pool", "no pool holds it: 203.0.113.0/24"),
    ],
    ids=["foreign class", "no load balancer", "refused", "not seen", "no address", "outside the pools"],
)
def test_what_fails_for_the_whole_cluster_is_found_first(service: dict[str, Any], condition: str, said: str) -> None:
    answer = why(view(service, web_slice(), *nodes()), "default/web")
    assert answer.code == 1
    first = answer.data["first_failures"][0]
    assert (first["where"], first["condition"]) == ("cluster", condition)
    assert said in first["said"]


def test_an_address_that_edge_nodes_still_know_though_its_service_went_is_explained() -> None:
    line = {"announce": False, "reason": "NotWanted", "announced": True}
    change = {n: agent("edge", n, edge_status(n, vip=line), edge_page()) for n in EDGES}
    answer = why(view(web_slice(), *nodes(), change=change), VIP)
    assert answer.data["first_failures"][0]["condition"] == "a Service has this address"


def test_a_cluster_without_edge_nodes_says_which_label_is_missing() -> None:
    workers = [n for n in nodes() if not n["metadata"]["name"].startswith("edge")]
    looked = view(web(), web_slice(), *workers)
    bare = type(looked)(looked.settings, looked.snapshot)
    failures = why(bare, VIP).data["first_failures"]
    assert [f["condition"] for f in failures] == ["there are edge nodes"]
    assert "samegate.dev/role=edge" in failures[0]["said"]
