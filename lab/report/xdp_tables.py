"""The tables of an edge node with XDP, read from the program's maps and changed in them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab.machines import Machine

if TYPE_CHECKING:
    from lab.report.bench import Target

_SCRIPT = Path(__file__).parent / "xdp_maps.py"


class XdpTables:
    """:class:`lab.report.tables.Tables` of XDP."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def dataplane(self) -> Literal["xdp"]:
        return "xdp"

    def table(self) -> dict[str, list[tuple[str, int]]]:
        return {name: [(worker, weight) for worker, weight, _ in workers] for name, workers in self._services().items()}

    def picks(self) -> dict[str, object]:
        """The worker of each slot of the ring."""
        found: dict[str, object] = json.loads(self._on_node("rings"))
        return found

    def connections(self, target: Target) -> int:
        return sum(self.connections_by_worker(target).values())

    def connections_by_worker(self, target: Target) -> dict[str, int]:
        """As :meth:`connections`, by the workers' addresses."""
        return {worker: count for worker, _, count in self._services().get(target.key, [])}

    def clear(self) -> None:
        self._on_node("clear")

    def seconds_cleared(self, target: Target, limit_seconds: float) -> float | None:
        said = self._on_node("clear", target.vip, str(limit_seconds), timeout_seconds=limit_seconds + 30).strip()
        return float(said) if said else None

    def pick_otherwise(self, *targets: Target) -> str:
        self._on_node("turn", *(target.key for target in targets))
        return "every slot of the ring with the next worker"

    def _services(self) -> dict[str, list[tuple[str, int, int]]]:
        found: dict[str, list[tuple[str, int, int]]] = json.loads(self._on_node("services"))
        return found

    def _on_node(self, *words: str, timeout_seconds: float = 30.0) -> str:
        # The machine has neither Python nor libbpf: both are in the agent's image, whose files the agent's process sees, also while it is stopped.
        agent = "\"$(pgrep -o -f '[l]bnode run edge')\""
        command = f"exec nsenter --mount --target {agent} -- /usr/bin/python3 -I - {shlex.join(words)}"
        return self._machine.run(command, timeout_seconds, input=_SCRIPT.read_text()).stdout
