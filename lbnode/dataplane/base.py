"""What a data plane is: it can be read, and it can be changed by operations. Nothing else in the agent touches the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lbnode.model import EdgeState, Operation, WorkerState


class EdgeDataPlane(Protocol):
    """The edge node's kernel state: IPVS, VIPs, packet filter, probe device, sysctls. Only what lies in the pools is seen or touched."""

    def read(self) -> EdgeState:
        """The state now. Raises :class:`lbnode.errors.Retry` when the kernel cannot be asked."""

    def apply(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations in order.

        Raises:
            ConfigError: the kernel lacks something; the message says which module and how to load it.
            Retry: an operation failed; earlier ones are done, later ones are not. Read again and diff again.
        """


class WorkerDataPlane(Protocol):
    """The worker's kernel state: tunnels from the edge nodes, packet filter, probe addresses, sysctls."""

    def read(self) -> WorkerState:
        """The state now. Raises :class:`lbnode.errors.Retry` when the kernel cannot be asked."""

    def apply(self, operations: Sequence[Operation]) -> None:
        """As :meth:`EdgeDataPlane.apply`."""
