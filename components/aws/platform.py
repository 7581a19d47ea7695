"""Joins network, cluster, edge nodes and fabric to what the load balancer needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes

from components.aws.cluster import Cluster
from components.aws.edge import (
    EdgeNodes,
    RouteServerFabric,
    TransitGatewayFabric,
    connect_peers,
    gre_link,
    planned,
    route_server_peers,
)
from components.aws.network import Network
from components.aws.settings import Aws
from components.platform import EdgeNode

TAGS = {"app.kubernetes.io/part-of": "samegate", "managed-by": "pulumi"}


@dataclass(frozen=True)
class AwsPlatform:
    """What the fabric offers. ``edge_nodes`` is an Output on a Route Server, whose addresses AWS chooses; all else is known at preview."""

    kubernetes: pulumi.ProviderResource
    edge_nodes: pulumi.Output[tuple[EdgeNode, ...]]
    kubeconfig: pulumi.Output[str]
    mtu_bytes: int
    liveness: Literal["bfd", "hold-time"]


def provision(
    settings: Aws,
    local_asn: int,
    pools: Sequence[str],
    edge_labels: Mapping[str, str],
    worker_labels: Mapping[str, str],
) -> AwsPlatform:
    """Everything on AWS, and the provider of the cluster in it. ``pools`` are the networks of the VIPs.

    The settings have been checked (:func:`components.aws.settings.check_agent`); nothing here raises.
    """
    provider = aws.Provider(
        "aws",
        region=settings.region,
        default_tags={"tags": {**TAGS, "samegate.dev/stack": pulumi.get_stack(), **settings.tags}},
    )
    there = pulumi.ResourceOptions(providers=[provider])
    network = Network("network", settings, there)
    cluster = Cluster("cluster", settings, network, worker_labels, there)
    edge = EdgeNodes("edge", settings, network, cluster, edge_labels, there)
    if settings.fabric == "transit-gateway":
        gateway = TransitGatewayFabric("fabric", settings, network, edge, local_asn, pools, there)
        edge.machines(gateway.ready, gateway.peers)
        nodes = pulumi.Output.from_input(transit_gateway_nodes(settings))
    else:
        server = RouteServerFabric("fabric", settings, network, edge, local_asn, there)
        edge.machines(server.ready, server.peers)
        plan = edge.nodes
        nodes = pulumi.Output.all(**{zone: list(found) for zone, found in server.endpoint_addresses.items()}).apply(
            lambda known: tuple(
                EdgeNode(node.node_name, route_server_peers(settings, node, known[node.settings.zone])) for node in plan
            )
        )
    kubernetes = pulumi_kubernetes.Provider(
        "kubernetes",
        # It holds no secret: the credential is fetched at every use.
        kubeconfig=cluster.kubeconfig,
        # Without it any change of the cluster would replace the provider and with it every object.
        cluster_identifier=f"aws-{settings.region}",
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        enable_server_side_apply=True,
        opts=pulumi.ResourceOptions(depends_on=[cluster.nodes]),
    )
    return AwsPlatform(kubernetes, nodes, cluster.kubeconfig, settings.mtu_bytes, liveness(settings))


def transit_gateway_nodes(settings: Aws) -> tuple[EdgeNode, ...]:
    """The edge nodes with sessions and tunnels, by arithmetic alone."""
    return tuple(
        EdgeNode(node.node_name, connect_peers(settings, node), (gre_link(settings, node),))
        for node in planned(settings)
    )


def liveness(settings: Aws) -> Literal["bfd", "hold-time"]:
    """How the fabric notices a dead edge node."""
    return "bfd" if settings.fabric == "route-server" and settings.server.liveness == "bfd" else "hold-time"
