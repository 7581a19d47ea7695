"""Statements of IOS that others took over word for word: FRR all of these, NX-OS the prefix lists, EOS those of an address family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.routers.model import FAMILIES, VIPS, Router, Session, md5_key


def prefix_lists(router: Router) -> list[str]:
    """What a VIP's route looks like: one list for each IP version."""
    lines = []
    for version in router.families:
        word = "ip" if version == 4 else "ipv6"
        for number, rule in enumerate(router.accepted_of(version), 1):
            name = f"{VIPS}{FAMILIES[version]}"
            lines.append(f"{word} prefix-list {name} seq {number * 5} permit {rule.network}{rule.span}")
    return lines


def peer_group(router: Router, session: Session, keys: Mapping[str, str], own: Sequence[str]) -> list[str]:
    """A group of dynamic neighbours within `router bgp`; ``own`` are further words for the group, which differ."""
    said = ["peer-group", f"remote-as {router.edge_asn}", "description edge nodes, whichever they are", *own]
    if session.multihop is not None:
        said.append(f"ebgp-multihop {session.multihop}")
    if session.ttl_security:
        said.append("ttl-security hops 1")
    if (key := md5_key(session, keys)) is not None:
        said.append(f"password {key}")
    return [
        *(f" neighbor {session.group} {words}" for words in said),
        *(f" bgp listen range {network} peer-group {session.group}" for network in session.networks),
    ]


def in_family(session: Session, version: int, words: Sequence[str]) -> list[str]:
    """What an address family says of a group of neighbours that carries it (``words``), or of one that does not; not indented."""
    if version in session.families:
        return [f"neighbor {session.group} {said}" for said in ("activate", *words)]
    # Active by default in IPv4, and the router's own default is not ours to change.
    return [f"no neighbor {session.group} activate"] if version == 4 else []
