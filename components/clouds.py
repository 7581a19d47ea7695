"""What a cloud's fabric says in the place of the agent's settings, and what keeps a stack from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.aws import plan as aws_plan
from components.aws import settings as aws
from components.gcp import plan as gcp_plan
from components.gcp import settings as gcp
from lbnode.bgp_settings import Peer
from lbnode.errors import ConfigError
from lbnode.link import Link
from lbnode.outside_edge import OutsideEdge
from lbnode.settings import AgentSettings

Cloud = aws.Aws | gcp.Gcp
KINDS: Mapping[str, type[aws.Aws] | type[gcp.Gcp]] = {"aws": aws.Aws, "gcp": gcp.Gcp}
OWN_NETWORK_KEYS = ("probeCidrs",)
"""What a stack may still say in `agent.network`: all else follows from the platform."""


def node_names(cloud: Cloud) -> tuple[str, ...]:
    """The edge nodes as peers and pools name them, by number."""
    if isinstance(cloud, aws.Aws):
        return tuple(node.node_name for node in aws_plan.planned(cloud))
    return tuple(node.name for node in gcp_plan.planned(cloud))


def completed(cloud: Cloud, agent: Any, where: str) -> Any:
    """The stack's plain `agent` with the sessions, links, networks and outside edge nodes of the fabric. ``where`` is how errors call it.

    Raises:
        ConfigError: it says what follows from the platform; or the fabric has no sessions, which the agent cannot do without.
    """
    if not isinstance(agent, Mapping):
        return agent
    bgp, network = agent.get("bgp") or {}, agent.get("network") or {}
    if not isinstance(bgp, Mapping) or not isinstance(network, Mapping):
        return agent
    for key, what in (("peers", "the sessions"), ("links", "the links to routers")):
        if key in bgp:
            raise ConfigError(
                f"{where}.bgp.{key}",
                f"{what} on {cloud.kind} follow from platform, and these would be ignored",
                "Remove it",
            )
    if isinstance(cloud, gcp.Gcp) and "outsideEdges" in agent:
        raise ConfigError(
            f"{where}.outsideEdges",
            "edge nodes on gcp are those of platform.edge.nodes, and these would be ignored",
            "Remove it; a node drains by draining: true in its entry there",
        )
    for key in network:
        if key not in OWN_NETWORK_KEYS:
            raise ConfigError(
                f"{where}.network.{key} = {network[key]!r}",
                f"on {cloud.kind} it follows from platform, and this would be ignored",
                "Remove it",
            )
    peers = _peers(cloud)
    if not peers:
        raise ConfigError(
            f"platform.fabric {cloud.fabric!r}",
            "it has no BGP, and an edge node that announces to nobody is not there yet",
            "Use fabric: router-appliance",
        )
    fabric = aws_plan.network(cloud) if isinstance(cloud, aws.Aws) else gcp_plan.network(cloud)
    return {
        **agent,
        "bgp": {**bgp, "peers": _plain(peers), "links": _plain(_links(cloud))},
        "network": {**fabric, **network},
        **({"outsideEdges": _plain(gcp_plan.outside_edges(cloud))} if isinstance(cloud, gcp.Gcp) else {}),
    }


def _plain(values: Iterable[Peer | Link | OutsideEdge]) -> list[Any]:
    return [value.model_dump(mode="json", by_alias=True) for value in values]


def _links(cloud: Cloud) -> tuple[Link, ...]:
    return (
        tuple(link for node in aws_plan.edge_nodes(cloud) for link in node.links) if isinstance(cloud, aws.Aws) else ()
    )


def _peers(cloud: Cloud) -> tuple[Peer, ...]:
    return aws_plan.peers(cloud) if isinstance(cloud, aws.Aws) else gcp_plan.peers(cloud)


_FOREIGN_SOURCES = {
    "aws": "EC2's source/destination check on a worker drops it",
    "gcp": "GKE's nodes cannot forward, so that Google drops it",
}


def check(cloud: Cloud, agent: AgentSettings) -> None:
    """What only both halves together can break.

    Raises:
        ConfigError: the fabric cannot carry what the agent would do.
    """
    if isinstance(cloud, aws.Aws):
        aws.check_agent(cloud, agent)
    else:
        gcp.check_agent(cloud, agent)
    if agent.forwarding == "tunnel" and agent.return_path == "direct":
        raise ConfigError(
            "agent.return 'direct' with forwarding 'tunnel'",
            f"a worker would reply with the VIP as source: {_FOREIGN_SOURCES[cloud.kind]}",
            "Set return: via-edge, which keeps the client's address, or forwarding: nat, which costs it (docs/fabrics.md)",
        )
