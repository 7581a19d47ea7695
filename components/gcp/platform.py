"""Joins network, cluster, edge nodes and fabric to what the load balancer needs."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
import pulumi_gcp as gcp

from components.gcp import plan
from components.gcp.cluster import Cluster
from components.gcp.edge import EdgeNodes
from components.gcp.fabric import InternetIngress, PassthroughFabric, RouterApplianceFabric
from components.gcp.network import Network
from components.gcp.settings import Gcp
from components.kubernetes_provider import kubernetes_provider
from components.platform import Platform
from lbnode.settings import AgentSettings


def provision(
    settings: Gcp, agent: AgentSettings, image: str, bgp_keys: pulumi.Output[Mapping[str, str]] | None = None
) -> Platform:
    """Everything on GCP, and the provider of the cluster in it. ``image`` is what edge VMs run; ``bgp_keys`` is a secret.

    The settings have been checked (:func:`components.gcp.settings.check_agent`); nothing here raises.
    """
    # On each resource, too: a policy does not see what the provider adds.
    labels = {"part-of": "samegate", "samegate-stack": pulumi.get_stack(), **settings.labels}
    settings = settings.model_copy(update={"labels": labels})
    provider = gcp.Provider("gcp", project=settings.project, region=settings.region, default_labels=labels)
    there = pulumi.ResourceOptions(providers=[provider])
    network = Network("network", settings, there)
    cluster = Cluster("cluster", settings, network, agent.worker_node_selector, there)
    edge = EdgeNodes("edge", settings, image, network, cluster, there)
    if settings.fabric == "router-appliance":
        name = settings.router.password_key
        key = None if name is None or bgp_keys is None else bgp_keys.apply(lambda keys: keys[name])
        RouterApplianceFabric("fabric", settings, network, edge, agent.bgp.local_asn, key, there)
    else:
        pools = [str(network) for network in agent.pool_networks]
        PassthroughFabric("fabric", settings, network, edge, pools, there)
    ingress = (
        InternetIngress("internet", settings, network, edge, there)
        if settings.internet_ingress == "passthrough"
        else None
    )
    # It holds no secret: the credential is fetched at every use.
    kubernetes = kubernetes_provider(
        cluster.kubeconfig,
        f"gcp-{settings.project}-{settings.region}",
        opts=pulumi.ResourceOptions(depends_on=[cluster.nodes]),
    )
    return Platform(
        name=f"gcp-{settings.fabric}",
        kubernetes=kubernetes,
        edge_nodes=plan.edge_nodes(settings),
        edge_selector=agent.edge_node_selector,
        worker_selector=agent.worker_node_selector,
        mtu_bytes=settings.mtu_bytes,
        liveness="hold-time" if settings.fabric == "router-appliance" else "health-check",
        return_path="via-edge",
        vip_reachability="routed",
        public_address=ingress.address if ingress is not None else None,
        outside_user=plan.edge_user(settings),
        # gatekeeper#1120, dapr#7783: GKE has such a quota in kube-system alone.
        critical_pods_need_quota=True,
    )
