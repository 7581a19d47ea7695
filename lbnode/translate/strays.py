"""Endpoints of our Services with Local policy on nodes that are no workers: traffic never gets there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lbnode.objects import EndpointSliceObject, NodeObject, ServiceObject, forwarding_of, is_ours
from lbnode.served import selector_text
from lbnode.settings import AgentSettings


def strays_of(
    service: ServiceObject,
    slices: Sequence[EndpointSliceObject],
    nodes: Mapping[str, NodeObject],
    settings: AgentSettings,
) -> list[str]:
    """Of one Service, told for people; none where it is not ours or goes anywhere from any node."""
    if not (is_ours(service, settings) and service.local) or forwarding_of(service, settings) == "nat":
        return []
    warnings = []
    for name in sorted({e.node_name for s in slices for e in s.endpoints if e.node_name}):
        node = nodes.get(name)
        if node is None or not node.matches(settings.worker_node_selector):
            what = "an edge node" if node is not None and node.matches(settings.edge_node_selector) else "no worker"
            warnings.append(
                f"{service.name} has endpoints on {name}, which is {what}: they get no traffic. "
                f"Keep its pods on workers ({selector_text(settings.worker_node_selector)})"
            )
    return warnings
