"""Frozen values that the agent's parts exchange: keys, desired and observed states.

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
    ``translation_digest``, that of the :class:`lbnode.packet_tables.TranslationTable`, which is there only while some VIP is served by translation.
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

    ``delivery_digest`` is that of the :class:`lbnode.packet_tables.DeliveryTable` in force; ``None`` when there is none or it was changed behind our back.
    ``return_paths`` are at most one a family; an observed one that is not exactly such a path has ``ready=False``.
    """

    sysctls: Mapping[str, str] = field(default_factory=dict)
    filter_digest: str | None = None
    tunnels: frozenset[Tunnel] = frozenset()
    probe_addresses: frozenset[IPAddress] = frozenset()
    delivery_digest: str | None = None
    return_paths: frozenset[ReturnPath] = frozenset()
