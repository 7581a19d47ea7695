"""What a data plane is: it can be read, and it can be changed by operations. Nothing else in the agent touches the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from lbnode.dataplane.service_list import ServiceOperation
from lbnode.model import (
    DestinationTraffic,
    Drops,
    EdgeState,
    IPNetwork,
    IpvsTimeouts,
    VirtualKey,
    VirtualService,
    WorkerState,
)
from lbnode.model import Protocol as TransportProtocol
from lbnode.operations import Operation, SetTimeouts
from lbnode.settings import DataPlane

BalancerOperation = ServiceOperation | SetTimeouts


class Balancer(Protocol):
    """What balances in the kernel: services whose address lies in ``pools``, which may be changed at any time."""

    pools: tuple[IPNetwork, ...]

    @property
    def dataplane(self) -> DataPlane:
        """Which one this is."""

    @property
    def programs(self) -> Mapping[str, int]:
        """The kernel's numbers of the XDP programs that are at work here, by device."""

    def attach_again(self, devices: Iterable[str]) -> None:
        """Have the program at those of its devices that lost it. Raises as :meth:`apply`."""

    def services(self) -> tuple[VirtualService, ...]:
        """The services of the pools, sorted by key, the destination that came last first. Raises as :meth:`EdgeDataPlane.apply`."""

    def timeouts(self) -> IpvsTimeouts:
        """Raises as :meth:`services`."""

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """As :meth:`EdgeDataPlane.traffic`."""

    def drops(self) -> Drops:
        """As :meth:`EdgeDataPlane.drops`."""

    def apply(self, operations: Sequence[BalancerOperation]) -> None:
        """Carry out the operations. Raises as :meth:`EdgeDataPlane.apply`."""

    def limits_known(self) -> bool:
        """Whether what :meth:`limit` was told last is still in force."""

    def limit(self, limited: frozenset[tuple[VirtualKey, IPNetwork]]) -> None:
        """Which clients alone may use some of the services, as in :class:`lbnode.packet_tables.EdgeFilter`: for a balancer that takes packets before the
        packet filter sees them. Raises as :meth:`apply`.
        """

    def has_remains(self) -> bool:
        """Whether there are services that an agent with IPVS left and this balancer serves by itself. Raises as :meth:`services`."""

    def remove_remains(self) -> None:
        """Take those away. Raises as :meth:`apply`."""

    def remove(self) -> None:
        """Take away what is left without services. Raises as :meth:`apply`."""

    def close(self) -> None:
        """Close what was opened. The kernel's state stays."""


class EdgeDataPlane(Protocol):
    """The edge node's kernel state: IPVS, VIPs, packet filter, probe device, sysctls. Only what lies in the pools is seen or touched."""

    def read(self) -> EdgeState:
        """The state now. Raises :class:`lbnode.errors.Retry` when the kernel cannot be asked."""

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """What the kernel counted for each destination of these services. A service that is not there has none. Raises as :meth:`read`."""

    def drops(self) -> Drops:
        """Packets for VIPs that went nowhere, by service and reason; nothing where the data plane does not count them. Raises as :meth:`read`."""

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations in order.

        Raises:
            ConfigError: the kernel lacks something; the message says which module and how to load it.
            Retry: an operation failed. Earlier ones are done, and later ones may be: IPVS carries out a whole batch. Read again and
                diff again.
        """

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know but need not stop for."""

    def missing_protocols(self) -> frozenset[TransportProtocol]:
        """Protocols that cannot be served here, by trying them: SCTP at most. The same answer until closed. Raises as :meth:`read`."""

    def clear(self) -> None:
        """Take away VIPs and what balances, for an agent with another data plane. What probes, guards and leads to routers, and what comes back
        through this node, stays. Raises as :meth:`apply`.
        """

    def limits_syn(self) -> bool:
        """Whether the packet filter can limit new TCP connections here, by trying it. The same answer until closed. Raises as :meth:`read`."""

    def clean(self) -> None:
        """Take away exactly our own state and put former sysctl values back. Raises as :meth:`apply`."""

    def close(self) -> None:
        """Close what was opened for reading and writing. The kernel's state stays."""


class WorkerDataPlane(Protocol):
    """The worker's kernel state: tunnels from the edge nodes, packet filter, probe addresses, sysctls."""

    def read(self) -> WorkerState:
        """The state now. Raises :class:`lbnode.errors.Retry` when the kernel cannot be asked."""

    def apply(self, operations: Sequence[Operation]) -> None:
        """As :meth:`EdgeDataPlane.apply`."""

    def warnings(self) -> tuple[str, ...]:
        """As :meth:`EdgeDataPlane.warnings`."""

    def clean(self) -> None:
        """As :meth:`EdgeDataPlane.clean`."""

    def close(self) -> None:
        """As :meth:`EdgeDataPlane.close`."""
