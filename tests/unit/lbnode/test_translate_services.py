"""Which Services an edge node serves, and by which ports."""

from __future__ import annotations

from typing import Any

import pytest

from lbnode.model import Destination, Protocol, VirtualKey
from tests.unit.lbnode.edge_plans import UDP_PORTS, VIP, W1, W2, WEB, both, destinations, plan
from tests.unit.lbnode.kube_objects import endpoint, endpoint_slice, service

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
