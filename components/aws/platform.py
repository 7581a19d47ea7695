"""Joins network, cluster, edge nodes and fabric to what the load balancer needs."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws

from components.aws import cost, plan
from components.aws.cluster import Cluster
from components.aws.edge import EdgeNodes
from components.aws.fabric import RouteServerFabric, TransitGatewayFabric
from components.aws.network import Network
from components.aws.settings import Aws
from components.kubernetes_provider import kubernetes_provider
from components.platform import Platform
from lbnode.bgp_settings import Peer
from lbnode.settings import AgentSettings

TAGS = {"app.kubernetes.io/part-of": "samegate", "managed-by": "pulumi"}


def provision(settings: Aws, agent: AgentSettings) -> Platform:
    """Everything on AWS, and the provider of the cluster in it.

    The settings have been checked (:func:`components.aws.settings.check_agent`); nothing here raises.
    """
    provider = aws.Provider(
        "aws",
        region=settings.region,
        default_tags={"tags": {**TAGS, "samegate.dev/stack": pulumi.get_stack(), **settings.tags}},
    )
    there = pulumi.ResourceOptions(providers=[provider])
    pools = [str(network) for network in agent.pool_networks]
    network = Network("network", settings, there)
    cluster = Cluster("cluster", settings, network, agent.worker_node_selector, there)
    edge = EdgeNodes("edge", settings, network, cluster, agent.edge_node_selector, there)
    peers: pulumi.Output[tuple[Peer, ...]] | None = None
    if settings.fabric == "transit-gateway":
        gateway = TransitGatewayFabric("fabric", settings, network, edge, agent.bgp.local_asn, pools, there)
        edge.machines(gateway.ready, gateway.peers)
    else:
        server = RouteServerFabric("fabric", settings, network, edge, agent.bgp.local_asn, there)
        edge.machines(server.ready, server.peers)
        peers = pulumi.Output.all(**{zone: list(found) for zone, found in server.endpoint_addresses.items()}).apply(
            lambda known: plan.route_server_peers(settings, known)
        )
    # It holds no secret: the credential is fetched at every use.
    kubernetes = kubernetes_provider(
        cluster.kubeconfig,
        f"aws-{settings.region}",
        opts=pulumi.ResourceOptions(depends_on=[cluster.nodes]),
    )
    return Platform(
        name=f"aws-{settings.fabric}",
        kubernetes=kubernetes,
        edge_nodes=plan.edge_nodes(settings),
        edge_selector=agent.edge_node_selector,
        worker_selector=agent.worker_node_selector,
        mtu_bytes=settings.mtu_bytes,
        liveness=plan.liveness(settings),
        return_path="via-edge",
        vip_reachability="routed",
        peers=peers,
        cost=cost.estimate(settings).exported(),
    )
