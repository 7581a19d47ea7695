"""Stacks with pools of every kind, drawn by lot, and what may pass a router's import filter by the pools' own words."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from hypothesis import strategies as st
from router_stack import router_stack

IPNetwork = IPv4Network | IPv6Network
World = dict[str, Any]


@st.composite
def _pool(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """A pool apart from those of other numbers, with networks of one family or both and perhaps aggregates."""
    wide = {4: ip_network((0xCB007100 + 64 * number, 26)), 6: ip_network((0x20010DB8 << 96 | number << 64, 64))}
    cidrs: list[IPNetwork] = []
    for version in draw(st.sampled_from([(4,), (6,), (4, 6)])):
        outer = wide[version]
        length = draw(st.integers(outer.prefixlen, outer.max_prefixlen))
        offset = draw(st.integers(0, (1 << (length - outer.prefixlen)) - 1))
        cidrs.append(ip_network((int(outer.network_address) + (offset << (outer.max_prefixlen - length)), length)))
    aggregate: dict[str, Any] = {}
    for network, key in zip(cidrs, ["length" if c.version == 4 else "lengthV6" for c in cidrs], strict=True):
        if network.prefixlen < network.max_prefixlen and draw(st.booleans()):
            aggregate[key] = draw(st.integers(network.prefixlen, network.max_prefixlen - 1))
    pool: dict[str, Any] = {"name": f"p{number}", "cidrs": [str(c) for c in cidrs]}
    if aggregate:
        pool["aggregate"] = {**aggregate, "hostRoutes": draw(st.booleans())}
    return pool


@st.composite
def pool_worlds(draw: st.DrawFn) -> World:
    """A stack with one router, one session for both families, and one to three pools."""
    world = router_stack("frr")
    pools = [draw(_pool(number)) for number in range(draw(st.integers(1, 3)))]
    world["agent"]["pools"] = pools
    versions = {ip_network(c).version for pool in pools for c in pool["cidrs"]}
    world["agent"]["bgp"]["peers"] = [{"name": "tor1", "address": "198.51.100.2", "asn": 65001}]
    world["platform"]["routers"][0]["peers"] = ["tor1"]
    probes = world["agent"]["network"]["probeCidrs"]
    world["agent"]["network"]["probeCidrs"] = [p for p in probes if ip_network(p).version in versions]
    return world


@st.composite
def prefixes(draw: st.DrawFn, world: World) -> IPNetwork:
    """Any prefix that begins in a pool or just beside one: of every length, a default route and host routes above all."""
    network = ip_network(draw(st.sampled_from([c for pool in world["agent"]["pools"] for c in pool["cidrs"]])))
    beside = min(network.num_addresses, 300)
    address = int(network.network_address) + draw(st.integers(-beside, 2 * beside))
    longest = network.max_prefixlen
    length = draw(st.just(longest) | st.integers(network.prefixlen, longest) | st.integers(0, longest))
    return ip_network((address >> (longest - length) << (longest - length), length))


def may_pass(world: World, prefix: IPNetwork) -> bool:
    """Whether a pool has the prefix: a host route of its networks, or an aggregate of the length that it declares."""
    for pool in world["agent"]["pools"]:
        aggregate = pool.get("aggregate") or {}
        declared = aggregate.get("length" if prefix.version == 4 else "lengthV6")
        for network in map(ip_network, pool["cidrs"]):
            if network.version != prefix.version or not prefix.subnet_of(network):  # type: ignore[arg-type]
                continue
            is_host = prefix.prefixlen == prefix.max_prefixlen
            if (is_host and (declared is None or aggregate["hostRoutes"])) or prefix.prefixlen == declared:
                return True
    return False
