"""Joins network, cluster, edge nodes and fabric to what the load balancer needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp
import pulumi_kubernetes

from components.gcp.cluster import Cluster
from components.gcp.edge import (
    EdgeNodes,
    InternetIngress,
    PassthroughFabric,
    RouterApplianceFabric,
    planned,
    router_peers,
)
from components.gcp.network import Network
from components.gcp.settings import Gcp
from components.platform import EdgeNode


@dataclass(frozen=True)
class GcpPlatform:
    """What the fabric offers; all of it but the credential is known at the first preview. ``public_address`` is there with internet ingress."""

    kubernetes: pulumi.ProviderResource
    edge_nodes: tuple[EdgeNode, ...]
    kubeconfig: pulumi.Output[str]
    mtu_bytes: int
    public_address: pulumi.Output[str] | None


def provision(
    settings: Gcp,
    image: str,
    local_asn: int,
    pools: Sequence[str],
    worker_labels: Mapping[str, str],
    bgp_key: pulumi.Output[str] | None = None,
) -> GcpPlatform:
    """Everything on GCP, and the provider of the cluster in it. ``image`` is what edge VMs run, ``pools`` are the networks of the VIPs.

    The settings have been checked (:func:`components.gcp.settings.check_agent`); nothing here raises.
    """
    provider = gcp.Provider(
        "gcp",
        project=settings.project,
        region=settings.region,
        default_labels={"part-of": "samegate", "samegate-stack": pulumi.get_stack(), **settings.labels},
    )
    there = pulumi.ResourceOptions(providers=[provider])
    network = Network("network", settings, there)
    cluster = Cluster("cluster", settings, network, worker_labels, there)
    edge = EdgeNodes("edge", settings, image, network, cluster, there)
    if settings.fabric == "router-appliance":
        RouterApplianceFabric("fabric", settings, network, edge, local_asn, bgp_key, there)
    else:
        PassthroughFabric("fabric", settings, network, edge, pools, there)
    ingress = (
        InternetIngress("internet", settings, network, edge, there)
        if settings.internet_ingress == "passthrough"
        else None
    )
    kubernetes = pulumi_kubernetes.Provider(
        "kubernetes",
        # It holds no secret: the credential is fetched at every use.
        kubeconfig=cluster.kubeconfig,
        # Without it any change of the cluster would replace the provider and with it every object.
        cluster_identifier=f"gcp-{settings.project}-{settings.region}",
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        enable_server_side_apply=True,
        opts=pulumi.ResourceOptions(depends_on=[cluster.nodes]),
    )
    return GcpPlatform(
        kubernetes,
        edge_nodes(settings),
        cluster.kubeconfig,
        settings.mtu_bytes,
        ingress.address if ingress is not None else None,
    )


def edge_nodes(settings: Gcp) -> tuple[EdgeNode, ...]:
    """The edge nodes with their sessions, by arithmetic alone; without BGP they have none."""
    speaks = settings.fabric == "router-appliance"
    return tuple(EdgeNode(node.name, router_peers(settings, node) if speaks else ()) for node in planned(settings))
