"""The whole configuration of BIRD 2 as a pure function of settings and of the routes to announce.

What it grants the routers is as little as BGP allows: nothing is learnt (``import none``), nothing is installed (there is no kernel
protocol), and nothing leaves but the host routes and aggregates of the pools that are announced now. Two fences stand for that: the
static routes, and an export filter that knows the pools and their aggregates by itself.

Attributes of a route stand with the static route, so that they are read back from BIRD's table. What is the same for all routes
stands in the export filter.

The text holds no secret, so it may be logged: a peer's key stands in a file of its own that is included from beside the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from lbnode.bgp_settings import Bgp, Peer
from lbnode.errors import Bug, ConfigError
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork, address_order
from lbnode.pools import Pool
from lbnode.routes import is_route_of

#: Static protocols of ours by IP version; what they hold is what this node announces.
STATIC_PROTOCOLS = {4: "samegate4", 6: "samegate6"}
#: Host routes that an aggregate stands for: in BIRD's table to be read back, and refused by the export filter for their protocol.
COVERED_PROTOCOLS = {4: "samegate_covered4", 6: "samegate_covered6"}
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
    """Those of them that the node has an address to speak from to, of its own or of the link."""
    versions = {a.version for a in node_addresses}
    return tuple(p for p in peers_of_node(bgp, node_name) if p.local_addresses or p.address.version in versions)


def render(
    bgp: Bgp,
    pools: Sequence[Pool],
    node_name: str,
    node_addresses: Sequence[IPAddress],
    routes: Mapping[IPNetwork, RouteAttributes],
) -> str:
    """The text of ``bird.conf``; equal arguments give equal text, whatever the order of ``routes``.

    Args:
        pools: what VIPs may come from; a family is announced when a pool and a node address have it.
        node_addresses: the first of each family counts; the IPv4 one is the router id. A peer that the node has no address to speak from to
            is left out.

    Raises:
        ConfigError: no peer is meant for this node, or the node has no address of a family that is needed, or none to speak from at all.
        Bug: a route to announce is neither a host route nor an aggregate of a pool.
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
    networks = [n for p in pools for n in p.cidrs]
    ordered = sorted(routes.items(), key=lambda r: (*address_order(r[0].network_address), r[0].prefixlen))
    for network, _ in ordered:
        if not is_route_of(network, pools):
            raise Bug(
                f"{_shown(network)} is to be announced but is no host route or aggregate of a pool: it lies in no pool "
                f"({', '.join(map(str, networks))}), or has another length"
            )
    versions = [v for v in (4, 6) if v in own and any(n.version == v for n in networks)]
    for network, _ in ordered:
        if network.version not in versions:
            raise ConfigError(
                f"VIP {_shown(network)}",
                f"node {node_name} has no IPv{network.version} address to be its next hop",
                f"Give the node an IPv{network.version} InternalIP or drop the pool",
            )
    # When it can speak to none, the first of them says so.
    spoken = spoken_peers(bgp, node_name, node_addresses) or peers
    internal_prepends = {n.version for n, a in ordered if a.prepend and any(p.asn == bgp.local_asn for p in spoken)}
    blocks = [_head(router_id, any(p.bfd for p in spoken))]
    for version in versions:
        listed = [(n, a) for n, a in ordered if n.version == version]
        blocks.append(
            _static(STATIC_PROTOCOLS[version], version, [r for r in listed if not r[1].covered], bgp.local_asn)
        )
        if any(not p.announces_host_route(n.network_address) for p in pools for n in p.cidrs if n.version == version):
            covered = [r for r in listed if r[1].covered]
            blocks.append(_static(COVERED_PROTOCOLS[version], version, covered, bgp.local_asn))
    for version in versions:
        has_med = any(a.med is not None for n, a in ordered if n.version == version)
        body = _export_filter(version, pools, bgp.communities, has_med)
        blocks.append(_filter(f"samegate_export{version}", body))
        if version in internal_prepends:
            # Our own AS in the path would be a loop to a router of the same AS (RFC 4271 section 9.1.2).
            blocks.append(_filter(f"samegate_internal{version}", [*body, "bgp_path.empty;"]))
    blocks += [_session(bgp, peer, node_name, own, versions, internal_prepends) for peer in spoken]
    return "\n".join(blocks)


class Renderer:
    """:func:`render` for one node. A pass mostly asks for the routes of the last one: their text is remembered."""

    def __init__(self, bgp: Bgp, pools: Sequence[Pool], node_name: str, node_addresses: Sequence[IPAddress]) -> None:
        self._node = (bgp, tuple(pools), node_name, tuple(node_addresses))
        self._last: tuple[Mapping[IPNetwork, RouteAttributes], str] | None = None

    def text(self, routes: Mapping[IPNetwork, RouteAttributes]) -> str:
        """As :func:`render`."""
        if self._last is None or self._last[0] != routes:
            self._last = (dict(routes), render(*self._node, routes))
        return self._last[1]


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


def _shown(network: IPNetwork) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def _static(name: str, version: int, routes: Sequence[tuple[IPNetwork, RouteAttributes]], asn: int) -> str:
    lines = [f"protocol static {name} {{", f"  ipv{version};"]
    for network, attributes in routes:
        said = _attributes(attributes, asn)
        if said:
            lines += [f"  route {network} blackhole {{", *(f"    {line}" for line in said), "  };"]
        else:
            lines.append(f"  route {network} blackhole;")
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(attributes: RouteAttributes, asn: int) -> list[str]:
    lines = _communities(attributes.communities)
    if attributes.local_preference is not None:
        lines.append(f"bgp_local_pref = {attributes.local_preference};")
    if attributes.med is not None:
        lines.append(f"bgp_med = {attributes.med};")
    return lines + [f"bgp_path.prepend({asn});"] * attributes.prepend


def _communities(communities: Iterable[str]) -> list[str]:
    lines = []
    for community in communities:
        parts = community.split(":")
        kind = "bgp_community" if len(parts) == 2 else "bgp_large_community"
        lines.append(f"{kind}.add(({','.join(parts)}));")
    return lines


def _filter(name: str, body: Sequence[str]) -> str:
    return "\n".join([f"filter {name} {{", *(f"  {line}" for line in body), "  accept;", "}"]) + "\n"


def _export_filter(version: int, pools: Sequence[Pool], communities: Sequence[str], has_med: bool) -> list[str]:
    ranges = ", ".join(
        f"{network}{{{length},{length}}}"
        for pool in pools
        for network in pool.cidrs
        if network.version == version
        for length in _lengths(pool, network)
    )
    lines = [
        f'if proto != "{STATIC_PROTOCOLS[version]}" then reject;',
        f"if net !~ [ {ranges} ] then reject;",
    ]
    if has_med:
        # BIRD 2.0.12 was seen to send a MED to another AS reliably only when its export filter sets it.
        lines.append("if defined(bgp_med) then bgp_med = bgp_med;")
    return lines + _communities(communities)


def _lengths(pool: Pool, network: IPNetwork) -> list[int]:
    aggregate = pool.aggregate_of(network.network_address)
    lengths = [network.max_prefixlen] if pool.announces_host_route(network.network_address) else []
    return lengths + ([aggregate.prefixlen] if aggregate is not None else [])


def _session(
    bgp: Bgp,
    peer: Peer,
    node_name: str,
    own: dict[int, IPAddress],
    versions: Sequence[int],
    internal_prepends: Collection[int],
) -> str:
    local = peer.local_address(peer.address.version) or own.get(peer.address.version)
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
        # A link may come after BIRD, which gives a session up for good when it cannot listen on its address.
        *(["  free bind yes;"] if peer.local_addresses else []),
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
        is_internal = peer.asn == bgp.local_asn and version in internal_prepends
        next_hop = (
            "next hop self"
            if version == peer.address.version
            else f"next hop address {peer.local_address(version) or own[version]}"
        )
        lines += [
            f"  ipv{version} {{",
            "    import none;",
            "    import limit 1 action block;",
            f"    export filter samegate_{'internal' if is_internal else 'export'}{version};",
            f"    {next_hop};",
            "  };",
        ]
    return "\n".join([*lines, "}"]) + "\n"
