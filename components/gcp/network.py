"""The VPC network: one subnet for GKE's nodes with ranges for pods and Services, one for edge nodes, and a way out without a way in."""

from __future__ import annotations

import pulumi
import pulumi_gcp as gcp

from components.gcp.settings import Gcp

PODS, SERVICES = "pods", "services"


class Network(pulumi.ComponentResource):
    """``network_id``, ``nodes_id`` and ``edge_id`` name the network and its subnets. The MTU is set: the default would be 1460."""

    def __init__(self, name: str, settings: Gcp, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("samegate:gcp:Network", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        network = gcp.compute.Network(
            "network",
            name="samegate",
            auto_create_subnetworks=False,
            mtu=settings.mtu_bytes,
            # VIPs are learnt in all regions, not in ours alone.
            routing_mode="GLOBAL",
            opts=child,
        )
        nodes = gcp.compute.Subnetwork(
            "nodes",
            name="samegate-nodes",
            network=network.id,
            region=settings.region,
            ip_cidr_range=str(settings.node_cidr),
            private_ip_google_access=True,
            secondary_ip_ranges=[
                {"range_name": PODS, "ip_cidr_range": str(settings.pod_cidr)},
                {"range_name": SERVICES, "ip_cidr_range": str(settings.service_cidr)},
            ],
            opts=child,
        )
        edge = gcp.compute.Subnetwork(
            "edge",
            name="samegate-edge",
            network=network.id,
            region=settings.region,
            ip_cidr_range=str(settings.edge_cidr),
            private_ip_google_access=True,
            opts=child,
        )
        # Its own router: a change of the peering one must not touch the way out.
        out = gcp.compute.Router("nat", name="samegate-nat", network=network.id, region=settings.region, opts=child)
        gcp.compute.RouterNat(
            "nat",
            name="samegate",
            router=out.name,
            region=settings.region,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
            opts=child,
        )
        self.network_id: pulumi.Output[str] = network.id
        self.nodes_id: pulumi.Output[str] = nodes.id
        self.edge_id: pulumi.Output[str] = edge.id
        self.register_outputs({"networkId": self.network_id})
