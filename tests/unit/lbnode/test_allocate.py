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


def read(**arguments: Any) -> ServiceObject:
    found, refused = read_service(service(**arguments))
    assert found is not None
    assert not refused
    return found


def pool(*cidrs: str) -> AgentSettings:
    return settings(pools=[{"name": "p", "cidrs": list(cidrs)}])


def fresh(name: str, **arguments: Any) -> ServiceObject:
    return read(name=name, vip=None, **arguments)


def address_of(found: Allocation, name: str) -> str:
    return ",".join(map(str, found.addresses.get(ServiceName("default", name), ())))


def test_the_address_follows_from_the_name_and_the_pool_alone() -> None:
    digest = int(hashlib.sha256(b"default/web").hexdigest(), 16)
    expected = ip_address("203.0.113.1") + digest % 254
    found = allocate([fresh("web")], settings())
    assert address_of(found, "web") == str(expected)
    assert found.rejections == ()


def test_the_same_app_gets_the_same_address_beside_other_apps_created_at_other_times() -> None:
    alone = address_of(allocate([fresh("web")], settings()), "web")
    crowd = [fresh(f"app{i}", created=f"2026-01-{i + 1:02}T00:00:00Z") for i in range(20)]
    assert address_of(allocate([*crowd, fresh("web")], settings()), "web") == alone


services = st.lists(
    st.builds(
        dict,
        name=st.sampled_from([f"s{i}" for i in range(12)]),
        vip=st.one_of(st.none(), st.integers(0, 7).map(lambda n: f"203.0.113.{n}")),
        created=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        asked=st.one_of(st.none(), st.integers(0, 9).map(lambda n: f"203.0.113.{n}")),
    ),
    max_size=12,
    unique_by=lambda s: s["name"],
).map(
    lambda drafts: [
        read(
            name=d["name"],
            vip=d["vip"],
            created=d["created"],
            annotations={"samegate.dev/address": d["asked"]} if d["asked"] else None,
        )
        for d in drafts
    ]
)


@given(services, st.randoms())
def test_the_outcome_does_not_depend_on_the_order_of_the_input(objects: list[ServiceObject], random: Any) -> None:
    expected = allocate(objects, pool("203.0.113.0/29"))
    shuffled = list(objects)
    random.shuffle(shuffled)
    assert allocate(shuffled, pool("203.0.113.0/29")) == expected


@given(services)
def test_no_address_is_given_twice_and_all_lie_in_the_pool(objects: list[ServiceObject]) -> None:
    found = allocate(objects, pool("203.0.113.0/29"))
    given_out = [a for addresses in found.addresses.values() for a in addresses]
    assert len(given_out) == len(set(given_out))
    assert all(a in ip_network("203.0.113.0/29") for a in given_out)


@given(services)
def test_a_service_has_an_address_or_a_reason(objects: list[ServiceObject]) -> None:
    found = allocate(objects, pool("203.0.113.0/29"))
    assert {s.name for s in objects} <= found.addresses.keys() | {r.service for r in found.rejections}


@given(services)
def test_what_was_given_stays_given(objects: list[ServiceObject]) -> None:
    """The controller writes what it allocates into the status; allocating again then changes nothing."""
    first = allocate(objects, pool("203.0.113.0/29"))
    written = [
        read(
            name=s.name.name,
            vip=",".join(map(str, first.addresses.get(s.name, ()))) or None,
            created=s.created,
            annotations=dict(s.annotations),
        )
        for s in objects
    ]
    second = allocate(written, pool("203.0.113.0/29"))
    third = allocate(written, pool("203.0.113.0/29"))
    assert second == third
    for name, addresses in first.addresses.items():
        asked = next(s for s in objects if s.name == name).annotations.get("samegate.dev/address")
        # An address that somebody left in the first round may be asked for with success in the second.
        assert second.addresses[name] == addresses or second.addresses[name] == (ip_address(asked or "0.0.0.0"),)


def test_an_address_in_the_status_is_kept_though_the_hash_points_elsewhere() -> None:
    assert address_of(allocate([read(vip="203.0.113.77")], settings()), "web") == "203.0.113.77"


def test_an_address_in_the_status_outside_all_pools_is_replaced() -> None:
    expected = address_of(allocate([fresh("web")], settings()), "web")
    assert address_of(allocate([read(vip="192.0.2.9")], settings()), "web") == expected


def test_of_two_services_with_one_address_the_older_keeps_it_and_the_younger_gets_another() -> None:
    young, old = read(name="a", created="2026-02-01T00:00:00Z"), read(name="b")
    found = allocate([young, old], settings())
    assert address_of(found, "b") == "203.0.113.10"
    assert address_of(found, "a") not in ("", "203.0.113.10")


@pytest.mark.parametrize(
    "how", [{"annotations": {"samegate.dev/address": "203.0.113.9"}}, {"loadBalancerIP": "203.0.113.9"}]
)
def test_a_service_gets_the_address_that_it_asks_for(how: dict[str, Any]) -> None:
    assert address_of(allocate([fresh("web", **how)], settings()), "web") == "203.0.113.9"


def test_a_service_moves_to_the_address_that_it_asks_for() -> None:
    asked = read(vip="203.0.113.77", annotations={"samegate.dev/address": "203.0.113.9"})
    assert address_of(allocate([asked], settings()), "web") == "203.0.113.9"


def test_asking_comes_before_hashing() -> None:
    first = address_of(allocate([fresh("web")], settings()), "web")
    thief = fresh("zzz", annotations={"samegate.dev/address": first}, created="2026-06-01T00:00:00Z")
    found = allocate([fresh("web"), thief], settings())
    assert address_of(found, "zzz") == first
    assert address_of(found, "web") == str(ip_address(first) + 1)


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        ("192.0.2.9", "AddressOutsidePool", ["192.0.2.9", "203.0.113.0/24", "Ask for one"]),
        ("2001:db8::1", "WrongAddressFamily", ["2001:db8::1", "IPv4", "spec.ipFamilies"]),
        ("203.0.113.5,203.0.113.6", "WrongAddressFamily", ["two IPv4"]),
        ("web.example", "InvalidAddress", ["web.example", "203.0.113.10"]),
        ("203.0.113.10", "AddressTaken", ["203.0.113.10", "default/owner", "free one"]),
    ],
)
def test_a_wrong_request_is_refused_with_value_rule_and_way_out(asked: str, reason: str, words: list[str]) -> None:
    asker = fresh("web", annotations={"samegate.dev/address": asked})
    found = allocate([asker, read(name="owner")], settings())
    assert address_of(found, "web") == ""
    assert address_of(found, "owner") == "203.0.113.10", "everything else stays in force"
    [rejection] = found.rejections
    assert (rejection.service.name, rejection.reason) == ("web", reason)
    for word in words:
        assert word in rejection.message


@pytest.mark.parametrize("asked", ["192.0.2.9", "203.0.113.10"])
def test_a_wrong_request_leaves_the_service_the_address_that_it_has(asked: str) -> None:
    asker = read(vip="203.0.113.77", annotations={"samegate.dev/address": asked})
    found = allocate([asker, read(name="owner")], settings())
    assert address_of(found, "web") == "203.0.113.77"
    assert len(found.rejections) == 1


def test_an_exhausted_pool_is_told_and_those_who_have_an_address_keep_it() -> None:
    objects = [read(name="old", vip="203.0.113.2"), fresh("a"), fresh("b")]
    found = allocate(objects, pool("203.0.113.0/30"))
    assert address_of(found, "old") == "203.0.113.2"
    assert address_of(found, "a") == "203.0.113.1"
    [rejection] = found.rejections
    assert (rejection.service.name, rejection.reason) == ("b", "PoolExhausted")
    assert "203.0.113.0/30" in rejection.message
    assert "Add a network" in rejection.message


def test_a_pool_of_host_routes_is_usable_whole() -> None:
    found = allocate([fresh(f"s{i}") for i in range(3)], pool("203.0.113.7/32", "203.0.113.8/31"))
    assert {str(a) for (a,) in found.addresses.values()} == {f"203.0.113.{n}" for n in (7, 8, 9)}


def test_network_and_broadcast_addresses_are_given_to_nobody_but_may_be_asked_for() -> None:
    found = allocate([fresh(f"s{i}") for i in range(6)], pool("203.0.113.0/29"))
    assert {str(a) for (a,) in found.addresses.values()} == {f"203.0.113.{n}" for n in range(1, 7)}
    asker = fresh("z", annotations={"samegate.dev/address": "203.0.113.0"})
    assert address_of(allocate([asker], pool("203.0.113.0/29")), "z") == "203.0.113.0"


def test_a_service_being_deleted_keeps_its_address_from_others_and_gets_none_anew() -> None:
    leaving = read(name="old", vip="203.0.113.1", deleting=True)
    found = allocate([leaving, fresh("new", deleting=True), fresh("a"), fresh("b")], pool("203.0.113.0/30"))
    assert address_of(found, "old") == "203.0.113.1"
    assert address_of(found, "new") == ""
    assert address_of(found, "a") == "203.0.113.2"
    assert [r.reason for r in found.rejections] == ["PoolExhausted"]


def test_services_of_a_foreign_class_get_nothing_and_block_nothing() -> None:
    foreign = read(name="f", loadBalancerClass="other.example/x")
    asker = fresh("web", annotations={"samegate.dev/address": "203.0.113.10"})
    found = allocate([foreign, asker], settings())
    assert found.addresses.keys() == {ServiceName("default", "web")}


DUAL = ("203.0.113.0/24", "2001:db8:1::/64")


def test_a_dual_stack_service_gets_one_address_of_each_family_in_its_order() -> None:
    found = allocate([fresh("web", ipFamilies=["IPv6", "IPv4"], ipFamilyPolicy="RequireDualStack")], pool(*DUAL))
    six, four = found.addresses[ServiceName("default", "web")]
    assert (six.version, four.version) == (6, 4)
    assert six in ip_network("2001:db8:1::/64")


def test_preferring_two_families_is_content_with_one() -> None:
    found = allocate([fresh("web", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="PreferDualStack")], settings())
    assert len(found.addresses[ServiceName("default", "web")]) == 1
    assert found.rejections == ()


def test_requiring_a_family_that_no_pool_has_is_told() -> None:
    found = allocate([fresh("web", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")], settings())
    assert [r.reason for r in found.rejections] == ["NoPoolForFamily"]
