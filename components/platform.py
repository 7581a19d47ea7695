"""What a fabric offers the load balancer. After it, the program is the same on every stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

import pulumi

from lbnode.settings import Peer


@dataclass(frozen=True)
class Link:
    """A tunnel that a fabric wants between an edge node and its router.

    ``local`` and ``remote`` are the outer addresses, ``address`` is the node's own inside, with the link's prefix length.
    """

    name: str
    kind: Literal["gre"]
    local: IPv4Address
    remote: IPv4Address
    address: IPv4Address
    prefix_length: int
    mtu_bytes: int


@dataclass(frozen=True)
class EdgeNode:
    """A node that announces VIPs, the routers it peers with, and the links to them where the fabric has any."""

    name: str
    peers: tuple[Peer, ...]
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Platform:
    """A Kubernetes cluster in a fabric that takes BGP announcements.

    ``liveness`` is how routers learn that an edge node is dead: by BFD, or by the hold time alone. ``return_path`` is how replies leave:
    `direct` from the worker where the fabric carries foreign sources. ``vip_reachability`` says from where VIPs can be reached.
    """

    name: str
    kubernetes: pulumi.ProviderResource
    edge_nodes: tuple[EdgeNode, ...]
    edge_selector: Mapping[str, str]
    worker_selector: Mapping[str, str]
    mtu_bytes: int
    liveness: Literal["bfd", "hold-time"]
    return_path: Literal["direct"]
    vip_reachability: Literal["routed"]
