"""Several Services at one address: who may, what they get, and what the edge nodes make of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.allocate import Allocation, allocate
from lbnode.facts import RouteAttributes
from lbnode.model import Destination, ServiceName
from lbnode.object_reader import read_service
from lbnode.objects import ServiceObject
from lbnode.translate.edge import EdgePlan, translate_edge
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, service, settings, snapshot

VIP = ip_address("203.0.113.10")
W1, W2 = ip_address("198.18.0.21"), ip_address("198.18.0.22")


def raw(name: str, port: int = 80, key: str = "front", protocol: str = "TCP", **arguments: Any) -> dict[str, Any]:
    annotations = arguments.pop("annotations", {}) | ({"samegate.dev/sharing-key": key} if key else {})
    ports = [{"name": "p", "port": port, "protocol": protocol}]
    return service(name, ports=ports, annotations=annotations, **({"vip": None} | arguments))


def read(name: str, *arguments: Any, **keywords: Any) -> ServiceObject:
    namespace = keywords.pop("namespace", "default")
    found, _ = read_service(raw(name, *arguments, **keywords))
    assert found is not None
    return replace(found, name=ServiceName(namespace, name))


def got(found: Allocation, name: str, namespace: str = "default") -> str:
    return ",".join(map(str, found.addresses.get(ServiceName(namespace, name), ())))


def only(found: Allocation) -> tuple[str, str, str]:
    [rejection] = found.rejections
    return rejection.service.name, rejection.reason, rejection.message


# Allocation


def test_services_with_one_key_get_one_address_that_follows_from_the_key() -> None:
    digest = int(hashlib.sha256(b"sharing-key:default/front").hexdigest(), 16)
    expected = str(ip_address("203.0.113.1") + digest % 254)
    found = allocate([read("web", 80), read("dns", 53, protocol="UDP")], settings())
    assert (got(found, "web"), got(found, "dns")) == (expected, expected)
    assert found.rejections == ()
    assert got(allocate([read("dns", 53)], settings()), "dns") == expected, "whichever of them comes first"


def test_tcp_and_udp_of_one_port_number_are_two_ports() -> None:
    found = allocate([read("a", 53, protocol="TCP"), read("b", 53, protocol="UDP")], settings())
    assert got(found, "a") == got(found, "b") != ""


def test_a_newcomer_joins_the_address_that_the_key_has_and_nobody_moves() -> None:
    old = read("old", 80, vip="203.0.113.77")
    found = allocate([old, read("new", 443)], settings())
    assert (got(found, "old"), got(found, "new")) == ("203.0.113.77", "203.0.113.77")


def test_a_key_moves_no_service_that_has_an_address() -> None:
    objects = [read("a", 80, vip="203.0.113.5"), read("b", 443, vip="203.0.113.6")]
    found = allocate(objects, settings())
    assert (got(found, "a"), got(found, "b")) == ("203.0.113.5", "203.0.113.6")


def test_a_service_that_has_an_address_moves_to_a_shared_one_that_it_asks_for() -> None:
    asks = read("b", 443, vip="203.0.113.6", annotations={"samegate.dev/address": "203.0.113.5"})
    found = allocate([read("a", 80, vip="203.0.113.5"), asks], settings())
    assert got(found, "b") == "203.0.113.5"


def test_a_port_that_is_taken_is_refused_with_port_holder_and_way_out() -> None:
    found = allocate([read("old", 80, vip="203.0.113.5"), read("new", 80)], settings())
    assert (got(found, "old"), got(found, "new")) == ("203.0.113.5", "")
    name, reason, message = only(found)
    assert (name, reason) == ("new", "SharingPortConflict")
    for words in ("203.0.113.5", "default/old", "TCP 80", "Use other ports"):
        assert words in message


def test_a_port_that_is_changed_to_a_taken_one_costs_the_younger_its_address() -> None:
    older, younger = (
        read("older", 80, vip="203.0.113.5"),
        read("younger", 80, vip="203.0.113.5", created="2026-02-01T00:00:00Z"),
    )
    found = allocate([younger, older], settings())
    assert (got(found, "older"), got(found, "younger")) == ("203.0.113.5", "")
    assert only(found)[:2] == ("younger", "SharingPortConflict")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("back", ["'back' here and 'front' there", "equal keys", "Use the same key"]),
        ("", ["'' here and 'front' there", "equal keys"]),
    ],
)
def test_an_address_of_another_key_is_refused(key: str, words: list[str]) -> None:
    asks = read("new", 443, key=key, annotations={"samegate.dev/address": "203.0.113.5"})
    found = allocate([read("old", 80, vip="203.0.113.5"), asks], settings())
    assert (got(found, "old"), got(found, "new")) == ("203.0.113.5", "")
    _, reason, message = only(found)
    assert reason == "SharingKeyConflict"
    for word in words:
        assert word in message


def test_a_key_counts_within_its_namespace_unless_the_settings_say_otherwise() -> None:
    objects = [read("a", 80), read("a", 443, namespace="shop")]
    apart, together = allocate(objects, settings()), allocate(objects, settings(shareAcrossNamespaces=True))
    assert got(apart, "a") != got(apart, "a", "shop") != ""
    assert got(together, "a") == got(together, "a", "shop") != ""
    asks = read("b", 443, namespace="shop", annotations={"samegate.dev/address": "203.0.113.5"})
    _, reason, message = only(allocate([read("a", 80, vip="203.0.113.5"), asks], settings()))
    assert reason == "SharingKeyConflict"
    assert "shareAcrossNamespaces" in message


def test_a_service_that_gives_up_its_key_gives_up_the_address_of_the_older_one() -> None:
    objects = [read("old", 80, vip="203.0.113.5"), read("zz", 443, key="", vip="203.0.113.5")]
    found = allocate(objects, settings())
    assert got(found, "old") == "203.0.113.5"
    assert got(found, "zz") not in ("", "203.0.113.5")


def test_a_shared_address_in_a_pool_that_is_not_for_the_newcomer_is_refused() -> None:
    rules = [
        {"name": "web", "cidrs": ["203.0.113.0/28"], "serviceSelector": {"matchLabels": {"app": "web"}}},
        {"name": "rest", "cidrs": ["203.0.113.16/28"]},
    ]
    found = allocate([read("old", 80, vip="203.0.113.5"), read("new", 443)], settings(pools=rules))
    assert got(found, "new") == ""
    _, reason, message = only(found)
    assert reason == "PoolNotForService"
    assert "203.0.113.5" in message


def test_both_families_of_an_address_are_shared() -> None:
    both = settings(pools=[{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]}])
    spec = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    found = allocate([read("a", 80, **spec), read("b", 443, **spec)], both)
    assert got(found, "a") == got(found, "b")
    assert got(found, "a").count(",") == 1


def test_preferring_two_families_does_not_hide_a_port_conflict_in_one_of_them() -> None:
    both = settings(pools=[{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]}])
    spec = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}
    old = read("old", 80, vip="2001:db8:1::5", ipFamilies=["IPv6"])
    found = allocate([old, read("new", 80, **spec)], both)
    assert only(found)[:2] == ("new", "SharingPortConflict")
    assert ip_address(got(found, "new")).version == 4


def test_a_key_of_any_length_gives_a_short_message() -> None:
    asks = read("new", 443, key="k" * 100_000, annotations={"samegate.dev/address": "203.0.113.5"})
    assert len(only(allocate([read("old", 80, vip="203.0.113.5"), asks], settings()))[2]) < 600


crowd = st.lists(
    st.builds(
        read,
        st.sampled_from([f"s{i}" for i in range(8)]),
        st.sampled_from([80, 443, 53]),
        st.sampled_from(["", "front", "back"]),
        vip=st.none() | st.integers(1, 6).map(lambda n: f"203.0.113.{n}"),
        created=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        namespace=st.sampled_from(["default", "shop"]),
    ),
    max_size=8,
    unique_by=lambda s: s.name,
)
SMALL = settings(pools=[{"name": "p", "cidrs": ["203.0.113.0/29"]}])


@given(crowd, st.randoms())
def test_whoever_shares_an_address_has_one_key_one_namespace_and_no_common_port(
    objects: list[ServiceObject], random: Any
) -> None:
    found = allocate(objects, SMALL)
    by_name = {s.name: s for s in objects}
    for names in found.by_address().values():
        sharers = [by_name[n] for n in names]
        if len(sharers) > 1:
            assert len({s.annotations.get("samegate.dev/sharing-key") for s in sharers}) == 1
            assert sharers[0].annotations["samegate.dev/sharing-key"]
            assert len({s.name.namespace for s in sharers}) == 1
            assert len({(p.protocol, p.port) for s in sharers for p in s.ports}) == len(sharers)
    random.shuffle(objects)
    assert allocate(objects, SMALL) == found
    assert {s.name for s in objects} <= found.addresses.keys() | {r.service for r in found.rejections}


@given(crowd)
def test_edge_nodes_serve_exactly_what_the_controller_allocated(objects: list[ServiceObject]) -> None:
    """Once the addresses are in the status, nothing is refused by the edge nodes that the controller has granted."""
    found = allocate(objects, SMALL)
    written = {s.name: replace(s, addresses=found.addresses.get(s.name, ())) for s in objects}
    result = translate_edge(replace(snapshot(), services=written), SMALL, "edge1")
    served = {(v.service, a) for a, facts in result.vips.items() for v in facts.all_services}
    assert served == {(name, a) for name, addresses in found.addresses.items() for a in addresses}
    again = allocate(written.values(), SMALL)
    assert again.addresses == found.addresses


# Edge nodes

SLICES = [
    endpoint_slice([endpoint("198.18.131.5", "worker1")], "web", ports=[{"name": "p", "port": 80, "protocol": "TCP"}]),
    endpoint_slice([endpoint("198.18.132.5", "worker2")], "dns", ports=[{"name": "p", "port": 53, "protocol": "UDP"}]),
]


def edge(*services: dict[str, Any], **changes: Any) -> EdgePlan:
    return translate_edge(snapshot(*EDGES, *WORKERS, *services, *SLICES), settings(**changes), "edge1")


def test_each_port_of_a_shared_address_goes_to_the_workers_of_its_own_service() -> None:
    """The two policies differ, and need not agree: the Cluster port goes to every worker, the Local one to its own."""
    web = raw("web", 80, vip=str(VIP))
    dns = raw("dns", 53, protocol="UDP", vip=str(VIP), externalTrafficPolicy="Cluster")
    result = edge(web, dns)
    assert result.rejections == ()
    assert {str(s.key): s.destinations for s in result.state.services} == {
        "tcp://203.0.113.10:80": (Destination(W1),),
        "udp://203.0.113.10:53": (Destination(W1), Destination(W2)),
    }
    assert [str(v.service) for v in result.vips[VIP].all_services] == ["default/dns", "default/web"]


def test_of_two_services_with_one_port_the_older_is_served_and_the_younger_refused() -> None:
    young = raw("web", 53, protocol="UDP", vip=str(VIP), created="2026-03-01T00:00:00Z")
    result = edge(young, raw("dns", 53, protocol="UDP", vip=str(VIP)))
    assert [v.service.name for v in result.vips[VIP].all_services] == ["dns"]
    [rejection] = result.rejections
    assert (rejection.service.name, rejection.reason) == ("web", "SharingPortConflict")


def test_the_route_of_a_shared_address_goes_as_the_oldest_asks_and_the_other_is_told() -> None:
    old = raw("dns", 53, protocol="UDP", vip=str(VIP), annotations={"samegate.dev/bgp-med": "5"})
    young = {"vip": str(VIP), "created": "2026-03-01T00:00:00Z"}
    result = edge(old, raw("web", 80, **young, annotations={"samegate.dev/bgp-med": "7"}))
    assert result.vips[VIP].attributes == RouteAttributes(med=5)
    [rejection] = result.rejections
    assert (rejection.service.name, rejection.reason) == ("web", "SharingAttributesDiffer")
    for words in ("MED 5", "MED 7", "default/dns"):
        assert words in rejection.message
    for agrees in ({"samegate.dev/bgp-med": "5"}, {}):
        assert edge(old, raw("web", 80, **young, annotations=agrees)).rejections == ()
