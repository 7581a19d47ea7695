"""Data planes in memory with the kernel's semantics: twins of the real ones, for tests and for trying things out.

They pass the same conformance suite (``tests/conformance``). What they imitate: a new destination goes to the head of the list; the
kernel shows only the present weight, and the last one that was not 0 is known while the destination stays; twice the same service or
destination, or none where one is named, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lbnode.dataplane.service_list import ServiceOperation, carry_out
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import (
    Counters,
    DestinationTraffic,
    Drops,
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    Remains,
    ReturnPath,
    ReturnTunnel,
    RouterLink,
    Tunnel,
    VirtualKey,
    VirtualService,
    WorkerState,
)
from lbnode.operations import (
    AddAddress,
    AddProbeDevice,
    AddProbeRoute,
    AttachPrograms,
    EnsureLink,
    EnsureReturnTunnel,
    EnsureTunnel,
    Operation,
    RemoveAddress,
    RemoveDelivery,
    RemoveFilter,
    RemoveLink,
    RemoveProbeDevice,
    RemoveProbeRoute,
    RemoveRemains,
    RemoveReturnPath,
    RemoveReturnTunnel,
    RemoveService,
    RemoveTranslation,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    ReplaceTranslation,
    SetReturnPath,
    SetSysctl,
    SetTimeouts,
)
from lbnode.packet_tables import DeliveryTable


class _Node:
    """What both roles have: sysctls, a packet filter, addresses on the loopback device. ``writes`` counts operations."""

    def __init__(self, networks: Iterable[IPNetwork], sysctls: dict[str, str] | None) -> None:
        self._networks = tuple(networks)
        #: Whether an address is in one of them: readers ask for each of a thousand every time.
        self._known_addresses: dict[IPAddress, bool] = {}
        self.sysctls = dict(sysctls or {})
        self.addresses: set[IPAddress] = set()
        self.filter_digest: str | None = None
        self.writes = 0

    def close(self) -> None:
        """Nothing is held open."""

    def warnings(self) -> tuple[str, ...]:
        return ()

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            if not (self._shared(operation) or self._own(operation)):
                raise Bug(f"{operation} is not for this role")
            self.writes += 1

    def _own(self, operation: Operation) -> bool:
        raise NotImplementedError

    def _is_ours(self, address: IPAddress) -> bool:
        if (known := self._known_addresses.get(address)) is None:
            known = self._known_addresses[address] = any(address in n for n in self._networks)
        return known

    def _ours(self) -> frozenset[IPAddress]:
        return frozenset(filter(self._is_ours, self.addresses))

    def _shared(self, operation: Operation) -> bool:
        match operation:
            case SetSysctl(name, value):
                self.sysctls[name] = value
            case ReplaceFilter(table):
                self.filter_digest = table.digest
            case RemoveFilter():
                self.filter_digest = None
            case AddAddress(address):
                self.addresses.add(address)
            case RemoveAddress(address):
                self.addresses.discard(address)
            case _:
                return False
        return True


class MemoryEdge(_Node):
    """Twin of :class:`lbnode.dataplane.edge.KernelEdge`."""

    def __init__(self, pools: Iterable[IPNetwork], sysctls: dict[str, str] | None = None) -> None:
        super().__init__(pools, sysctls)
        #: As after loading ``ip_vs``: its own default for UDP is 300 s.
        self.timeouts = IpvsTimeouts(900, 120, 300)
        self.services: dict[VirtualKey, VirtualService] = {}
        self.probe_devices: set[int] = set()
        self.probe_routes: set[ProbeRoute] = set()
        self.links: dict[str, RouterLink] = {}
        self.return_tunnels: dict[str, ReturnTunnel] = {}
        self.translation_digest: str | None = None
        self.missing: frozenset[Protocol] = frozenset()
        #: What a test says that another agent left.
        self.remains: frozenset[Remains] = frozenset()
        #: And what it says that devices lost.
        self.lost_programs: frozenset[str] = frozenset()
        self.able_to_limit_syn = True
        #: What a test says went through; as in the kernel it goes with its service.
        self.counted: dict[tuple[VirtualKey, IPAddress], Counters] = {}
        #: And what it says that was dropped.
        self.dropped: Drops = {}

    def missing_protocols(self) -> frozenset[Protocol]:
        return self.missing

    def limits_syn(self) -> bool:
        return self.able_to_limit_syn

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        return tuple(
            DestinationTraffic(k, d.address, self.counted.get((k, d.address), Counters()))
            for k in keys
            if k in self.services
            for d in self.services[k].destinations
        )

    def drops(self) -> Drops:
        return dict(self.dropped)

    def read(self) -> EdgeState:
        ours = [s for s in self.services.values() if self._is_ours(s.key.address)]
        return EdgeState(
            sysctls=dict(self.sysctls),
            timeouts=self.timeouts,
            filter_digest=self.filter_digest,
            vips=self._ours(),
            services=tuple(sorted(ours, key=lambda s: s.key.order)),
            probe_devices=frozenset(self.probe_devices),
            probe_routes=frozenset(self.probe_routes),
            translation_digest=self.translation_digest,
            links=frozenset(self.links.values()),
            return_tunnels=frozenset(self.return_tunnels.values()),
            remains=self.remains,
            lost_programs=self.lost_programs,
        )

    def clear(self) -> None:
        self.addresses -= self._ours()
        self.services = {k: s for k, s in self.services.items() if not self._is_ours(k.address)}
        self.remains = frozenset()

    def clean(self) -> None:
        self.clear()
        self.probe_devices.clear()
        self.probe_routes.clear()
        self.links.clear()
        self.return_tunnels.clear()
        self.filter_digest = None
        self.translation_digest = None

    def _own(self, operation: Operation) -> bool:
        if isinstance(operation, ServiceOperation):
            carry_out(self.services, operation)
            if isinstance(operation, RemoveService):
                self.counted = {at: c for at, c in self.counted.items() if at[0] != operation.key}
            return True
        match operation:
            case SetTimeouts(timeouts):
                self.timeouts = timeouts
            case AddProbeDevice(version):
                self.probe_devices.add(version)
            case RemoveProbeDevice(version):
                self.probe_devices.discard(version)
                self.probe_routes = {r for r in self.probe_routes if r.probe_address.version != version}
            case EnsureLink(link):
                ends = (link.node_address, link.router_address)
                if any((o.node_address, o.router_address) == ends for n, o in self.links.items() if n != link.device):
                    raise ConfigError(f"link {link.name}", "another GRE device has the same ends", "Remove it")
                self.links[link.device] = replace(link, ready=True)
            case RemoveLink(device):
                self.links.pop(device, None)
            case EnsureReturnTunnel(tunnel):
                self.return_tunnels[tunnel.device] = replace(tunnel, ready=True)
            case AttachPrograms(devices):
                self.lost_programs -= devices
            case RemoveRemains(remains):
                self.remains -= remains
            case RemoveReturnTunnel(device):
                self.return_tunnels.pop(device, None)
            case ReplaceTranslation(table):
                self.translation_digest = table.digest
            case RemoveTranslation():
                self.translation_digest = None
            case AddProbeRoute(route):
                if route.probe_address.version not in self.probe_devices:
                    raise Retry("the probe device is missing")
                self.probe_routes = {r for r in self.probe_routes if r.probe_address != route.probe_address} | {route}
            case RemoveProbeRoute(route):
                self.probe_routes = {r for r in self.probe_routes if r.probe_address != route.probe_address}
            case _:
                return False
        return True


class MemoryWorker(_Node):
    """Twin of :class:`lbnode.dataplane.worker.KernelWorker`."""

    def __init__(self, probe_networks: Iterable[IPNetwork], sysctls: dict[str, str] | None = None) -> None:
        super().__init__(probe_networks, sysctls)
        self.tunnels: dict[str, Tunnel] = {}
        self.delivery: DeliveryTable | None = None
        self.return_paths: dict[int, ReturnPath] = {}

    def read(self) -> WorkerState:
        return WorkerState(
            sysctls=dict(self.sysctls),
            filter_digest=self.filter_digest,
            tunnels=frozenset(self.tunnels.values()),
            probe_addresses=self._ours(),
            delivery_digest=self.delivery.digest if self.delivery is not None else None,
            return_paths=frozenset(self.return_paths.values()),
        )

    def clean(self) -> None:
        self.addresses -= self._ours()
        self.return_paths.clear()
        self.tunnels.clear()
        self.filter_digest = None
        self.delivery = None

    def _own(self, operation: Operation) -> bool:
        match operation:
            case EnsureTunnel(tunnel):
                self.tunnels[tunnel.device] = replace(tunnel, ready=True)
            case RemoveTunnel(device):
                self.tunnels.pop(device, None)
                # The kernel takes routes and next hops with their device.
                for version, path in self.return_paths.items():
                    left = [frozenset(e for e in of if path.device(e) != device) for of in (path.edges, path.group)]
                    self.return_paths[version] = replace(path, edges=left[0], group=left[1])
            case SetReturnPath(path):
                missing = [e for e in path.edges | path.group if path.device(e) not in self.tunnels]
                if missing or not path.group:
                    raise Retry(f"the way back leads to tunnels that are missing: {sorted(map(str, missing))}")
                self.return_paths[path.version] = replace(path, ready=True)
            case RemoveReturnPath(version):
                self.return_paths.pop(version, None)
            case ReplaceDelivery(table):
                self.delivery = table
            case RemoveDelivery():
                self.delivery = None
            case _:
                return False
        return True
