"""The balancer in XDP: services by tunnel in the maps of our program, the rest, if there is any, in IPVS."""

from __future__ import annotations

import socket
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from lbnode.dataplane.base import BalancerOperation
from lbnode.dataplane.ipvs_traffic import IpvsBalancer
from lbnode.dataplane.service_list import carry_out
from lbnode.dataplane.xdp_program import Attachment, vlan_links
from lbnode.dataplane.xdp_records import LinkRecord
from lbnode.dataplane.xdp_state import XdpState, no_source
from lbnode.dataplane.xdp_table import Limited, Served
from lbnode.errors import Retry
from lbnode.model import (
    DestinationTraffic,
    Drops,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    Protocol,
    VirtualKey,
    VirtualService,
    address_order,
)
from lbnode.operations import AddDestination, AddService, RemoveService, SetTimeouts, UpdateService
from lbnode.settings import DataPlane

_IPVS = Path("/proc/thread-self/net/ip_vs")
_VLANS = Path("/proc/thread-self/net/vlan/config")
_ANY_PORT = 9


class XdpBalancer:
    """:class:`lbnode.dataplane.base.Balancer` in XDP. The program forwards by tunnel, and TCP and UDP only: services by translation and those
    of SCTP go to IPVS, which is asked for nothing while there are none and nobody else has loaded it.

    Of the idle times, that of UDP is the program's; a flow of TCP leaves the table when another one needs its place.
    """

    def __init__(self, pools: Iterable[IPNetwork], state: XdpState, attachment: Attachment) -> None:
        self._pools = tuple(pools)
        self._state = state
        self._attachment = attachment
        self._ipvs = IpvsBalancer(self._pools)
        self._limited: Limited | None = None

    @property
    def pools(self) -> tuple[IPNetwork, ...]:
        return self._pools

    @pools.setter
    def pools(self, pools: tuple[IPNetwork, ...]) -> None:
        self._pools = self._ipvs.pools = pools

    @property
    def dataplane(self) -> DataPlane:
        return "xdp"

    @property
    def programs(self) -> Mapping[str, int]:
        """As :attr:`lbnode.dataplane.base.Balancer.programs`."""
        return {attached.device: attached.number for attached in self._attachment.devices}

    def attach_again(self, devices: Iterable[str]) -> None:
        """As :meth:`lbnode.dataplane.base.Balancer.attach_again`."""
        self._attachment.attach_again(devices)

    def close(self) -> None:
        self._state.close()
        self._attachment.close()
        self._ipvs.close()

    def remove(self) -> None:
        """As :meth:`lbnode.dataplane.base.Balancer.remove`. Until it is closed, what was loaded goes on with nothing coming in."""
        self._attachment.remove()

    def services(self) -> tuple[VirtualService, ...]:
        """As :meth:`lbnode.dataplane.base.Balancer.services`."""
        self._state.set_links(_vlans())
        self._state.end_capture(time.monotonic_ns())
        present = self._state.read()
        ours = [s.service for s in present.values() if any(s.service.key.address in p for p in self._pools)]
        return tuple(sorted((*ours, *self._theirs(present)), key=lambda s: s.key.order))

    def _of_ipvs(self) -> tuple[VirtualService, ...]:
        return self._ipvs.services() if _IPVS.exists() else ()

    def _theirs(self, present: Container[VirtualKey]) -> list[VirtualService]:
        return [s for s in self._of_ipvs() if not is_left_over(s, present)]

    def _left_over(self) -> list[VirtualKey]:
        theirs = self._of_ipvs()
        present = self._state.read() if theirs else {}
        return [s.key for s in theirs if is_left_over(s, present)]

    def has_remains(self) -> bool:
        """As :meth:`lbnode.dataplane.base.Balancer.has_remains`."""
        return bool(self._left_over())

    def remove_remains(self) -> None:
        """As :meth:`lbnode.dataplane.base.Balancer.remove_remains`."""
        if left := self._left_over():
            self._ipvs.apply([RemoveService(key) for key in left])

    def timeouts(self) -> IpvsTimeouts:
        return self._state.timeouts()

    def limits_known(self) -> bool:
        """As :meth:`lbnode.dataplane.base.Balancer.limits_known`."""
        return self._state.limited() is not None

    def limit(self, limited: Limited) -> None:
        """As :meth:`lbnode.dataplane.base.Balancer.limit`."""
        self._limited = limited
        present = self._state.read()
        self._write(present, {key: s.service for key, s in present.items()})

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """As :meth:`lbnode.dataplane.base.Balancer.traffic`. The program holds no connections, so none are told."""
        present, found, theirs = self._state.read(), [], []
        for key in keys:
            if key not in present:
                theirs.append(key)
                continue
            places = present[key].places
            for destination in present[key].service.destinations:
                counted = self._state.counted(places[destination.place].number)
                found.append(DestinationTraffic(key, destination.address, counted))
        if theirs and _IPVS.exists():
            found += self._ipvs.traffic(theirs)
        return tuple(found)

    def drops(self) -> Drops:
        """As :meth:`lbnode.dataplane.base.Balancer.drops`. What IPVS serves beside the program is not among them."""
        return self._state.drops({s.number: key for key, s in self._state.read().items()})

    def apply(self, operations: Sequence[BalancerOperation]) -> None:
        """As :meth:`lbnode.dataplane.base.Balancer.apply`. The program meets the services as they were, or as they are after all operations."""
        present = self._state.read()
        ours = {key: s.service for key, s in present.items()}
        theirs = {s.key: s for s in self._theirs(present)}
        for_ipvs: list[BalancerOperation] = []
        refused: Retry | None = None
        for operation in operations:
            try:
                self._carry_out(operation, ours, theirs, for_ipvs)
            except Retry as error:
                refused = error
                break
        if ours != {key: s.service for key, s in present.items()}:
            self._write(present, ours)
        if for_ipvs:
            self._ipvs.apply(for_ipvs)
        if refused is not None:
            raise refused

    def _carry_out(
        self,
        operation: BalancerOperation,
        ours: dict[VirtualKey, VirtualService],
        theirs: dict[VirtualKey, VirtualService],
        for_ipvs: list[BalancerOperation],
    ) -> None:
        if isinstance(operation, SetTimeouts):
            self._state.set_timeouts(operation.timeouts)
            return
        key = operation.service.key if isinstance(operation, AddService | UpdateService) else operation.key
        if isinstance(operation, AddDestination) and operation.nat_port is not None and key in ours:
            # The first destination says which way a service is served.
            if ours[key].destinations:
                carry_out(dict(ours), operation)
                raise Retry(f"the data plane refused {operation}: others of the service are served by tunnel")
            theirs[key] = ours.pop(key)
            for_ipvs.append(AddService(theirs[key]))
        to_ipvs = key in theirs or (isinstance(operation, AddService) and key.protocol is Protocol.SCTP)
        carry_out(theirs if to_ipvs else ours, operation)
        if to_ipvs:
            for_ipvs.append(operation)

    def _write(self, present: Mapping[VirtualKey, Served], wanted: Mapping[VirtualKey, VirtualService]) -> None:
        workers = {d.address for service in wanted.values() for d in service.destinations}
        sources = {worker: source_towards(worker) for worker in workers}
        reached = {worker: source for worker, source in sources.items() if source is not None}
        possible = {
            key: replace(s, destinations=tuple(d for d in s.destinations if d.address in reached))
            for key, s in wanted.items()
        }
        limited = self._limited if self._limited is not None else self._state.limited()
        self._state.write(present, possible, reached, limited)
        if len(reached) < len(sources):
            raise no_source(min(sources.keys() - reached.keys(), key=address_order))


def is_left_over(service: VirtualService, ours: Container[VirtualKey]) -> bool:
    """Whether a service of IPVS is none that this balancer puts there: the program serves it, or is to serve what an agent with IPVS served."""
    by_tunnel = any(d.nat_port is None for d in service.destinations)
    return service.key in ours or (by_tunnel and service.key.protocol is not Protocol.SCTP)


def _vlans() -> dict[int, LinkRecord]:
    return vlan_links(_VLANS.read_text(), socket.if_nametoindex) if _VLANS.exists() else {}


def source_towards(worker: IPAddress) -> IPAddress | None:
    """The address of this node that the kernel's routes give packets to ``worker``; ``None`` where no route leads there. Nothing is sent."""
    family = socket.AF_INET if worker.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((str(worker), _ANY_PORT))
        except OSError:
            return None
        return ip_address(asking.getsockname()[0])
