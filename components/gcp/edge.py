"""Edge nodes as VMs outside the cluster.

Order: addresses, machines that may forward, and then what leads to them (:mod:`components.gcp.fabric`): spokes, the router's interfaces, sessions.
A machine that is replaced keeps its address, and with it its sessions.
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
