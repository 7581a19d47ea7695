"""Arista EOS. Statements: EOS User Manual, "Border Gateway Protocol (BGP)" (`bgp listen range ... peer-filter`, `neighbor ... bfd interval`, `maximum-routes`, `ttl maximum-hops`,
`maximum-paths ... ecmp`) and "IPv4" (`ip hardware fib ecmp resilience`). Ports are in the flow hash by default; the command that changes it differs by
chip. Read there, not run.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.routers.ios_words import in_family
from components.routers.model import FAMILIES, NOTHING, VIPS, Router, Session, md5_key

PEER_FILTER = "SAMEGATE-AS"


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File name and text; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    lines = []
    for version in router.families:
        lines.append(f"{'ip' if version == 4 else 'ipv6'} prefix-list {VIPS}{FAMILIES[version]}")
        for number, rule in enumerate(router.accepted_of(version), 1):
            lines.append(f"   seq {number * 5} permit {rule.network}{rule.span}")
    lines += [f"route-map {NOTHING} deny 10", f"peer-filter {PEER_FILTER}"]
    lines.append(f"   10 match as-range {router.edge_asn} result accept")
    for network in dict.fromkeys(rule.network for rule in router.accepted):
        word = "ip" if network.version == 4 else "ipv6"
        lines.append(
            f"! Where the chip has it, so that a lost edge node moves no other's flows: "
            f"{word} hardware fib ecmp resilience {network} capacity {router.maximum_paths} redundancy 2"
        )
    lines += [
        f"router bgp {router.asn}",
        f"   maximum-paths {router.maximum_paths} ecmp {router.maximum_paths}",
        f"   dynamic peer max {router.maximum_neighbours}",
    ]
    for session in router.sessions:
        lines += [f"   {line}" for line in _group(router, session, keys)]
    for version in router.families:
        lines.append(f"   address-family ipv{version}")
        words = [f"prefix-list {VIPS}{FAMILIES[version]} in", f"route-map {NOTHING} out"]
        for session in router.sessions:
            lines += [f"      {line}" for line in in_family(session, version, words)]
    return {"eos.conf": "\n".join(lines) + "\n"}


def _group(router: Router, session: Session, keys: Mapping[str, str]) -> list[str]:
    group = session.group
    lines = [f"neighbor {group} peer group", f"neighbor {group} description edge nodes, whichever they are"]
    if session.bfd is not None:
        milliseconds = session.bfd.interval_ms
        lines += [
            f"neighbor {group} bfd",
            f"neighbor {group} bfd interval {milliseconds} min-rx {milliseconds} multiplier {session.bfd.multiplier}",
        ]
    if session.multihop is not None:
        lines.append(f"neighbor {group} ebgp-multihop {session.multihop}")
    if session.ttl_security:
        lines.append(f"neighbor {group} ttl maximum-hops 1")
    if (key := md5_key(session, keys)) is not None:
        lines.append(f"neighbor {group} password {key}")
    # One number for the session, over all its address families.
    limit = sum(router.maximum_prefixes[version] for version in session.families)
    lines.append(f"neighbor {group} maximum-routes {limit}")
    return lines + [
        f"bgp listen range {network} peer-group {group} peer-filter {PEER_FILTER}" for network in session.networks
    ]
