"""FRR 8.4 and later. Statements: FRRouting User Guide, chapters BGP ("Peer Groups", "Dynamic neighbors": `bgp listen range`), BFD ("BFD Profiles"),
"Filtering" and "Route Maps". Debian 12's daemons accept the text in a root test, and the lab's routers run it.

In parts, because a router's own configuration goes around them: the lab joins the same parts with its core links.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.routers.ios_words import in_family, peer_group, prefix_lists
from components.routers.model import BFD_PROFILE, FAMILIES, IMPORT, NOTHING, RESTART_MINUTES, VIPS, Router, Session
from lbnode.bgp_settings import Bfd

#: Ports are part of the flow hash, so that one client's connections spread (Linux, Documentation/networking/ip-sysctl: 1 is layer 4).
LINUX_HASH = "net.ipv4.fib_multipath_hash_policy = 1\nnet.ipv6.fib_multipath_hash_policy = 1\n"

DYNAMIC_NEIGHBOURS = 100
"""How many FRR takes unless told otherwise (FRRouting User Guide, "BGP", `bgp listen limit`; BGP_DYNAMIC_NEIGHBORS_LIMIT_DEFAULT of bgpd.h)."""


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File names and texts; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    return {"frr.conf": text(router, keys), "sysctl.conf": LINUX_HASH}


def text(router: Router, keys: Mapping[str, str]) -> str:
    """The part of ``frr.conf`` that takes the edge nodes in; `vtysh -f` adds it to a running router."""
    lines = [
        *(bfd_profile(router.bfd) if router.bfd is not None else []),
        *prefix_lists(router),
        *route_maps(router),
        f"router bgp {router.asn}",
        *neighbours(router, keys),
    ]
    for version in router.families:
        lines += [f" address-family ipv{version} unicast", *family(router, version), " exit-address-family"]
    return "\n".join([*lines, "exit", ""])


def bfd_profile(bfd: Bfd) -> list[str]:
    """The timers of BFD, for bfdd."""
    return [
        "bfd",
        f" profile {BFD_PROFILE}",
        f"  detect-multiplier {bfd.multiplier}",
        f"  receive-interval {bfd.interval_ms}",
        f"  transmit-interval {bfd.interval_ms}",
        " exit",
        "exit",
    ]


def route_maps(router: Router) -> list[str]:
    """The import policies, which let VIPs pass and nothing else, and the export policy, which lets nothing pass."""
    lines = []
    for version in router.families:
        word, suffix = ("ip" if version == 4 else "ipv6"), FAMILIES[version]
        lines += [f"route-map {IMPORT}{suffix} permit 10", f" match {word} address prefix-list {VIPS}{suffix}"]
        if version == 6:
            # Else the kernel's next hop is the link-local address, which no reader of a routing table knows by name.
            lines.append(" set ipv6 next-hop prefer-global")
        lines.append("exit")
    return [*lines, f"route-map {NOTHING} deny 10", "exit"]


def neighbours(router: Router, keys: Mapping[str, str]) -> list[str]:
    """The groups of dynamic neighbours, for the block `router bgp`."""
    lines = [line for session in router.sessions for line in _group(router, session, keys)]
    # Only where it has to be raised: it counts all dynamic neighbours of the router, others' too.
    return (
        [f" bgp listen limit {router.maximum_neighbours}", *lines]
        if router.maximum_neighbours > DYNAMIC_NEIGHBOURS
        else lines
    )


def _group(router: Router, session: Session, keys: Mapping[str, str]) -> list[str]:
    own = [f"bfd profile {BFD_PROFILE}"] if session.bfd is not None else []
    if session.graceful_restart:
        own.append("graceful-restart-helper")
    return peer_group(router, session, keys, own)


def family(router: Router, version: int) -> list[str]:
    """What one address family of `router bgp` says of edge nodes."""
    # Least trust: the pools' routes and no more than there are; the edge nodes learn nothing. FRR forgets a dynamic neighbour with its session, so
    # one that goes on beyond the limit is reset again and again instead of kept out for a minute.
    words = [
        f"route-map {IMPORT}{FAMILIES[version]} in",
        f"route-map {NOTHING} out",
        f"maximum-prefix {router.maximum_prefixes[version]} restart {RESTART_MINUTES}",
    ]
    lines = [f"  {line}" for session in router.sessions for line in in_family(session, version, words)]
    return [*lines, f"  maximum-paths {router.maximum_paths}"]
