"""The agent of the endpoint benchmark: the edge role as it is, over the API server in KUBECONFIG, with a data plane and a speaker in memory.

`python -m bench.churn_agent FILE SERVICES` writes a line to FILE at each change of a destination (`seconds vip worker drained`, monotonic), and
`seconds synced` once that many services were there for the first time. Probes always succeed, at the pace of the real ones.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from bench.churn_objects import EDGE, settings
from lbnode.dataplane.memory import MemoryEdge
from lbnode.kube.client import client
from lbnode.kube.watcher import Watcher
from lbnode.model import IPAddress
from lbnode.observe import EdgeMetrics, configure_logging
from lbnode.operations import AddDestination, Operation, SetWeight
from lbnode.probe import ProbeResult
from lbnode.roles.cycles import collect_seldom
from lbnode.roles.edge import Edge
from lbnode.roles.loop import Loop
from lbnode.roles.start import RESYNC_SECONDS
from lbnode.settings import AgentSettings
from lbnode.speaker.memory import MemorySpeaker


class WatchedEdge(MemoryEdge):
    """Says when each destination changed."""

    def __init__(self, now: AgentSettings, output: TextIO, services: int) -> None:
        super().__init__(now.pool_networks, {})
        self._output, self._services, self._synced = output, services, False

    def apply(self, operations: Sequence[Operation]) -> None:
        super().apply(operations)
        at = time.monotonic()
        if self._synced:
            # What a destination is given on the way to its weight is no state that anybody asked for.
            last = {(o.key, o.address): o.weight for o in operations if isinstance(o, SetWeight | AddDestination)}
            self._output.writelines(
                f"{at:.6f} {key.address} {worker} {int(weight == 0)}\n" for (key, worker), weight in last.items()
            )
        elif len(self.services) == self._services:
            self._synced = True
            self._output.write(f"{at:.6f} synced\n")
        self._output.flush()


async def run(output: TextIO, services: int) -> None:
    """Until killed; wired as :func:`lbnode.roles.start._edge` does it."""
    now = settings()
    metrics = EdgeMetrics()
    loop = Loop(RESYNC_SECONDS, metrics.reconcile_failed, metrics.reconcile_succeeded)
    watcher = Watcher(client(), loop.wake)

    def make_speaker(current: AgentSettings, addresses: tuple[IPAddress, ...]) -> MemorySpeaker:
        return MemorySpeaker(current.bgp, current.pools, EDGE, addresses)

    edge = Edge(
        EDGE,
        lambda: now,
        lambda: watcher.copy,
        WatchedEdge(now, output, services),
        make_speaker,
        metrics,
        time.monotonic,
    )

    async def probe() -> None:
        while True:
            await asyncio.sleep(now.health.interval_ms / 1000)
            if edge.probed(tuple(ProbeResult(w, True, "Answered", 1.0) for w in edge.probe_targets())):
                loop.wake()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect_seldom())
        tasks.create_task(watcher.run())
        tasks.create_task(probe())
        tasks.create_task(loop.run(edge.pass_once))


def main(file: str, services: str) -> None:
    """Run the agent."""
    configure_logging("error", role="edge", node=EDGE)
    with Path(file).open("w", encoding="utf-8") as output:
        asyncio.run(run(output, int(services)))


if __name__ == "__main__":
    main(*sys.argv[1:3])
