"""The VPC: subnets by role and zone, their route tables, endpoints to AWS' own services, and a NAT gateway where it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from components.aws.addressing import layout
from components.aws.settings import Aws

ENDPOINTS = ("ec2", "ecr.api", "ecr.dkr", "eks", "eks-auth", "logs", "sts")
"""Interface endpoints that nodes of a private EKS cluster need (EKS user guide, private clusters); S3 is a gateway, for image layers."""


@dataclass(frozen=True)
class Subnet:
    """A subnet with its own route table, so that a fabric can be reached from some and not from others."""

    zone: str
    cidr: IPv4Network
    subnet_id: pulumi.Output[str]
    route_table_id: pulumi.Output[str]


class Network(pulumi.ComponentResource):
    """``workers`` and ``edge`` map zones to subnets; ``vpc_id`` is the VPC. Nothing in it has a public address but the NAT gateway."""

    def __init__(self, name: str, settings: Aws, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("samegate:aws:Network", name, {}, opts)
        self._settings, self._child = settings, pulumi.ResourceOptions(parent=self)
        networks = layout(settings.vpc_cidr, settings.zones)
        self.vpc = aws.ec2.Vpc(
            "vpc",
            cidr_block=str(settings.vpc_cidr),
            enable_dns_support=True,
            # The private endpoint of EKS is a name in a zone of the VPC.
            enable_dns_hostnames=True,
            tags={"Name": "samegate"},
            opts=self._child,
        )
        self.vpc_id: pulumi.Output[str] = self.vpc.id
        self.workers = {zone: self._subnet("workers", zone, networks.workers[zone]) for zone in settings.zones}
        self.edge = {zone: self._subnet("edge", zone, networks.edge[zone]) for zone in settings.zones}
        if settings.nat:
            self._nat({zone: networks.public[zone] for zone in settings.zones})
        self._endpoints()
        self.register_outputs({"vpcId": self.vpc_id})

    def _subnet(self, role: str, zone: str, cidr: IPv4Network) -> Subnet:
        subnet = aws.ec2.Subnet(
            f"{role}-{zone}",
            vpc_id=self.vpc_id,
            availability_zone=zone,
            cidr_block=str(cidr),
            map_public_ip_on_launch=False,
            tags={"Name": f"samegate-{role}-{zone}", "samegate.dev/role": role},
            opts=self._child,
        )
        table = aws.ec2.RouteTable(
            f"{role}-{zone}", vpc_id=self.vpc_id, tags={"Name": f"samegate-{role}-{zone}"}, opts=self._child
        )
        aws.ec2.RouteTableAssociation(f"{role}-{zone}", subnet_id=subnet.id, route_table_id=table.id, opts=self._child)
        return Subnet(zone, cidr, subnet.id, table.id)

    def _nat(self, networks: dict[str, IPv4Network]) -> None:
        """One NAT gateway in the first zone: a way out, not a way in. Pods and images survive its zone; what they fetch from outside waits."""
        internet = aws.ec2.InternetGateway("internet", vpc_id=self.vpc_id, tags={"Name": "samegate"}, opts=self._child)
        public = {zone: self._subnet("public", zone, cidr) for zone, cidr in networks.items()}
        for zone, subnet in public.items():
            aws.ec2.Route(
                f"public-{zone}-internet",
                route_table_id=subnet.route_table_id,
                destination_cidr_block="0.0.0.0/0",
                gateway_id=internet.id,
                opts=self._child,
            )
        address = aws.ec2.Eip("nat", domain="vpc", tags={"Name": "samegate-nat"}, opts=self._child)
        nat = aws.ec2.NatGateway(
            "nat",
            subnet_id=public[self._settings.zones[0]].subnet_id,
            allocation_id=address.allocation_id,
            tags={"Name": "samegate"},
            # Without the internet gateway attached, AWS refuses it.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[internet]),
        )
        for role, subnets in (("workers", self.workers), ("edge", self.edge)):
            for zone, subnet in subnets.items():
                aws.ec2.Route(
                    f"{role}-{zone}-nat",
                    route_table_id=subnet.route_table_id,
                    destination_cidr_block="0.0.0.0/0",
                    nat_gateway_id=nat.id,
                    opts=self._child,
                )

    def _endpoints(self) -> None:
        group = aws.ec2.SecurityGroup(
            "endpoints",
            vpc_id=self.vpc_id,
            description="AWS services from inside the VPC",
            tags={"Name": "samegate-endpoints"},
            opts=self._child,
        )
        aws.vpc.SecurityGroupIngressRule(
            "endpoints-https",
            security_group_id=group.id,
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            cidr_ipv4=str(self._settings.vpc_cidr),
            opts=self._child,
        )
        for service in ENDPOINTS:
            aws.ec2.VpcEndpoint(
                f"endpoint-{service}",
                vpc_id=self.vpc_id,
                service_name=f"com.amazonaws.{self._settings.region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=[s.subnet_id for s in self.workers.values()],
                security_group_ids=[group.id],
                tags={"Name": f"samegate-{service}"},
                opts=self._child,
            )
        aws.ec2.VpcEndpoint(
            "endpoint-s3",
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{self._settings.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[s.route_table_id for s in (*self.workers.values(), *self.edge.values())],
            tags={"Name": "samegate-s3"},
            opts=self._child,
        )
