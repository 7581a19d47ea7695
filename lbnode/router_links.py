"""Which links to routers an edge node has, and which BGP sessions go over them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lbnode.bgp_settings import Bgp
from lbnode.model import RouterLink
from lbnode.objects import NodeObject
from lbnode.packet_tables import LinkSession
from lbnode.settings import AgentSettings


def router_links(
    node: NodeObject | None, settings: AgentSettings, unserved: frozenset[int] = frozenset()
) -> frozenset[RouterLink]:
    """The links of ``node``; none while it has no IPv4 address for their outer end. ``unserved`` are IP versions that it does not serve."""
    if node is None or (own := node.address(4)) is None:
        return frozenset()
    families = {n.version for n in settings.pool_networks} - unserved
    return frozenset(
        RouterLink(
            name=link.name,
            node_address=own,
            router_address=link.router_address,
            addresses=frozenset(a for a in link.addresses if a.version in families),
            ttl=link.ttl,
            mtu_bytes=link.inside_mtu_bytes(settings.network.fabric_mtu_bytes),
            ipv6=6 in families,
        )
        for link in settings.bgp.links
        if link.node == node.name
    )


def link_sessions(links: Iterable[RouterLink], node_name: str, bgp: Bgp) -> frozenset[LinkSession]:
    """The sessions of the node that are spoken from an address of one of its links."""
    held = {address.ip for link in links for address in link.addresses}
    return frozenset(
        LinkSession(own, bgp.listen_port, peer.address, peer.port, peer.bfd is not None)
        for peer in bgp.peers
        if node_name in peer.nodes and (own := peer.local_address(peer.address.version)) in held and own is not None
    )


def link_warnings(edges: Sequence[NodeObject], settings: AgentSettings) -> list[str]:
    """Links that nobody makes."""
    by_name = {node.name: node for node in edges}
    warnings = []
    for link in settings.bgp.links:
        node = by_name.get(link.node)
        if node is None:
            warnings.append(
                f"link {link.name} is for node {link.node}, which is no edge node: nobody makes it. Mend `node`, or label the node"
            )
        elif node.address(4) is None:
            warnings.append(
                f"link {link.name} is not made: edge node {node.name} has no internal IPv4 address for its outer end. Give it one"
            )
    return warnings
