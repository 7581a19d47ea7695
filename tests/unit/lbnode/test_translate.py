from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.facts import RouteAttributes, WorkerHealth
from lbnode.model import Destination, EdgeState, ProbeRoute, Protocol, ServiceName, Tunnel, VirtualKey, VirtualService
from lbnode.translate.edge import EdgePlan, retain_announced, translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, node, service, settings, snapshot

VIP = IPv4Address("203.0.113.10")
W1, W2 = IPv4Address("198.18.0.21"), IPv4Address("198.18.0.22")
WEB = ServiceName("default", "web")
UDP_PORTS = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}]
UDP_SLICE_PORTS = [{"name": "dns", "port": 5353, "protocol": "UDP"}]


def plan(*items: Any, health: WorkerHealth | None = None, node_name: str = "edge1", **changes: Any) -> EdgePlan:
    cluster = snapshot(*EDGES, *WORKERS, *items)
    return translate_edge(cluster, settings(**changes), node_name, health or WorkerHealth())


def destinations(
    result: EdgePlan, protocol: Protocol = Protocol.TCP, port: int = 80, vip: Any = VIP
) -> tuple[Destination, ...]:
    [found] = [s for s in result.state.services if s.key == VirtualKey(vip, protocol, port)]
    return found.destinations


def both(first: str, second: str) -> dict[str, Any]:
    return endpoint_slice([endpoint("198.18.131.5", "worker1", first), endpoint("198.18.132.5", "worker2", second)])


# Which Services


def test_a_service_with_our_class_and_an_address_gets_its_vip_and_its_port() -> None:
    result = plan(service(), both("ready", "ready"))
    assert result.state.vips == {VIP}
    assert [s.key for s in result.state.services] == [VirtualKey(VIP, Protocol.TCP, 80)]
    assert result.filter.served == {VirtualKey(VIP, Protocol.TCP, 80)}
    assert result.state.filter_digest == result.filter.digest
    assert result.rejections == ()
    assert result.warnings == ()
    assert result.blocked is None


@pytest.mark.parametrize(
    "spec",
    [
        {"loadBalancerClass": "other.example/lb"},
        {"loadBalancerClass": None},
        {"type": "ClusterIP"},
        {"type": "NodePort"},
    ],
)
def test_a_service_of_a_foreign_class_or_another_type_is_left_alone(spec: dict[str, Any]) -> None:
    result = plan(service(**spec), both("ready", "ready"))
    assert result.state.vips == frozenset()
    assert result.state.services == ()
    assert result.rejections == ()


def test_a_service_without_a_class_is_served_when_the_settings_say_so() -> None:
    result = plan(service(loadBalancerClass=None), both("ready", "ready"), serveWithoutClass=True)
    assert result.state.vips == {VIP}


def test_a_foreign_class_is_never_served_even_when_classless_ones_are() -> None:
    assert plan(service(loadBalancerClass="other.example/lb"), serveWithoutClass=True).state.vips == frozenset()


def test_a_service_without_an_address_yet_programs_nothing() -> None:
    assert plan(service(vip=None), both("ready", "ready")).state.services == ()


def test_an_address_outside_the_pools_is_refused_and_other_services_stay() -> None:
    result = plan(service(vip="192.0.2.1"), service("other"), both("ready", "ready"))
    assert result.state.vips == {VIP}
    [rejection] = result.rejections
    assert (rejection.service, rejection.reason) == (WEB, "AddressOutsidePool")
    assert "192.0.2.1" in rejection.message
    assert "203.0.113.0/24" in rejection.message


def test_of_two_services_with_one_address_the_older_is_served() -> None:
    young = service("a", created="2026-03-01T00:00:00Z", ports=[{"name": "x", "port": 81}])
    result = plan(young, service(), both("ready", "ready"))
    assert [s.key.port for s in result.state.services] == [80]
    [rejection] = result.rejections
    assert (rejection.service.name, rejection.reason) == ("a", "AddressTaken")


def test_a_service_left_to_another_proxy_is_refused() -> None:
    result = plan(service(labels={"service.kubernetes.io/service-proxy-name": "mine"}), both("ready", "ready"))
    assert result.state.vips == frozenset()
    assert [r.reason for r in result.rejections] == ["ForeignServiceProxy"]


def test_a_service_being_deleted_keeps_its_kernel_state_and_is_marked() -> None:
    result = plan(service(deleting=True), both("ready", "ready"))
    assert result.state.vips == {VIP}
    assert result.vips[VIP].deleting


# Ports


def test_each_port_of_a_service_has_destinations_of_its_own() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web"}, {"name": "admin", "port": 8000, "targetPort": "adm"}]
    http = endpoint_slice([endpoint("198.18.131.5", "worker1")], name="s1")
    admin = endpoint_slice(
        [endpoint("198.18.132.5", "worker2")], name="s2", ports=[{"name": "admin", "port": 9000, "protocol": "TCP"}]
    )
    result = plan(service(ports=ports), http, admin)
    assert destinations(result, port=80) == (Destination(W1),)
    assert destinations(result, port=8000) == (Destination(W2),)
    assert result.vips[VIP].workers == {W1, W2}


def test_tcp_and_udp_may_share_a_port_number() -> None:
    ports = [{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]
    slice_ports = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]
    result = plan(service(ports=ports), endpoint_slice([endpoint("198.18.131.5", "worker1")], ports=slice_ports))
    assert [s.key.protocol for s in result.state.services] == [Protocol.TCP, Protocol.UDP]
    assert destinations(result, Protocol.UDP, 53) == (Destination(W1),)


def test_an_unsupported_protocol_costs_its_port_only() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "sig", "port": 2905, "protocol": "DCCP"}]
    result = plan(service(ports=ports), both("ready", "ready"))
    assert [s.key.port for s in result.state.services] == [80]
    assert [r.reason for r in result.rejections] == ["UnsupportedProtocol"]


def test_port_zero_costs_its_port_only() -> None:
    result = plan(service(ports=[{"name": "http", "port": 80}, {"name": "zero", "port": 0}]), both("ready", "ready"))
    assert [s.key.port for s in result.state.services] == [80]
    [rejection] = result.rejections
    assert rejection.reason == "InvalidPort"
    assert "0" in rejection.message
    assert "1 to 65535" in rejection.message


def test_an_unknown_named_port_is_named_and_other_ports_are_served() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "extra", "port": 81, "targetPort": "nothere"}]
    result = plan(service(ports=ports), both("ready", "ready"))
    assert destinations(result) == (Destination(W1), Destination(W2))
    assert destinations(result, port=81) == ()
    [rejection] = result.rejections
    assert rejection.reason == "UnknownNamedPort"
    assert "nothere" in rejection.message


def test_a_service_without_node_ports_is_served() -> None:
    result = plan(service(allocateLoadBalancerNodePorts=False), both("ready", "ready"))
    assert destinations(result) == (Destination(W1), Destination(W2))


def test_client_ip_affinity_hashes_without_the_source_port() -> None:
    assert plan(service(), both("ready", "ready")).state.services[0].hash_source_port
    assert not plan(service(sessionAffinity="ClientIP"), both("ready", "ready")).state.services[0].hash_source_port


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("", True), ("false", False), ("No", False)])
def test_one_packet_mode_is_for_udp_ports_of_services_that_ask_for_it(value: str, expected: bool) -> None:
    ports = [*UDP_PORTS, {"name": "http", "port": 80}]
    result = plan(service(ports=ports, annotations={"samegate.dev/udp-one-packet": value}))
    assert {s.key.protocol: s.one_packet for s in result.state.services} == {
        Protocol.TCP: False,
        Protocol.UDP: expected,
    }


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


def test_the_drain_annotation_on_an_edge_node_drains_this_node_and_keeps_it_forwarding() -> None:
    drained = node("edge1", "198.18.0.11", "edge", annotations={"samegate.dev/drain": "true"})
    result = plan(drained, service(), both("ready", "ready"))
    assert result.draining
    assert destinations(result) == (Destination(W1), Destination(W2))
    assert not plan(drained, node_name="edge2").draining


def test_endpoints_on_nodes_that_are_no_workers_get_no_traffic_and_a_warning() -> None:
    result = plan(service(), endpoint_slice([endpoint("198.18.129.5", "edge1"), endpoint("198.18.131.5", "worker1")]))
    assert destinations(result) == (Destination(W1),)
    [warning] = result.warnings
    assert "edge1" in warning
    assert "an edge node" in warning


def test_an_edge_node_that_is_a_worker_too_is_refused() -> None:
    both_roles = node("edge1", "198.18.0.11", "edge", labels={"takes": "traffic"})
    result = translate_edge(snapshot(both_roles), settings(workerNodeSelector={"takes": "traffic"}), "edge1")
    assert result.blocked is not None
    assert result.blocked[0] == "EdgeNodeIsWorker"


def test_a_node_that_is_not_labelled_as_an_edge_node_is_refused() -> None:
    assert (plan(node_name="worker1").blocked or ("",))[0] == "NotAnEdgeNode"


def test_a_node_that_is_not_in_the_cluster_is_told_apart() -> None:
    assert (plan(node_name="nobody").blocked or ("",))[0] == "NodeUnknown"


def test_edge_nodes_with_different_kernels_are_warned_about() -> None:
    [warning] = plan(node("edge2", "198.18.0.12", "edge", kernel="6.6.1")).warnings
    assert "edge1 6.1.176" in warning
    assert "edge2 6.6.1" in warning


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


# The rest of the edge state


def test_every_worker_has_a_probe_route_whether_or_not_it_has_endpoints() -> None:
    edge = IPv4Address("198.18.0.11")
    expected = {ProbeRoute(IPv4Address(f"192.0.2.{n}"), IPv4Address(f"198.18.0.{n}"), edge) for n in (21, 22)}
    assert plan().state.probe_routes == expected
    assert plan().state.probe_devices == {4}


def test_workers_that_would_share_a_probe_address_are_told() -> None:
    result = plan(
        node("far", "198.18.1.21"),
        network={"nodeCidrs": ["198.18.0.0/23"], "probeCidrs": ["192.0.2.0/24"]},
    )
    assert len([w for w in result.workers if w.probe_address is None]) == 1
    [warning] = result.warnings
    assert "192.0.2.21" in warning


def test_timeouts_come_from_the_settings() -> None:
    assert plan(ipvs={"udpSeconds": 7}).state.timeouts.udp_seconds == 7


def test_a_limit_of_new_connections_comes_from_the_settings_and_its_change_is_a_change_of_the_filter() -> None:
    free, slow, fast = (plan(ipvs=limit) for limit in ({}, {"maxSynPerSecond": 1000}, {"maxSynPerSecond": 5000}))
    assert [p.filter.max_syn_per_second for p in (free, slow, fast)] == [None, 1000, 5000]
    assert len({p.state.filter_digest for p in (free, slow, fast)}) == 3


def test_sysctls_let_a_node_pick_up_flows_that_it_never_saw_open_and_hear_its_probes() -> None:
    assert plan().state.sysctls == {
        "net.ipv4.conf.all.rp_filter": "2",
        "net.ipv4.vs.sloppy_tcp": "1",
        "net.ipv4.vs.expire_nodest_conn": "1",
        "net.ipv4.vs.conn_reuse_mode": "1",
        "net.ipv4.vs.schedule_icmp": "1",
    }


DUAL = {
    "pools": [{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]}],
    "network": {"nodeCidrs": ["198.18.0.0/24"], "probeCidrs": ["192.0.2.0/24", "2001:db8:2::/64"]},
}


DUAL_EDGE = node("edge1", "198.18.0.11,2001:db8:3::b", "edge")
VIP6 = IPv6Address("2001:db8:1::a")


def dual_plan(*edges: dict[str, Any], **changes: Any) -> EdgePlan:
    """The plan of edge1 for a dual-stack Service on worker1."""
    return translate_edge(
        snapshot(
            node("worker1", "198.18.0.21,2001:db8:3::15"),
            *edges,
            service(vip=f"203.0.113.10,{VIP6}", ipFamilies=["IPv4", "IPv6"]),
            endpoint_slice([endpoint("198.18.131.5", "worker1")]),
            endpoint_slice([endpoint("2001:db8:4::5", "worker1")], name="v6", family="IPv6"),
        ),
        settings(**(DUAL | changes)),
        "edge1",
    )


def test_a_dual_stack_service_uses_each_family_for_itself() -> None:
    result = dual_plan(DUAL_EDGE)
    assert destinations(result) == (Destination(W1),)
    assert destinations(result, vip=VIP6) == (Destination(IPv6Address("2001:db8:3::15")),)
    assert result.state.probe_devices == {4, 6}
    assert result.state.probe_routes == {
        ProbeRoute(IPv4Address("192.0.2.21"), IPv4Address("198.18.0.21"), IPv4Address("198.18.0.11")),
        ProbeRoute(IPv6Address("2001:db8:2::15"), IPv6Address("2001:db8:3::15"), IPv6Address("2001:db8:3::b")),
    }
    assert (result.unserved, result.warnings) == ({}, ())


def test_an_edge_node_without_an_ipv6_address_serves_the_ipv4_part_and_says_so() -> None:
    result = dual_plan(*EDGES[:1])
    assert destinations(result) == (Destination(W1),)
    assert result.state.vips == {IPv4Address("203.0.113.10")}
    assert {s.key.address.version for s in result.state.services} == {4}
    assert result.state.probe_devices == {4}
    assert {r.probe_address.version for r in result.state.probe_routes} == {4}
    assert VIP6 in result.vips, "so that it has a verdict"
    assert result.unserved.keys() == {6}
    assert result.unserved[6][0] == "NoNodeAddress"
    [warning] = result.warnings
    assert "edge1" in warning
    assert "IPv6" in warning


def test_a_router_that_an_edge_node_cannot_speak_to_is_told_by_name() -> None:
    peers = [
        {"name": "tor1", "address": "198.18.0.2", "asn": 65001},
        {"name": "tor1-six", "address": "2001:db8:3::2", "asn": 65001},
    ]
    result = plan(bgp={"localAsn": 65010, "peers": peers})
    assert [w for w in result.warnings if "edge1" in w and "tor1-six = 2001:db8:3::2" in w]
    assert not [w for w in result.warnings if "198.18.0.2" in w]
    assert result.blocked is None


def test_a_vip_that_routers_still_send_stays_in_the_kernel_until_it_is_withdrawn() -> None:
    gone = plan()
    kernel = EdgeState(
        vips=frozenset({VIP}), services=(VirtualService(VirtualKey(VIP, Protocol.TCP, 80), (Destination(W1),)),)
    )
    kept = retain_announced(gone, kernel, frozenset({VIP}))
    assert kept.state.vips == {VIP}
    assert kept.state.services == kernel.services
    assert kept.filter.served == {VirtualKey(VIP, Protocol.TCP, 80)}
    assert kept.state.filter_digest == kept.filter.digest
    assert retain_announced(gone, kernel, frozenset()) == gone
    assert VIP not in kept.vips, "nothing argues for announcing it"


# Workers


def test_a_worker_has_a_tunnel_from_each_edge_node_and_its_probe_address() -> None:
    result = translate_worker(snapshot(*EDGES, *WORKERS), settings(), "worker1")
    edges = (IPv4Address("198.18.0.11"), IPv4Address("198.18.0.12"))
    assert result.state.tunnels == {Tunnel(e, W1) for e in edges}
    assert result.state.probe_addresses == {IPv4Address("192.0.2.21")}
    assert result.filter.probe_addresses == (IPv4Address("192.0.2.21"),)
    assert result.filter.max_segment_bytes == ((4, 1440),)
    assert result.state.filter_digest == result.filter.digest
    assert result.blocked is None


def test_tunnels_stay_up_from_edge_nodes_that_drain_or_are_unknown() -> None:
    edge = node("edge1", "198.18.0.11", "edge", ready="Unknown", annotations={"samegate.dev/drain": "true"})
    assert len(translate_worker(snapshot(edge, *WORKERS), settings(), "worker1").state.tunnels) == 1


def test_a_worker_checks_kube_proxy_for_local_services_that_have_a_health_port() -> None:
    cluster = snapshot(
        *WORKERS,
        service(healthCheckNodePort=30001),
        service("c", externalTrafficPolicy="Cluster", vip="203.0.113.11"),
        service("f", loadBalancerClass="other.example/x", healthCheckNodePort=30002),
    )
    [check] = translate_worker(cluster, settings(), "worker1").checks
    assert (check.service, check.port) == (WEB, 30001)


def test_a_worker_that_is_not_in_the_cluster_is_told() -> None:
    assert (translate_worker(snapshot(*EDGES), settings(), "nobody").blocked or ("",))[0] == "NodeUnknown"


def test_dual_stack_workers_have_tunnels_and_segments_of_both_families() -> None:
    cluster = snapshot(
        node("worker1", "198.18.0.21,2001:db8:3::15"), node("edge1", "198.18.0.11,2001:db8:3::b", "edge")
    )
    result = translate_worker(cluster, settings(**DUAL), "worker1")
    assert Tunnel(ip_address("2001:db8:3::b"), ip_address("2001:db8:3::15")) in result.state.tunnels
    # 1500 - 40 (outer IPv6) - 40 (IPv6) - 20 (TCP)
    assert result.filter.max_segment_bytes == ((4, 1440), (6, 1400))


# Which edge nodes announce


POOL_ON_EDGE1 = [{"name": "public", "cidrs": ["203.0.113.0/24"], "nodes": ["edge1"]}]


def test_a_pool_is_announced_by_the_chosen_edge_nodes_and_programmed_on_all() -> None:
    for name, elsewhere in (("edge1", None), ("edge2", "NodeNotSelected")):
        result = plan(service(), both("ready", "ready"), node_name=name, pools=POOL_ON_EDGE1)
        assert (result.vips[VIP].elsewhere or (None,))[0] == elsewhere
        assert result.state.vips == {VIP}
        assert result.blocked is None
        assert result.warnings == ()


def test_edge_nodes_are_chosen_by_their_labels_too() -> None:
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24"], "nodeSelector": {"rack": "b"}}]
    labelled = node("edge2", "198.18.0.12", "edge", labels={"rack": "b"})
    assert plan(labelled, service(), node_name="edge2", pools=pools).vips[VIP].elsewhere is None
    reason, detail = plan(labelled, service(), node_name="edge1", pools=pools).vips[VIP].elsewhere or ("", "")
    assert (reason, detail) == ("NodeNotSelected", "pool public is for rack=b")


def test_a_pool_that_no_edge_node_is_chosen_for_is_a_warning() -> None:
    result = plan(service(), pools=[{"name": "public", "cidrs": ["203.0.113.0/24"], "nodes": ["edge9"]}])
    [warning] = result.warnings
    for words in ("pool public", "announced by nobody", "nodeSelector"):
        assert words in warning


@pytest.mark.parametrize(
    "label",
    [
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "service.kubernetes.io/exclude-from-external-load-balancers",
    ],
)
def test_an_edge_node_with_the_label_that_excludes_it_leaves_all_vips_to_others(label: str) -> None:
    excluded = node("edge1", "198.18.0.11", "edge", labels={label: ""})
    result = plan(excluded, service(), both("ready", "ready"))
    assert (result.vips[VIP].elsewhere or ("",))[0] == "NodeExcluded"
    assert result.state.vips == {VIP}
    assert plan(excluded, service(), both("ready", "ready"), node_name="edge2").vips[VIP].elsewhere is None


def test_a_service_with_the_label_that_excludes_it_is_left_alone() -> None:
    excluded = service(labels={"service.kubernetes.io/exclude-from-external-load-balancers": ""})
    assert plan(excluded, both("ready", "ready")).state.vips == frozenset()


def test_a_vip_has_the_attributes_of_its_pool_and_service_and_what_is_wrong_is_told_once() -> None:
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"], "communities": ["no-export"]}]
    asks = {"samegate.dev/bgp-med": "7", "samegate.dev/bgp-prepend": "many"}
    result = plan(service(vip="203.0.113.10,2001:db8:1::10", annotations=asks), pools=pools)
    assert {f.attributes for f in result.vips.values()} == {RouteAttributes(("65535:65281",), med=7)}
    assert [r.reason for r in result.rejections] == ["InvalidAttribute"]
