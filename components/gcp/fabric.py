"""How VIPs enter the VPC: by a Cloud Router, which learns them by BGP, or by a passthrough balancer; and how the internet reaches the edge nodes."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_gcp as gcp

from components.gcp.edge import EDGE_PAGE_PORT, EdgeNodes
from components.gcp.network import Network
from components.gcp.settings import Gcp, router_addresses


class RouterApplianceFabric(pulumi.ComponentResource):
    """Hub, a spoke for each edge node, and a Cloud Router with a redundant pair of interfaces and two sessions a node."""

    def __init__(
        self,
        name: str,
        settings: Gcp,
        network: Network,
        edge: EdgeNodes,
        local_asn: int,
        bgp_key: pulumi.Output[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:gcp:RouterApplianceFabric", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        hub = gcp.networkconnectivity.Hub("hub", name="samegate", labels=dict(settings.labels), opts=child)
        router = gcp.compute.Router(
            "router",
            name="samegate-edge",
            network=network.network_id,
            region=settings.region,
            bgp={"asn": settings.router.asn, "keepalive_interval": settings.router.keepalive_seconds},
            opts=child,
        )
        one, two = router_addresses(settings)
        key: pulumi.Output[str] | None = None if bgp_key is None else pulumi.Output.secret(bgp_key)
        first = gcp.compute.RouterInterface(
            "interface1",
            name="samegate-1",
            router=router.name,
            region=settings.region,
            subnetwork=network.edge_id,
            private_ip_address=str(one),
            opts=child,
        )
        second = gcp.compute.RouterInterface(
            "interface2",
            name="samegate-2",
            router=router.name,
            region=settings.region,
            subnetwork=network.edge_id,
            private_ip_address=str(two),
            # The first one cannot name the second, which does not exist yet; naming one way makes the pair.
            redundant_interface=first.name,
            opts=child,
        )
        for node in edge.nodes:
            machine = edge.machines[node.name]
            # One spoke a node: eight would fit, but then a node that comes or goes changes those of the others.
            spoke = gcp.networkconnectivity.Spoke(
                node.settings.name,
                name=node.name,
                hub=hub.id,
                location=settings.region,
                linked_router_appliance_instances={
                    "instances": [
                        {"virtual_machine": node.self_link(settings.project), "ip_address": str(node.address)}
                    ],
                    "site_to_site_data_transfer": False,
                },
                labels=dict(settings.labels),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[machine]),
            )
            for number, interface in ((1, first), (2, second)):
                gcp.compute.RouterPeer(
                    f"{node.settings.name}-{number}",
                    name=f"{node.name}-{number}",
                    router=router.name,
                    region=settings.region,
                    interface=interface.name,
                    peer_asn=local_asn,
                    peer_ip_address=str(node.address),
                    router_appliance_instance=node.self_link(settings.project),
                    md5_authentication_key=None if key is None else {"name": f"{node.name}-{number}", "key": key},
                    # A VM that is in no spoke cannot be a peer.
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[spoke]),
                )
        self.register_outputs({"router": router.name})


class PassthroughFabric(pulumi.ComponentResource):
    """A static route for each pool to an internal passthrough balancer over the edge nodes: no BGP, the balancer's health check instead."""

    def __init__(
        self,
        name: str,
        settings: Gcp,
        network: Network,
        edge: EdgeNodes,
        pools: Sequence[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:gcp:PassthroughFabric", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        service = _balancer("internal", "INTERNAL", "TCP", settings, network, edge, self)
        rule = gcp.compute.ForwardingRule(
            "internal",
            name="samegate-internal",
            region=settings.region,
            load_balancing_scheme="INTERNAL",
            network=network.network_id,
            subnetwork=network.edge_id,
            backend_service=service.id,
            # As a next hop it forwards all protocols, whatever stands here; L3_DEFAULT would be dropped without a word.
            ip_protocol="TCP",
            all_ports=True,
            allow_global_access=True,
            opts=child,
        )
        for pool in pools:
            label = pool.replace(".", "-").replace("/", "-")
            gcp.compute.Route(
                f"pool-{label}",
                name=f"samegate-{label}",
                network=network.network_id,
                dest_range=pool,
                next_hop_ilb=rule.self_link,
                opts=child,
            )
        self.register_outputs({})


class InternetIngress(pulumi.ComponentResource):
    """An external passthrough balancer to the edge nodes: every protocol, addresses unchanged. ``address`` is the public one."""

    def __init__(
        self, name: str, settings: Gcp, network: Network, edge: EdgeNodes, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("samegate:gcp:InternetIngress", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        service = _balancer("external", "EXTERNAL", "UNSPECIFIED", settings, network, edge, self)
        address = gcp.compute.Address(
            "external",
            name="samegate-external",
            region=settings.region,
            address_type="EXTERNAL",
            labels=dict(settings.labels),
            # A public address that was given out is gone for good when it is released.
            opts=pulumi.ResourceOptions(parent=self, protect=settings.protect),
        )
        gcp.compute.ForwardingRule(
            "external",
            name="samegate-external",
            region=settings.region,
            load_balancing_scheme="EXTERNAL",
            ip_address=address.address,
            ip_protocol="L3_DEFAULT",
            all_ports=True,
            backend_service=service.id,
            opts=child,
        )
        self.address: pulumi.Output[str] = address.address
        self.register_outputs({"address": self.address})


def _balancer(
    name: str, scheme: str, protocol: str, settings: Gcp, network: Network, edge: EdgeNodes, parent: pulumi.Resource
) -> gcp.compute.RegionBackendService:
    """Health check, a group of VMs in each zone, and the backend service over them."""
    child = pulumi.ResourceOptions(parent=parent)
    check = gcp.compute.RegionHealthCheck(
        name,
        name=f"samegate-{name}",
        region=settings.region,
        check_interval_sec=2,
        timeout_sec=2,
        healthy_threshold=2,
        unhealthy_threshold=2,
        http_health_check={"port": EDGE_PAGE_PORT, "request_path": "/readyz"},
        opts=child,
    )
    groups = {
        zone: gcp.compute.InstanceGroup(
            f"{name}-{zone}", name=f"samegate-{name}-{zone}", zone=zone, network=network.network_id, opts=child
        )
        for zone in settings.zones
    }
    for node in edge.nodes:
        machine = edge.machines[node.name]
        gcp.compute.InstanceGroupMembership(
            f"{name}-{node.settings.name}",
            zone=node.settings.zone,
            instance_group=groups[node.settings.zone].name,
            instance=node.self_link(settings.project),
            # A VM that is deleted leaves its group, and its successor has the same address in the API.
            opts=pulumi.ResourceOptions(
                parent=parent, depends_on=[machine], replace_with=[machine], delete_before_replace=True
            ),
        )
    return gcp.compute.RegionBackendService(
        name,
        name=f"samegate-{name}",
        region=settings.region,
        load_balancing_scheme=scheme,
        protocol=protocol,
        network=network.network_id if scheme == "INTERNAL" else None,
        health_checks=check.id,
        backends=[{"group": group.self_link, "balancing_mode": "CONNECTION"} for group in groups.values()],
        session_affinity="NONE",
        opts=child,
    )
