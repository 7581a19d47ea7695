"""Frozen values that the agent's parts exchange: keys, desired and observed states, operations.

Nothing here reads a clock, a socket or a file. ``IPv4Address`` and ``IPv6Address`` do not compare with each other;
wherever an order is needed, :func:`address_order` gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface

#: Devices of ours; names are at most 15 bytes (IFNAMSIZ of linux/if.h less the final zero).
TUNNEL_DEVICE_PREFIX = "sgt-"
LINK_DEVICE_PREFIX = "sgl-"
RETURN_DEVICE_PREFIX = "sgr-"
#: By IP version: a kernel has one device of each kind that takes its ends from routes.
PROBE_DEVICES = {4: "sgprobe", 6: "sgprobe6"}
#: The one nftables table of ours.
FILTER_TABLE = "samegate"
#: Bytes that an outer IPv4 header adds (RFC 2003) and that an outer IPv6 header adds (RFC 2473).
TUNNEL_OVERHEAD_BYTES = {4: 20, 6: 40}
#: Of GRE without key, checksum and sequence number over IPv4 (RFC 2784): 20 bytes of IPv4 and 4 of GRE.
GRE_OVERHEAD_BYTES = 24
#: RFC 8200 section 5: no link may be smaller, and a tunnel is one.
SMALLEST_IPV6_MTU_BYTES = 1280


class Protocol(StrEnum):
    """Transport protocols that a Service port may have here."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    @property
    def number(self) -> int:
        """The protocol's number in the IP header (IANA protocol numbers)."""
        return {"TCP": 6, "UDP": 17, "SCTP": 132}[self.value]


#: Address of a destination, and the port that packets are translated to; ``None`` for a tunnel.
Place = tuple[IPAddress, int | None]


def address_order(address: IPAddress) -> tuple[int, int]:
    """Sort key over both address families: IPv4 first, then by number."""
    return (address.version, int(address))


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    """A Service's namespace and name."""

    namespace: str
    name: str
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.namespace, self.name)))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __hash__(self) -> int:
        # Worked out once: a pass asks for thousands.
        return self._hash


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """What a client connects to: VIP, protocol, port (1-65535)."""

    address: IPAddress
    protocol: Protocol
    port: int
    #: Sort key.
    order: tuple[int, int, str, int] = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = (*address_order(self.address), self.protocol.value, self.port)
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "_hash", hash(order))

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{self.protocol.value.lower()}://{host}:{self.port}"

    def __hash__(self) -> int:
        # Worked out once: a pass asks for thousands.
        return self._hash


@dataclass(frozen=True, slots=True)
class Destination:
    """Where IPVS sends a flow: a worker node, by tunnel, or with ``nat_port`` a pod, by translation to this port of its address.

    ``weight`` is the share of the hash table and stays when the destination drains, because the kernel keeps the slots of
    a weight-0 destination by its last weight (``ip_vs_mh.c``); ``drained`` says that the kernel's weight is 0 now.
    """

    address: IPAddress
    weight: int = 1
    drained: bool = False
    nat_port: int | None = None

    @property
    def place(self) -> Place:
        """What tells it from the others of its service."""
        return (self.address, self.nat_port)

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place in the list, whatever the history."""
        return (*address_order(self.address), self.nat_port or 0)


@dataclass(frozen=True, slots=True)
class VirtualService:
    """One IPVS service: always scheduler ``mh`` with ``mh-fallback``; all destinations by tunnel, or all by translation.

    ``hash_source_port`` sets ``mh-port``; it is off for ``sessionAffinity: ClientIP``. ``one_packet`` is UDP only.
    ``destinations`` are sorted by ``Destination.order``, and the kernel's list must have that same order from its head,
    because ``ip_vs_mh`` fills its table in list order and so the table would otherwise depend on history. ``intact`` is false only for
    an observed service with another scheduler, forwarding or port behind it: it has to be taken away and made anew.
    """

    key: VirtualKey
    destinations: tuple[Destination, ...] = ()
    hash_source_port: bool = True
    one_packet: bool = False
    intact: bool = True


def alike(wanted: VirtualService, observed: VirtualService) -> bool:
    """Whether a service in the kernel needs nothing to be the wanted one. The weight of a drained destination does not count: the kernel shows 0."""
    return _without_drained_weights(wanted) == _without_drained_weights(observed)


def _without_drained_weights(service: VirtualService) -> VirtualService:
    if not any(d.drained for d in service.destinations):
        return service
    return replace(service, destinations=tuple(replace(d, weight=0) if d.drained else d for d in service.destinations))


@dataclass(frozen=True, slots=True)
class LinkSession:
    """A BGP session over a link: who may speak to one of the node's addresses there, and by which ports. ``bfd`` lets BFD in too."""

    address: IPAddress
    listen_port: int
    router_address: IPAddress
    router_port: int
    bfd: bool = False


@dataclass(frozen=True, slots=True)
class EdgeFilter:
    """The packet filter of an edge node: no connection tracking for the pools, no port but the served ones, no loop.

    ``translated`` are the VIPs that are tracked because they are served by translation. ``limited`` says for some of the served keys which
    clients alone may come in; where kube-proxy sees the packets it limits them itself. Nothing but ``sessions`` answers on ``link_addresses``,
    and nothing else but VIPs is reached through a link. ``returning`` is there when replies come back by way of edge nodes: what comes out of
    the tunnels from workers is from a VIP and goes on, or belongs to a probe between one of these networks and the node's own address.
    ``max_syn_per_second`` bounds the TCP connections that begin at a VIP each second, and with them what IPVS keeps of forged ones.
    """

    pools: tuple[IPNetwork, ...]
    served: frozenset[VirtualKey]
    translated: frozenset[IPAddress] = frozenset()
    limited: frozenset[tuple[VirtualKey, IPNetwork]] = frozenset()
    link_addresses: frozenset[IPAddress] = frozenset()
    sessions: frozenset[LinkSession] = frozenset()
    returning: frozenset[tuple[IPNetwork, IPAddress]] = frozenset()
    max_syn_per_second: int | None = None

    @property
    def digest(self) -> str:
        return _digest(
            "edge",
            [str(p) for p in self.pools],
            sorted(map(str, self.served)),
            sorted(map(str, self.translated)),
            sorted(f"{key} {network}" for key, network in self.limited),
            sorted(map(str, self.link_addresses)),
            sorted(map(str, self.sessions)),
            sorted(map(str, self.returning)),
            self.max_syn_per_second,
        )


@dataclass(frozen=True, slots=True)
class TranslationTable:
    """Of the VIPs that an edge node serves by translation: kube-proxy leaves them alone, and pods see the node's address, so that replies
    come back to it. ``pools`` say for which IP versions there is a table at all.
    """

    pools: tuple[IPNetwork, ...]
    vips: frozenset[IPAddress]

    @property
    def digest(self) -> str:
        return _digest("translation", [str(p) for p in self.pools], sorted(map(str, self.vips)))


@dataclass(frozen=True, slots=True)
class WorkerFilter:
    """The packet filter of a worker: only pools and the probe address come out of tunnels, no loop, clamped segments.

    ``max_segment_bytes`` maps the IP version to the largest TCP segment that replies may offer. With a ``return_mask``, connections that came by
    a tunnel get this bit as their mark, what goes back gets it too, and clients are offered no larger segments either.
    """

    pools: tuple[IPNetwork, ...]
    probe_addresses: tuple[IPAddress, ...]
    max_segment_bytes: tuple[tuple[int, int], ...]
    return_mask: int | None = None

    @property
    def digest(self) -> str:
        return _digest(
            "worker",
            [str(p) for p in self.pools],
            [str(a) for a in self.probe_addresses],
            self.max_segment_bytes,
            self.return_mask,
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a worker sends new connections to ``key`` that its kube-proxy does not take: its own pods, as address and port.

    ``source_ranges`` limits the clients; empty means everybody. ``by_client`` is for session affinity: all connections of a client get one of them.
    """

    key: VirtualKey
    endpoints: tuple[tuple[IPAddress, int], ...]
    source_ranges: tuple[IPNetwork, ...] = ()
    by_client: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryTable:
    """All deliveries of a worker, by ``VirtualKey.order``. ``pools`` say for which IP versions there is a table at all."""

    pools: tuple[IPNetwork, ...]
    deliveries: tuple[Delivery, ...] = ()

    @property
    def digest(self) -> str:
        return _digest("delivery", [str(p) for p in self.pools], [repr(d) for d in self.deliveries])


FilterTable = EdgeFilter | WorkerFilter
PacketTable = FilterTable | DeliveryTable | TranslationTable


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class IpvsTimeouts:
    """Idle seconds after which IPVS forgets a connection (kernel: ``ipvs-sysctl``, ``ipvsadm --set``)."""

    tcp_seconds: int = 900
    tcp_fin_seconds: int = 120
    udp_seconds: int = 30


@dataclass(frozen=True, slots=True)
class ProbeRoute:
    """Packets to ``probe_address`` leave in a tunnel from ``edge_address`` to ``worker_address``; all three are of one family."""

    probe_address: IPAddress
    worker_address: IPAddress
    edge_address: IPAddress


@dataclass(frozen=True, slots=True)
class RouterLink:
    """An edge node's GRE device to a router, up, with these addresses and no other. It takes no IPv6 unless ``ipv6``."""

    name: str
    node_address: IPAddress
    router_address: IPAddress
    addresses: frozenset[IPInterface]
    ttl: int
    mtu_bytes: int
    ipv6: bool = False
    ready: bool = True

    @property
    def device(self) -> str:
        return LINK_DEVICE_PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Counters:
    """Connections scheduled, and packets and bytes received for them. Replies of direct return pass the edge node by and are in none of these.

    ``table_hits`` are packets that XDP found in its table of flows; ``None`` is said by IPVS, which does not count them.
    """

    connections: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    table_hits: int | None = None


#: Packets for VIPs that went nowhere, by service and reason; ``None`` are services that are not there any more.
Drops = Mapping[tuple[VirtualKey | None, str], int]


@dataclass(frozen=True, slots=True)
class DestinationTraffic:
    """What the kernel tells of one destination of one IPVS service: totals since it was put in, and the connections it holds now.

    The kernel adds the totals up each 2 s (``ip_vs_est.c``), so they are as old as that.

    ``active_connections`` are established TCP connections; all others, UDP included, are ``inactive_connections`` (``ip_vs_conn.c``).
    """

    key: VirtualKey
    worker: IPAddress
    total: Counters
    active_connections: int = 0
    inactive_connections: int = 0


@dataclass(frozen=True, slots=True)
class Remains:
    """What an agent with the other data plane left at work on an edge node: services of IPVS, or its XDP program at ``device``."""

    dataplane: Literal["ipvs", "xdp"]
    device: str = ""


@dataclass(frozen=True, slots=True)
class EdgeState:
    """The edge data plane, desired or observed; equal values mean that nothing is left to do.

    ``sysctls`` maps names below ``net.`` in dotted form (``net.ipv4.vs.sloppy_tcp``) to their text; an observed state holds just the
    names that the reader was asked for. ``filter_digest`` is ``None`` when our table is absent or was changed behind our back, and so is
    ``translation_digest``, that of the :class:`TranslationTable`, which is there only while some VIP is served by translation.
    ``probe_devices`` are the IP versions that have their probe device.
    ``services`` are sorted by ``VirtualKey.order``; observed destinations are in the kernel's list order. An observed link that lacks anything
    has ``ready=False``. ``remains``, and ``lost_programs``, the devices that the XDP program was put at and is not at any more, are never desired.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    timeouts: IpvsTimeouts = IpvsTimeouts()
    filter_digest: str | None = None
    vips: frozenset[IPAddress] = frozenset()
    services: tuple[VirtualService, ...] = ()
    probe_devices: frozenset[int] = frozenset()
    probe_routes: frozenset[ProbeRoute] = frozenset()
    translation_digest: str | None = None
    links: frozenset[RouterLink] = frozenset()
    return_tunnels: frozenset[ReturnTunnel] = frozenset()
    remains: frozenset[Remains] = frozenset()
    lost_programs: frozenset[str] = frozenset()


def _device(prefix: str, address: IPAddress) -> str:
    return prefix + hashlib.sha256(str(address).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A worker's tunnel device for one address of an edge node, up. Over IPv4 it carries the node's address, with a loose reverse path filter
    (``rp_filter=2``); IPv6 has no such filter, and nothing but the edge node's packets is to come by it (``addr_gen_mode=1``).
    """

    edge_address: IPAddress
    node_address: IPAddress
    ready: bool = True

    @property
    def device(self) -> str:
        return _device(TUNNEL_DEVICE_PREFIX, self.edge_address)


@dataclass(frozen=True, slots=True)
class ReturnTunnel:
    """An edge node's tunnel device for what comes back from one address of a worker, up; as :class:`Tunnel`, and over IPv4 it takes packets from
    the node's own VIPs besides (``accept_local=1``).
    """

    worker_address: IPAddress
    node_address: IPAddress
    ready: bool = True

    @property
    def device(self) -> str:
        return _device(RETURN_DEVICE_PREFIX, self.worker_address)


@dataclass(frozen=True, slots=True)
class ReturnPath:
    """The way of a worker's replies through edge nodes, for one IP version: a policy rule for packets with ``mark_mask`` set, and its table.

    What is for one of ``edges`` itself goes by that edge node's own tunnel, everything else by the tunnels of ``group``, each with the same
    share of the flows. ``node_address`` is the worker's end of them.
    """

    version: int
    node_address: IPAddress
    mark_mask: int
    rule_priority: int
    route_table: int
    edges: frozenset[IPAddress]
    group: frozenset[IPAddress]
    ready: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int, bool]:
        """What it is apart from who is in it."""
        return (self.version, self.mark_mask, self.rule_priority, self.route_table, self.ready)

    def device(self, edge: IPAddress) -> str:
        """The tunnel device to an edge node."""
        return Tunnel(edge, self.node_address).device


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The worker data plane, desired or observed. Probe addresses are held only while everything else is in place.

    ``delivery_digest`` is that of the :class:`DeliveryTable` in force; ``None`` when there is none or it was changed behind our back.
    ``return_paths`` are at most one a family; an observed one that is not exactly such a path has ``ready=False``.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    filter_digest: str | None = None
    tunnels: frozenset[Tunnel] = frozenset()
    probe_addresses: frozenset[IPAddress] = frozenset()
    delivery_digest: str | None = None
    return_paths: frozenset[ReturnPath] = frozenset()


# Operations. A diff is an ordered tuple of these; the order is decided in lbnode.diff and nowhere else.


@dataclass(frozen=True, slots=True)
class SetSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SetTimeouts:
    timeouts: IpvsTimeouts


@dataclass(frozen=True, slots=True)
class ReplaceFilter:
    """Put this table in place of ours, in one transaction."""

    table: FilterTable


@dataclass(frozen=True, slots=True)
class RemoveFilter:
    pass


@dataclass(frozen=True, slots=True)
class ReplaceTranslation:
    """Put this table in place of ours, in one transaction."""

    table: TranslationTable


@dataclass(frozen=True, slots=True)
class RemoveTranslation:
    pass


@dataclass(frozen=True, slots=True)
class ReplaceDelivery:
    """Put this table in place of ours, in one transaction."""

    table: DeliveryTable


@dataclass(frozen=True, slots=True)
class RemoveDelivery:
    pass


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Hold ``address`` as a host address on the loopback device."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: IPAddress


@dataclass(frozen=True, slots=True)
class AddService:
    """Create the IPVS service without destinations."""

    service: VirtualService


@dataclass(frozen=True, slots=True)
class UpdateService:
    """Change flags of an existing IPVS service; destinations stay."""

    service: VirtualService


@dataclass(frozen=True, slots=True)
class RemoveService:
    key: VirtualKey


@dataclass(frozen=True, slots=True)
class AddDestination:
    """Add at the head of the kernel's list with ``weight``; drained ones get weight 0 by a later ``SetWeight``."""

    key: VirtualKey
    address: IPAddress
    weight: int
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class SetWeight:
    key: VirtualKey
    address: IPAddress
    weight: int
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class RemoveDestination:
    key: VirtualKey
    address: IPAddress
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class AddProbeDevice:
    version: int


@dataclass(frozen=True, slots=True)
class RemoveProbeDevice:
    """Remove the device with its routes."""

    version: int


@dataclass(frozen=True, slots=True)
class AddProbeRoute:
    route: ProbeRoute


@dataclass(frozen=True, slots=True)
class RemoveProbeRoute:
    route: ProbeRoute


@dataclass(frozen=True, slots=True)
class EnsureLink:
    """Create the link's device or mend what is wrong with it."""

    link: RouterLink


@dataclass(frozen=True, slots=True)
class RemoveLink:
    device: str


@dataclass(frozen=True, slots=True)
class EnsureTunnel:
    """Create the tunnel device or mend what is wrong with it."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class RemoveTunnel:
    device: str


@dataclass(frozen=True, slots=True)
class EnsureReturnTunnel:
    """Create the tunnel device or mend what is wrong with it."""

    tunnel: ReturnTunnel


@dataclass(frozen=True, slots=True)
class RemoveReturnTunnel:
    device: str


@dataclass(frozen=True, slots=True)
class AttachPrograms:
    """Have the XDP program at these devices again."""

    devices: frozenset[str]


@dataclass(frozen=True, slots=True)
class RemoveRemains:
    """Take away what an agent with the other data plane left at work."""

    remains: frozenset[Remains]


@dataclass(frozen=True, slots=True)
class SetReturnPath:
    """Put this path in place of the one of its family. Who stays in the group loses no packet."""

    path: ReturnPath


@dataclass(frozen=True, slots=True)
class RemoveReturnPath:
    version: int


Operation = (
    SetSysctl
    | SetTimeouts
    | ReplaceFilter
    | RemoveFilter
    | ReplaceTranslation
    | RemoveTranslation
    | ReplaceDelivery
    | RemoveDelivery
    | AddAddress
    | RemoveAddress
    | AddService
    | UpdateService
    | RemoveService
    | AddDestination
    | SetWeight
    | RemoveDestination
    | AddProbeDevice
    | RemoveProbeDevice
    | AddProbeRoute
    | RemoveProbeRoute
    | EnsureLink
    | RemoveLink
    | EnsureTunnel
    | RemoveTunnel
    | EnsureReturnTunnel
    | RemoveReturnTunnel
    | AttachPrograms
    | RemoveRemains
    | SetReturnPath
    | RemoveReturnPath
)


@dataclass(frozen=True, slots=True)
class RouteAttributes:
    """What routers are told with a route. ``None`` and 0 mean that nothing is said.

    ``communities`` are canonical and in order (:mod:`lbnode.communities`); ``prepend`` is how many more times our AS stands in the path
    (other ASes only); ``local_preference`` goes to peers of our own AS only (RFC 4271 section 5.1.5). ``covered`` routes are kept by the daemon and read
    back, and no router hears of them: an aggregate stands for them.
    """

    communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None
    prepend: int = 0
    covered: bool = False

    def __str__(self) -> str:
        said = [f"community {c}" for c in self.communities]
        said += [f"local preference {self.local_preference}"] if self.local_preference is not None else []
        said += [f"MED {self.med}"] if self.med is not None else []
        said += [f"prepended {self.prepend}x"] if self.prepend else []
        said += ["covered by an aggregate"] if self.covered else []
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a VIP is announced by this edge node, and why. ``reason`` is one CamelCase word; ``detail`` is for people."""

    announce: bool
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a Service, one port of it, or its active probe is refused. ``reason`` is one CamelCase word; ``message`` names value, rule and way out."""

    service: ServiceName
    reason: str
    message: str


# Facts about VIPs and workers, made by lbnode.translate and the probes, judged by lbnode.announce.


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker node in one address family. ``probe_address`` is ``None`` when no probe network gives it one of its own."""

    name: str
    address: IPAddress
    probe_address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """What an edge node knows of its workers, by node address. A worker in neither set is undecided.

    ``without_endpoints`` holds the pairs of Service and worker for which the worker's own kube-proxy says that it has no endpoint,
    ``failing_probes`` those for which the worker says that its pods fail the Service's active probe.
    """

    healthy: frozenset[IPAddress] = frozenset()
    unhealthy: frozenset[IPAddress] = frozenset()
    without_endpoints: frozenset[tuple[ServiceName, IPAddress]] = frozenset()
    failing_probes: frozenset[tuple[ServiceName, IPAddress]] = frozenset()


@dataclass(frozen=True, slots=True)
class VipFacts:
    """What the cluster says of one VIP.

    ``workers`` may deliver now, probes aside; ``held`` are those of them that count only because their Node is Unknown;
    ``terminating_only`` says that no endpoint is ready and serving terminating ones stand in (kube-proxy reports none then, yet delivers);
    ``endpoints`` counts the endpoints that kube-proxy delivers to, wherever they are. ``attributes`` go with its route; ``elsewhere`` is a
    reason and its explanation when it is for other edge nodes to announce. ``sharing`` are the facts of younger Services that share the
    address, each by itself. With ``probed`` false the VIP is served by translation: then ``workers`` are the pods themselves, which no tunnel
    leads to and nobody probes. ``refused`` is set when no port of the Service is served: the first refusal's reason and message.
    """

    address: IPAddress
    service: ServiceName
    workers: frozenset[IPAddress] = frozenset()
    held: frozenset[IPAddress] = frozenset()
    endpoints: int = 0
    terminating_only: bool = False
    deleting: bool = False
    attributes: RouteAttributes = RouteAttributes()
    elsewhere: tuple[str, str] | None = None
    sharing: tuple[VipFacts, ...] = ()
    probed: bool = True
    refused: tuple[str, str] | None = None

    @property
    def all_services(self) -> tuple[VipFacts, ...]:
        """The facts of each Service at this address, the oldest first."""
        return (self, *self.sharing)
