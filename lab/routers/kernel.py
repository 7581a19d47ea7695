"""What a router forwards by: its kernel's routes, which are the same to read whatever daemon wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lab import netns, topology


def routes(router: str, prefix: str) -> tuple[str, ...]:
    """The next hops of a prefix in the router's kernel, sorted; empty when it has no such route."""
    namespace, version = topology.router(router).namespace, topology.version_of(prefix)
    shown = netns.run(namespace, ["ip", f"-{version}", "-json", "route", "show", "exact", prefix]).stdout
    return tuple(sorted(next_hops(json.loads(shown) if shown.strip() else [])))


def next_hops(entries: Iterable[dict[str, Any]]) -> list[str]:
    """The gateways in what `ip -json route show` printed, of single and multipath routes."""
    hops = [hop for entry in entries for hop in entry.get("nexthops", [entry])]
    return [str(hop["gateway"]) for hop in hops if "gateway" in hop]


def pool_routes(router: str) -> dict[str, tuple[str, ...]]:
    """Every host route of the VIP pools in the router's kernel, with its next hops."""
    namespace = topology.router(router).namespace
    found: dict[str, tuple[str, ...]] = {}
    for version, pool in topology.VIP_POOLS.items():
        shown = netns.run(namespace, ["ip", f"-{version}", "-json", "route", "show", "root", str(pool)]).stdout
        entries = json.loads(shown) if shown.strip() else []
        # By address: an IPv6 multipath route may be shown as one entry per next hop.
        for entry in entries:
            found[entry["dst"]] = tuple(sorted({*found.get(entry["dst"], ()), *next_hops([entry])}))
    return found
