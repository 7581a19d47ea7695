"""What a data plane is: it can be read, and it can be changed by operations. Nothing else in the agent touches the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from lbnode.model import DestinationTraffic, EdgeState, Operation, VirtualKey, WorkerState
from lbnode.model import Protocol as TransportProtocol


class EdgeDataPlane(Protocol):
    """The edge node's kernel state: IPVS, VIPs, packet filter, probe device, sysctls. Only what lies in the pools is seen or touched."""

    def read(self) -> EdgeState:
        """The state now. Raises :class:`lbnode.errors.Retry` when the kernel cannot be asked."""

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """What the kernel counted for each destination of these services. A service that is not there has none. Raises as :meth:`read`."""

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
