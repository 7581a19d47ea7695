"""What a worker is to have in its kernel, and to ask its kube-proxy."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from lbnode.model import Tunnel
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.edge_plans import DUAL, W1, WEB
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, node, service, settings, snapshot


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
