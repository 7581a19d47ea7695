"""Which workers an edge node sends a Service's flows to, and which it drains."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.facts import WorkerHealth
from lbnode.model import Destination, Protocol, ServiceName
from lbnode.translate.edge import EdgePlan, translate_edge
from tests.unit.lbnode.edge_plans import UDP_PORTS, UDP_SLICE_PORTS, VIP, W1, W2, WEB, both, destinations, plan
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, node, service, settings, snapshot

# Which workers, external traffic policy Local


def test_local_sends_only_to_workers_with_ready_endpoints() -> None:
    result = plan(service(), endpoint_slice([endpoint("198.18.131.5", "worker1")]))
    assert destinations(result) == (Destination(W1),)
    assert result.vips[VIP].workers == {W1}


def test_destinations_are_in_the_order_of_addresses_and_not_of_names() -> None:
    items = [node("a", "198.18.0.200"), node("b", "198.18.0.9"), node("c", "198.18.0.100")]
    endpoints = [endpoint(f"198.18.131.{i}", n) for i, n in enumerate(["a", "b", "c"])]
    result = plan(*items, service(), endpoint_slice(endpoints))
    assert [str(d.address) for d in destinations(result)] == ["198.18.0.9", "198.18.0.100", "198.18.0.200"]


@given(st.permutations([service(), both("ready", "terminating"), *EDGES, *WORKERS]))
def test_the_plan_does_not_depend_on_the_order_of_objects(items: list[Any]) -> None:
    expected = translate_edge(snapshot(service(), both("ready", "terminating"), *EDGES, *WORKERS), settings(), "edge1")
    assert translate_edge(snapshot(*items), settings(), "edge1") == expected


@pytest.mark.parametrize("state", ["terminating", "gone", "unready"])
def test_a_worker_whose_endpoints_leave_while_others_are_ready_is_drained(state: str) -> None:
    result = plan(service(), both("ready", state))
    assert destinations(result) == (Destination(W1), Destination(W2, 1, True))
    assert result.vips[VIP].workers == {W1}


def test_a_worker_goes_when_none_of_its_endpoints_remains() -> None:
    assert destinations(plan(service(), endpoint_slice([endpoint("198.18.131.5", "worker1")]))) == (Destination(W1),)


def test_serving_terminating_endpoints_count_when_none_is_ready_anywhere() -> None:
    result = plan(service(), both("terminating", "gone"))
    assert destinations(result) == (Destination(W1), Destination(W2, 1, True))
    facts = result.vips[VIP]
    assert facts.workers == {W1}
    assert facts.terminating_only
    assert facts.endpoints == 1


def test_a_worker_with_a_ready_and_a_terminating_endpoint_stays_active() -> None:
    endpoints = [endpoint("198.18.131.5", "worker1"), endpoint("198.18.131.6", "worker1", "terminating")]
    assert destinations(plan(service(), endpoint_slice(endpoints))) == (Destination(W1),)


def test_no_ready_endpoint_leaves_a_vip_without_workers() -> None:
    result = plan(service(), both("unready", "unready"))
    assert result.vips[VIP].workers == frozenset()
    assert result.vips[VIP].endpoints == 0
    assert all(d.drained for d in destinations(result))


def test_a_udp_drain_ends_when_the_last_endpoint_stops_serving() -> None:
    def udp(first: str, second: str) -> EdgePlan:
        endpoints = [endpoint("198.18.131.5", "worker1", first), endpoint("198.18.132.5", "worker2", second)]
        return plan(service(ports=UDP_PORTS), endpoint_slice(endpoints, ports=UDP_SLICE_PORTS))

    assert destinations(udp("ready", "terminating"), Protocol.UDP, 53) == (Destination(W1), Destination(W2, 1, True))
    assert destinations(udp("ready", "gone"), Protocol.UDP, 53) == (Destination(W1),)
    assert destinations(udp("ready", "unready"), Protocol.UDP, 53) == (Destination(W1),)


def test_a_pod_that_is_in_two_slices_for_a_while_counts_once_and_by_its_better_view() -> None:
    slices = [endpoint_slice([endpoint("198.18.131.5", "worker1", s)], name=f"s-{s}") for s in ("unready", "ready")]
    result = plan(service(), *slices, weights="endpoints")
    assert destinations(result) == (Destination(W1),)
    assert result.vips[VIP].endpoints == 1


# Nodes


def test_endpoints_that_are_unready_on_an_unknown_node_are_held() -> None:
    away = node("worker1", "198.18.0.21", ready="Unknown")
    result = plan(away, service(), both("unready", "ready"))
    assert destinations(result) == (Destination(W1), Destination(W2))
    assert result.vips[VIP].held == {W1}


def test_all_nodes_unknown_hold_everything() -> None:
    away = [node("worker1", "198.18.0.21", ready="Unknown"), node("worker2", "198.18.0.22", ready="Unknown")]
    result = plan(*away, service(), both("unready", "unready"))
    assert result.vips[VIP].workers == result.vips[VIP].held == {W1, W2}


def test_pods_evicted_from_unknown_nodes_are_the_last_resort() -> None:
    away = node("worker1", "198.18.0.21", ready="Unknown")
    assert destinations(plan(away, service(), both("gone", "ready"))) == (Destination(W1, 1, True), Destination(W2))
    alone = plan(away, service(), both("gone", "unready"))
    assert alone.vips[VIP].workers == {W1}


def graced(*pairs: tuple[str, str], endpoints: dict[str, Any]) -> EdgePlan:
    cluster = snapshot(*EDGES, *WORKERS, service(), endpoints)
    return translate_edge(
        cluster, settings(), "edge1", graced=frozenset((ServiceName("default", name), node) for name, node in pairs)
    )


def test_unready_endpoints_with_grace_are_held_where_none_is_ready() -> None:
    plan = graced(("web", "worker1"), endpoints=both("unready", "unready"))
    assert (plan.vips[VIP].workers, plan.vips[VIP].held) == ({W1}, {W1})


def test_grace_counts_for_nothing_where_another_endpoint_is_ready() -> None:
    plan = graced(("web", "worker1"), endpoints=both("unready", "ready"))
    assert (plan.vips[VIP].workers, plan.vips[VIP].held) == ({W2}, set())


def test_the_grace_of_another_service_counts_for_nothing() -> None:
    assert graced(("other", "worker1"), endpoints=both("unready", "unready")).vips[VIP].workers == set()


def test_endpoints_that_are_unready_on_a_node_that_says_so_are_not_held() -> None:
    down = node("worker1", "198.18.0.21", ready="False")
    assert destinations(plan(down, service(), both("unready", "ready"))) == (Destination(W1, 1, True), Destination(W2))


def test_a_cordoned_node_is_not_drained() -> None:
    cordoned = node("worker1", "198.18.0.21", unschedulable=True)
    assert destinations(plan(cordoned, service(), both("ready", "ready"))) == (Destination(W1), Destination(W2))


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": {"samegate.dev/drain": "true"}},
        {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}},
    ],
)
def test_a_worker_that_drains_or_is_excluded_keeps_its_slots_and_gets_nothing_new(changes: dict[str, Any]) -> None:
    drained = node("worker1", "198.18.0.21", **changes)
    result = plan(drained, service(), both("ready", "ready"))
    assert destinations(result) == (Destination(W1, 1, True), Destination(W2))
    assert result.vips[VIP].workers == {W2}


def test_a_drain_annotation_that_says_false_is_no_drain() -> None:
    kept = node("worker1", "198.18.0.21", annotations={"samegate.dev/drain": "false"})
    assert destinations(plan(kept, service(), both("ready", "ready"))) == (Destination(W1), Destination(W2))


# External traffic policy Cluster


def test_cluster_policy_sends_to_every_worker_while_any_endpoint_is_ready() -> None:
    result = plan(service(externalTrafficPolicy="Cluster"), endpoint_slice([endpoint("198.18.131.5", "worker1")]))
    assert destinations(result) == (Destination(W1), Destination(W2))


def test_cluster_policy_has_no_workers_without_ready_endpoints() -> None:
    result = plan(service(externalTrafficPolicy="Cluster"), both("unready", "unready"))
    assert result.vips[VIP].workers == frozenset()


def test_cluster_policy_drains_a_worker_that_says_it_is_not_ready_and_keeps_an_unknown_one() -> None:
    for ready, drained in (("False", True), ("Unknown", False)):
        result = plan(
            node("worker2", "198.18.0.22", ready=ready),
            service(externalTrafficPolicy="Cluster"),
            endpoint_slice([endpoint("198.18.131.5", "worker1")]),
        )
        assert destinations(result) == (Destination(W1), Destination(W2, 1, drained))


# Weights


def test_weights_are_equal_unless_asked() -> None:
    three = endpoint_slice(
        [endpoint(f"198.18.131.{i}", "worker1") for i in range(3)] + [endpoint("198.18.132.1", "worker2")]
    )
    assert destinations(plan(service(), three)) == (Destination(W1), Destination(W2))
    assert destinations(plan(service(), three, weights="endpoints")) == (Destination(W1, 3), Destination(W2))


def test_a_drained_destination_has_one_weight_whatever_it_was() -> None:
    endpoints = [endpoint(f"198.18.131.{i}", "worker1", "terminating") for i in range(3)] + [
        endpoint("198.18.132.1", "worker2")
    ]
    result = plan(service(), endpoint_slice(endpoints), weights="endpoints")
    assert destinations(result) == (Destination(W1, 1, True), Destination(W2))


# What probes say


def test_a_worker_that_fails_its_probes_is_drained_and_keeps_its_slots() -> None:
    result = plan(service(), both("ready", "ready"), health=WorkerHealth(unhealthy=frozenset({W1})))
    assert destinations(result) == (Destination(W1, 1, True), Destination(W2))
    assert result.vips[VIP].workers == {W1, W2}, "facts are the cluster's; announce weighs the probes itself"


def test_udp_flows_leave_a_worker_that_fails_its_probes() -> None:
    endpoints = [endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2")]
    result = plan(
        service(ports=UDP_PORTS),
        endpoint_slice(endpoints, ports=UDP_SLICE_PORTS),
        health=WorkerHealth(unhealthy=frozenset({W1})),
    )
    assert destinations(result, Protocol.UDP, 53) == (Destination(W2),)


def test_destinations_stay_when_probes_speak_against_all_of_them() -> None:
    result = plan(service(), both("ready", "ready"), health=WorkerHealth(unhealthy=frozenset({W1, W2})))
    assert destinations(result) == (Destination(W1), Destination(W2))


def test_a_worker_whose_kube_proxy_has_no_endpoint_yet_is_drained_for_that_service_only() -> None:
    other = service("other", vip="203.0.113.11")
    health = WorkerHealth(without_endpoints=frozenset({(WEB, W2)}))
    others = endpoint_slice([endpoint("198.18.131.9", "worker1"), endpoint("198.18.132.9", "worker2")], "other")
    result = plan(service(), other, both("ready", "ready"), others, health=health)
    assert destinations(result) == (Destination(W1), Destination(W2, 1, True))
    assert destinations(result, vip=IPv4Address("203.0.113.11")) == (Destination(W1), Destination(W2))


def test_a_worker_whose_pods_fail_their_active_probe_is_drained_and_udp_flows_leave_it() -> None:
    health = WorkerHealth(failing_probes=frozenset({(WEB, W2)}))
    assert destinations(plan(service(), both("ready", "ready"), health=health)) == (
        Destination(W1),
        Destination(W2, 1, True),
    )
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    slices = endpoint_slice(
        [endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2")],
        ports=[{"name": "dns", "port": 53, "protocol": "UDP"}],
    )
    assert destinations(plan(service(ports=ports), slices, health=health), Protocol.UDP, 53) == (Destination(W1),)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["ready", "unready", "terminating", "gone"])), max_size=12),
    st.frozensets(st.integers(1, 6)),
    st.frozensets(st.integers(1, 6)),
)
def test_tcp_membership_of_the_table_does_not_depend_on_probes(
    pods: list[tuple[int, str]], one: frozenset[int], other: frozenset[int]
) -> None:
    """Two edge nodes whose probes disagree still have the same destinations in the same order."""
    nodes = [node(f"w{i}", f"198.18.0.{100 + i}") for i in range(1, 7)]
    endpoints = [endpoint(f"198.18.131.{i}", f"w{n}", s) for i, (n, s) in enumerate(pods)]
    cluster = snapshot(*nodes, service(), endpoint_slice(endpoints))
    views = [
        translate_edge(
            cluster,
            settings(),
            "edge1",
            WorkerHealth(unhealthy=frozenset(IPv4Address(f"198.18.0.{100 + i}") for i in bad)),
        )
        for bad in (one, other)
    ]
    tables = [[(d.address, d.weight) for d in destinations(v)] for v in views]
    assert tables[0] == tables[1]
    assert {str(a).rpartition(".")[2] for a, _ in tables[0]} == {str(100 + n) for n, _ in pods}
