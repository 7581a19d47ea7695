"""Edge nodes on fixed addresses.

Addresses first, then sessions (:mod:`components.aws.fabric`), then machines: a machine that is replaced changes no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_aws as aws

from components.aws.cluster import HEALTH_PORT, NAME, PROTOCOL_IPIP, WORKER_PAGE_PORT, Cluster, node_role
from components.aws.network import Network
from components.aws.plan import planned
from components.aws.settings import Aws
from components.bootstrap import eks_edge_node

PROTOCOL_GRE = "47"
BFD_PORTS = (3784, 3785)
"""Control and echo (RFC 5881): AWS' side is reported to want both."""


class EdgeNodes(pulumi.ComponentResource):
    """Interfaces and machines. ``interfaces`` maps node names to the pre-created ones; ``machines`` wait for what the fabric needs."""

    def __init__(
        self,
        name: str,
        settings: Aws,
        network: Network,
        cluster: Cluster,
        labels: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:aws:EdgeNodes", name, {}, opts)
        self._settings, self._cluster, self._labels = settings, cluster, labels
        self._child = pulumi.ResourceOptions(parent=self)
        self.nodes = planned(settings)
        self.group = aws.ec2.SecurityGroup(
            "edge",
            vpc_id=network.vpc_id,
            description="samegate edge nodes",
            tags={"Name": "samegate-edge"},
            opts=self._child,
        )
        self._rules(network)
        self.interfaces = {
            node.settings.name: aws.ec2.NetworkInterface(
                node.settings.name,
                subnet_id=network.edge[node.settings.zone].subnet_id,
                private_ips=[str(node.address)],
                # VIPs are nobody's addresses in the VPC's eyes.
                source_dest_check=False,
                security_groups=[cluster.security_group_id, self.group.id],
                description=f"samegate {node.settings.name}",
                tags={"Name": f"samegate-{node.settings.name}", "samegate.dev/role": "edge"},
                # The VPC CNI adds pods' addresses to the primary interface whatever tags say (amazon-vpc-cni-k8s#1510).
                opts=pulumi.ResourceOptions(parent=self, ignore_changes=["privateIps"]),
            )
            for node in self.nodes
        }
        self.register_outputs({})

    def machines(
        self, after: Sequence[pulumi.Resource], sessions: Mapping[str, Sequence[pulumi.Resource]]
    ) -> dict[str, aws.ec2.Instance]:
        """The instances, each after the one before it, so that a change replaces them one at a time, and each after its own sessions."""
        role = node_role("edge", self)
        entry = aws.eks.AccessEntry(
            "edge", cluster_name=self._cluster.eks.name, principal_arn=role.arn, type="EC2_LINUX", opts=self._child
        )
        profile = aws.iam.InstanceProfile("edge", role=role.name, opts=self._child)
        user_data = pulumi.Output.all(self._cluster.endpoint, self._cluster.certificate_authority).apply(
            lambda known: eks_edge_node(
                NAME,
                known[0],
                known[1],
                str(self._settings.service_cidr),
                self._labels,
                "samegate.dev/edge=:NoSchedule",
            )
        )
        machines: dict[str, aws.ec2.Instance] = {}
        before: list[pulumi.Resource] = [entry, *after]
        for node in self.nodes:
            machine = aws.ec2.Instance(
                node.settings.name,
                ami=self._settings.edge.image,
                instance_type=self._settings.edge.machine_type,
                primary_network_interface={"network_interface_id": self.interfaces[node.settings.name].id},
                iam_instance_profile=profile.name,
                metadata_options={
                    "http_tokens": "required",
                    "http_put_response_hop_limit": 1,
                    "http_endpoint": "enabled",
                },
                root_block_device={
                    "encrypted": True,
                    "volume_size": self._settings.edge.disk_gib,
                    "volume_type": "gp3",
                },
                user_data=user_data,
                user_data_replace_on_change=True,
                tags={"Name": f"samegate-{node.settings.name}", "samegate.dev/role": "edge"},
                # The interface can serve one machine only, so the old one goes first.
                opts=pulumi.ResourceOptions(
                    parent=self, depends_on=[*before, *sessions[node.settings.name]], delete_before_replace=True
                ),
            )
            machines[node.settings.name] = machine
            before = [entry, *after, machine]
        return machines

    def _rules(self, network: Network) -> None:
        """By rule, never by state: after a re-hash the middle of a connection arrives at a node that never saw its beginning."""
        settings = self._settings
        self._in("icmp", "icmp", str(settings.vpc_cidr))
        if settings.fabric == "transit-gateway":
            # Sessions and VIP traffic are inside GRE, where security groups do not look.
            self._in("gre", PROTOCOL_GRE, str(settings.gateway.cidr))
        else:
            for zone, subnet in network.edge.items():
                self._in(f"bgp-{zone}", "tcp", str(subnet.cidr), 179)
                for port in BFD_PORTS if settings.server.liveness == "bfd" else ():
                    self._in(f"bfd-{zone}-{port}", "udp", str(subnet.cidr), port)
            for clients in settings.server.client_cidrs:
                self._in(f"clients-{clients.network_address}-{clients.prefixlen}", "-1", str(clients))
        aws.vpc.SecurityGroupEgressRule(
            "edge-out", security_group_id=self.group.id, ip_protocol="-1", cidr_ipv4="0.0.0.0/0", opts=self._child
        )
        # Between edge nodes and workers: the tunnel both ways (replies go back through an edge node), and what probes ask.
        self._between("edge-tunnel-return", self.group, self._cluster.worker_group, PROTOCOL_IPIP)
        self._between("workers-tunnel", self._cluster.worker_group, self.group, PROTOCOL_IPIP)
        for port in (HEALTH_PORT, WORKER_PAGE_PORT):
            self._between(f"workers-probe-{port}", self._cluster.worker_group, self.group, "tcp", port)

    def _in(self, name: str, protocol: str, cidr: str, port: int | None = None) -> None:
        ports = {"from_port": -1, "to_port": -1} if protocol == "icmp" else {}
        if port is not None:
            ports = {"from_port": port, "to_port": port}
        aws.vpc.SecurityGroupIngressRule(
            f"edge-{name}",
            security_group_id=self.group.id,
            ip_protocol=protocol,
            cidr_ipv4=cidr,
            from_port=ports.get("from_port"),
            to_port=ports.get("to_port"),
            opts=self._child,
        )

    def _between(
        self,
        name: str,
        to: aws.ec2.SecurityGroup,
        source: aws.ec2.SecurityGroup,
        protocol: str,
        port: int | None = None,
    ) -> None:
        aws.vpc.SecurityGroupIngressRule(
            name,
            security_group_id=to.id,
            referenced_security_group_id=source.id,
            ip_protocol=protocol,
            from_port=port,
            to_port=port,
            opts=self._child,
        )
