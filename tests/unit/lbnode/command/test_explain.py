"""Which worker a connection gets, against a separate C port of the kernel's scheduler; and what is said where it is not known."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.command.answer import Answer
from lbnode.command.explain import arguments, endpoint
from lbnode.command.explain import explain as explain_asked
from lbnode.command.view import View
from lbnode.errors import ConfigError
from tests.unit.lbnode.command.rack import (
    EDGES,
    VIP,
    agent,
    edge_page,
    edge_status,
    machine,
    nodes,
    view,
    web,
    web_slice,
)

CLIENT = "198.18.8.2"


def explain(looked: View, source: str, target: str) -> Answer:
    return explain_asked(looked, arguments(source, target))


#: The destinations of the C port's runs, which are not the rack's own.
NODES = ("198.18.0.21", "198.18.0.22", "198.18.0.23")


def edges(**page: Any) -> dict[str, Any]:
    """Both edge nodes with this page."""
    return {name: agent("edge", name, edge_status(name), edge_page(**page)) for name in EDGES}


def chosen(source_port: int, drained: tuple[str, ...] = (), hash_source_port: bool = True) -> str | None:
    destinations = [{"address": a, "weight": 1, "drained": a in drained} for a in NODES]
    line = {"destinations": destinations, "hash_source_port": hash_source_port}
    said = explain(view(change=edges(service=line)), f"{CLIENT}:{source_port}", f"{VIP}:80").data
    (taken,) = {e["worker"] for e in said["edges"]}
    return taken  # type: ignore[no-any-return]


#: From a separate C port of ip_vs_mh.c (Linux 6.1, 4093 slots, three destinations of weight 1 for port 80): the index of the destination of
#: 198.18.8.2 and each source port from 40000 on. The second line has the second destination at weight 0 and mh-fallback.
BY_PORT = (2, 2, 1, 1, 2, 2, 0, 1)
BY_PORT_SECOND_DRAINED = (2, 2, 2, 0, 2, 2, 0, 0)
#: The same without mh-port, whatever the source port.
BY_ADDRESS = 1


def test_with_mh_port_the_worker_is_the_kernels_for_each_source_port() -> None:
    assert [chosen(40000 + n) for n in range(8)] == [NODES[i] for i in BY_PORT]


def test_a_drained_workers_connections_go_where_the_kernels_fallback_sends_them() -> None:
    assert [chosen(40000 + n, (NODES[1],)) for n in range(8)] == [NODES[i] for i in BY_PORT_SECOND_DRAINED]


def test_without_mh_port_a_client_has_one_worker() -> None:
    assert {chosen(40000 + n, hash_source_port=False) for n in range(8)} == {NODES[BY_ADDRESS]}


def test_all_drained_takes_nobody_and_says_so() -> None:
    answer = explain(view(change=edges(drained=("worker1", "worker2", "worker3"))), f"{CLIENT}:40000", f"{VIP}:80")
    assert answer.code == 1
    assert {e["because"] for e in answer.data["edges"]} == {"all its destinations are drained"}
    assert answer.data["worker"] is None


def test_the_reason_names_the_fields_of_the_hash_and_the_fallback() -> None:
    one = explain(view(change=edges(service={"hash_source_port": False})), f"{CLIENT}:40000", f"{VIP}:80").data
    assert "client address alone (sessionAffinity: ClientIP)" in one["edges"][0]["because"]
    home = one["worker"]
    drained = {"hash_source_port": False, "destinations": _drain(home)}
    other = explain(view(change=edges(service=drained)), f"{CLIENT}:40000", f"{VIP}:80").data
    assert other["worker"] != home
    assert f"the hash points at {home}, which is drained: fallback" in other["edges"][0]["because"]


def _drain(name: str) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = edge_page(drained=(name,))["services"][0]["destinations"]
    return made


def test_the_table_has_the_size_that_the_kernels_show_and_else_the_assumed_one_is_told() -> None:
    shown = edges(machine=machine("edge", mh_table_index=8))
    said = explain(view(change=shown), f"{CLIENT}:40000", f"{VIP}:80").data
    assert (said["table_size"], said["table_size_assumed"]) == (251, False)
    answer = explain(view(), f"{CLIENT}:40000", f"{VIP}:80")
    assert (answer.data["table_size"], answer.data["table_size_assumed"]) == (4093, True)
    assert any("CONFIG_IP_VS_MH_TAB_INDEX=12" in getattr(part, "text", "") for part in answer.parts)


# With XDP


def chosen_by_xdp(source_port: int, *drained: str, order: int = 1, hash_source_port: bool = True) -> str | None:
    destinations = [{"address": a, "weight": 1, "drained": a in drained} for a in NODES][::order]
    page = {"service": {"destinations": destinations, "hash_source_port": hash_source_port}}
    with_xdp = edges(**page, machine=machine("edge", dataplane="xdp"))
    answer = explain(view(change=with_xdp), f"{CLIENT}:{source_port}", f"{VIP}:80")
    (taken,) = {e["worker"] for e in answer.data["edges"]}
    assert not any("hash tables" in getattr(part, "text", "") for part in answer.parts), "that is of IPVS"
    return taken  # type: ignore[no-any-return]


#: As BY_PORT, from the model that the program is held against (tests/root/xdp_model.py), which has its own Maglev and its own hash.
BY_RING = (0, 0, 0, 1, 2, 0, 0, 1)


@pytest.mark.parametrize("order", [1, -1])
def test_with_xdp_the_worker_is_that_of_its_ring_whatever_the_order_of_the_list(order: int) -> None:
    assert [chosen_by_xdp(40000 + n, order=order) for n in range(8)] == [NODES[i] for i in BY_RING]


def test_with_xdp_a_drained_workers_connections_pass_on_and_no_others_move() -> None:
    for port in range(40000, 40008):
        home, away = chosen_by_xdp(port), chosen_by_xdp(port, NODES[1])
        assert away != NODES[1]
        assert home in (away, NODES[1])


def test_with_xdp_and_affinity_a_client_has_the_worker_of_port_0() -> None:
    assert {chosen_by_xdp(port, hash_source_port=False) for port in range(40000, 40008)} == {NODES[0]}


# The router


def test_of_two_announcing_edge_nodes_the_routers_choice_is_plainly_not_known() -> None:
    router = explain(view(), f"{CLIENT}:40000", f"{VIP}:80").data["router"]
    assert (router["known"], router["edge"], router["may_take"]) == (False, None, ["edge1", "edge2"])
    assert "which one is not known" in router["said"]
    assert "same worker" in router["said"]


def test_the_only_announcing_edge_node_is_the_routers_choice() -> None:
    gone = {"announce": False, "announced": False, "reason": "Draining"}
    router = explain(
        view(change={"edge2": agent("edge", "edge2", edge_status("edge2", vip=gone), edge_page())}),
        f"{CLIENT}:40000",
        f"{VIP}:80",
    ).data["router"]
    assert (router["known"], router["edge"]) == (True, "edge1")


def test_nobody_announcing_is_told() -> None:
    gone = {"announce": False, "announced": False, "reason": "NoReadyEndpoints"}
    change = {n: agent("edge", n, edge_status(n, vip=gone), edge_page()) for n in EDGES}
    answer = explain(view(change=change), f"{CLIENT}:40000", f"{VIP}:80")
    assert answer.code == 1
    assert "no edge node announces" in answer.data["router"]["said"]


def test_edge_nodes_that_do_not_agree_are_told() -> None:
    """A second edge node whose only destination is another one than where the first sends the flow."""
    first = explain(view(), f"{CLIENT}:40000", f"{VIP}:80").data["worker"]
    others = tuple(n for n in ("worker1", "worker2", "worker3") if n != first)
    change = {"edge2": agent("edge", "edge2", edge_status("edge2"), edge_page(drained=(first, others[0])))}
    answer = explain(view(change=change), f"{CLIENT}:40000", f"{VIP}:80")
    assert answer.code == 1
    assert answer.data["worker"] is None
    assert {e["worker"] for e in answer.data["edges"]} == {first, others[1]}
    assert any("do not agree" in getattr(part, "text", "") for part in answer.parts)


def test_an_edge_node_that_is_silent_or_too_old_to_tell_is_said_so() -> None:
    change = {"edge1": agent("edge", "edge1"), "edge2": agent("edge", "edge2", edge_status("edge2"))}
    said = explain(view(change=change), f"{CLIENT}:40000", f"{VIP}:80").data
    assert "does not answer" in said["edges"][0]["because"]
    assert "too old" in said["edges"][1]["because"]


def test_a_kernel_that_is_not_as_planned_makes_the_answer_doubtful() -> None:
    differing = edges(differences={VIP: "the data plane lacks tcp://203.0.113.10:80"})
    answer = explain(view(change=differing), f"{CLIENT}:40000", f"{VIP}:80")
    assert answer.code == 1
    assert "the data plane lacks" in answer.data["edges"][0]["doubt"]


# The pods


def test_with_policy_local_the_pods_are_the_workers_own_and_with_cluster_all() -> None:
    local = explain(view(), f"{CLIENT}:40000", f"{VIP}:80").data
    pods = {"worker1": "web-a", "worker2": "web-b", "worker3": "web-c"}
    assert [(p["name"], p["port"]) for p in local["pods"]] == [(pods[local["worker"]], 8080)]
    everywhere = view(web(externalTrafficPolicy="Cluster"), web_slice(), *nodes())
    anywhere = explain(everywhere, f"{CLIENT}:40000", f"{VIP}:80").data
    assert [p["name"] for p in anywhere["pods"]] == ["web-a", "web-b", "web-c"]


@pytest.mark.parametrize(("serving", "expected"), [(True, True), (False, False)])
def test_without_a_ready_pod_those_that_terminate_and_serve_are_told(serving: bool, expected: bool) -> None:
    piece = web_slice()
    for one in piece["endpoints"]:
        one["conditions"] = {"ready": False, "serving": serving, "terminating": True}
    answer = explain(view(web(), piece, *nodes()), f"{CLIENT}:40000", f"{VIP}:80")
    assert bool(answer.data["pods"]) is expected
    assert answer.code == (0 if expected else 1)


def test_pods_whose_node_is_unknown_are_told_while_none_is_ready() -> None:
    """The API calls them unready for reasons of its own; the worker's own agent delivers to them."""
    piece, listed = web_slice(), nodes()
    for one in piece["endpoints"]:
        one["conditions"] = {"ready": False, "serving": False, "terminating": False}
    assert explain(view(web(), piece, *listed), f"{CLIENT}:40000", f"{VIP}:80").data["pods"] == []
    for raw in listed:
        raw["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    answer = explain(view(web(), piece, *listed), f"{CLIENT}:40000", f"{VIP}:80")
    assert [p["node"] for p in answer.data["pods"]] == [answer.data["worker"]]


def test_a_client_outside_the_source_ranges_is_told_that_it_is_dropped() -> None:
    closed = view(web(loadBalancerSourceRanges=["192.0.2.0/24"]), web_slice(), *nodes())
    answer = explain(closed, f"{CLIENT}:40000", f"{VIP}:80")
    assert (answer.code, answer.data["source_allowed"]) == (1, False)
    assert explain(closed, "192.0.2.7:40000", f"{VIP}:80").data["source_allowed"] is True


# The arguments


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_is_read_back_as_it_is_written(address: Any, port: int) -> None:
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert endpoint(text) == (address, port)


@given(st.text(max_size=30))
def test_any_other_text_is_refused_with_the_way_out_and_nothing_worse(text: str) -> None:
    try:
        address, port = endpoint(text)
    except ConfigError as error:
        assert "Write it like" in str(error)
    else:
        assert 1 <= port <= 65535
        assert str(address) in (text, *text.strip().replace("[", "").split("]"), text.strip().rpartition(":")[0])
