from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.attributes import attributes_of
from lbnode.facts import Rejection, RouteAttributes
from lbnode.object_reader import read_service
from lbnode.settings import parse
from tests.unit.lbnode.kube_objects import SETTINGS, service

VIP = ip_address("203.0.113.10")
TOR = {"name": "tor1", "address": "198.18.0.2", "asn": 65001}
CORE = {"name": "core", "address": "198.18.0.4", "asn": 65010}


def told(
    annotations: dict[str, str], peers: tuple[dict[str, Any], ...] = (TOR, CORE), **keys: Any
) -> tuple[RouteAttributes, list[Rejection]]:
    found, _ = read_service(service(annotations={f"samegate.dev/bgp-{k}": v for k, v in annotations.items()}))
    assert found is not None
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24"]} | keys]
    settings = parse(SETTINGS | {"pools": pools, "bgp": {"localAsn": 65010, "peers": list(peers)}})
    return attributes_of(found, VIP, settings.pools[0], settings.bgp)


def test_a_service_that_asks_for_nothing_has_what_its_pool_says() -> None:
    keys = {"communities": ["no-export"], "localPreference": 200, "med": 5, "prepend": 1}
    assert told({}, **keys) == (RouteAttributes(("65535:65281",), 200, 5, 1), [])
    assert told({}) == (RouteAttributes(), [])


def test_a_service_adds_communities_and_replaces_numbers() -> None:
    asked = {"communities": "65010:7, blackhole", "local-preference": "300", "med": "0", "prepend": " 2 "}
    keys = {"communities": ["no-export"], "localPreference": 200, "med": 5, "prepend": 1}
    assert told(asked, **keys) == (RouteAttributes(("65010:7", "65535:666", "65535:65281"), 300, 0, 2), [])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"communities": "no-exprot"}, ["bgp-communities", "'no-exprot'", "no-export"]),
        ({"communities": "65010:7,1:2:3:4"}, ["bgp-communities", "'1:2:3:4'", "65010:100"]),
        ({"local-preference": "high"}, ["bgp-local-preference", "'high'", "0 to 4294967295", "Write one"]),
        ({"med": "-1"}, ["bgp-med", "'-1'", "0 to 4294967295"]),
        ({"med": "4294967296"}, ["bgp-med", "'4294967296'"]),
        ({"med": "9" * 5000}, ["bgp-med", "999"]),
        ({"med": "٣"}, ["bgp-med"]),
        ({"communities": ",".join(["65010:7"] * 33)}, ["bgp-communities", "33 communities are more than 32", "fewer"]),
        ({"prepend": "11"}, ["bgp-prepend", "'11'", "0 to 10"]),
    ],
)
def test_what_cannot_be_read_is_left_out_and_told_and_the_rest_holds(asked: dict[str, str], words: list[str]) -> None:
    found, [rejection] = told(asked, med=5)
    assert found.med == 5
    assert found.communities in ((), ("65010:7",))
    assert rejection.reason == "InvalidAttribute"
    assert len(rejection.message) < 500
    for word in words:
        assert word in rejection.message


def test_a_local_preference_that_no_router_would_hear_of_is_told() -> None:
    found, [rejection] = told({"local-preference": "200", "med": "7"}, peers=(TOR,))
    assert found == RouteAttributes(med=7)
    assert "would reach no router" in rejection.message
    assert "RFC 4271" in rejection.message


def test_prepending_that_no_router_would_hear_of_is_told() -> None:
    found, [rejection] = told({"prepend": "2"}, peers=(CORE,))
    assert found == RouteAttributes()
    assert "prepend 2 would reach no router" in rejection.message


def test_a_pool_may_keep_services_from_asking() -> None:
    found, [rejection] = told({"communities": "blackhole"}, serviceAttributes=False, med=5)
    assert found == RouteAttributes(med=5)
    assert rejection.reason == "AttributesNotAllowed"
    assert "bgp-communities" in rejection.message
    assert "public" in rejection.message


def test_a_route_that_an_aggregate_stands_for_has_no_attributes_of_its_own() -> None:
    _, [rejection] = told({"med": "5"}, aggregate={"length": 28, "hostRoutes": False})
    assert rejection.reason == "AttributesCovered"
    assert told({"med": "5"}, aggregate={"length": 28})[0].med == 5


@given(st.dictionaries(st.sampled_from(["communities", "local-preference", "med", "prepend"]), st.text(max_size=30)))
def test_any_text_is_read_or_told(annotations: dict[str, str]) -> None:
    found, rejections = told(annotations)
    assert all(c.replace(":", "").isdigit() for c in found.communities)
    assert 0 <= found.prepend <= 10
    assert all(r.message and r.reason == "InvalidAttribute" for r in rejections)
