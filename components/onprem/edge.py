"""Which edge nodes peer with which routers, and how routers notice a dead one."""

from __future__ import annotations

from typing import Literal

from components.edge_node import EdgeNode
from components.settings import OnPrem, StackSettings


def edge_nodes(settings: StackSettings, platform: OnPrem) -> tuple[EdgeNode, ...]:
    """The named edge nodes, each with its peers; a peer that names no nodes is every node's."""
    peers = settings.agent.bgp.peers
    return tuple(
        EdgeNode(name, tuple(p for p in peers if not p.nodes or name in p.nodes)) for name in platform.edge_nodes
    )


def liveness(settings: StackSettings) -> Literal["bfd", "hold-time"]:
    """By BFD only if every peer has it: the slowest router decides how long traffic is lost."""
    return "bfd" if all(peer.bfd is not None for peer in settings.agent.bgp.peers) else "hold-time"
