"""What plans take from the cluster's Nodes: the workers, and what an edge node cannot do, or not fully, for want of something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lbnode.facts import Worker
from lbnode.model import IPAddress, address_order
from lbnode.objects import NodeObject
from lbnode.settings import AgentSettings


def workers_of(nodes: Mapping[str, NodeObject], settings: AgentSettings) -> tuple[tuple[Worker, ...], tuple[str, ...]]:
    """Workers by address, with their probe addresses; two that would share one get it for the first only."""
    found: list[Worker] = []
    warnings: list[str] = []
    owners: dict[IPAddress, str] = {}
    families = sorted({n.version for n in settings.pool_networks})
    for _, node in sorted(nodes.items()):
        if not node.matches(settings.worker_node_selector):
            continue
        for family in families:
            if (address := node.address(family)) is None:
                warnings.append(
                    f"worker {node.name} has no internal IPv{family} address: it gets no IPv{family} traffic"
                )
                continue
            probe = settings.probe_address(address)
            if probe is None:
                warnings.append(
                    f"worker {node.name} cannot be probed: no IPv{family} network in network.probeCidrs. Add one"
                )
            elif (owner := owners.setdefault(probe, node.name)) != node.name:
                warnings.append(
                    f"workers {owner} and {node.name} would share the probe address {probe}: {node.name} is not probed and gets no VIP announced. "
                    "Make network.probeCidrs as long as the node network"
                )
                probe = None
            found.append(Worker(node.name, address, probe))
    return tuple(sorted(found, key=lambda w: address_order(w.address))), tuple(warnings)


def unserved_families(node: NodeObject | None, settings: AgentSettings) -> dict[int, tuple[str, str]]:
    """Why an edge node cannot serve a family of the pools, by IP version."""
    if node is None:
        return {}
    return {
        family: (
            "NoNodeAddress",
            f"edge node {node.name} has no internal IPv{family} address to be the next hop. Give it one (kubelet --node-ip), or drop the IPv{family} pools",
        )
        for family in sorted({n.version for n in settings.pool_networks})
        if node.address(family) is None
    }


def unspoken(edge: NodeObject, settings: AgentSettings) -> list[str]:
    """What an edge node does not announce, or not to every router, for want of an address."""
    silent = [
        f"edge node {edge.name} has no internal IPv{peer.address.version} address to speak from to peer {peer.name} = {peer.address}: "
        "it announces nothing to it. Give the node one, or name the router's address of the other family"
        for peer in settings.bgp.peers
        if (not peer.nodes or edge.name in peer.nodes)
        and edge.address(peer.address.version) is None
        and not peer.local_addresses
    ]
    return [*(message for _, message in unserved_families(edge, settings).values()), *silent]


def unknown(node_name: str) -> tuple[str, str]:
    """The reason and its explanation where the cluster has no such Node."""
    return ("NodeUnknown", f"there is no Node {node_name} in the cluster. Set NODE_NAME to the Node's name")


def edge_blocked(node: NodeObject | None, node_name: str, settings: AgentSettings) -> tuple[str, str] | None:
    """A reason and its explanation when this node must not announce at all."""
    if node is None:
        return unknown(node_name)
    if not node.matches(settings.edge_node_selector):
        return (
            "NotAnEdgeNode",
            f"Node {node_name} does not match edgeNodeSelector {settings.edge_node_selector}. Label it",
        )
    if node.matches(settings.worker_node_selector):
        message = (
            f"Node {node_name} matches edgeNodeSelector and workerNodeSelector: a worker's kube-proxy would take the VIPs from IPVS. "
            "Make it one of the two"
        )
        return ("EdgeNodeIsWorker", message)
    return None


def silent_pools(edges: Sequence[NodeObject], settings: AgentSettings) -> list[str]:
    """What is to be said of pools that no edge node announces."""
    return [
        f"pool {pool.name} is announced by nobody: no edge node is among its nodes or matches its nodeSelector. Mend them, or label a node"
        for pool in settings.pools
        if edges and not any(pool.announced_by(n.name, n.labels) for n in edges)
    ]
