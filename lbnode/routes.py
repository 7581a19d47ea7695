"""From the VIPs that an edge node announces to the full set of its routes: host routes, and aggregates over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network

from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.pools import Pool, pool_of


def routes_of(vips: Mapping[IPAddress, RouteAttributes], pools: Sequence[Pool]) -> dict[IPNetwork, RouteAttributes]:
    """The routes for these VIPs.

    An aggregate is there while a VIP in it is, and has the pool's attributes. A host route that routers do not hear of, because its
    pool announces the aggregate alone, is *covered*: the daemon keeps it, so that it can be read back which VIPs are on the air.
    An address that lies in no pool gets its host route; the speaker refuses it.
    """
    routes: dict[IPNetwork, RouteAttributes] = {}
    for address, attributes in vips.items():
        host = host_route(address)
        pool = pool_of(address, pools)
        if pool is None or (aggregate := pool.aggregate_of(address)) is None:
            routes[host] = attributes
            continue
        routes[host] = attributes if pool.announces_host_route(address) else RouteAttributes(covered=True)
        routes[aggregate] = pool.aggregate_attributes
    return routes


@lru_cache(maxsize=65536)
def host_route(address: IPAddress) -> IPNetwork:
    """The network of one address. Remembered, because each pass asks for every VIP's, and making one takes ten times as long."""
    return ip_network(address)


def is_route_of(network: IPNetwork, pools: Sequence[Pool]) -> bool:
    """Whether a network is a host route in a pool, or a whole aggregate of one."""
    pool = pool_of(network.network_address, pools)
    if pool is None:
        return False
    return network.prefixlen == network.max_prefixlen or network == pool.aggregate_of(network.network_address)
