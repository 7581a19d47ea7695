"""What is known of the edge nodes before Google is asked: names, addresses and sessions. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from components.edge_node import PROBE_BLOCK
from components.edge_node import EdgeNode as PlatformNode
from components.gcp.settings import EdgeNode, Gcp, node_address, router_addresses
from lbnode.bgp_settings import Peer
from lbnode.outside_edge import OutsideEdge

HOLD_SECONDS = 60
"""Three keepalives of 20 s, the least that Cloud Router has; the lower hold time of both sides counts (RFC 4271 section 4.2)."""
ROUTER_MULTIHOP = 2
"""A VM has a /32, so that the router's address is on no network of its interface."""
EDGE_ACCOUNT = "edge"
"""The service account of edge VMs, after the program's prefix."""


@dataclass(frozen=True)
class PlannedNode:
    """An edge node by arithmetic alone: known at the first preview."""

    settings: EdgeNode
    address: IPv4Address

    @property
    def name(self) -> str:
        """Of the VM, and what peers and pools name."""
        return f"samegate-{self.settings.name}"

    def self_link(self, project: str) -> str:
        """The VM's address in the API, made of its name: so a VM that is replaced changes neither its spoke nor its sessions."""
        return (
            f"https://www.googleapis.com/compute/v1/projects/{project}/zones/{self.settings.zone}/instances/{self.name}"
        )


def planned(settings: Gcp) -> tuple[PlannedNode, ...]:
    """The edge nodes, by number."""
    return tuple(
        PlannedNode(node, node_address(settings, node.number))
        for node in sorted(settings.edge.nodes, key=lambda n: n.number)
    )


def peers(settings: Gcp) -> tuple[Peer, ...]:
    """Both sessions, the same for every edge node; none where a balancer leads to the nodes.

    No BFD: Cloud Router has it for VLAN attachments only.
    """
    if settings.fabric == "passthrough":
        return ()
    return tuple(
        Peer(
            name=f"cloud-router-{number}",
            address=address,
            asn=settings.router.asn,
            address_families=("IPv4",),
            multihop=ROUTER_MULTIHOP,
            bfd=None,
            password_key=settings.router.password_key,
            hold_time_seconds=HOLD_SECONDS,
        )
        for number, address in enumerate(router_addresses(settings), 1)
    )


def edge_nodes(settings: Gcp) -> tuple[PlatformNode, ...]:
    """The edge nodes with their sessions."""
    return tuple(PlatformNode(node.name, peers(settings)) for node in planned(settings))


def outside_edges(settings: Gcp) -> tuple[OutsideEdge, ...]:
    """The edge nodes as the agents know them: no Nodes of the cluster. Pools can choose them by their zone."""
    return tuple(
        OutsideEdge(
            name=node.name,
            addresses=(node.address,),
            labels={"topology.kubernetes.io/zone": node.settings.zone},
            draining=node.settings.draining,
        )
        for node in planned(settings)
    )


def edge_user(settings: Gcp) -> str:
    """Edge VMs as the API server calls them: by the address of their service account (GKE documentation, RBAC).

    A project of a domain (``example.com:name``) stands in it the other way round (IAM documentation, service accounts).
    """
    domain, _, project = settings.project.rpartition(":")
    return f"samegate-{EDGE_ACCOUNT}@{'.'.join(filter(None, (project, domain)))}.iam.gserviceaccount.com"


def network(settings: Gcp) -> dict[str, Any]:
    """``agent.network`` of the stack: what is in use already."""
    return {
        "nodeCidrs": [str(settings.node_cidr), str(settings.edge_cidr)],
        "podCidrs": [str(settings.pod_cidr)],
        "serviceCidrs": [str(settings.service_cidr), str(settings.master_cidr)],
        # As long as the workers' own subnet, so that no two of them have the same low bits.
        "probeCidrs": [f"{PROBE_BLOCK.network_address}/{settings.node_cidr.prefixlen}"],
        "fabricMtuBytes": settings.mtu_bytes,
    }
