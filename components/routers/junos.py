"""Junos OS, as `set` commands. Statements: Junos OS BGP User Guide (`allow`, `peer-as`, `passive`, `multipath`, `authentication-key`, `bfd-liveness-detection`,
`accepted-prefix-limit ... teardown ... idle-timeout`) and Routing Policies User Guide (`route-filter ... prefix-length-range`, `load-balance per-packet`, which
hashes flows; `forwarding-table export`); `forwarding-options hash-key`. Read there, not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from components.routers.model import FAMILIES, IMPORT, NOTHING, RESTART_MINUTES, VIPS, Router, Session, md5_key

ECMP = "SAMEGATE-ECMP"
DEFAULT_ECMP_WIDTH = 16
"""`chassis maximum-ecmp` is needed beyond it, and knows only the widths that follow."""
ECMP_WIDTHS = (16, 32, 64)
_NAMES = {4: "inet", 6: "inet6"}


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File name and text; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    lines = [*_policy(router), *_ecmp(router), f"routing-options autonomous-system {router.asn}"]
    for session in router.sessions:
        lines += _group(router, session, keys)
    return {"junos.set": "\n".join(f"set {line}" for line in lines) + "\n"}


def _policy(router: Router) -> Iterator[str]:
    policy = f"policy-options policy-statement {IMPORT}"
    for version in router.families:
        base = f"{policy} term {VIPS}{FAMILIES[version]}"
        yield f"{base} from family {_NAMES[version]}"
        for rule in router.accepted_of(version):
            yield f"{base} from route-filter {rule.network} prefix-length-range /{rule.length}-/{rule.length}"
        yield f"{base} then accept"
    yield f"{policy} then reject"
    yield f"policy-options policy-statement {NOTHING} then reject"


def _ecmp(router: Router) -> Iterator[str]:
    # Where the platform has it, `load-balance consistent-hash` in the import policy keeps flows when an edge node leaves.
    yield f"policy-options policy-statement {ECMP} then load-balance per-packet"
    yield f"routing-options forwarding-table export {ECMP}"
    if router.maximum_paths > DEFAULT_ECMP_WIDTH:
        yield f"chassis maximum-ecmp {next(w for w in ECMP_WIDTHS if w >= router.maximum_paths)}"
    for version in router.families:
        yield f"forwarding-options hash-key family {_NAMES[version]} layer-3"
        yield f"forwarding-options hash-key family {_NAMES[version]} layer-4"


def _group(router: Router, session: Session, keys: Mapping[str, str]) -> Iterator[str]:
    base = f"protocols bgp group {session.group}"
    yield f"{base} type external"
    yield f'{base} description "edge nodes, whichever they are"'
    yield f"{base} peer-as {router.edge_asn}"
    yield from (f"{base} allow {network}" for network in session.networks)
    yield f"{base} passive"
    yield f"{base} multipath"
    if session.multihop is not None:
        yield f"{base} multihop ttl {session.multihop}"
    if session.bfd is not None:
        yield f"{base} bfd-liveness-detection minimum-interval {session.bfd.interval_ms}"
        yield f"{base} bfd-liveness-detection multiplier {session.bfd.multiplier}"
    if (key := md5_key(session, keys)) is not None:
        yield f'{base} authentication-key "{key}"'
    yield f"{base} import {IMPORT}"
    yield f"{base} export {NOTHING}"
    for version in session.families:
        limit = f"{base} family {_NAMES[version]} unicast accepted-prefix-limit"
        yield f"{limit} maximum {router.maximum_prefixes[version]}"
        yield f"{limit} teardown 100 idle-timeout {RESTART_MINUTES}"
