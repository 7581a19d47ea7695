"""What a worker delivers by itself, behind kube-proxy."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from lbnode.model import IPAddress, Protocol, ServiceName, VirtualKey
from lbnode.packet_tables import DeliveryTable
from lbnode.translate.worker import WorkerPlan, translate_worker
from tests.unit.lbnode.kube_objects import EDGES, endpoint, endpoint_slice, node, service, settings, snapshot

WEB = ServiceName("default", "web")
KEY = VirtualKey(ip_address("203.0.113.10"), Protocol.TCP, 80)
POD, POD_BESIDE, POD_ELSEWHERE = "198.18.131.5", "198.18.131.6", "198.18.132.5"


def plan(*items: Any, ready: str = "True", graced: bool = False, **changes: Any) -> WorkerPlan:
    nodes = (node("worker1", "198.18.0.21", ready=ready), node("worker2", "198.18.0.22"))
    places = frozenset({(WEB, "worker1")}) if graced else frozenset()
    return translate_worker(snapshot(*EDGES, *nodes, *items), settings(**changes), "worker1", places)


def places(table: DeliveryTable) -> dict[VirtualKey, list[tuple[str, int]]]:
    return {d.key: [(str(a), p) for a, p in d.endpoints] for d in table.deliveries}


def web(*states: str) -> dict[str, Any]:
    pods = zip((POD, POD_BESIDE), states, strict=False)
    return endpoint_slice(
        [*(endpoint(a, "worker1", s) for a, s in pods), endpoint(POD_ELSEWHERE, "worker2", states[0])]
    )


def test_only_endpoints_of_this_worker_are_delivered_to_at_the_port_they_listen_on() -> None:
    result = plan(service(), web("ready", "ready"))
    assert places(result.delivery) == {KEY: [(POD, 8080), (POD_BESIDE, 8080)]}
    assert result.delivered == {WEB}
    assert result.state.delivery_digest == result.delivery.digest


def test_an_unready_endpoint_is_not_delivered_to_unless_its_node_is_unknown_or_it_has_grace() -> None:
    assert places(plan(service(), web("unready")).delivery) == {}
    assert places(plan(service(), web("unready"), ready="Unknown").delivery) == {KEY: [(POD, 8080)]}
    assert places(plan(service(), web("unready"), graced=True).delivery) == {KEY: [(POD, 8080)]}


def test_terminating_endpoints_are_left_to_kube_proxy() -> None:
    assert plan(service(), web("terminating"), ready="Unknown").delivered == frozenset()


def test_other_peoples_services_are_not_delivered() -> None:
    for other in (
        service(loadBalancerClass="example.com/other"),
        service(vip=None),
        service(vip="198.51.100.1"),
        service(deleting=True),
        service(labels={"service.kubernetes.io/service-proxy-name": "other"}),
    ):
        assert plan(other, web("ready")).delivery.deliveries == ()


def test_of_two_services_with_one_address_and_port_the_older_one_is_delivered() -> None:
    young = service("young", created="2026-02-01T00:00:00Z")
    pods = endpoint_slice([endpoint("198.18.131.9", "worker1")], "young")
    assert places(plan(young, pods, service(), web("ready")).delivery) == {KEY: [(POD, 8080)]}


def test_source_ranges_go_with_their_family_and_ranges_of_the_other_one_only_let_nobody_in() -> None:
    ranges = ["198.51.100.0/24", "2001:db8::/32"]
    [delivery] = plan(service(loadBalancerSourceRanges=ranges), web("ready")).delivery.deliveries
    assert delivery.source_ranges == (ip_network("198.51.100.0/24"),)
    assert plan(service(loadBalancerSourceRanges=ranges[1:]), web("ready")).delivered == frozenset()


def test_session_affinity_asks_for_one_endpoint_a_client() -> None:
    [delivery] = plan(service(sessionAffinity="ClientIP"), web("ready", "ready")).delivery.deliveries
    assert delivery.by_client
    [delivery] = plan(service(), web("ready", "ready")).delivery.deliveries
    assert not delivery.by_client


def test_a_pod_that_fails_its_active_probe_is_left_out_as_long_as_another_does_not() -> None:
    pods = [ip_address(POD), ip_address(POD_BESIDE)]

    def delivered_to(*failing: tuple[ServiceName, IPAddress]) -> list[str]:
        world = snapshot(*EDGES, node("worker1", "198.18.0.21"), service(), web("ready", "ready"))
        table = translate_worker(world, settings(), "worker1", frozenset(), frozenset(failing)).delivery
        return [address for address, _ in places(table)[KEY]]

    assert delivered_to((WEB, pods[0])) == [POD_BESIDE]
    assert delivered_to((WEB, pods[0]), (WEB, pods[1])) == [POD, POD_BESIDE]
    assert delivered_to((ServiceName("default", "other"), pods[0])) == [POD, POD_BESIDE]


def test_each_port_has_endpoints_of_its_own_and_protocols_that_are_not_served_have_none() -> None:
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
        {"name": "signalling", "port": 36412, "protocol": "SCTP", "targetPort": 36412},
    ]
    listening = [
        {"name": "http", "port": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "signalling", "port": 36412, "protocol": "SCTP"},
    ]
    result = plan(service(ports=ports), endpoint_slice([endpoint(POD, "worker1")], ports=listening))
    dns = VirtualKey(KEY.address, Protocol.UDP, 53)
    assert places(result.delivery) == {KEY: [(POD, 8080)], dns: [(POD, 5353)]}
