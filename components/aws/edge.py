"""Edge nodes on fixed addresses, and the fabric that they announce to: a Transit Gateway by GRE, or a VPC Route Server.

Addresses first, then sessions, then machines: a machine that is replaced changes no session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_aws as aws

from components.aws.cluster import HEALTH_PORT, NAME, PROTOCOL_IPIP, WORKER_PAGE_PORT, Cluster, node_role
from components.aws.network import Network, Subnet
from components.aws.plan import ENDPOINTS_PER_ZONE, gateway_address, planned
from components.aws.settings import PEERS_PER_CONNECT, Aws
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


class TransitGatewayFabric(pulumi.ComponentResource):
    """The gateway with its attachments, a Connect peer for each edge node, and the routes both ways. ``ready`` is what machines wait for."""

    def __init__(
        self,
        name: str,
        settings: Aws,
        network: Network,
        edge: EdgeNodes,
        local_asn: int,
        pools: Sequence[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:aws:TransitGatewayFabric", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        gateway = aws.ec2transitgateway.TransitGateway(
            "gateway",
            amazon_side_asn=settings.gateway.asn,
            transit_gateway_cidr_blocks=[str(settings.gateway.cidr)],
            # One table of our own: who learns what is written here, not implied.
            default_route_table_association="disable",
            default_route_table_propagation="disable",
            vpn_ecmp_support="enable",
            tags={"Name": "samegate"},
            opts=child,
        )
        table = aws.ec2transitgateway.RouteTable(
            "gateway", transit_gateway_id=gateway.id, tags={"Name": "samegate"}, opts=child
        )
        vpc = aws.ec2transitgateway.VpcAttachment(
            "vpc",
            transit_gateway_id=gateway.id,
            vpc_id=network.vpc_id,
            subnet_ids=[s.subnet_id for s in network.edge.values()],
            transit_gateway_default_route_table_association=False,
            transit_gateway_default_route_table_propagation=False,
            tags={"Name": "samegate-vpc"},
            opts=child,
        )
        joins: list[pulumi.Resource] = list(self._join("vpc", table.id, vpc.id, child))
        self.peers: dict[str, tuple[pulumi.Resource, ...]] = {}
        connects: dict[int, aws.ec2transitgateway.Connect] = {}
        for node in edge.nodes:
            # By number, not by position: a node that goes moves no other to another attachment.
            group = (node.settings.number - 1) // PEERS_PER_CONNECT + 1
            if group not in connects:
                connects[group] = aws.ec2transitgateway.Connect(
                    f"connect{group}",
                    transit_gateway_id=gateway.id,
                    transport_attachment_id=vpc.id,
                    protocol="gre",
                    transit_gateway_default_route_table_association=False,
                    transit_gateway_default_route_table_propagation=False,
                    tags={"Name": f"samegate-connect{group}"},
                    opts=child,
                )
                joins += self._join(f"connect{group}", table.id, connects[group].id, child)
                for other in settings.gateway.propagate_to:
                    aws.ec2transitgateway.RouteTablePropagation(
                        f"connect{group}-{other}",
                        transit_gateway_route_table_id=other,
                        transit_gateway_attachment_id=connects[group].id,
                        opts=child,
                    )
            peer = aws.ec2transitgateway.ConnectPeer(
                node.settings.name,
                transit_gateway_attachment_id=connects[group].id,
                peer_address=str(node.address),
                transit_gateway_address=str(gateway_address(settings, node.settings.number)),
                inside_cidr_blocks=[str(settings.gateway.inside_block(node.settings.number))],
                # Without it AWS takes its own number: an internal session, and no route passed on.
                bgp_asn=str(local_asn),
                tags={"Name": f"samegate-{node.settings.name}"},
                opts=pulumi.ResourceOptions(parent=self, depends_on=[edge.interfaces[node.settings.name]]),
            )
            self.peers[node.settings.name] = (peer,)
        routes: list[pulumi.Resource] = []
        for zone, subnet in network.edge.items():
            routes.append(self._route(f"edge-{zone}-gre", subnet, str(settings.gateway.cidr), gateway.id, vpc))
        # From inside the VPC, too, a VIP is reached through the gateway. Not from edge subnets: the VIP is local there.
        for zone, subnet in network.workers.items():
            routes += [
                self._route(f"workers-{zone}-{pool.replace('/', '-')}", subnet, pool, gateway.id, vpc) for pool in pools
            ]
        self.ready: tuple[pulumi.Resource, ...] = (*joins, *routes)
        self.register_outputs({"transitGatewayId": gateway.id})

    def _join(
        self, name: str, table: pulumi.Output[str], attachment: pulumi.Output[str], child: pulumi.ResourceOptions
    ) -> tuple[pulumi.Resource, pulumi.Resource]:
        """The attachment uses the table, and the table learns from it."""
        return (
            aws.ec2transitgateway.RouteTableAssociation(
                name, transit_gateway_route_table_id=table, transit_gateway_attachment_id=attachment, opts=child
            ),
            aws.ec2transitgateway.RouteTablePropagation(
                name, transit_gateway_route_table_id=table, transit_gateway_attachment_id=attachment, opts=child
            ),
        )

    def _route(
        self, name: str, subnet: Subnet, destination: str, gateway: pulumi.Output[str], attachment: pulumi.Resource
    ) -> aws.ec2.Route:
        return aws.ec2.Route(
            name,
            route_table_id=subnet.route_table_id,
            destination_cidr_block=destination,
            transit_gateway_id=gateway,
            # The VPC does not know the gateway before.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[attachment]),
        )


class RouteServerFabric(pulumi.ComponentResource):
    """The route server, two endpoints in each edge subnet, its propagations, and a peer for each node and endpoint of its zone.

    ``endpoint_addresses`` maps zones to the addresses that nodes there peer with. One route a VIP: active/standby everywhere.
    """

    def __init__(
        self,
        name: str,
        settings: Aws,
        network: Network,
        edge: EdgeNodes,
        local_asn: int,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:aws:RouteServerFabric", name, {}, opts)
        child = pulumi.ResourceOptions(parent=self)
        server = aws.vpc.RouteServer(
            "server",
            amazon_side_asn=settings.server.asn,
            # Persisted routes would outlive the health that withdrew them.
            persist_routes="disable",
            # The stack on it, too: of this type the provider says before an update nothing of its default tags, and a policy sees none.
            tags={"Name": "samegate", "samegate.dev/stack": pulumi.get_stack()},
            opts=child,
        )
        joined = aws.vpc.RouteServerVpcAssociation(
            "server", route_server_id=server.route_server_id, vpc_id=network.vpc_id, opts=child
        )
        after = pulumi.ResourceOptions(parent=self, depends_on=[joined])
        ready: list[pulumi.Resource] = [
            aws.vpc.RouteServerPropagation(
                f"{role}-{zone}",
                route_server_id=server.route_server_id,
                route_table_id=subnet.route_table_id,
                opts=after,
            )
            for role, subnets in (("workers", network.workers), ("edge", network.edge))
            for zone, subnet in subnets.items()
        ]
        endpoints = {
            (zone, number): aws.vpc.RouteServerEndpoint(
                f"{zone}-{number}",
                route_server_id=server.route_server_id,
                subnet_id=subnet.subnet_id,
                tags={"Name": f"samegate-{zone}-{number}"},
                opts=after,
            )
            for zone, subnet in network.edge.items()
            for number in range(1, ENDPOINTS_PER_ZONE + 1)
        }
        self.endpoint_addresses: dict[str, tuple[pulumi.Output[str], ...]] = {
            zone: tuple(endpoints[zone, number].eni_address for number in range(1, ENDPOINTS_PER_ZONE + 1))
            for zone in network.edge
        }
        self.peers: dict[str, tuple[pulumi.Resource, ...]] = {
            node.settings.name: tuple(
                aws.vpc.RouteServerPeer(
                    f"{node.settings.name}-{number}",
                    route_server_endpoint_id=endpoints[node.settings.zone, number].route_server_endpoint_id,
                    peer_address=str(node.address),
                    bgp_options={"peer_asn": local_asn, "peer_liveness_detection": settings.server.liveness},
                    tags={"Name": f"samegate-{node.settings.name}-{number}"},
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[edge.interfaces[node.settings.name]]),
                )
                for number in range(1, ENDPOINTS_PER_ZONE + 1)
            )
            for node in edge.nodes
        }
        self.ready: tuple[pulumi.Resource, ...] = tuple(ready)
        self.register_outputs({"routeServerId": server.route_server_id})
