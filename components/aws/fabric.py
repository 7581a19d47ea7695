"""How VIPs enter the VPC: a Transit Gateway by GRE, or a VPC Route Server. Sessions are made before the machines that hold them."""

from __future__ import annotations

from collections.abc import Sequence

import pulumi
import pulumi_aws as aws

from components.aws.edge import EdgeNodes
from components.aws.network import Network, Subnet
from components.aws.plan import ENDPOINTS_PER_ZONE, gateway_address
from components.aws.settings import PEERS_PER_CONNECT, Aws


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
