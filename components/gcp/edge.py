"""Edge nodes as VMs outside the cluster, and the fabric that leads to them: Cloud Router by BGP, or a passthrough balancer.

Order: addresses, machines that may forward, spokes, the router's interfaces, sessions. A machine that is replaced keeps its address, and
with it its sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pulumi
import pulumi_gcp as gcp

from components.bootstrap import gce_edge_node
from components.gcp.cluster import Cluster, service_account
from components.gcp.network import Network
from components.gcp.plan import EDGE_ACCOUNT, planned
from components.gcp.settings import Gcp, router_addresses

PROTOCOL_IPIP = "4"
"""IANA protocol number: the API takes `ipip` too, but stores the number (kops#8249)."""
PROBES = ("35.191.0.0/16", "130.211.0.0/22")
"""Where health checks of internal passthrough balancers come from (Cloud Load Balancing documentation, health checks)."""
EXTERNAL_PROBES = ("35.191.0.0/16", "209.85.152.0/22", "209.85.204.0/22")
"""The same for external passthrough balancers."""
EDGE_PAGE_PORT = 9474
HEALTH_PORT, WORKER_PAGE_PORT = 10256, 9475
CONNECT_PERMISSIONS = ("container.clusters.get", "container.clusters.connect")
"""All that IAM has to give: to find the cluster and to reach its DNS endpoint. What the agent may read is RBAC's."""
EDGE_SCOPES = ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email")
"""Without the second one a VM's token does not tell the account's address, and RBAC knows it by a number alone (GKE documentation, RBAC)."""


class EdgeNodes(pulumi.ComponentResource):
    """Addresses, service account, firewall and machines. ``machines`` maps node names to VMs, each after the one before it."""

    def __init__(
        self,
        name: str,
        settings: Gcp,
        image: str,
        network: Network,
        cluster: Cluster,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:gcp:EdgeNodes", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        self._settings, self._network, self._child = settings, network, child
        self.nodes = planned(settings)
        self.account = service_account(
            EDGE_ACCOUNT, settings, ("roles/artifactregistry.reader", "roles/logging.logWriter"), self
        )
        connect = gcp.projects.IAMCustomRole(
            "edge",
            role_id="samegateEdge",
            title="samegate edge node",
            permissions=list(CONNECT_PERMISSIONS),
            opts=child,
        )
        gcp.projects.IAMMember(
            "edge-connect",
            project=settings.project,
            role=connect.id,
            member=self.account.email.apply(lambda email: f"serviceAccount:{email}"),
            opts=child,
        )
        self._firewall(cluster)
        addresses = {
            node.name: gcp.compute.Address(
                node.settings.name,
                name=node.name,
                region=settings.region,
                address_type="INTERNAL",
                purpose="GCE_ENDPOINT",
                subnetwork=network.edge_id,
                address=str(node.address),
                labels=dict(settings.labels),
                opts=child,
            )
            for node in self.nodes
        }
        self.machines: dict[str, gcp.compute.Instance] = {}
        before: list[pulumi.Resource] = []
        for node in self.nodes:
            machine = gcp.compute.Instance(
                node.settings.name,
                name=node.name,
                zone=node.settings.zone,
                machine_type=settings.edge.machine_type,
                # Before it may join a spoke, and for every packet to a VIP.
                can_ip_forward=True,
                boot_disk={"initialize_params": {"image": settings.edge.image, "size": settings.edge.disk_gib}},
                network_interfaces=[{"subnetwork": network.edge_id, "network_ip": addresses[node.name].address}],
                service_account={
                    "email": self.account.email,
                    "scopes": list(EDGE_SCOPES),
                },
                shielded_instance_config={
                    "enable_secure_boot": True,
                    "enable_vtpm": True,
                    "enable_integrity_monitoring": True,
                },
                metadata={"block-project-ssh-keys": "true"},
                # Replaces the machine when it changes, unlike `metadata`: what an older script has left on the disk would stay.
                metadata_startup_script=cluster.edge_kubeconfig.apply(partial(gce_edge_node, image, node.name)),
                labels={**settings.labels, "samegate-role": "edge"},
                # Name and address can belong to one machine only, so the old one goes first.
                opts=pulumi.ResourceOptions(parent=self, depends_on=before, delete_before_replace=True),
            )
            self.machines[node.name] = machine
            before = [machine]
        self.register_outputs({})

    def _firewall(self, cluster: Cluster) -> None:
        """By rule, never by state; from service accounts where the sender has one."""
        settings = self._settings
        clients = [str(block) for block in settings.client_cidrs]
        self._allow("clients", ["tcp", "udp", "icmp"], to=self.account.email, ranges=clients)
        self._allow("tunnel", [PROTOCOL_IPIP, "icmp"], to=cluster.node_account.email, sender=self.account.email)
        self._allow("tunnel-return", [PROTOCOL_IPIP, "icmp"], to=self.account.email, sender=cluster.node_account.email)
        self._allow(
            "probes",
            ["tcp"],
            to=cluster.node_account.email,
            sender=self.account.email,
            ports=[HEALTH_PORT, WORKER_PAGE_PORT],
        )
        # Other edge nodes ask it whether they alone are in trouble; workers, controller and monitoring (from pods' addresses) what it announces.
        askers = [str(block) for block in (settings.node_cidr, settings.pod_cidr, settings.edge_cidr)]
        self._allow("pages", ["tcp"], to=self.account.email, ranges=askers, ports=[EDGE_PAGE_PORT])
        if settings.fabric == "router-appliance":
            routers = [f"{address}/32" for address in router_addresses(settings)]
            self._allow("bgp", ["tcp"], to=self.account.email, ranges=routers, ports=[179])
        ranges = {
            *(PROBES if settings.fabric == "passthrough" else ()),
            *(EXTERNAL_PROBES if settings.internet_ingress == "passthrough" else ()),
        }
        if ranges:
            self._allow("health", ["tcp"], to=self.account.email, ranges=sorted(ranges), ports=[EDGE_PAGE_PORT])

    def _allow(
        self,
        name: str,
        protocols: Sequence[str],
        *,
        to: pulumi.Output[str],
        ranges: Sequence[str] | None = None,
        sender: pulumi.Output[str] | None = None,
        ports: Sequence[int] = (),
    ) -> None:
        allows = [{"protocol": p, **({"ports": [str(port) for port in ports]} if ports else {})} for p in protocols]
        gcp.compute.Firewall(
            f"edge-{name}",
            name=f"samegate-{name}",
            network=self._network.network_id,
            direction="INGRESS",
            allows=allows,
            source_ranges=list(ranges) if ranges else None,
            source_service_accounts=[sender] if sender is not None else None,
            target_service_accounts=[to],
            opts=self._child,
        )


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
