"""The edge nodes that every role has to know: those of the cluster, and those outside that the settings name. Pure."""

from __future__ import annotations

from dataclasses import replace

from lbnode.objects import DRAIN_ANNOTATION, NodeObject, Snapshot
from lbnode.settings import AgentSettings


def with_outside_edges(snapshot: Snapshot, settings: AgentSettings) -> Snapshot:
    """The snapshot with a Node for each edge node outside the cluster. A Node of the cluster of the same name counts instead."""
    if not settings.outside_edges:
        return snapshot
    outside = {
        edge.name: NodeObject(
            edge.name,
            labels={**edge.labels, **settings.edge_node_selector},
            annotations={DRAIN_ANNOTATION: "true"} if edge.draining else {},
            addresses=edge.addresses,
        )
        for edge in settings.outside_edges
    }
    return replace(snapshot, nodes={**outside, **snapshot.nodes})
