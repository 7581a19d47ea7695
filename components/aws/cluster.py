"""EKS: control plane, managed add-ons, workers in a managed node group, and who may join or administer."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
import pulumi_aws as aws

from components.aws.network import Network
from components.aws.settings import Aws
from components.bootstrap import exec_kubeconfig

NAME = "samegate"
"""Of the cluster. It is part of the credential, so it is never generated."""
LOGS = ("api", "audit", "authenticator", "controllerManager", "scheduler")
LOG_DAYS = 30
NODE_POLICIES = ("AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonEKS_CNI_Policy")
"""The least that a node needs: to join, to pull, to give pods addresses (EKS user guide, node IAM role)."""
ADMIN_POLICY = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
HEALTH_PORT, WORKER_PAGE_PORT = 10256, 9475
"""kube-proxy's health port (its default), and the worker agent's page: both are what edge nodes ask."""
PROTOCOL_IPIP = "4"
"""IANA protocol number; security groups take numbers for all but the best known."""


def node_role(name: str, parent: pulumi.Resource) -> aws.iam.Role:
    """A role for nodes with the policies that every node needs."""
    role = aws.iam.Role(
        name,
        assume_role_policy=_trust("ec2.amazonaws.com"),
        description=f"samegate: {name}",
        opts=pulumi.ResourceOptions(parent=parent),
    )
    for policy in NODE_POLICIES:
        aws.iam.RolePolicyAttachment(
            f"{name}-{policy}",
            role=role.name,
            policy_arn=f"arn:aws:iam::aws:policy/{policy}",
            opts=pulumi.ResourceOptions(parent=parent),
        )
    return role


class Cluster(pulumi.ComponentResource):
    """``kubeconfig`` runs our credential helper, so its text changes only with the cluster. ``security_group_id`` lets members talk."""

    def __init__(
        self,
        name: str,
        settings: Aws,
        network: Network,
        worker_labels: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:aws:Cluster", name, {}, opts)
        self._child = pulumi.ResourceOptions(parent=self)
        self.eks = self._control_plane(settings, network)
        self.endpoint: pulumi.Output[str] = self.eks.endpoint
        self.certificate_authority: pulumi.Output[str] = self.eks.certificate_authority.apply(lambda ca: str(ca.data))
        self.security_group_id: pulumi.Output[str] = self.eks.vpc_config.apply(
            lambda vpc: str(vpc.cluster_security_group_id)
        )
        self._administrators(settings)
        # Nodes are Ready only with it, and a node group waits for Ready nodes.
        before_nodes = [self._addon("vpc-cni"), self._addon("kube-proxy")]
        self.worker_group = aws.ec2.SecurityGroup(
            "workers",
            vpc_id=network.vpc_id,
            description="samegate workers",
            tags={"Name": "samegate-workers"},
            opts=self._child,
        )
        aws.vpc.SecurityGroupEgressRule(
            "workers-out",
            security_group_id=self.worker_group.id,
            ip_protocol="-1",
            cidr_ipv4="0.0.0.0/0",
            opts=self._child,
        )
        self.nodes = self._workers(settings, network, worker_labels, before_nodes)
        self._addon("coredns", self.nodes)
        command = (".venv/bin/python", "-m", "components.aws.credential", NAME, settings.region)
        self.kubeconfig: pulumi.Output[str] = pulumi.Output.all(self.endpoint, self.certificate_authority).apply(
            lambda known: exec_kubeconfig(NAME, known[0], known[1], command, settings.api_server.proxy_url)
        )
        self.register_outputs({"endpoint": self.endpoint})

    def _control_plane(self, settings: Aws, network: Network) -> aws.eks.Cluster:
        key = aws.kms.Key(
            "secrets",
            description="samegate: Kubernetes secrets",
            enable_key_rotation=True,
            # Without it every Secret of the cluster is lost.
            opts=pulumi.ResourceOptions(parent=self, protect=settings.protect),
        )
        logs = aws.cloudwatch.LogGroup(
            "control-plane", name=f"/aws/eks/{NAME}/cluster", retention_in_days=LOG_DAYS, opts=self._child
        )
        role = aws.iam.Role("cluster", assume_role_policy=_trust("eks.amazonaws.com"), opts=self._child)
        right = aws.iam.RolePolicyAttachment(
            "cluster-AmazonEKSClusterPolicy",
            role=role.name,
            policy_arn="arn:aws:iam::aws:policy/AmazonEKSClusterPolicy",
            opts=self._child,
        )
        public = settings.api_server.access == "cidrs"
        return aws.eks.Cluster(
            "cluster",
            name=NAME,
            role_arn=role.arn,
            version=settings.kubernetes_version,
            access_config={"authentication_mode": "API", "bootstrap_cluster_creator_admin_permissions": True},
            bootstrap_self_managed_addons=False,
            enabled_cluster_log_types=list(LOGS),
            encryption_config={"provider": {"key_arn": key.arn}, "resources": ["secrets"]},
            kubernetes_network_config={"service_ipv4_cidr": str(settings.service_cidr)},
            vpc_config={
                "subnet_ids": [s.subnet_id for s in network.workers.values()],
                "endpoint_private_access": True,
                "endpoint_public_access": public,
                **({"public_access_cidrs": [str(c) for c in settings.api_server.cidrs]} if public else {}),
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[right, logs], protect=settings.protect),
        )

    def _administrators(self, settings: Aws) -> None:
        for arn in settings.admin_role_arns:
            who = arn.partition(":iam::")[2].replace(":", "-")
            entry = aws.eks.AccessEntry(f"admin-{who}", cluster_name=self.eks.name, principal_arn=arn, opts=self._child)
            aws.eks.AccessPolicyAssociation(
                f"admin-{who}",
                cluster_name=self.eks.name,
                principal_arn=arn,
                policy_arn=ADMIN_POLICY,
                access_scope={"type": "cluster"},
                opts=pulumi.ResourceOptions(parent=self, depends_on=[entry]),
            )

    def _addon(self, addon: str, after: pulumi.Resource | None = None) -> aws.eks.Addon:
        return aws.eks.Addon(
            addon,
            cluster_name=self.eks.name,
            addon_name=addon,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="PRESERVE",
            opts=pulumi.ResourceOptions(parent=self, depends_on=[after] if after else None),
        )

    def _workers(
        self, settings: Aws, network: Network, labels: Mapping[str, str], after: list[aws.eks.Addon]
    ) -> aws.eks.NodeGroup:
        role = node_role("worker", self)
        template = aws.ec2.LaunchTemplate(
            "workers",
            metadata_options={"http_tokens": "required", "http_put_response_hop_limit": 1, "http_endpoint": "enabled"},
            vpc_security_group_ids=[self.security_group_id, self.worker_group.id],
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    "ebs": {"volume_size": settings.workers.disk_gib, "volume_type": "gp3", "encrypted": "true"},
                }
            ],
            tag_specifications=[{"resource_type": "instance", "tags": {"Name": "samegate-worker"}}],
            update_default_version=True,
            opts=self._child,
        )
        workers = settings.workers
        return aws.eks.NodeGroup(
            "workers",
            cluster_name=self.eks.name,
            node_role_arn=role.arn,
            subnet_ids=[s.subnet_id for s in network.workers.values()],
            scaling_config={"min_size": workers.minimum, "max_size": workers.maximum, "desired_size": workers.desired},
            update_config={"max_unavailable": 1},
            ami_type="AL2023_ARM_64_STANDARD" if workers.architecture == "arm64" else "AL2023_x86_64_STANDARD",
            instance_types=[workers.machine_type],
            version=settings.kubernetes_version,
            launch_template={"id": template.id, "version": template.latest_version.apply(str)},
            labels=dict(labels),
            # Pods that drain may take their time; the numbers of an autoscaler are its own.
            opts=pulumi.ResourceOptions(parent=self, depends_on=after, ignore_changes=["scalingConfig.desiredSize"]),
        )


def _trust(service: str) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
        },
        sort_keys=True,
    )
