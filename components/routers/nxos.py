"""Cisco NX-OS. Statements: Nexus 9000 Series NX-OS Unicast Routing Configuration Guide, "Configuring Advanced BGP" (prefix peering, `maximum-peers`,
`maximum-prefix ... restart`, `bfd`, `ttl-security hops`), "Configuring Route Policy Manager", and "Managing the Unicast RIB and FIB" (`ip load-sharing address`);
Interfaces Configuration Guide, "Configuring BFD". Read there, not run.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.routers.ios_words import prefix_lists
from components.routers.model import FAMILIES, NOTHING, RESTART_MINUTES, VIPS, Router, Session, md5_key


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File name and text; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    lines = ["feature bgp"]
    if router.bfd is not None:
        milliseconds = router.bfd.interval_ms
        lines += [
            "feature bfd",
            f"bfd interval {milliseconds} min_rx {milliseconds} multiplier {router.bfd.multiplier}",
        ]
    lines += prefix_lists(router)
    lines += [
        f"route-map {NOTHING} deny 10",
        "ip load-sharing address source-destination port source-destination",
        "! Where the platform has it, so that a lost edge node moves no other's flows: hardware profile ecmp resilient",
        f"router bgp {router.asn}",
    ]
    for version in router.families:
        lines += [f"  address-family ipv{version} unicast", f"    maximum-paths {router.maximum_paths}"]
    for session in router.sessions:
        for network in session.networks:
            lines += [f"  neighbor {network}", *(f"    {line}" for line in _neighbour(router, session, keys))]
    return {"nx-os.conf": "\n".join(lines) + "\n"}


def _neighbour(router: Router, session: Session, keys: Mapping[str, str]) -> list[str]:
    lines = [
        f"remote-as {router.edge_asn}",
        "description edge nodes, whichever they are",
        f"maximum-peers {router.maximum_edge_nodes}",
    ]
    if session.bfd is not None:
        lines.append("bfd")
    if session.multihop is not None:
        lines.append(f"ebgp-multihop {session.multihop}")
    if session.ttl_security:
        lines.append("ttl-security hops 1")
    if (key := md5_key(session, keys)) is not None:
        lines.append(f"password {key}")
    for version in session.families:
        lines += [
            f"address-family ipv{version} unicast",
            f"  prefix-list {VIPS}{FAMILIES[version]} in",
            f"  route-map {NOTHING} out",
            f"  maximum-prefix {router.maximum_prefixes[version]} restart {RESTART_MINUTES}",
        ]
    return lines
