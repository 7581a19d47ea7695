"""What is known of the edge nodes before AWS is asked: names, addresses, sessions and tunnels. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Literal

from components.aws.addressing import layout
from components.aws.settings import CONNECT_MTU_BYTES, GRE_OVERHEAD_BYTES, Aws, EdgeNode, node_address
from components.edge_node import PROBE_BLOCK
from components.edge_node import EdgeNode as PlatformNode
from lbnode.bgp_settings import Bfd, Peer
from lbnode.link import Link

TGW_HOLD_SECONDS = 30
"""Hold time of a Connect peer, which cannot be set (Transit Gateway guide, Connect peers)."""
TGW_MULTIHOP = 2
"""Time to live that AWS asks for on the sessions in the tunnel."""
ENDPOINTS_PER_ZONE = 2
"""Route server endpoints of a subnet, the most that there may be (VPC quotas)."""
_CHOSEN_LATER = IPv4Network("192.0.2.0/24")
"""Stands for endpoint addresses until AWS has chosen them (RFC 5737); it reaches no node."""


@dataclass(frozen=True)
class PlannedNode:
    """An edge node by arithmetic alone: known at the first preview."""

    settings: EdgeNode
    address: IPv4Address
    node_name: str
    """As Kubernetes will know it: the private DNS name, which EC2 makes from the address (EC2 user guide, hostname types)."""


def planned(settings: Aws) -> tuple[PlannedNode, ...]:
    """The edge nodes, by number."""
    subnets = layout(settings.vpc_cidr, settings.zones).edge
    domain = "ec2.internal" if settings.region == "us-east-1" else f"{settings.region}.compute.internal"
    nodes = []
    for node in sorted(settings.edge.nodes, key=lambda n: n.number):
        address = node_address(subnets[node.zone], node.number)
        nodes.append(PlannedNode(node, address, f"ip-{str(address).replace('.', '-')}.{domain}"))
    return tuple(nodes)


def gateway_address(settings: Aws, number: int) -> IPv4Address:
    """The gateway's end of the node's tunnel: fixed, so that the link is known before the gateway exists."""
    return settings.gateway.cidr[number]


def gre_link(settings: Aws, node: PlannedNode) -> Link:
    """The tunnel of an edge node into the Transit Gateway. AWS gives the node the first address of the /29, itself the second and third."""
    inside = settings.gateway.inside_block(node.settings.number)
    return Link(
        name="tgw",
        node=node.node_name,
        router_address=gateway_address(settings, node.settings.number),
        addresses=(IPv4Interface((inside[1], inside.prefixlen)),),
        mtu_bytes=min(CONNECT_MTU_BYTES, settings.mtu_bytes) - GRE_OVERHEAD_BYTES,
    )


def connect_peers(settings: Aws, node: PlannedNode) -> tuple[Peer, ...]:
    """Both sessions of an edge node, out of its tunnel. Neither BFD, graceful restart nor a key: the fabric has none of them."""
    inside = settings.gateway.inside_block(node.settings.number)
    return tuple(
        Peer(
            name=f"tgw-{node.settings.name}-{session}",
            address=inside[1 + session],
            local_addresses=(inside[1],),
            asn=settings.gateway.asn,
            nodes=(node.node_name,),
            address_families=("IPv4",),
            multihop=TGW_MULTIHOP,
            bfd=None,
            hold_time_seconds=TGW_HOLD_SECONDS,
        )
        for session in (1, 2)
    )


def route_server_peers(settings: Aws, endpoints: Mapping[str, Sequence[str]]) -> tuple[Peer, ...]:
    """The sessions with a route server: each node's with the endpoints of its zone. ``endpoints`` maps zones to their addresses.

    Nodes of one zone share its endpoints, so a session is written once for all of them.
    """
    bfd = Bfd() if settings.server.liveness == "bfd" else None
    nodes = planned(settings)
    return tuple(
        Peer(
            name=f"rs-{zone}-{number}",
            address=IPv4Address(address),
            asn=settings.server.asn,
            nodes=tuple(node.node_name for node in nodes if node.settings.zone == zone),
            address_families=("IPv4",),
            bfd=bfd,
        )
        for zone in settings.zones
        if any(node.settings.zone == zone for node in nodes)
        for number, address in enumerate(endpoints[zone], 1)
    )


def _unchosen(settings: Aws) -> dict[str, list[str]]:
    return {
        zone: [str(_CHOSEN_LATER[1 + position * ENDPOINTS_PER_ZONE + n]) for n in range(ENDPOINTS_PER_ZONE)]
        for position, zone in enumerate(settings.zones)
    }


def peers(settings: Aws) -> tuple[Peer, ...]:
    """All sessions. With a route server their addresses stand for those that AWS chooses during `up`; everything else of them is as it will be."""
    if settings.fabric == "route-server":
        return route_server_peers(settings, _unchosen(settings))
    return tuple(peer for node in planned(settings) for peer in connect_peers(settings, node))


def edge_nodes(settings: Aws) -> tuple[PlatformNode, ...]:
    """The edge nodes with their sessions and tunnels."""
    all_peers = peers(settings)
    return tuple(
        PlatformNode(
            node.node_name,
            tuple(peer for peer in all_peers if node.node_name in peer.nodes),
            (gre_link(settings, node),) if settings.fabric == "transit-gateway" else (),
        )
        for node in planned(settings)
    )


def network(settings: Aws) -> dict[str, Any]:
    """``agent.network`` of the stack: what is in use already. Pods have addresses of the VPC (VPC CNI)."""
    return {
        "nodeCidrs": [str(settings.vpc_cidr)],
        "serviceCidrs": [str(settings.service_cidr)],
        # As long as the VPC's own, so that no two nodes have the same low bits.
        "probeCidrs": [f"{PROBE_BLOCK.network_address}/{settings.vpc_cidr.prefixlen}"],
        "fabricMtuBytes": settings.mtu_bytes,
    }


def liveness(settings: Aws) -> Literal["bfd", "hold-time"]:
    """How the fabric notices a dead edge node."""
    return "bfd" if settings.fabric == "route-server" and settings.server.liveness == "bfd" else "hold-time"
