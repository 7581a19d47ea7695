"""Cisco IOS-XE. Statements: IP Routing: BGP Configuration Guide ("BGP Dynamic Neighbors": `bgp listen range`, `bgp listen limit`; "BGP Restart Neighbor Session
After Max-Prefix Limit Reached"; "BGP Support for BFD": `fall-over bfd`; "BGP Support for TTL Security Check"), IP Routing: BFD Configuration Guide
(`bfd interval`), and IP Switching: Cisco Express Forwarding ("load-sharing algorithm include-ports"). Read there, not run.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.routers.ios_words import in_family, peer_group, prefix_lists
from components.routers.model import FAMILIES, NOTHING, RESTART_MINUTES, VIPS, Router, Session

#: Percent of the limit at which a warning is logged: the command's own default, which it wants written before `restart`.
WARNING_PERCENT = 75


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File name and text; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    lines = [*prefix_lists(router), f"route-map {NOTHING} deny 10", "!"]
    lines += [
        f"{'ip' if version == 4 else 'ipv6'} cef load-sharing algorithm include-ports source destination"
        for version in router.families
    ]
    if router.bfd is not None:
        milliseconds = router.bfd.interval_ms
        lines += [
            "! BFD's timers belong to the interface towards the edge nodes:",
            f"!  bfd interval {milliseconds} min_rx {milliseconds} multiplier {router.bfd.multiplier}",
        ]
    lines += [
        f"router bgp {router.asn}",
        f" bgp listen limit {router.maximum_neighbours}",
    ]
    for session in router.sessions:
        lines += _group(router, session, keys)
    for version in router.families:
        lines.append(f" address-family ipv{version}")
        words = [
            f"prefix-list {VIPS}{FAMILIES[version]} in",
            f"route-map {NOTHING} out",
            f"maximum-prefix {router.maximum_prefixes[version]} {WARNING_PERCENT} restart {RESTART_MINUTES}",
        ]
        for session in router.sessions:
            lines += [f"  {line}" for line in in_family(session, version, words)]
        lines += [f"  maximum-paths {router.maximum_paths}", " exit-address-family"]
    return {"ios-xe.conf": "\n".join(lines) + "\n"}


def _group(router: Router, session: Session, keys: Mapping[str, str]) -> list[str]:
    how = " multi-hop" if session.multihop is not None else ""
    return peer_group(router, session, keys, [f"fall-over bfd{how}"] if session.bfd is not None else [])
