from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.errors import ConfigError
from lbnode.pools import Pool, Selector, pool_of
from lbnode.settings import parse
from tests.unit.lbnode.kube_objects import SETTINGS


def pool(**keys: Any) -> Pool:
    return parse(SETTINGS | {"pools": [{"name": "p", "cidrs": ["203.0.113.0/24"]} | keys]}).pools[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"priority": -1}, ["priority = -1", "greater than or equal to 0"]),
        ({"priority": "first"}, ["priority = 'first'"]),
        ({"autoAssign": "yes, please"}, ["autoAssign"]),
        ({"communities": ["no-exprot"]}, ["'no-exprot'", "well-known", "no-export"]),
        ({"communities": ["1:2:3:4"]}, ["'1:2:3:4'", "RFC 8092", "65010:100"]),
        ({"communities": [f"65010:{n}" for n in range(33)]}, ["communities", "at most 32"]),
        ({"med": 4294967296}, ["med = 4294967296", "4294967295"]),
        ({"med": -1}, ["med = -1"]),
        ({"prepend": 11}, ["prepend = 11", "less than or equal to 10"]),
        ({"localPreference": 200}, ["pool p", "local preference 200", "RFC 4271", "none has 65010", "Use med"]),
        ({"aggregate": {}}, ["announces nothing", "Set length"]),
        ({"aggregate": {"length": 23}}, ["/23 of pool p", "wider than its network 203.0.113.0/24", "Use /24 or longer"]),
        ({"aggregate": {"length": 32}}, ["length = 32", "less than or equal to 31"]),
        ({"aggregate": {"lengthV6": 64}}, ["lengthV6 of pool p", "no such network", "Remove it"]),
        ({"aggregate": {"length": 28, "lengthV6": 128}}, ["lengthV6 = 128"]),
        ({"aggregate": {"length": 28, "communities": ["x"]}}, ["'x'", "well-known"]),
        ({"namespaceSelector": {}}, ["empty selector", "Leave it out"]),
        ({"namespaceSelector": {"matchLabels": {"-x": "y"}}}, ["'-x'", "key of a label", "example.com/tier"]),
        ({"serviceSelector": {"matchLabels": {"x": "a b"}}}, ["'a b'", "value of a label"]),
        ({"serviceSelector": {"tier": "gold"}}, ["serviceSelector.tier", "unknown settings key"]),
        ({"serviceSelector": {"matchExpressions": [{"key": "x", "operator": "Has"}]}}, ["'Has'", "'In'"]),
        (
            {"serviceSelector": {"matchExpressions": [{"key": "x", "operator": "In"}]}},
            ["operator In on x", "no values", "Add values"],
        ),
        (
            {"serviceSelector": {"matchExpressions": [{"key": "x", "operator": "Exists", "values": ["a"]}]}},
            ["operator Exists on x", "Remove values"],
        ),
        ({"nodeSelector": {}}, ["nodeSelector"]),
        ({"nodeSelector": {"a b": "c"}}, ["'a b'", "key of a label"]),
        ({"nodes": "edge1"}, ["nodes"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_value_rule_and_way_out(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        pool(**keys)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.way_out


def test_pools_of_different_names_may_not_overlap() -> None:
    pools = [{"name": "a", "cidrs": ["203.0.113.0/24"]}, {"name": "b", "cidrs": ["203.0.113.64/26"]}]
    with pytest.raises(ConfigError, match=r"203\.0\.113\.64/26 of pool b overlaps pool a 203\.0\.113\.0/24.*Choose"):
        parse(SETTINGS | {"pools": pools})


def test_prepending_towards_our_own_as_alone_is_refused() -> None:
    bgp = {"localAsn": 65010, "peers": [{"name": "core", "address": "198.18.0.2", "asn": 65010}]}
    with pytest.raises(
        ConfigError, match=r"pool p: prepend 2 would reach no router.*all of ours have 65010.*Use local"
    ):
        parse(SETTINGS | {"bgp": bgp, "pools": [{"name": "p", "cidrs": ["203.0.113.0/24"], "prepend": 2}]})
    found = parse(SETTINGS | {"bgp": bgp, "pools": [{"name": "p", "cidrs": ["203.0.113.0/24"], "localPreference": 7}]})
    assert found.pools[0].attributes.local_preference == 7


@pytest.mark.parametrize("key", ["tcpAo", "tcpAoKey", "tcp_ao_keys"])
def test_tcp_ao_is_refused_with_the_reason_and_what_there_is_instead(key: str) -> None:
    bgp = {"localAsn": 65010, "peers": [{"name": "t", "address": "198.18.0.2", "asn": 65001, key: "x"}]}
    with pytest.raises(ConfigError) as caught:
        parse(SETTINGS | {"bgp": bgp})
    said = str(caught.value)
    assert f"{key} of peer t: TCP-AO (RFC 5925) is not there" in said
    assert "BIRD 2.17 and Linux 6.7 with CONFIG_TCP_AO" in said
    assert "the image has BIRD 2.0.12" in said
    assert "Use passwordKey on both sides" in said


def test_a_pool_without_rules_is_for_all_services_and_all_edge_nodes_and_says_nothing() -> None:
    plain = pool()
    assert plain.admits("any", {}, {})
    assert plain.announced_by("any", {})
    assert str(plain.attributes) == ""
    assert plain.auto_assign
    assert plain.aggregate_of(ip_address("203.0.113.9")) is None
    assert plain.announces_host_route(ip_address("203.0.113.9"))


@pytest.mark.parametrize(
    ("rules", "namespace", "labels", "admitted"),
    [
        ({"namespaces": ["shop"]}, "shop", {}, True),
        ({"namespaces": ["shop"]}, "blog", {}, False),
        ({"namespaceSelector": {"matchLabels": {"tier": "gold"}}}, "shop", {}, True),
        ({"namespaceSelector": {"matchLabels": {"tier": "gold"}}}, "blog", {}, False),
        ({"namespaces": ["blog"], "namespaceSelector": {"matchLabels": {"tier": "gold"}}}, "blog", {}, True),
        ({"namespaces": ["blog"], "namespaceSelector": {"matchLabels": {"tier": "gold"}}}, "shop", {}, True),
        ({"serviceSelector": {"matchLabels": {"app": "web"}}}, "shop", {"app": "web"}, True),
        ({"serviceSelector": {"matchLabels": {"app": "web"}}}, "shop", {"app": "dns"}, False),
        ({"namespaces": ["shop"], "serviceSelector": {"matchLabels": {"app": "web"}}}, "blog", {"app": "web"}, False),
        # Every namespace carries its own name as a label.
        ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "blog"}}}, "blog", {}, True),
    ],
)
def test_a_pool_is_for_services_by_namespace_and_by_labels(
    rules: dict[str, Any], namespace: str, labels: dict[str, str], admitted: bool
) -> None:
    known = {"shop": {"tier": "gold"}, "blog": {"tier": "free"}}
    assert pool(**rules).admits(namespace, known[namespace], labels) is admitted


@pytest.mark.parametrize(
    ("operator", "values", "present", "other", "absent"),
    [
        # Kubernetes, "Labels and Selectors": NotIn selects objects without the key too.
        ("In", ["a", "b"], True, False, False),
        ("NotIn", ["a", "b"], False, True, True),
        ("Exists", [], True, True, False),
        ("DoesNotExist", [], False, False, True),
    ],
)
def test_selectors_mean_what_they_mean_in_kubernetes(
    operator: str, values: list[str], present: bool, other: bool, absent: bool
) -> None:
    rule = {"key": "tier", "operator": operator, "values": values}
    selector = Selector.model_validate({"matchExpressions": [rule]})
    assert [selector.matches(labels) for labels in ({"tier": "a"}, {"tier": "z"}, {})] == [present, other, absent]


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ({"nodes": ["edge1"]}, {"edge1"}),
        ({"nodeSelector": {"rack": "b"}}, {"edge2"}),
        ({"nodes": ["edge1"], "nodeSelector": {"rack": "b"}}, {"edge1", "edge2"}),
        ({"nodeSelector": {"rack": "b", "row": "7"}}, set()),
    ],
)
def test_a_pool_is_announced_by_nodes_that_it_names_or_selects(rules: dict[str, Any], names: set[str]) -> None:
    nodes = {"edge1": {"rack": "a"}, "edge2": {"rack": "b"}, "edge3": {}}
    assert {n for n, labels in nodes.items() if pool(**rules).announced_by(n, labels)} == names


@given(st.integers(0, 255), st.integers(24, 31))
def test_an_aggregate_is_the_network_of_its_length_around_the_address(last: int, length: int) -> None:
    address = ip_address(f"203.0.113.{last}")
    found = pool(aggregate={"length": length}).aggregate_of(address)
    assert found is not None
    assert (found.prefixlen, address in found) == (length, True)
    assert found.subnet_of(ip_network("203.0.113.0/24"))


def test_host_routes_go_only_where_an_aggregate_of_their_family_stands_for_them() -> None:
    both = pool(cidrs=["203.0.113.0/24", "2001:db8:1::/64"], aggregate={"length": 28, "hostRoutes": False})
    assert not both.announces_host_route(ip_address("203.0.113.9"))
    assert both.announces_host_route(ip_address("2001:db8:1::9"))


def test_an_aggregate_says_what_the_pool_says_unless_it_has_communities_of_its_own() -> None:
    keys = {"communities": ["no-export"], "med": 5}
    assert pool(**keys, aggregate={"length": 28}).aggregate_attributes.communities == ("65535:65281",)
    own = pool(**keys, aggregate={"length": 28, "communities": []}).aggregate_attributes
    assert (own.communities, own.med) == ((), 5)


def test_the_pool_of_an_address_is_the_one_that_holds_it() -> None:
    one, two = pool(), Pool.model_validate({"name": "q", "cidrs": ["2001:db8:1::/64"]})
    assert pool_of(ip_address("2001:db8:1::1"), (one, two)) is two
    assert pool_of(ip_address("192.0.2.1"), (one, two)) is None
