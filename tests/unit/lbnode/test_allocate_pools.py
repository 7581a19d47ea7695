"""Which pool a Service gets its address from, and what happens when it asks for one."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.allocate import Allocation, allocate
from lbnode.model import ServiceName
from lbnode.object_reader import read_service
from lbnode.objects import ServiceObject
from lbnode.settings import AgentSettings
from tests.unit.lbnode.kube_objects import service, settings

GOLD, PLAIN, SIX = "203.0.113.0/28", "203.0.113.16/28", "2001:db8:1::/64"


def pools(*listed: dict[str, Any]) -> AgentSettings:
    return settings(pools=[{"name": f"p{i}"} | keys for i, keys in enumerate(listed)])


def read(name: str = "web", vip: str | None = None, pool: str = "", **arguments: Any) -> ServiceObject:
    annotations = arguments.pop("annotations", {}) | ({"samegate.dev/pool": pool} if pool else {})
    found, _ = read_service(service(name, vip=vip, annotations=annotations, **arguments))
    assert found is not None
    return found


def got(found: Allocation, name: str = "web") -> list[str]:
    return [str(a) for a in found.addresses.get(ServiceName("default", name), ())]


def in_network(found: Allocation, network: str, name: str = "web") -> bool:
    return any(ip_address(a) in ip_network(network) for a in got(found, name))


def only(found: Allocation) -> tuple[str, str]:
    [rejection] = found.rejections
    return rejection.reason, rejection.message


def test_pools_of_one_priority_are_one_row_of_addresses_in_the_order_of_the_settings() -> None:
    """As it was before there were priorities: 14 usable addresses of each /28, counted through."""
    digest = int(hashlib.sha256(b"default/web").hexdigest(), 16) % 28
    expected = ip_address("203.0.113.1") + digest if digest < 14 else ip_address("203.0.113.17") + digest - 14
    assert got(allocate([read()], pools({"cidrs": [GOLD]}, {"cidrs": [PLAIN]}))) == [str(expected)]


def test_the_pool_with_the_lowest_number_comes_first_and_the_next_when_it_is_full() -> None:
    both = pools({"cidrs": [PLAIN], "priority": 20}, {"cidrs": ["203.0.113.0/30"], "priority": 10})
    found = allocate([read(f"s{i}") for i in range(4)], both)
    networks = [in_network(found, "203.0.113.0/30", f"s{i}") for i in range(4)]
    assert networks == [True, True, False, False], "two addresses are usable, by order of name"
    assert found.rejections == ()


def test_a_pool_that_does_not_assign_by_itself_is_for_those_who_name_it_or_its_address() -> None:
    reserved = pools({"cidrs": [GOLD], "autoAssign": False, "priority": 1}, {"cidrs": [PLAIN]})
    assert in_network(allocate([read()], reserved), PLAIN)
    assert in_network(allocate([read(pool="p0")], reserved), GOLD)
    asks = read(annotations={"samegate.dev/address": "203.0.113.9"})
    assert got(allocate([asks], reserved)) == ["203.0.113.9"]


def test_a_service_that_no_pool_takes_is_told_which_there_are_and_why_not() -> None:
    rules = pools({"cidrs": [GOLD], "autoAssign": False}, {"cidrs": [PLAIN], "namespaces": ["shop"]})
    found = allocate([read()], rules)
    assert got(found) == []
    reason, message = only(found)
    assert reason == "NoPoolForService"
    for words in ("p0 (autoAssign off)", "p1 (its selectors)", "samegate.dev/pool"):
        assert words in message


def test_namespaces_are_selected_by_their_labels() -> None:
    rules = pools(
        {"cidrs": [GOLD], "namespaceSelector": {"matchLabels": {"tier": "gold"}}, "priority": 1}, {"cidrs": [PLAIN]}
    )
    assert in_network(allocate([read()], rules, {"default": {"tier": "gold"}}), GOLD)
    assert in_network(allocate([read()], rules, {"default": {"tier": "free"}}), PLAIN)
    assert in_network(allocate([read()], rules), PLAIN)


def test_services_are_selected_by_their_labels() -> None:
    rules = pools(
        {"cidrs": [GOLD], "serviceSelector": {"matchLabels": {"app": "web"}}, "priority": 1}, {"cidrs": [PLAIN]}
    )
    assert in_network(allocate([read(labels={"app": "web"})], rules), GOLD)
    assert in_network(allocate([read(labels={"app": "dns"})], rules), PLAIN)


def test_a_service_keeps_its_address_when_the_rules_of_its_pool_change() -> None:
    rules = pools({"cidrs": [GOLD], "namespaces": ["shop"]}, {"cidrs": [PLAIN]})
    assert got(allocate([read(vip="203.0.113.5")], rules)) == ["203.0.113.5"]


def test_a_service_moves_to_the_pool_that_it_names() -> None:
    rules = pools({"cidrs": [GOLD]}, {"cidrs": [PLAIN]})
    moved = allocate([read(vip="203.0.113.5", pool="p1")], rules)
    assert in_network(moved, PLAIN)
    stays = allocate([read(vip=got(moved)[0], pool="p1")], rules)
    assert stays == moved, "there it stays"


def test_a_service_that_names_a_full_pool_keeps_what_it_has_and_is_told() -> None:
    rules = pools({"cidrs": ["203.0.113.0/32"]}, {"cidrs": [PLAIN]})
    found = allocate([read("other", vip="203.0.113.0"), read(vip="203.0.113.20", pool="p0")], rules)
    assert got(found) == ["203.0.113.20"]
    assert only(found)[0] == "PoolExhausted"


@pytest.mark.parametrize(
    ("pool", "annotations", "reason", "words"),
    [
        ("gold", {}, "UnknownPool", ["'gold'", "no such pool", "p0, p1, p2"]),
        ("p1", {}, "PoolNotForService", ["'p1'", "pool p1 is not for this Service", "namespaces shop", "Use another"]),
        ("p2", {}, "NoPoolForFamily", ["'p2'", "no IPv4 network", "p0, p1", "spec.ipFamilies"]),
        ("p0", {"samegate.dev/address": "203.0.113.20"}, "AddressOutsidePool", ["203.0.113.20", "pool p1", "asks for p0"]),
        ("", {"samegate.dev/address": "203.0.113.20"}, "PoolNotForService", ["203.0.113.20", "namespaces shop"]),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_value_rule_and_way_out(
    pool: str, annotations: dict[str, str], reason: str, words: list[str]
) -> None:
    rules = pools({"cidrs": [GOLD]}, {"cidrs": [PLAIN], "namespaces": ["shop"]}, {"cidrs": [SIX]})
    found = allocate([read(pool=pool, annotations=annotations)], rules)
    assert got(found) == []
    told, message = only(found)
    assert told == reason
    for word in words:
        assert word in message
    kept = allocate([read(vip="203.0.113.5", pool=pool, annotations=annotations)], rules)
    assert got(kept) == ["203.0.113.5"], "what it has it keeps"


def test_several_pools_may_be_named_for_both_families() -> None:
    rules = pools({"cidrs": [GOLD]}, {"cidrs": [SIX], "autoAssign": False}, {"cidrs": [PLAIN]})
    asks = read(pool="p2, p1", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    found = allocate([asks], rules)
    assert in_network(found, PLAIN)
    assert in_network(found, SIX)


# Both families

BOTH = ["IPv4", "IPv6"]


@pytest.mark.parametrize("cidrs", [[GOLD], [SIX]])
def test_requiring_two_families_is_all_or_nothing(cidrs: list[str]) -> None:
    asks = read(ipFamilies=BOTH, ipFamilyPolicy="RequireDualStack")
    found = allocate([asks], pools({"cidrs": cidrs}))
    assert got(found) == []
    assert only(found)[0] == "NoPoolForFamily"


def test_requiring_two_families_takes_nothing_away() -> None:
    has = read(vip="203.0.113.5", ipFamilies=BOTH, ipFamilyPolicy="RequireDualStack")
    found = allocate([has], pools({"cidrs": [GOLD]}))
    assert got(found) == ["203.0.113.5"]
    assert only(found)[0] == "NoPoolForFamily"
    assert len(got(allocate([has], pools({"cidrs": [GOLD, SIX]})))) == 2, "the second comes when there is one"


@pytest.mark.parametrize(("cidrs", "network"), [([GOLD], GOLD), ([SIX], SIX)])
def test_preferring_two_families_is_content_with_either(cidrs: list[str], network: str) -> None:
    found = allocate([read(ipFamilies=BOTH, ipFamilyPolicy="PreferDualStack")], pools({"cidrs": cidrs}))
    assert in_network(found, network)
    assert len(got(found)) == 1
    assert found.rejections == ()


def test_preferring_two_families_and_getting_none_is_told() -> None:
    rules = pools({"cidrs": [GOLD], "autoAssign": False})
    found = allocate([read(ipFamilies=BOTH, ipFamilyPolicy="PreferDualStack")], rules)
    assert got(found) == []
    assert {r.reason for r in found.rejections} == {"NoPoolForService", "NoPoolForFamily"}


def test_a_single_family_is_the_one_that_the_service_has() -> None:
    found = allocate([read(ipFamilies=["IPv6"])], pools({"cidrs": [GOLD, SIX]}))
    assert in_network(found, SIX)
    assert len(got(found)) == 1


# What always holds

drafts = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from([f"s{i}" for i in range(8)]),
            "vip": st.none() | st.integers(0, 23).map(lambda n: f"203.0.113.{n}"),
            "pool": st.sampled_from(["", "", "p0", "p1", "p2", "p9"]),
            "created": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
            "labels": st.sampled_from([{}, {"app": "web"}]),
        }
    ),
    max_size=8,
    unique_by=lambda d: d["name"],
)
RULES = pools(
    {"cidrs": ["203.0.113.0/30"], "priority": 10, "serviceSelector": {"matchLabels": {"app": "web"}}},
    {"cidrs": ["203.0.113.8/30"], "autoAssign": False},
    {"cidrs": ["203.0.113.16/29"]},
)


@given(drafts, st.randoms())
def test_the_outcome_is_a_function_of_the_services_whatever_their_order(
    drafts: list[dict[str, Any]], random: Any
) -> None:
    objects = [read(**d) for d in drafts]
    expected = allocate(objects, RULES)
    random.shuffle(objects)
    assert allocate(objects, RULES) == expected
    assert {s.name for s in objects} <= expected.addresses.keys() | {r.service for r in expected.rejections}


@given(drafts)
def test_what_is_newly_given_obeys_the_rules_of_its_pool(drafts: list[dict[str, Any]]) -> None:
    found = allocate([read(**d) for d in drafts], RULES)
    for draft in drafts:
        for address in got(found, draft["name"]):
            if address == draft["vip"]:
                continue
            if ip_address(address) in ip_network("203.0.113.0/30"):
                assert draft["labels"] == {"app": "web"}
            if ip_address(address) in ip_network("203.0.113.8/30"):
                assert draft["pool"] == "p1"


@given(drafts)
def test_what_was_given_is_given_again(drafts: list[dict[str, Any]]) -> None:
    first = allocate([read(**d) for d in drafts], RULES)
    written = [d | {"vip": ",".join(got(first, d["name"])) or None} for d in drafts]
    second = allocate([read(**d) for d in written], RULES)
    for draft in written:
        if draft["vip"] is not None and draft["pool"] in ("", "p9"):
            assert got(second, draft["name"]) == [draft["vip"]]
    third = allocate([read(**(d | {"vip": ",".join(got(second, d["name"])) or None})) for d in written], RULES)
    assert all(got(third, d["name"]) == got(second, d["name"]) for d in written if d["pool"] in ("", "p9"))
