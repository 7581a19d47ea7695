"""What the agent is told: the schema of its ConfigMap, and the part of a stack's configuration that becomes it.

The same classes read the ConfigMap in the pod and write it in the Pulumi program, so that the two cannot drift. Every error
says which value breaks which rule and what to do. Keys are camelCase outside and snake_case inside.
"""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Network, IPv6Address
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from lbnode.communities import canonical
from lbnode.errors import ConfigError
from lbnode.link import Link, check_links
from lbnode.model import SMALLEST_IPV6_MTU_BYTES, TUNNEL_OVERHEAD_BYTES, IPAddress, IPNetwork
from lbnode.outside_edge import OutsideEdge, check_outside_edges
from lbnode.pools import Pool
from lbnode.schema import Address, Cidr, Strict, Whole, first_duplicate, overlap
from lbnode.via_edge import ViaEdge
from lbnode.xdp_settings import Xdp

#: RFC 7607 forbids AS 0; RFC 6793 reserves AS_TRANS.
FORBIDDEN_ASNS = {0: "RFC 7607 forbids it", 23456: "RFC 6793 reserves it as AS_TRANS"}


def _asn(value: int) -> int:
    if value in FORBIDDEN_ASNS:
        raise ValueError(
            f"ASN {value} cannot be used: {FORBIDDEN_ASNS[value]}. Use a private one: 64512-65534 or 4200000000-4294967294 (RFC 6996)"
        )
    return value


#: What balances in the kernel of edge nodes.
DataPlane = Literal["ipvs", "xdp"]
#: Of the environment: what the pod of an edge node has the privileges and mounts for, IPVS where it is not set.
DATA_PLANE_VARIABLE = "DATA_PLANE"
Asn = Annotated[Whole, Field(ge=0, le=4294967295)]
#: An hour: longer is a mistake, and RFC 5880 counts BFD's microseconds in 32 bits (71 minutes).
Milliseconds = Annotated[Whole, Field(gt=0, le=3_600_000)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
#: The kernel refuses idle times of IPVS above INT_MAX / HZ (``ip_vs_set_timeout``), and HZ is at most 1000.
IdleSeconds = Annotated[Whole, Field(ge=1, le=2_147_483)]
Port = Annotated[Whole, Field(ge=1, le=65535)]


class Bfd(Strict):
    """Bidirectional forwarding detection (RFC 5880): a neighbour is down after ``interval_ms * multiplier`` without a packet."""

    interval_ms: Milliseconds = 300
    multiplier: Whole = Field(default=3, ge=2, le=255)


class GracefulRestart(Strict):
    """Routes outlive their speaker for ``restart_seconds`` (RFC 4724), also when its node is dead: so never together with BFD."""

    restart_seconds: Whole = Field(default=20, ge=1, le=4095)


class Peer(Strict):
    """A router that edge nodes announce to.

    ``nodes`` limits the peer to the named edge nodes; empty means all. ``address_families`` are what goes over the session, whatever family
    its own addresses have (RFC 4760): both over one, or one each over two sessions with the same router. ``password_key`` names a key of the BGP Secret (TCP MD5, RFC 2385);
    the key itself never stands in settings. ``ttl_security`` is RFC 5082 and needs a peer that is one hop away.

    ``local_addresses`` are what its one node speaks from instead of its node addresses: those of a link that leads to the router, such as a GRE
    tunnel. At most one a family; routes of a family have the link's address of that family as next hop, else the node's.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=30)
    address: Address
    local_addresses: tuple[Address, ...] = Field(default=(), max_length=2)
    asn: Asn
    port: Port = 179
    nodes: tuple[str, ...] = ()
    address_families: tuple[Literal["IPv4", "IPv6"], ...] = Field(default=("IPv4", "IPv6"), min_length=1)
    password_key: str | None = Field(default=None, pattern=r"^[-._a-zA-Z0-9]+$")
    multihop: Whole | None = Field(default=None, ge=2, le=255)
    ttl_security: bool = False
    bfd: Bfd | None = Bfd()
    graceful_restart: GracefulRestart | None = None
    hold_time_seconds: Whole = 9
    keepalive_seconds: Whole | None = Field(default=None, ge=1)

    _check_asn = field_validator("asn")(_asn)

    @model_validator(mode="before")
    @classmethod
    def _no_tcp_ao(cls, raw: Any) -> Any:
        for key in raw if isinstance(raw, dict) else ():
            if str(key).lower().replace("_", "").startswith("tcpao"):
                raise ValueError(
                    # BIRD's NEWS of 2.17, "TCP-AO implementation for Linux"; Linux' Documentation/networking/tcp_ao.rst, there since 6.7.
                    f"{key} of peer {raw.get('name')}: TCP-AO (RFC 5925) is not there: it needs BIRD 2.17 and Linux 6.7 with CONFIG_TCP_AO on every "
                    "edge node, and the image has BIRD 2.0.12 of Debian 12, which knows TCP MD5 only. "
                    "Use passwordKey on both sides, and ttlSecurity where the peer is one hop away"
                )
        return raw

    @field_validator("address")
    @classmethod
    def _scope(cls, address: IPAddress) -> IPAddress:
        # It goes into BIRD's configuration, where it must be a symbol; a name is at most 15 bytes (IFNAMSIZ).
        scope = address.scope_id if isinstance(address, IPv6Address) else None
        if scope is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,14}", scope):
            raise ValueError(
                f"{address} has an interface name that BIRD cannot take. Use letters, digits and _, or an address that needs no interface"
            )
        return address

    @model_validator(mode="after")
    def _local_addresses_fit(self) -> Peer:
        if not self.local_addresses:
            return self
        shown = ", ".join(map(str, self.local_addresses))
        if len(self.nodes) != 1:
            raise ValueError(
                f"peer {self.name} has localAddresses {shown} for {len(self.nodes) or 'all'} nodes: an address is held by one node only. "
                "Name that node in `nodes`, and write a peer for each other node"
            )
        if first_duplicate(str(a.version) for a in self.local_addresses) is not None:
            raise ValueError(
                f"peer {self.name} has two localAddresses of one family, {shown}: a session has one end. "
                "Keep one IPv4 and one IPv6 address at most"
            )
        if self.local_address(self.address.version) is None:
            raise ValueError(
                f"peer {self.name} at {self.address} has no IPv{self.address.version} in localAddresses {shown}: a session has both ends in one family. "
                f"Add the link's IPv{self.address.version} address"
            )
        for own in self.local_addresses:
            if own == self.address:
                raise ValueError(
                    f"peer {self.name} has {own} on both ends. Put the router's address into `address` and the node's into localAddresses"
                )
            if isinstance(own, IPv6Address) and own.is_link_local:
                raise ValueError(
                    f"peer {self.name} has the link-local address {own} in localAddresses: as a next hop it means nothing without its interface. "
                    "Use a global or unique local one (RFC 4193)"
                )
        return self

    def local_address(self, version: int) -> IPAddress | None:
        """The link's address of this family, ``None`` when the node's own is used."""
        return next((a for a in self.local_addresses if a.version == version), None)

    @field_validator("hold_time_seconds")
    @classmethod
    def _hold_time(cls, value: int) -> int:
        if value != 0 and not 3 <= value <= 65535:
            raise ValueError(f"hold time {value} s is not allowed: RFC 4271 wants 0 or at least 3. Use 9, the default")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Peer:
        if self.bfd is not None and self.graceful_restart is not None:
            raise ValueError(
                f"peer {self.name} has BFD together with graceful restart: BFD cancels graceful restart, and without BFD a dead node keeps its routes. "
                "Keep one: `bfd: null` for graceful restart, or leave gracefulRestart out"
            )
        if self.ttl_security and self.multihop is not None:
            raise ValueError(
                f"peer {self.name} has ttlSecurity together with multihop: RFC 5082 expects a peer one hop away. Drop one of them"
            )
        if self.bfd is None and self.graceful_restart is None and self.hold_time_seconds == 0:
            raise ValueError(
                f"peer {self.name} would never be noticed to be dead: hold time 0 and no BFD. Set one of them"
            )
        if self.hold_time_seconds and self.keepalive >= self.hold_time_seconds:
            raise ValueError(
                f"peer {self.name} has keepalive {self.keepalive} s at a hold time of {self.hold_time_seconds} s: it would be declared dead between two. "
                "Leave keepaliveSeconds out for a third of the hold time (RFC 4271 section 10)"
            )
        return self

    @property
    def keepalive(self) -> int:
        """Seconds between keepalives: a third of the hold time unless set (RFC 4271 section 10)."""
        return self.keepalive_seconds or max(1, self.hold_time_seconds // 3)


class Bgp(Strict):
    """BGP on the edge nodes. ``communities`` are ``"65010:100"`` or large ``"65010:1:2"`` and go with every announcement. ``links`` are tunnels
    that the edge nodes make for peers whose ``local_addresses`` lie in them.
    """

    local_asn: Asn
    peers: tuple[Peer, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    communities: tuple[str, ...] = ()
    listen_port: Whole = Field(default=1790, ge=1024, le=65535)

    _check_asn = field_validator("local_asn")(_asn)

    @field_validator("communities")
    @classmethod
    def _communities(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(canonical, values))

    @model_validator(mode="after")
    def _distinct(self) -> Bgp:
        for what, values in (("name", [p.name for p in self.peers]), ("address", [str(p.address) for p in self.peers])):
            if (twice := first_duplicate(values)) is not None:
                raise ValueError(f"two peers have the {what} {twice}: it must be unique. Remove or rename one")
        return self

    @model_validator(mode="after")
    def _peers_reached_by_their_links(self) -> Bgp:
        for peer in self.peers:
            for link in (each for each in self.links if each.node in peer.nodes):
                for address in link.addresses:
                    if address.ip == peer.local_address(peer.address.version) and peer.address not in address.network:
                        raise ValueError(
                            f"peer {peer.name} speaks from {address.ip} of link {link.name}, but its address {peer.address} is not in {address.network}: "
                            "it would be sought elsewhere. Put the router's end of the link into `address`"
                        )
        return self

    @property
    def has_internal(self) -> bool:
        """Whether a peer is of our own AS."""
        return any(p.asn == self.local_asn for p in self.peers)

    @property
    def has_external(self) -> bool:
        """Whether a peer is of another AS."""
        return any(p.asn != self.local_asn for p in self.peers)

    def unheard(self, local_preference: int | None, prepend: int) -> str | None:
        """Why no peer of ours would hear of a local preference or of prepending, with the way out; ``None`` when all asked for is heard."""
        if local_preference is not None and not self.has_internal:
            return (
                f"local preference {local_preference} would reach no router: it is sent to peers of our own AS only (RFC 4271 section 5.1.5), "
                f"and none has {self.local_asn}. Use med, prepend or a community"
            )
        if prepend and not self.has_external:
            return (
                f"prepend {prepend} would reach no router: it is for peers of other ASes, and all of ours have {self.local_asn}. "
                "Use localPreference, med or a community"
            )
        return None


class Network(Strict):
    """What the fabric and the cluster already use; pools and the probe network must stay clear of all of it.

    ``fabric_mtu_bytes`` is the MTU between edge nodes and workers. The probe network gives each worker one address: the low bits
    of its node address, so that edge nodes and workers agree without talking.
    """

    node_cidrs: tuple[Cidr, ...] = Field(min_length=1)
    pod_cidrs: tuple[Cidr, ...] = ()
    service_cidrs: tuple[Cidr, ...] = ()
    probe_cidrs: tuple[Cidr, ...] = (IPv4Network("192.0.2.0/24"),)
    fabric_mtu_bytes: Whole = Field(default=1500, ge=576, le=65535)


class Health(Strict):
    """Probing of workers by edge nodes. A worker is healthy after ``rise`` successes and unhealthy after ``fall`` failures in a row.

    A VIP goes when fewer than ``low_watermark`` of its workers are healthy and returns at ``high_watermark`` (fractions; 0 means at least one).
    """

    interval_ms: Milliseconds = 500
    timeout_ms: Milliseconds = 450
    rise: Whole = Field(default=2, ge=1, le=1000)
    fall: Whole = Field(default=3, ge=1, le=1000)
    low_watermark: float = Field(default=0.0, ge=0, le=1)
    high_watermark: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Health:
        if self.low_watermark > self.high_watermark:
            raise ValueError(
                f"lowWatermark {self.low_watermark} is above highWatermark {self.high_watermark}: a VIP would flap. Swap them"
            )
        if self.timeout_ms > self.interval_ms:
            raise ValueError(
                f"timeoutMs {self.timeout_ms} is above intervalMs {self.interval_ms}: probes would pile up. Lower the timeout"
            )
        return self


class ActiveProbes(Health):
    """Active probes of pods by the worker that runs them, for Services that ask for it by ``samegate.dev/probe``; annotations of the Service
    take the place of these values. The pace is that of GLB director: each 2 s, 1 s for an answer, out after 3 failures.

    A worker gets nothing new for the Service when fewer than ``low_watermark`` of its pods pass, until ``high_watermark`` do (fractions; 0
    means at least one). A worker has at most ``at_once`` probes under way.
    """

    interval_ms: Annotated[Whole, Field(ge=100, le=3_600_000)] = 2000
    timeout_ms: Milliseconds = 1000
    at_once: Annotated[Whole, Field(ge=1, le=1024)] = 64


class Ipvs(Strict):
    """Idle times of IPVS connections in seconds, and how many TCP connections may begin.

    ``max_syn_per_second`` is for each VIP on each edge node; SYNs above it are dropped, and connections that are there go on. IPVS keeps an
    unfinished connection for 60 s, so that a flood of forged SYNs leaves at most 61 times as many there; without it nothing but memory bounds
    them. Needs the kernel module ``xt_hashlimit``, which keeps it in whole microseconds from one SYN to the next: at most a tenth more. On a node
    without it there is no limit, and a warning.
    """

    tcp_seconds: IdleSeconds = 900
    tcp_fin_seconds: IdleSeconds = 120
    udp_seconds: IdleSeconds = 30
    max_syn_per_second: Annotated[Whole, Field(ge=1000, le=100_000)] | None = None


class Drain(Strict):
    """On drain and SIGTERM: withdraw, keep forwarding for ``withdraw_seconds``, then stop."""

    withdraw_seconds: Seconds = 5.0


class Ports(Strict):
    """TCP ports of the agents' own HTTP pages (metrics, readiness, status) on the node address."""

    edge: Port = 9474
    worker: Port = 9475
    controller: Port = 9476


class AgentSettings(Strict):
    """Everything the agent's three roles need to know; the same text for all nodes.

    ``share_across_namespaces`` lets Services of different namespaces share an address by an equal sharing key; off, a key counts within its
    namespace. ``packet_filter`` is ``nftables`` unless a kernel has no nftables tables for IP; ``iptables-legacy`` costs the pods ``NET_RAW``.
    ``forwarding`` is ``tunnel``: to the worker role, with the client's address and through the loss of any edge node. ``nat`` is for pods on nodes
    that cannot run the worker role: edge nodes send to the pods themselves and translate both addresses, so the app sees an edge node's address
    instead of the client's, and connections end when their edge node leaves. A Service may choose by ``samegate.dev/forwarding``.
    ``dataplane`` is ``ipvs``, or ``xdp``: our own program at the devices of edge nodes. It serves TCP and UDP by tunnel; SCTP and ``forwarding: nat``
    are refused with it.
    ``return_path`` is how replies leave a worker: ``direct``, with a VIP as their source, or ``via-edge``, through a live edge node, where the
    fabric drops packets from addresses that are not the sender's own.
    """

    pools: tuple[Pool, ...] = Field(min_length=1)
    bgp: Bgp
    network: Network
    service_class: str = Field(default="samegate.dev/lb", min_length=1)
    serve_without_class: bool = False
    edge_node_selector: dict[str, str] = Field(default={"samegate.dev/role": "edge"}, min_length=1)
    worker_node_selector: dict[str, str] = Field(default={"samegate.dev/role": "worker"}, min_length=1)
    outside_edges: tuple[OutsideEdge, ...] = ()
    share_across_namespaces: bool = False
    forwarding: Literal["tunnel", "nat"] = "tunnel"
    return_path: Literal["direct", "via-edge"] = Field(default="direct", alias="return")
    via_edge: ViaEdge = ViaEdge()
    weights: Literal["equal", "endpoints"] = "equal"
    packet_filter: Literal["nftables", "iptables-legacy"] = "nftables"
    dataplane: DataPlane = "ipvs"
    xdp: Xdp = Xdp()
    health: Health = Health()
    active_probes: ActiveProbes = ActiveProbes()
    ipvs: Ipvs = Ipvs()
    drain: Drain = Drain()
    ports: Ports = Ports()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _roles_differ(self) -> AgentSettings:
        edge, worker = self.edge_node_selector.items(), self.worker_node_selector.items()
        if edge <= worker or worker <= edge:
            raise ValueError(
                f"edgeNodeSelector {dict(edge)} and workerNodeSelector {dict(worker)} select the same nodes: no node can be both. Give the roles different labels"
            )
        return self

    @model_validator(mode="after")
    def _served_by_xdp(self) -> AgentSettings:
        if self.dataplane != "xdp":
            return self
        if not self.xdp.devices:
            raise ValueError(
                "dataplane xdp without xdp.devices: the program has to be told where packets for VIPs come in. Name the devices of the edge nodes, like [eth0]"
            )
        if self.forwarding == "nat":
            raise ValueError(
                "dataplane xdp together with forwarding nat: the program forwards by tunnel only. Use forwarding tunnel, or dataplane ipvs"
            )
        if self.ipvs.max_syn_per_second is not None:
            raise ValueError(
                "dataplane xdp together with ipvs.maxSynPerSecond: the program takes SYNs before the packet filter counts them, and its tables do not grow. Remove it, or use dataplane ipvs"
            )
        if self.bgp.links:
            raise ValueError(
                "dataplane xdp together with bgp.links: packets for VIPs come in GRE, in which the program does not look. Use dataplane ipvs, or peers without links"
            )
        if self.outside_edges:
            raise ValueError(
                "dataplane xdp together with outsideEdges: edge nodes outside the cluster forward by IPVS alone. Use dataplane ipvs, or edge nodes of the cluster"
            )
        return self

    @model_validator(mode="after")
    def _families_fit(self) -> AgentSettings:
        families = sorted({n.version for n in self.pool_networks})
        smallest = SMALLEST_IPV6_MTU_BYTES + TUNNEL_OVERHEAD_BYTES[6]
        if 6 in families and self.network.fabric_mtu_bytes < smallest:
            raise ValueError(
                f"fabricMtuBytes {self.network.fabric_mtu_bytes} is too small for IPv6 pools: their tunnel takes {TUNNEL_OVERHEAD_BYTES[6]} bytes, "
                f"and IPv6 needs {SMALLEST_IPV6_MTU_BYTES} in it (RFC 8200 section 5). Raise the fabric's MTU to {smallest}, or drop the IPv6 pools"
            )
        for family in families:
            if not any(f"IPv{family}" in peer.address_families for peer in self.bgp.peers):
                raise ValueError(
                    f"no peer has IPv{family} in its addressFamilies, but pools have IPv{family} networks: they would be announced to nobody. "
                    "Add the family to a peer, or drop those networks"
                )
        return self

    @model_validator(mode="after")
    def _disjoint(self) -> AgentSettings:
        if (twice := first_duplicate(p.name for p in self.pools)) is not None:
            raise ValueError(f"two pools are named {twice}: names must be unique. Rename one")
        taken: list[tuple[str, IPNetwork]] = []
        for what, networks in (
            ("the node network", self.network.node_cidrs),
            ("the pod network", self.network.pod_cidrs),
            ("the service network", self.network.service_cidrs),
            ("the probe network", self.network.probe_cidrs),
        ):
            taken += [(what, n) for n in networks]
        for pool in self.pools:
            for network in pool.cidrs:
                for what, other in taken:
                    if overlap(network, other):
                        raise ValueError(
                            f"{network} of pool {pool.name} overlaps {what} {other}: a VIP would shadow it. Choose a network that nothing else uses"
                        )
                taken.append((f"pool {pool.name}", network))
        reserved = [(what, n) for what, n in taken if what == "the probe network" or what.startswith("pool ")]
        check_outside_edges(self.outside_edges, reserved)
        check_links(self.bgp.links, taken, {n.version for n in self.pool_networks}, self.network.fabric_mtu_bytes)
        for probe in self.network.probe_cidrs:
            for what, other in taken:
                if what != "the probe network" and overlap(probe, other):
                    raise ValueError(
                        f"the probe network {probe} overlaps {what} {other}: probes would go astray. Choose a network that nothing else uses"
                    )
        return self

    @model_validator(mode="after")
    def _links_outside_pools(self) -> AgentSettings:
        for peer in self.bgp.peers:
            for address in peer.local_addresses:
                for pool in self.pools:
                    if any(address in network for network in pool.cidrs):
                        raise ValueError(
                            f"peer {peer.name} has local address {address}, which lies in pool {pool.name}: it would be given away as a VIP. "
                            "Use a link address outside every pool"
                        )
        return self

    @model_validator(mode="after")
    def _heard_by_somebody(self) -> AgentSettings:
        for pool in self.pools:
            if (unheard := self.bgp.unheard(pool.local_preference, pool.prepend)) is not None:
                raise ValueError(f"pool {pool.name}: {unheard}")
        return self

    @property
    def pool_networks(self) -> tuple[IPNetwork, ...]:
        """All networks of all pools, in the order of the settings."""
        return tuple(n for p in self.pools for n in p.cidrs)

    @property
    def needs_namespaces(self) -> bool:
        """Whether a pool selects namespaces by their labels, which the controller then has to read."""
        return any(p.namespace_selector is not None for p in self.pools)

    def max_segment_bytes(self, version: int) -> int:
        """Largest TCP segment whose packet still fits tunnel and links: the smaller MTU less IP and TCP headers (40 or 60 bytes)."""
        fabric_mtu_bytes = self.network.fabric_mtu_bytes
        links = [link.inside_mtu_bytes(fabric_mtu_bytes) for link in self.bgp.links]
        return min([fabric_mtu_bytes - TUNNEL_OVERHEAD_BYTES[version], *links]) - {4: 40, 6: 60}[version]

    def probe_address(self, node_address: IPAddress) -> IPAddress | None:
        """The probe address of the worker at ``node_address``: the probe network's prefix with the node address' low bits.

        ``None`` when no probe network has the family of the address.
        """
        for network in self.network.probe_cidrs:
            if network.version == node_address.version:
                return network[int(node_address) & (network.num_addresses - 1)]
        return None

    def to_json(self) -> str:
        """The text of the ConfigMap; :func:`parse` reads it back to an equal value."""
        # With IPVS the text says nothing of the other data plane, so that agents of before it read the settings too.
        unsaid = {"dataplane", "xdp"} if self.dataplane == "ipvs" and self.xdp == Xdp() else None
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude=unsaid), indent=2, sort_keys=True) + "\n"


#: Rule and way out for findings of pydantic whose own words are about Python.
_PLAIN = {
    "extra_forbidden": ("unknown settings key", "Remove it or mend its spelling"),
    "missing": ("required and missing", "Add it"),
    "ip_v4_network": ("not a network in CIDR notation, or with host bits set", "Write it like 203.0.113.0/24"),
    "ip_v4_address": ("not an IP address", "Write it like 198.18.0.2"),
    "model_type": ("not an object with keys", "Write its keys below it"),
}
_SCHEMA = "See the schema: python -m lbnode schema"


def config_error(error: ValidationError, root: str) -> ConfigError:
    """One :class:`ConfigError` for the first finding of pydantic, with its path, and a count of the others."""
    findings: dict[tuple[str, ...], Any] = {}
    for finding in error.errors(include_url=False):
        # A union adds a part for each member that was tried, which is no key of the settings.
        path = tuple(str(p) for p in finding["loc"] if "[" not in str(p))
        findings.setdefault(path, finding)
    # A list whose only item is wrong is also too short, which says nothing new.
    own = [p for p in findings if not any(len(o) > len(p) and o[: len(p)] == p for o in findings)]
    path = own[0]
    first = findings[path]
    given = first.get("input")
    shown = f" = {given!r}" if isinstance(given, str | int | float | bool) or given is None else ""
    if first["type"] in _PLAIN:
        rule, way_out = _PLAIN[first["type"]]
    else:
        rule, _, way_out = first["msg"].removeprefix("Value error, ").partition(". ")
    way_out = f"{way_out}. {_SCHEMA}" if way_out else _SCHEMA
    if len(own) > 1:
        way_out += f". {len(own) - 1} more finding(s) follow once this is mended"
    return ConfigError(".".join((root, *path)) + shown, rule, way_out)


def parse(raw: Any, root: str = "settings") -> AgentSettings:
    """Settings from plain JSON values.

    Raises:
        ConfigError: a value breaks a rule; the message names value, rule and way out.
    """
    try:
        return AgentSettings.model_validate(raw)
    except ValidationError as error:
        raise config_error(error, root) from None


class PendingSettings(ConfigError):
    """Good settings that the next agent takes: the one that runs goes on with those before them."""


def other_dataplane(asked: DataPlane, own: DataPlane, way_out: str) -> PendingSettings:
    """Why an agent that was started with one data plane does not take settings that ask for another one."""
    return PendingSettings(
        f"dataplane {asked}",
        f"this agent was started with {own} and has the privileges for that alone",
        way_out,
    )


def with_dataplane(settings: AgentSettings, own: DataPlane, way_out: str) -> AgentSettings:
    """The settings but for their data plane, for an agent that starts with another one.

    Raises:
        ConfigError: that data plane does not serve them.
    """
    if settings.dataplane == own:
        return settings
    try:
        return parse({**settings.model_dump(mode="json", by_alias=True), "dataplane": own})
    except ConfigError as error:
        rule = f"this agent was started with {own}, which cannot serve by the other settings ({error.rule})"
        raise ConfigError(f"dataplane {settings.dataplane}", rule, way_out) from None


def parse_json(text: str, root: str = "settings") -> AgentSettings:
    """Settings from the text of a ConfigMap.

    Raises:
        ConfigError: the text is not JSON, or a value breaks a rule.
    """
    try:
        raw = json.loads(text)
        # Half of a surrogate pair can be written in JSON, but neither logged nor sent to anybody.
        json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            root, f"not JSON: {error}", "Mend the ConfigMap; the last good settings stay in force"
        ) from None
    return parse(raw, root)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of :class:`AgentSettings`, for editors."""
    return AgentSettings.model_json_schema(by_alias=True)
