"""BIRD 2.0.12 and later. Statements: BIRD User's Guide, chapters "BGP" (`neighbor range`, `dynamic name`, `import limit`), "BFD" and "Kernel"
(`merge paths`). Debian 12's daemon accepts the text in a root test.
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
    blocks += [
        "\n".join(
            [
                f"protocol kernel kernel{version} {{",
                f"  merge paths yes limit {router.maximum_paths};",
                f"  ipv{version} {{ import none; export where source = RTS_BGP; }};",
                "}",
            ]
        )
        for version in router.families
    ]
    if router.bfd is not None:
        blocks.append("protocol bfd { }")
    blocks += [_filter(router, version) for version in router.families]
    for session in router.sessions:
        for number, network in enumerate(session.networks, 1):
            blocks.append(_dynamic(router, session, network, number, keys))
    return "\n\n".join(blocks) + "\n"


def _filter(router: Router, version: int) -> str:
    rules = ", ".join(f"{rule.network}{{{rule.length},{rule.length}}}" for rule in router.accepted_of(version))
    return "\n".join(
        [f"filter samegate_in{FAMILIES[version]} {{", f"  if net ~ [ {rules} ] then accept;", "  reject;", "}"]
    )


def _dynamic(
    router: Router, session: Session, network: IPv4Network | IPv6Network, number: int, keys: Mapping[str, str]
) -> str:
    name = session.group.lower().replace("-", "_")
    lines = [
        # One protocol for each network: BIRD takes one range in a protocol.
        f"protocol bgp {name}_{number} {{",
        f"  local as {router.asn};",
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
