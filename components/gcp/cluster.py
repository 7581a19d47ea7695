"""GKE Standard on the legacy data path: private nodes, a DNS endpoint, logs, encrypted Secrets, and a node pool of plain workers."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
import pulumi_gcp as gcp

from components.bootstrap import GCE_CREDENTIAL, exec_kubeconfig
from components.gcp.network import PODS, SERVICES, Network
from components.gcp.settings import Gcp

NAME = "samegate"
NODE_ROLES = ("roles/container.defaultNodeServiceAccount", "roles/artifactregistry.reader")
"""The least that a node needs (GKE documentation, least privilege service accounts)."""
LOGS = ("SYSTEM_COMPONENTS", "APISERVER", "CONTROLLER_MANAGER", "SCHEDULER", "WORKLOADS")


def service_account(
    name: str, settings: Gcp, roles: tuple[str, ...], parent: pulumi.Resource
) -> gcp.serviceaccount.Account:
    """A service account with these roles in the project, and nothing else."""
    child = pulumi.ResourceOptions(parent=parent)
    account = gcp.serviceaccount.Account(
        name, account_id=f"samegate-{name}", display_name=f"samegate {name}", opts=child
    )
    for role in roles:
        gcp.projects.IAMMember(
            f"{name}-{role.rpartition('.')[2]}",
            project=settings.project,
            role=role,
            member=account.email.apply(lambda email: f"serviceAccount:{email}"),
            opts=child,
        )
    return account


class Cluster(pulumi.ComponentResource):
    """``kubeconfig`` runs our credential helper, so its text changes only with the cluster; ``node_account`` is what firewalls name.

    ``edge_kubeconfig`` is that of edge VMs: by the DNS endpoint, which is open to machines in the network however operators come.
    """

    def __init__(
        self,
        name: str,
        settings: Gcp,
        network: Network,
        worker_labels: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:gcp:Cluster", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.node_account = service_account("worker", settings, NODE_ROLES, self)
        ring = gcp.kms.KeyRing("secrets", name="samegate", location=settings.region, opts=child)
        key = gcp.kms.CryptoKey(
            "secrets",
            name="secrets",
            key_ring=ring.id,
            rotation_period="7776000s",
            # Without it every Secret of the cluster is lost.
            opts=pulumi.ResourceOptions(parent=self, protect=settings.protect),
        )
        public = settings.api_server.access == "cidrs"
        self.gke = gcp.container.Cluster(
            "cluster",
            name=NAME,
            location=settings.region,
            node_locations=list(settings.zones),
            network=network.network_id,
            subnetwork=network.nodes_id,
            min_master_version=settings.kubernetes_version,
            release_channel={"channel": "UNSPECIFIED"},
            # kube-proxy delivers what edge nodes tunnel; Dataplane V2 does not (cilium#33020).
            datapath_provider="LEGACY_DATAPATH",
            networking_mode="VPC_NATIVE",
            ip_allocation_policy={"cluster_secondary_range_name": PODS, "services_secondary_range_name": SERVICES},
            remove_default_node_pool=True,
            initial_node_count=1,
            private_cluster_config={
                "enable_private_nodes": True,
                "enable_private_endpoint": not public,
                "master_ipv4_cidr_block": str(settings.master_cidr),
            },
            master_authorized_networks_config={
                "cidr_blocks": [{"cidr_block": str(block)} for block in settings.api_server.cidrs]
            },
            control_plane_endpoints_config={
                "dns_endpoint_config": {
                    "allow_external_traffic": settings.api_server.access == "dns",
                    "enable_k8s_tokens_via_dns": True,
                }
            },
            logging_config={"enable_components": list(LOGS)},
            database_encryption={"state": "ENCRYPTED", "key_name": key.id},
            workload_identity_config={"workload_pool": f"{settings.project}.svc.id.goog"},
            enable_shielded_nodes=True,
            deletion_protection=settings.protect,
            resource_labels=dict(settings.labels),
            opts=pulumi.ResourceOptions(parent=self, protect=settings.protect),
        )
        workers = settings.workers
        self.nodes = gcp.container.NodePool(
            "workers",
            name="workers",
            cluster=self.gke.id,
            location=settings.region,
            version=settings.kubernetes_version,
            autoscaling={"min_node_count": workers.minimum, "max_node_count": workers.maximum},
            initial_node_count=workers.minimum,
            # As GKE's own releases would move it under a pinned control plane.
            management={"auto_repair": True, "auto_upgrade": False},
            upgrade_settings={"max_surge": 1, "max_unavailable": 0},
            node_config={
                "machine_type": workers.machine_type,
                "disk_size_gb": workers.disk_gib,
                "service_account": self.node_account.email,
                "oauth_scopes": ["https://www.googleapis.com/auth/cloud-platform"],
                "labels": dict(worker_labels),
                "workload_metadata_config": {"mode": "GKE_METADATA"},
                "shielded_instance_config": {"enable_secure_boot": True},
            },
            opts=child,
        )
        command = (".venv/bin/python", "-m", "components.gcp.credential")
        # By its DNS name the API server has a certificate of a public authority; by its address one of the cluster's own.
        by_name = settings.api_server.access in ("in-network", "dns")
        name_endpoint: pulumi.Output[str] = self.gke.control_plane_endpoints_config.apply(
            lambda c: f"https://{c.dns_endpoint_config.endpoint}"
        )
        self.endpoint: pulumi.Output[str] = (
            name_endpoint if by_name else self.gke.endpoint.apply(lambda address: f"https://{address}")
        )
        authority: pulumi.Output[str] = (
            pulumi.Output.from_input("")
            if by_name
            else self.gke.master_auth.apply(lambda auth: str(auth.cluster_ca_certificate))
        )
        self.kubeconfig: pulumi.Output[str] = pulumi.Output.all(self.endpoint, authority).apply(
            lambda known: exec_kubeconfig(NAME, known[0], known[1], command, settings.api_server.proxy_url)
        )
        self.edge_kubeconfig: pulumi.Output[str] = name_endpoint.apply(
            lambda endpoint: exec_kubeconfig(NAME, endpoint, "", GCE_CREDENTIAL)
        )
        self.register_outputs({"endpoint": self.endpoint})
