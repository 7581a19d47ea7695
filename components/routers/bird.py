"""BIRD 2.0.12 and later. Statements: BIRD User's Guide, chapters "BGP" (`neighbor range`, `dynamic name`, `import limit`), "BFD" and "Kernel"
(`merge paths`). Debian 12's daemon accepts the text in a root test, and the lab's ToRs run its parts under `lab up --routers bird`.

In parts, because a router's own configuration goes around them: the lab joins the same parts with its core links.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

from components.routers.frr import LINUX_HASH
from components.routers.model import FAMILIES, Router, Session, md5_key


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File names and texts; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    return {"bird.conf": text(router, keys), "sysctl.conf": LINUX_HASH}


def text(router: Router, keys: Mapping[str, str]) -> str:
    """A whole ``bird.conf`` of a router that does nothing else; into a larger one go the filters, the BGP protocols, and `merge paths`."""
    blocks = ["protocol device { }", "protocol direct { ipv4; ipv6; }"]
    blocks += [kernel(router, version) for version in router.families]
    if router.bfd is not None:
        blocks.append("protocol bfd { }")
    blocks += [import_filter(router, version) for version in router.families]
    return "\n\n".join([*blocks, *neighbours(router, keys)]) + "\n"


def kernel(router: Router, version: int) -> str:
    """What writes one IP version's routes into the kernel, all equal paths of each. Routes of others are not learnt."""
    return "\n".join(
        [
            f"protocol kernel kernel{version} {{",
            f"  merge paths yes limit {router.maximum_paths};",
            f"  ipv{version} {{ import none; export where source = RTS_BGP; }};",
            "}",
        ]
    )


def accepted_prefixes(router: Router, version: int) -> str:
    """What a VIP's route looks like, as the inside of a prefix set."""
    return ", ".join(f"{rule.network}{{{rule.length},{rule.length}}}" for rule in router.accepted_of(version))


def import_filter(router: Router, version: int) -> str:
    """The import policy of one IP version, which lets VIPs pass and nothing else."""
    return "\n".join(
        [
            f"filter samegate_in{FAMILIES[version]} {{",
            f"  if net ~ [ {accepted_prefixes(router, version)} ] then accept;",
            "  reject;",
            "}",
        ]
    )


def neighbours(router: Router, keys: Mapping[str, str]) -> list[str]:
    """The BGP protocols that edge nodes connect to."""
    return [
        _dynamic(router, session, network, number, keys)
        for session in router.sessions
        for number, network in enumerate(session.networks, 1)
    ]


def _dynamic(
    router: Router, session: Session, network: IPv4Network | IPv6Network, number: int, keys: Mapping[str, str]
) -> str:
    name = session.group.lower().replace("-", "_")
    lines = [
        # One protocol for each network: BIRD takes one range in a protocol.
        f"protocol bgp {name}_{number} {{",
        # BFD over more than one hop is refused without it.
        f"  local as {router.asn};" if session.address is None else f"  local {session.address} as {router.asn};",
        f"  neighbor range {network} as {router.edge_asn};",
        f'  dynamic name "{name}_{number}_";',
        "  direct;" if session.multihop is None else f"  multihop {session.multihop};",
    ]
    if session.ttl_security:
        lines.append("  ttl security on;")
    if (key := md5_key(session, keys)) is not None:
        lines.append(f'  password "{key}";')
    if session.bfd is not None:
        interval = f"interval {session.bfd.interval_ms} ms"
        lines.append(f"  bfd {{ min rx {interval}; min tx {interval}; multiplier {session.bfd.multiplier}; }};")
    lines.append(f"  graceful restart {'aware' if session.graceful_restart else 'off'};")
    # After an error, such as BFD's, BIRD refuses the neighbour for 60 to 300 s unless told otherwise (User's Guide, "BGP", `error wait time`).
    lines.append("  error wait time 1, 4;")
    for version in session.families:
        lines += [
            f"  ipv{version} {{",
            # Least trust: the pools' routes and no more than there are; the edge nodes learn nothing.
            f"    import filter samegate_in{FAMILIES[version]};",
            f"    import limit {router.maximum_prefixes[version]} action restart;",
            "    export none;",
            "  };",
        ]
    return "\n".join([*lines, "}"])
