from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lbnode.facts import RouteAttributes
from lbnode.pools import Pool
from lbnode.routes import is_route_of, routes_of

NOTHING = RouteAttributes()


def pool(**keys: Any) -> Pool:
    return Pool.model_validate({"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]} | keys)


def test_without_aggregates_there_is_a_host_route_for_each_vip_with_what_is_said_of_it() -> None:
    said = RouteAttributes(med=5)
    vips = {ip_address("203.0.113.9"): said, ip_address("2001:db8:1::9"): NOTHING}
    assert routes_of(vips, [pool()]) == {
        ip_network("203.0.113.9/32"): said,
        ip_network("2001:db8:1::9/128"): NOTHING,
    }


def test_an_aggregate_beside_host_routes_says_what_the_pool_says_and_not_what_a_vip_does() -> None:
    said = RouteAttributes(("65535:65281", "65010:7"))
    wide = pool(communities=["65010:1"], aggregate={"length": 28})
    assert routes_of({ip_address("203.0.113.9"): said}, [wide]) == {
        ip_network("203.0.113.9/32"): said,
        ip_network("203.0.113.0/28"): RouteAttributes(("65010:1",)),
    }


def test_an_aggregate_alone_covers_the_host_routes() -> None:
    alone = pool(aggregate={"length": 28, "lengthV6": 80, "hostRoutes": False})
    vips = [ip_address(a) for a in ("203.0.113.9", "203.0.113.200", "2001:db8:1::9")]
    assert routes_of(dict.fromkeys(vips, NOTHING), [alone]) == {
        ip_network("203.0.113.9/32"): RouteAttributes(covered=True),
        ip_network("203.0.113.0/28"): NOTHING,
        ip_network("203.0.113.200/32"): RouteAttributes(covered=True),
        ip_network("203.0.113.192/28"): NOTHING,
        ip_network("2001:db8:1::9/128"): RouteAttributes(covered=True),
        ip_network("2001:db8:1::/80"): NOTHING,
    }


@given(st.sets(st.integers(0, 255).map(lambda n: IPv4Address("203.0.113.0") + n)), st.integers(24, 31), st.booleans())
def test_an_aggregate_is_there_exactly_while_a_vip_in_it_is(
    vips: set[IPv4Address], length: int, host_routes: bool
) -> None:
    pools = [pool(aggregate={"length": length, "hostRoutes": host_routes})]
    found = routes_of(dict.fromkeys(vips, NOTHING), pools)
    for aggregate in ip_network("203.0.113.0/24").subnets(new_prefix=length):
        assert (aggregate in found) == any(v in aggregate for v in vips)
    assert {n.network_address for n in found if n.prefixlen == 32} == vips
    assert all(is_route_of(n, pools) for n in found)


def test_only_host_routes_and_whole_aggregates_are_routes_of_a_pool() -> None:
    pools = [pool(aggregate={"length": 28})]
    assert is_route_of(ip_network("203.0.113.16/28"), pools)
    for wrong in ("203.0.113.16/29", "203.0.113.0/24", "2001:db8:1::/64", "192.0.2.1/32"):
        assert not is_route_of(ip_network(wrong), pools)
