"""What an edge node forwards by, as its kernel holds it, whichever data plane it has; and that spoilt on purpose, for controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from lab.machines import Machine
from lab.report.ipvs_tables import IpvsTables
from lab.report.xdp_tables import XdpTables

if TYPE_CHECKING:
    from lab.report.bench import Target

Table = dict[str, list[tuple[str, int]]]
"""Workers with their weights for new flows, 0 for one that gets none, by service (`t ADDRESS:PORT`)."""


class Tables(Protocol):
    """One edge node's. Each method asks or changes the kernel itself, beside the agent; all raise CommandError when it cannot be asked."""

    @property
    def dataplane(self) -> Literal["ipvs", "xdp"]: ...

    def table(self) -> Table:
        """The services with their workers."""
        ...

    def picks(self) -> dict[str, object]:
        """What the choice for a new flow follows from, by service: two nodes where that is equal choose alike."""
        ...

    def connections(self, target: Target) -> int:
        """Connections that were counted for the target since its service exists."""
        ...

    def clear(self) -> None:
        """Take every service away, as a stranger's mistake might."""
        ...

    def seconds_cleared(self, target: Target, limit_seconds: float) -> float | None:
        """:meth:`clear`, and how long the target's address was not served then, timed on the machine; None if for all of `limit_seconds`."""
        ...

    def pick_otherwise(self, *targets: Target) -> str:
        """Let new flows to the targets go elsewhere than at other edge nodes; says how. An agent that runs mends that."""
        ...


def tables_of(machine: Machine) -> Tables:
    """Those of the data plane that is at work on an edge machine: XDP where a program is at its network device."""
    shown = machine.run("ip -o link show dev vec0").stdout
    return XdpTables(machine) if "xdp" in shown else IpvsTables(machine)
