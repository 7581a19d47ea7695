"""Which Services' parts of an edge node's plan can differ from the last time. Pure.

Endpoints that come and go are by far the most frequent change of a cluster, and touch one Service of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbnode.facts import WorkerHealth
from lbnode.model import Protocol, ServiceName
from lbnode.objects import Snapshot, services_touched
from lbnode.served import Served
from lbnode.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that the plan of an edge node is worked out from, as in :func:`lbnode.translate.edge.translate_edge`."""

    snapshot: Snapshot
    settings: AgentSettings
    node_name: str
    health: WorkerHealth
    graced: frozenset[tuple[ServiceName, str]]
    missing: frozenset[Protocol]
    limits_syn: bool

    @property
    def beside_endpoints(self) -> tuple[object, ...]:
        """What every Service's part depends on."""
        seen, unhealthy = self.snapshot, self.health.unhealthy
        own = (self.settings, self.node_name, unhealthy, self.missing, self.limits_syn)
        return (seen.services, seen.nodes, seen.rejections, *own)


def touched(before: Asked, now: Asked) -> frozenset[ServiceName] | None:
    """The Services whose endpoints differ, or what grace, kube-proxy or active probes say of them; ``None`` when more than that differs."""
    if before.beside_endpoints != now.beside_endpoints:
        return None
    said = {service for service, _ in before.graced ^ now.graced}
    if before.health is not now.health:
        said |= {service for service, _ in before.health.without_endpoints ^ now.health.without_endpoints}
        said |= {service for service, _ in before.health.failing_probes ^ now.health.failing_probes}
    return services_touched(before.snapshot.slices, now.snapshot.slices) | said


def outline(served: Served) -> tuple[object, ...]:
    """What of a Service's part others depend on: with the same outline another part can take its place in a plan."""
    facts = tuple((vip.address, vip.probed) for vip in served.facts)
    return (facts, [s.key for s in served.services], served.limited, served.rejections, served.warnings)
