"""The packet filters of our own as values: what an edge node and a worker let in, translate and deliver. A digest tells one from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lbnode.model import IPAddress, IPNetwork, VirtualKey


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
