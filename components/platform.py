"""What a fabric offers the load balancer. After it, the program is the same on every stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pulumi

from lbnode.settings import Peer


@dataclass(frozen=True)
class EdgeNode:
    """A node that announces VIPs, and the routers it peers with."""

    name: str
    peers: tuple[Peer, ...]


@dataclass(frozen=True)
class Platform:
    """A Kubernetes cluster in a fabric that takes BGP announcements.

    ``liveness`` is how routers learn that an edge node is dead: by BFD, or by the hold time alone. ``return_path`` is how replies leave:
    `direct` from the worker where the fabric carries foreign sources, else `via-edge`. ``vip_reachability`` says from where VIPs can be reached.
    """

    name: str
    kubernetes: pulumi.ProviderResource
    edge_nodes: tuple[EdgeNode, ...]
    edge_selector: Mapping[str, str]
    worker_selector: Mapping[str, str]
    mtu_bytes: int
    liveness: Literal["bfd", "hold-time"]
    return_path: Literal["direct", "via-edge"]
    vip_reachability: Literal["routed"]
