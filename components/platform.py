"""What a fabric offers the load balancer. After it, the program is the same on every stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pulumi

from components.edge_node import EdgeNode
from lbnode.bgp_settings import Peer


@dataclass(frozen=True)
class Platform:
    """A Kubernetes cluster in a fabric that takes BGP announcements.

    ``liveness`` is how the fabric learns that an edge node is dead: by BFD, by the hold time alone, or by a balancer's health check.
    ``return_path`` is how replies leave: `direct` from the worker where the fabric carries foreign sources, else `via-edge`.
    ``vip_reachability`` says from where VIPs can be reached. ``peers`` is there where the fabric chooses addresses of sessions during `up`:
    all sessions, with these addresses in the place of those that the settings have. ``cost`` is what the fabric costs, as a stack output;
    ``public_address`` is one that the internet reaches the edge nodes by. ``outside_user`` is who edge nodes outside the cluster are to its API server.
    ``critical_pods_need_quota`` is so where pods of the critical priority classes are admitted into namespaces with a quota for them only.
    """

    name: str
    kubernetes: pulumi.ProviderResource
    edge_nodes: tuple[EdgeNode, ...]
    edge_selector: Mapping[str, str]
    worker_selector: Mapping[str, str]
    mtu_bytes: int
    liveness: Literal["bfd", "hold-time", "health-check"]
    return_path: Literal["direct", "via-edge"]
    vip_reachability: Literal["routed"]
    peers: pulumi.Output[tuple[Peer, ...]] | None = None
    cost: Mapping[str, Any] | None = None
    public_address: pulumi.Output[str] | None = None
    outside_user: str | None = None
    critical_pods_need_quota: bool = False

    def sessions(self) -> pulumi.Output[dict[str, list[str]]]:
        """Each edge node's sessions in words; unknown at preview where the fabric chooses addresses."""
        if self.peers is None:
            return pulumi.Output.from_input({node.name: _words(node.peers) for node in self.edge_nodes})
        names = [node.name for node in self.edge_nodes]
        return self.peers.apply(
            lambda peers: {name: _words(tuple(p for p in peers if not p.nodes or name in p.nodes)) for name in names}
        )


def _words(peers: tuple[Peer, ...]) -> list[str]:
    return [f"{peer.name} {peer.address} AS{peer.asn}" for peer in peers]
