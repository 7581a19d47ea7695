"""VyOS 1.4 and later (FRR below it), as `set` commands. Statements: VyOS documentation, configuration/protocols/bgp, configuration/protocols/bfd,
configuration/policy (prefix-list, route-map) and configuration/system/ip, ipv6 (`multipath layer4-hashing`). Read there, not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.routers.model import BFD_PROFILE, FAMILIES, IMPORT, NOTHING, VIPS, Router, Session, md5_key


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File name and text; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    lines = [*_policy(router), *_bgp(router, keys), *_hash(router)]
    return {"vyos.commands": "\n".join(f"set {line}" for line in lines) + "\n"}


def _policy(router: Router) -> Iterator[str]:
    for version in router.families:
        suffix, word = FAMILIES[version], "prefix-list" if version == 4 else "prefix-list6"
        for number, rule in enumerate(router.accepted_of(version), 1):
            base = f"policy {word} {VIPS}{suffix} rule {number * 5}"
            yield f"{base} action permit"
            yield f"{base} prefix {rule.network}"
            words = rule.span.split()
            yield from (f"{base} {key} {value}" for key, value in zip(words[::2], words[1::2], strict=True))
        base = f"policy route-map {IMPORT}{suffix} rule 10"
        yield f"{base} action permit"
        yield f"{base} match {'ip' if version == 4 else 'ipv6'} address prefix-list {VIPS}{suffix}"
        if version == 6:
            yield f"{base} set ipv6-next-hop prefer-global"
    yield f"policy route-map {NOTHING} rule 10 action deny"


def _bgp(router: Router, keys: Mapping[str, str]) -> Iterator[str]:
    if router.bfd is not None:
        base = f"protocols bfd profile {BFD_PROFILE} interval"
        yield f"{base} multiplier {router.bfd.multiplier}"
        yield f"{base} receive {router.bfd.interval_ms}"
        yield f"{base} transmit {router.bfd.interval_ms}"
    yield f"protocols bgp system-as {router.asn}"
    for version in router.families:
        yield f"protocols bgp address-family ipv{version}-unicast maximum-paths ebgp {router.maximum_paths}"
    yield f"protocols bgp listen limit {router.maximum_neighbours}"
    for session in router.sessions:
        yield from _group(router, session, keys)


def _group(router: Router, session: Session, keys: Mapping[str, str]) -> Iterator[str]:
    base = f"protocols bgp peer-group {session.group}"
    yield f"{base} remote-as {router.edge_asn}"
    if session.bfd is not None:
        yield f"{base} bfd profile {BFD_PROFILE}"
    if session.multihop is not None:
        yield f"{base} ebgp-multihop {session.multihop}"
    if session.ttl_security:
        yield f"{base} ttl-security hops 1"
    if (key := md5_key(session, keys)) is not None:
        yield f"{base} password '{key}'"
    if session.graceful_restart:
        yield f"{base} graceful-restart restart-helper"
    for version in session.families:
        of_family = f"{base} address-family ipv{version}-unicast"
        yield f"{of_family} maximum-prefix {router.maximum_prefixes[version]}"
        yield f"{of_family} route-map import {IMPORT}{FAMILIES[version]}"
        yield f"{of_family} route-map export {NOTHING}"
    for network in session.networks:
        yield f"protocols bgp listen range {network} peer-group {session.group}"


def _hash(router: Router) -> Iterator[str]:
    for version in router.families:
        yield f"system {'ip' if version == 4 else 'ipv6'} multipath layer4-hashing"
