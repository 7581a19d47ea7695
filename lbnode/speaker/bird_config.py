"""The whole configuration of BIRD 2 as a pure function of settings and of the addresses to announce.

What it grants the routers is as little as BGP allows: nothing is learnt (``import none``), nothing is installed (there is no kernel
protocol), and nothing leaves but the host routes of the pools that are announced now. Two fences stand for that: the static routes,
and an export filter that knows the pools by itself.

The text holds no secret, so it may be logged: a peer's key stands in a file of its own that is included from beside the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from lbnode.errors import Bug, ConfigError
from lbnode.model import IPAddress, IPNetwork, address_order
from lbnode.settings import Bgp, Peer

#: Static protocols of ours by IP version; what they hold is what this node announces.
STATIC_PROTOCOLS = {4: "samegate4", 6: "samegate6"}
PEER_PREFIX = "peer_"
KEY_DIRECTORY = "keys"
#: BIRD's defaults are 120 s between connects, 60-300 s after an error, 5 s before the first connect and 240 s until the router's
#: OPEN (BIRD 2 user guide, section BGP): a router that comes back would be left without the VIPs for that long.
CONNECT_RETRY_SECONDS = 2
CONNECT_DELAY_SECONDS = 1
ERROR_WAIT_SECONDS = (1, 4)
STARTUP_HOLD_SECONDS = 10
#: TCP_MD5SIG_MAXKEYLEN of linux/tcp.h.
LONGEST_KEY_BYTES = 80


def protocol_name(peer_name: str) -> str:
    """BIRD's name of the session with a peer. Peer names have no underscore, so this has an inverse."""
    return PEER_PREFIX + peer_name.replace("-", "_")


def peers_of_node(bgp: Bgp, node_name: str) -> tuple[Peer, ...]:
    """The peers that this node announces to, by name."""
    return tuple(sorted((p for p in bgp.peers if not p.nodes or node_name in p.nodes), key=lambda p: p.name))


def spoken_peers(bgp: Bgp, node_name: str, node_addresses: Iterable[IPAddress]) -> tuple[Peer, ...]:
    """Those of them that the node has an address to speak from to."""
    versions = {a.version for a in node_addresses}
    return tuple(p for p in peers_of_node(bgp, node_name) if p.address.version in versions)


def render(
    bgp: Bgp,
    pools: Sequence[IPNetwork],
    node_name: str,
    node_addresses: Sequence[IPAddress],
    announced: Iterable[IPAddress],
) -> str:
    """The text of ``bird.conf``; equal arguments give equal text, whatever the order of ``announced``.

    Args:
        pools: networks that VIPs may come from; a family is announced when a pool and a node address have it.
        node_addresses: the first of each family counts; the IPv4 one is the router id. A peer that the node has no address to speak from to
            is left out.

    Raises:
        ConfigError: no peer is meant for this node, or the node has no address of a family that is needed, or none to speak from at all.
        Bug: an address to announce lies in no pool.
    """
    peers = peers_of_node(bgp, node_name)
    if not peers:
        raise ConfigError(
            f"settings.bgp.peers = {', '.join(p.name for p in bgp.peers)}",
            f"none is meant for node {node_name}, which could announce nothing",
            "Add the node to the `nodes` of a peer, leave `nodes` empty, or take the edge label off the node",
        )
    own: dict[int, IPAddress] = {}
    for address in node_addresses:
        own.setdefault(address.version, address)
    router_id = own.get(4)
    if not isinstance(router_id, IPv4Address):
        raise ConfigError(
            f"node {node_name} with addresses {', '.join(map(str, node_addresses)) or '(none)'}",
            "a BGP router id is an IPv4 address (RFC 6286)",
            "Give the node an IPv4 InternalIP",
        )
    routes = sorted(set(announced), key=address_order)
    for address in routes:
        if not any(address in pool for pool in pools):
            raise Bug(f"{address} is to be announced but lies in no pool ({', '.join(map(str, pools))})")
    versions = [v for v in (4, 6) if v in own and any(p.version == v for p in pools)]
    for address in routes:
        if address.version not in versions:
            raise ConfigError(
                f"VIP {address}",
                f"node {node_name} has no IPv{address.version} address to be its next hop",
                f"Give the node an IPv{address.version} InternalIP or drop the pool",
            )
    # When it can speak to none, the first of them says so.
    spoken = spoken_peers(bgp, node_name, node_addresses) or peers
    blocks = [_head(router_id, any(p.bfd for p in spoken))]
    blocks += [_static(v, [a for a in routes if a.version == v]) for v in versions]
    blocks += [_export_filter(v, [p for p in pools if p.version == v], bgp.communities) for v in versions]
    blocks += [_session(bgp, peer, node_name, own, versions) for peer in spoken]
    return "\n".join(blocks)


def render_key(peer: Peer, key: bytes) -> str:
    """The text of the file that a session includes for its TCP MD5 key (RFC 2385). One newline at the end of ``key`` is dropped.

    Raises:
        ConfigError: the key is empty, longer than 80 bytes or cannot be written in BIRD's language. The key is not shown.
    """
    text = key.removesuffix(b"\n").removesuffix(b"\r")
    rule = ""
    if not 0 < len(text) <= LONGEST_KEY_BYTES:
        rule = f"it has {len(text)} bytes and must have 1 to {LONGEST_KEY_BYTES}"
    elif not all(0x20 <= byte < 0x7F for byte in text) or b'"' in text:
        rule = "it must be printable ASCII without double quotes"
    if rule:
        raise ConfigError(
            f"BGP key {peer.password_key} of peer {peer.name}",
            rule,
            "Choose another on both sides, e.g. `openssl rand -hex 20`",
        )
    return f'password "{text.decode("ascii")}";\n'


def _head(router_id: IPv4Address, bfd: bool) -> str:
    lines = [
        "log stderr { info, remote, warning, error, auth, fatal, bug, trace };",
        "debug protocols { states };",
        f"router id {router_id};",
        "",
        "protocol device {",
        "  scan time 10;",
        "}",
    ]
    if bfd:
        # Without strict bind the BFD and BGP ports would answer on every VIP too.
        lines += ["", "protocol bfd {", "  strict bind yes;", "}"]
    return "\n".join(lines) + "\n"


def _static(version: int, addresses: Sequence[IPAddress]) -> str:
    lines = [f"protocol static {STATIC_PROTOCOLS[version]} {{", f"  ipv{version};"]
    lines += [f"  route {a}/{a.max_prefixlen} blackhole;" for a in addresses]
    return "\n".join([*lines, "}"]) + "\n"


def _export_filter(version: int, pools: Sequence[IPNetwork], communities: Sequence[str]) -> str:
    length = {4: 32, 6: 128}[version]
    ranges = ", ".join(f"{p}{{{length},{length}}}" for p in pools)
    lines = [
        f"filter samegate_export{version} {{",
        f'  if proto != "{STATIC_PROTOCOLS[version]}" then reject;',
        f"  if net !~ [ {ranges} ] then reject;",
    ]
    for community in communities:
        parts = community.split(":")
        kind = "bgp_community" if len(parts) == 2 else "bgp_large_community"
        lines.append(f"  {kind}.add(({','.join(parts)}));")
    return "\n".join([*lines, "  accept;", "}"]) + "\n"


def _session(bgp: Bgp, peer: Peer, node_name: str, own: dict[int, IPAddress], versions: Sequence[int]) -> str:
    local = own.get(peer.address.version)
    if local is None:
        raise ConfigError(
            f"peer {peer.name} = {peer.address}",
            f"node {node_name} has no IPv{peer.address.version} address to speak from",
            f"Give the node an IPv{peer.address.version} InternalIP, or name an address of the other family for the peer",
        )
    lines = [
        f"protocol bgp {protocol_name(peer.name)} {{",
        f"  local {local} port {bgp.listen_port} as {bgp.local_asn};",
        f"  neighbor {peer.address} port {peer.port} as {peer.asn};",
        "  strict bind yes;",
        "  direct;" if peer.multihop is None else f"  multihop {peer.multihop};",
        f"  hold time {peer.hold_time_seconds};",
    ]
    if peer.hold_time_seconds:
        lines.append(f"  keepalive time {peer.keepalive};")
    lines += [
        f"  startup hold time {STARTUP_HOLD_SECONDS};",
        f"  connect delay time {CONNECT_DELAY_SECONDS};",
        f"  connect retry time {CONNECT_RETRY_SECONDS};",
        f"  error wait time {ERROR_WAIT_SECONDS[0]}, {ERROR_WAIT_SECONDS[1]};",
    ]
    if peer.ttl_security:
        lines.append("  ttl security on;")
    if peer.password_key is not None:
        lines.append(f'  include "{KEY_DIRECTORY}/{peer.name}.conf";')
    if peer.bfd is not None:
        interval = f"interval {peer.bfd.interval_ms} ms"
        lines.append(f"  bfd {{ min rx {interval}; min tx {interval}; multiplier {peer.bfd.multiplier}; }};")
    if peer.graceful_restart is None:
        lines.append("  graceful restart off;")
    else:
        lines += ["  graceful restart on;", f"  graceful restart time {peer.graceful_restart.restart_seconds};"]
    for version in (v for v in versions if f"IPv{v}" in peer.address_families):
        # An address of the other family cannot be taken from the session itself.
        next_hop = "next hop self" if version == peer.address.version else f"next hop address {own[version]}"
        lines += [
            f"  ipv{version} {{",
            "    import none;",
            "    import limit 1 action block;",
            f"    export filter samegate_export{version};",
            f"    {next_hop};",
            "  };",
        ]
    return "\n".join([*lines, "}"]) + "\n"
