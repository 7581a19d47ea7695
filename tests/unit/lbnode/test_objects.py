from __future__ import annotations

import copy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.facts import Rejection
from lbnode.object_reader import read_endpoint_slice, read_node, read_service, read_snapshot
from lbnode.objects import Condition, ServicePort, is_on, is_ours
from lbnode.plan import plan
from tests.unit.lbnode import kube_objects
from tests.unit.lbnode.kube_objects import endpoint, endpoint_slice, node, service


def test_a_service_is_read_field_by_field() -> None:
    raw = service(
        vip="203.0.113.10,2001:db8::1",
        sessionAffinity="ClientIP",
        loadBalancerSourceRanges=["198.18.8.0/24", " 10.0.0.1/8 "],
        ipFamilies=["IPv6", "IPv4"],
        ipFamilyPolicy="RequireDualStack",
        healthCheckNodePort=30001,
        allocateLoadBalancerNodePorts=False,
        loadBalancerIP="203.0.113.9",
    )
    raw["metadata"] |= {"uid": "u-1", "finalizers": ["f"]}
    raw["status"]["conditions"] = [{"type": "T", "status": "True", "reason": "R", "message": "M"}]
    found, refused = read_service(raw)
    assert refused == ()
    assert found is not None
    assert str(found.name) == "default/web"
    assert (found.uid, found.finalizers, found.deleting) == ("u-1", ("f",), False)
    assert found.ports == (ServicePort("http", "TCP", 80, 8080),)
    assert found.local
    assert found.client_ip_affinity
    assert found.source_ranges == (ip_network("198.18.8.0/24"), ip_network("10.0.0.0/8"))
    assert (found.families, found.family_policy) == ((6, 4), "RequireDualStack")
    assert (found.health_check_node_port, found.allocate_node_ports) == (30001, False)
    assert found.load_balancer_ip == "203.0.113.9"
    assert found.addresses == (ip_address("203.0.113.10"), ip_address("2001:db8::1"))
    assert found.conditions == (Condition("T", "True", "R", "M"),)


def test_an_empty_service_has_the_defaults_of_the_api() -> None:
    found, refused = read_service({"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}})
    assert refused == ()
    assert found is not None
    assert (found.type, found.load_balancer_class, found.local, found.families) == ("ClusterIP", None, False, (4,))
    assert found.ports == (ServicePort("", "TCP", 1, 1),)
    assert found.allocate_node_ports
    assert found.name.namespace == "default"


def test_a_host_name_in_the_status_is_no_address() -> None:
    raw = service(vip=None)
    raw["status"]["loadBalancer"]["ingress"] = [{"hostname": "lb.example"}, {"ip": "203.0.113.10"}]
    found, _ = read_service(raw)
    assert found is not None
    assert found.addresses == (ip_address("203.0.113.10"),)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, (True, True, False)),
        (None, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
    ],
)
def test_conditions_that_an_endpoint_leaves_out_have_the_defaults_of_the_api(conditions: Any, expected: Any) -> None:
    raw = endpoint("198.18.131.5", "worker1") | {"conditions": conditions}
    found, refused = read_endpoint_slice(endpoint_slice([raw]))
    assert refused == ()
    assert found is not None
    [only] = found.endpoints
    assert (only.ready, only.serving, only.terminating) == expected


def test_a_bad_endpoint_costs_that_endpoint_only() -> None:
    bad = [{"addresses": ["not-an-address"]}, {"addresses": []}, endpoint("2001:db8::1", "worker1"), "text"]
    found, refused = read_endpoint_slice(endpoint_slice([*bad, endpoint("198.18.131.5", "worker1")]))
    assert found is not None
    assert len(found.endpoints) == 1
    assert [(str(r.service), r.reason) for r in refused] == [("default/web", "InvalidEndpoint")] * 4


def test_slices_of_host_names_are_skipped_without_complaint() -> None:
    assert read_endpoint_slice(endpoint_slice([], family="FQDN")) == (None, ())


def test_a_slice_of_an_unknown_family_is_refused_in_its_services_name() -> None:
    found, [rejection] = read_endpoint_slice(endpoint_slice([], family="IPv5"))
    assert found is None
    assert (rejection.service.name, rejection.reason) == ("web", "InvalidEndpointSlice")


def test_a_bad_source_range_costs_the_service_because_it_would_be_open_without() -> None:
    found, [rejection] = read_service(service(loadBalancerSourceRanges=["198.18.8.0/24", "everyone"]))
    assert found is None
    assert rejection.reason == "InvalidService"
    assert "everyone" in rejection.message
    assert "CIDR" in rejection.message


@pytest.mark.parametrize("port", [0, -1, 65536, "80", True, 1.5, None])
def test_a_port_out_of_range_is_named(port: object) -> None:
    found, [rejection] = read_service(service(ports=[{"name": "a", "port": port}, {"name": "b", "port": 80}]))
    assert found is not None
    assert [p.port for p in found.ports] == [80]
    assert rejection.reason == "InvalidPort"
    assert repr(port) in rejection.message


@pytest.mark.parametrize(
    ("status", "expected"), [("True", "True"), ("False", "False"), ("Unknown", "Unknown"), ("?", "Unknown")]
)
def test_a_nodes_ready_condition_has_three_values(status: str, expected: str) -> None:
    found, _ = read_node(node("w", "198.18.0.21", ready=status))
    assert found is not None
    assert found.ready == expected


def test_a_node_that_says_nothing_of_being_ready_is_unknown() -> None:
    found, _ = read_node({"kind": "Node", "metadata": {"name": "w"}})
    assert found is not None
    assert found.ready == "Unknown"


def test_a_node_has_its_internal_addresses_and_its_kernel() -> None:
    found, refused = read_node(node("w", "198.18.0.21,2001:db8::15"))
    assert refused == ()
    assert found is not None
    assert found.addresses == (ip_address("198.18.0.21"), ip_address("2001:db8::15"))
    assert found.address(6) == ip_address("2001:db8::15")
    assert found.kernel_version == "6.1.176"


@pytest.mark.parametrize(
    ("value", "expected"), [(None, False), ("true", True), ("", True), ("FALSE", False), ("0", False)]
)
def test_a_switch_annotation_is_on_unless_it_says_no(value: str | None, expected: bool) -> None:
    assert is_on(value) is expected


def test_other_kinds_are_skipped() -> None:
    assert read_snapshot([{"kind": "Pod"}, "text", None, 7]) == read_snapshot([])


def test_only_load_balancers_of_our_class_are_ours() -> None:
    found, _ = read_service(service())
    assert found is not None
    assert is_ours(found, kube_objects.settings())
    assert not is_ours(found, kube_objects.settings(serviceClass="example.org/other"))


# Whatever the API server may send

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["IPv4", "Service"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [p for k, v in value.items() for p in _paths(v, (*path, k))]
    if isinstance(value, list):
        found += [p for i, v in enumerate(value) for p in _paths(v, (*path, i))]
    return found


WHOLE = [
    service(sessionAffinity="ClientIP", loadBalancerSourceRanges=["10.0.0.0/8"], ipFamilies=["IPv4"]),
    endpoint_slice([endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2", "terminating")]),
    node("worker1", "198.18.0.21"),
    node("edge1", "198.18.0.11", "edge"),
]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_value_anywhere_in_the_objects_is_read_or_refused_and_never_raises(data: st.DataObject) -> None:
    items = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_paths(items)))
        place: Any = items
        try:
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = data.draw(junk)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
    report = plan(items, kube_objects.settings())
    for rejection in report.rejections:
        assert isinstance(rejection, Rejection)
        assert rejection.reason.isalpha()
        assert len(rejection.message) > 20


@given(junk)
def test_junk_instead_of_an_object_is_refused_by_each_reader(raw: object) -> None:
    for read in (read_service, read_endpoint_slice, read_node):
        found, refused = read(raw)
        assert found is not None or refused


def test_a_huge_object_is_shown_shortened() -> None:
    _, [rejection] = read_service(service() | {"spec": "x" * 100_000})
    assert len(rejection.message) < 300
