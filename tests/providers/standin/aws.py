"""AWS as far as samegate uses it: what its API refuses. Sources are the API references and quota pages named at each rule."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from tests.providers.standin import sdk
from tests.providers.standin.cloud import Object, Refused, World
from tests.providers.standin.replacement import aws_create_only
from tests.providers.standin.rules import Check, Rules, check_version_step, minor_version, values_at

VPC, SUBNET, ENI, INSTANCE = (
    "aws:ec2/vpc:Vpc",
    "aws:ec2/subnet:Subnet",
    "aws:ec2/networkInterface:NetworkInterface",
    "aws:ec2/instance:Instance",
)
GROUP, ROUTE_TABLE, ROUTE, ASSOCIATION = (
    "aws:ec2/securityGroup:SecurityGroup",
    "aws:ec2/routeTable:RouteTable",
    "aws:ec2/route:Route",
    "aws:ec2/routeTableAssociation:RouteTableAssociation",
)
IGW, EIP, NAT, ENDPOINT = (
    "aws:ec2/internetGateway:InternetGateway",
    "aws:ec2/eip:Eip",
    "aws:ec2/natGateway:NatGateway",
    "aws:ec2/vpcEndpoint:VpcEndpoint",
)
TGW, TGW_VPC, CONNECT, PEER, TGW_TABLE, TGW_ASSOCIATION, TGW_PROPAGATION = (
    f"aws:ec2transitgateway/{name[:1].lower()}{name[1:]}:{name}"
    for name in (
        "TransitGateway",
        "VpcAttachment",
        "Connect",
        "ConnectPeer",
        "RouteTable",
        "RouteTableAssociation",
        "RouteTablePropagation",
    )
)
SERVER, SERVER_VPC, SERVER_ENDPOINT, SERVER_PEER, SERVER_PROPAGATION = (
    f"aws:vpc/{name[:1].lower()}{name[1:]}:{name}"
    for name in (
        "RouteServer",
        "RouteServerVpcAssociation",
        "RouteServerEndpoint",
        "RouteServerPeer",
        "RouteServerPropagation",
    )
)
INGRESS, EGRESS = (
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
)
CLUSTER, NODE_GROUP, ADDON, ENTRY = (
    "aws:eks/cluster:Cluster",
    "aws:eks/nodeGroup:NodeGroup",
    "aws:eks/addon:Addon",
    "aws:eks/accessEntry:AccessEntry",
)
ROLE, POLICY, PROFILE, INLINE = (
    "aws:iam/role:Role",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
    "aws:iam/instanceProfile:InstanceProfile",
    "aws:iam/rolePolicy:RolePolicy",
)
KEY, LOGS, TEMPLATE = "aws:kms/key:Key", "aws:cloudwatch/logGroup:LogGroup", "aws:ec2/launchTemplate:LaunchTemplate"

PREFIXES = {
    VPC: "vpc",
    SUBNET: "subnet",
    ENI: "eni",
    INSTANCE: "i",
    GROUP: "sg",
    ROUTE_TABLE: "rtb",
    IGW: "igw",
    EIP: "eipalloc",
    NAT: "nat",
    ENDPOINT: "vpce",
    TGW: "tgw",
    TGW_VPC: "tgw-attach",
    CONNECT: "tgw-attach",
    PEER: "tgw-connect-peer",
    TGW_TABLE: "tgw-rtb",
    SERVER: "rs",
    SERVER_ENDPOINT: "rse",
    SERVER_PEER: "rsp",
    INGRESS: "sgr",
    EGRESS: "sgr",
    ASSOCIATION: "rtbassoc",
    TEMPLATE: "lt",
}
RESERVED_INSIDE = tuple(ip_network(f"169.254.{n}/29") for n in ("0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "169.248"))
"""Inside blocks that a Connect peer may not have (SDK documentation of ConnectPeer.insideCidrBlocks; VPC guide, tgw-connect)."""
PEERS_PER_CONNECT = 4
"""Transit Gateway quotas, "Connect peers (GRE tunnels) per Connect attachment"."""
ENDPOINTS_PER_SERVER, ENDPOINTS_PER_SUBNET = 10, 2
"""VPC quotas, Route Server (clouds.md D3)."""
ATTACHMENTS = (TGW_VPC, CONNECT)
FRAMEWORK = (SERVER, SERVER_ENDPOINT, SERVER_PEER, INGRESS, EGRESS)
"""Types that the provider has from the plugin framework: of their default tags it says nothing before the update (pulumi-aws, provider/tags.go)."""
_CLUSTER_GROUP = "sg-eks-"
"""EKS makes a security group with each cluster; here its identifier says whose it is."""
API_SERVER = "SAMEGATE_SIMULATED_API_SERVER"
"""Environment: endpoint and base64 of the CA certificate of a real API server, with a blank between."""


def _overlap(one: str, other: str) -> bool:
    return ip_network(one).overlaps(ip_network(other))


def _vpc(world: World, made: Object) -> None:
    size = ip_network(made.inputs["cidrBlock"]).prefixlen
    if not 16 <= size <= 28:
        raise Refused("InvalidVpc.Range", f"the CIDR {made.inputs['cidrBlock']!r} is invalid: a /16 to a /28 is wanted")
    for gateway in world.of(TGW):
        for block in gateway.inputs.get("transitGatewayCidrBlocks") or []:
            if _overlap(block, made.inputs["cidrBlock"]):
                raise Refused(
                    "InvalidParameterValue", f"{made.inputs['cidrBlock']} overlaps the transit gateway CIDR {block}"
                )


def _subnet(world: World, made: Object) -> None:
    vpc, block = world.get(made.inputs["vpcId"], VPC), ip_network(made.inputs["cidrBlock"])
    if not block.subnet_of(ip_network(vpc.inputs["cidrBlock"])):  # type: ignore[arg-type]
        raise Refused(
            "InvalidSubnet.Range", f"The CIDR {str(block)!r} is invalid: not within {vpc.inputs['cidrBlock']}"
        )
    for other in world.of(SUBNET):
        if other.inputs["vpcId"] == made.inputs["vpcId"] and _overlap(str(block), other.inputs["cidrBlock"]):
            raise Refused(
                "InvalidSubnet.Conflict", f"The CIDR {str(block)!r} conflicts with another subnet ({other.name})"
            )
    zone = made.inputs.get("availabilityZone")
    if zone is not None and not str(zone).startswith(vpc.outputs["region"]):
        raise Refused("InvalidParameterValue", f"Value ({zone}) for parameter availabilityZone is invalid")


def _eni(world: World, made: Object) -> None:
    subnet = world.get(made.inputs["subnetId"], SUBNET)
    block = ip_network(subnet.inputs["cidrBlock"])
    taken = {a for other in world.of(ENI) for a in other.properties.get("privateIps") or []}
    given = made.inputs.get("privateIps") or []
    for address in given:
        if ip_address(address) not in block:
            raise Refused("InvalidParameterValue", f"Address {address} does not fall within the subnet's address range")
        # The first four and the last address of a subnet are AWS' own (VPC guide, subnet sizing).
        if ip_address(address) in (*list(block)[:4], block[-1]):
            raise Refused("InvalidParameterValue", f"Address {address} is in the subnet's reserved address range")
        if address in taken:
            raise Refused("InvalidIPAddress.InUse", f"Address {address} is in use")
    addresses = given or [str(next(a for a in list(block)[4:] if str(a) not in taken))]
    for group in made.inputs.get("securityGroups") or []:
        if (
            not group.startswith(_CLUSTER_GROUP)
            and world.get(group, GROUP).inputs.get("vpcId") != subnet.inputs["vpcId"]
        ):
            raise Refused(
                "InvalidGroup.NotFound", f"The security group {group!r} does not exist in the VPC of {subnet.name}"
            )
    made.outputs |= {"privateIp": addresses[0], "privateIps": addresses, "macAddress": "02:00:00:00:00:01"}


def _instance(world: World, made: Object) -> None:
    interface = (made.inputs.get("primaryNetworkInterface") or {}).get("networkInterfaceId")
    if interface is not None:
        for field in ("subnetId", "vpcSecurityGroupIds", "privateIp", "sourceDestCheck", "associatePublicIpAddress"):
            if field in made.inputs:
                raise Refused(
                    "InvalidParameterCombination",
                    f"Network interfaces and an instance-level {field} may not be specified together",
                )
        eni = world.get(interface, ENI, code="InvalidNetworkInterfaceID.NotFound")
        for other in world.of(INSTANCE):
            if (other.inputs.get("primaryNetworkInterface") or {}).get("networkInterfaceId") == interface:
                raise Refused("InvalidNetworkInterface.InUse", f"{interface} is currently in use by {other.name}")
        made.outputs["privateIp"] = eni.outputs["privateIp"]
        made.outputs["privateDns"] = (
            f"ip-{eni.outputs['privateIp'].replace('.', '-')}.{eni.outputs['region']}.compute.internal"
        )
    user_data = made.inputs.get("userData") or base64.b64decode(made.inputs.get("userDataBase64") or "").decode()
    if len(user_data.encode()) > 16384:
        raise Refused("InvalidParameterValue", "User data is limited to 16384 bytes")
    if (profile := made.inputs.get("iamInstanceProfile")) is not None:
        world.get(profile, PROFILE, code="InvalidParameterValue")
    made.outputs["instanceState"] = "running"


def _transit_gateway(world: World, made: Object) -> None:
    blocks = made.inputs.get("transitGatewayCidrBlocks") or []
    if len(blocks) > 5:
        raise Refused("TransitGatewayCidrBlockLimitExceeded", "at most 5 CIDR blocks per transit gateway")
    for block in blocks:
        if ip_network(block).prefixlen > 24:
            raise Refused("InvalidParameterValue", f"{block}: a transit gateway CIDR is a /24 or larger")
        for vpc in world.of(VPC):
            if _overlap(block, vpc.inputs["cidrBlock"]):
                raise Refused("InvalidParameterValue", f"{block} overlaps the VPC {vpc.inputs['cidrBlock']}")


def _vpc_attachment(world: World, made: Object) -> None:
    zones: list[str] = []
    for identifier in made.inputs["subnetIds"]:
        subnet = world.get(identifier, SUBNET, code="InvalidSubnetID.NotFound")
        if subnet.inputs["vpcId"] != made.inputs["vpcId"]:
            raise Refused("InvalidParameterValue", f"subnet {identifier} is not in {made.inputs['vpcId']}")
        if subnet.inputs["availabilityZone"] in zones:
            raise Refused(
                "DuplicateSubnetsInSameZone",
                f"one subnet per Availability Zone, {subnet.inputs['availabilityZone']} has two",
            )
        zones.append(subnet.inputs["availabilityZone"])


def _connect(world: World, made: Object) -> None:
    transport = world.get(made.inputs["transportAttachmentId"], TGW_VPC)
    if transport.inputs["transitGatewayId"] != made.inputs["transitGatewayId"]:
        raise Refused("IncorrectState", "the transport attachment belongs to another transit gateway")


def _connect_peer(world: World, made: Object) -> None:
    attachment = world.get(made.inputs["transitGatewayAttachmentId"], CONNECT)
    gateway = world.get(attachment.inputs["transitGatewayId"], TGW)
    siblings = [p for p in world.of(PEER) if p.inputs["transitGatewayAttachmentId"] == attachment.identifier]
    if len(siblings) >= PEERS_PER_CONNECT:
        raise Refused(
            "TransitGatewayConnectPeerLimitExceeded", f"{attachment.name} has {PEERS_PER_CONNECT} Connect peers already"
        )
    blocks = made.inputs["insideCidrBlocks"]
    if len(blocks) != 1:
        raise Refused("InvalidParameterValue", "exactly one IPv4 inside CIDR block")
    inside = ip_network(blocks[0])
    if inside.prefixlen != 29 or not inside.subnet_of(ip_network("169.254.0.0/16")):  # type: ignore[arg-type]
        raise Refused("InvalidParameterValue", f"{inside}: a /29 of 169.254.0.0/16")
    if inside in RESERVED_INSIDE:
        raise Refused("InvalidParameterValue", f"{inside} is reserved")
    for other in world.of(PEER):
        theirs = world.get(other.inputs["transitGatewayAttachmentId"], CONNECT)
        if theirs.inputs["transitGatewayId"] == gateway.identifier and _overlap(
            str(inside), other.inputs["insideCidrBlocks"][0]
        ):
            raise Refused("InvalidParameterValue", f"{inside} is in use by {other.name}")
    ranges = [ip_network(block) for block in gateway.inputs.get("transitGatewayCidrBlocks") or []]
    if not ranges:
        raise Refused("IncorrectState", "the transit gateway has no CIDR block: it has no address for GRE")
    address = made.inputs.get("transitGatewayAddress") or str(ranges[0][10])
    if not any(ip_address(address) in block for block in ranges):
        raise Refused("InvalidParameterValue", f"{address} is not in the transit gateway's CIDR blocks")
    made.outputs |= {
        "transitGatewayAddress": address,
        "bgpPeerAddress": str(inside[1]),
        "bgpTransitGatewayAddresses": [str(inside[2]), str(inside[3])],
        "bgpAsn": str(made.inputs.get("bgpAsn") or gateway.inputs.get("amazonSideAsn", 64512)),
    }


def _one_association(world: World, made: Object) -> None:
    for other in world.of(TGW_ASSOCIATION):
        if other.inputs["transitGatewayAttachmentId"] == made.inputs["transitGatewayAttachmentId"]:
            raise Refused("Resource.AlreadyAssociated", f"the attachment is associated with {other.name} already")
    attachment = world.get(made.inputs["transitGatewayAttachmentId"], *ATTACHMENTS)
    gateway = world.get(attachment.inputs["transitGatewayId"], TGW)
    if gateway.inputs.get("defaultRouteTableAssociation", "enable") == "enable":
        raise Refused("Resource.AlreadyAssociated", "the attachment is associated with the default route table")


def _route(world: World, made: Object) -> None:
    table = world.get(made.inputs["routeTableId"], ROUTE_TABLE)
    destination = made.inputs.get("destinationCidrBlock")
    vpc = world.get(table.inputs["vpcId"], VPC)
    for other in world.of(ROUTE):
        if (other.inputs["routeTableId"], other.inputs.get("destinationCidrBlock")) == (table.identifier, destination):
            raise Refused("RouteAlreadyExists", f"the route {destination} exists in {table.name}")
    if destination and ip_network(destination).subnet_of(ip_network(vpc.inputs["cidrBlock"])):  # type: ignore[arg-type]
        raise Refused("InvalidParameterValue", f"{destination} is inside the VPC's own {vpc.inputs['cidrBlock']}")
    gateway = made.inputs.get("transitGatewayId")
    # EC2 API, CreateRoute: without an attachment of the VPC the gateway is not found from there.
    if gateway is not None and not any(
        (a.inputs["transitGatewayId"], a.inputs["vpcId"]) == (gateway, vpc.identifier) for a in world.of(TGW_VPC)
    ):
        raise Refused("InvalidTransitGatewayID.NotFound", f"{gateway} has no attachment of {vpc.name}")


def _table_association(world: World, made: Object) -> None:
    table = world.get(made.inputs["routeTableId"], ROUTE_TABLE)
    subnet = world.get(made.inputs["subnetId"], SUBNET)
    if table.inputs["vpcId"] != subnet.inputs["vpcId"]:
        raise Refused("InvalidParameterValue", f"{table.name} and {subnet.name} belong to different networks")
    if any(a.inputs["subnetId"] == subnet.identifier for a in world.of(ASSOCIATION)):
        raise Refused("Resource.AlreadyAssociated", f"{subnet.name} has a route table already")


def _group_rule(world: World, made: Object) -> None:
    named = [n for n in ("cidrIpv4", "cidrIpv6", "referencedSecurityGroupId", "prefixListId") if n in made.inputs]
    if len(named) != 1:
        raise Refused("InvalidParameterValue", f"exactly one source or destination, not {named}")
    if made.inputs["ipProtocol"] == "-1" and "fromPort" in made.inputs:
        raise Refused("InvalidParameterValue", "no ports for all protocols")
    same = {k: v for k, v in made.inputs.items() if k not in ("tags", "description")}
    for other in world.of(made.token):
        if {k: v for k, v in other.inputs.items() if k not in ("tags", "description")} == same:
            raise Refused("InvalidPermission.Duplicate", f"the rule exists already ({other.name})")


def _server_endpoint(world: World, made: Object) -> None:
    server, subnet = world.get(made.inputs["routeServerId"], SERVER), world.get(made.inputs["subnetId"], SUBNET)
    if not any(
        (a.inputs["routeServerId"], a.inputs["vpcId"]) == (server.identifier, subnet.inputs["vpcId"])
        for a in world.of(SERVER_VPC)
    ):
        raise Refused("IncorrectState", f"{server.name} is not associated with the VPC of {subnet.name}")
    siblings = [e for e in world.of(SERVER_ENDPOINT) if e.inputs["routeServerId"] == server.identifier]
    if len(siblings) >= ENDPOINTS_PER_SERVER:
        raise Refused("RouteServerEndpointLimitExceeded", f"{ENDPOINTS_PER_SERVER} endpoints per route server")
    if sum(e.inputs["subnetId"] == subnet.identifier for e in siblings) >= ENDPOINTS_PER_SUBNET:
        raise Refused(
            "RouteServerEndpointLimitExceeded", f"{ENDPOINTS_PER_SUBNET} endpoints per subnet and route server"
        )
    block = ip_network(subnet.inputs["cidrBlock"])
    taken = {a for e in world.of(ENI) for a in e.properties["privateIps"]}
    taken |= {e.outputs["eniAddress"] for e in world.of(SERVER_ENDPOINT)}
    address = next(str(block[-n]) for n in range(2, block.num_addresses) if str(block[-n]) not in taken)
    made.outputs |= {
        "routeServerEndpointId": made.identifier,
        "eniAddress": address,
        "eniId": f"eni-managed-{made.identifier}",
        "vpcId": subnet.inputs["vpcId"],
    }


def _server_peer(world: World, made: Object) -> None:
    endpoint = world.get(made.inputs["routeServerEndpointId"], SERVER_ENDPOINT)
    subnet = world.get(endpoint.inputs["subnetId"], SUBNET)
    vpc = world.get(subnet.inputs["vpcId"], VPC)
    if ip_address(made.inputs["peerAddress"]) not in ip_network(vpc.inputs["cidrBlock"]):
        raise Refused("InvalidParameterValue", f"{made.inputs['peerAddress']} is not in the VPC")
    for other in world.of(SERVER_PEER):
        if (other.inputs["routeServerEndpointId"], other.inputs["peerAddress"]) == (
            endpoint.identifier,
            made.inputs["peerAddress"],
        ):
            raise Refused(
                "RouteServerPeerAlreadyExists", f"{endpoint.name} peers with {made.inputs['peerAddress']} already"
            )
    server = world.get(endpoint.inputs["routeServerId"], SERVER)
    if str(made.inputs["bgpOptions"]["peerAsn"]) == str(server.inputs["amazonSideAsn"]):
        raise Refused("InvalidParameterValue", "the peer's ASN is the route server's own")
    made.outputs |= {
        "routeServerPeerId": made.identifier,
        "endpointEniAddress": endpoint.outputs["eniAddress"],
        "routeServerId": server.identifier,
    }


def _propagation(world: World, made: Object) -> None:
    table = world.get(made.inputs["routeTableId"], ROUTE_TABLE)
    if not any(
        (a.inputs["routeServerId"], a.inputs["vpcId"]) == (made.inputs["routeServerId"], table.inputs["vpcId"])
        for a in world.of(SERVER_VPC)
    ):
        raise Refused("IncorrectState", "the route server is not associated with the VPC of the route table")


def _cluster(world: World, made: Object) -> None:
    subnets = [world.get(i, SUBNET, code="InvalidParameterException") for i in made.inputs["vpcConfig"]["subnetIds"]]
    if len({s.inputs["availabilityZone"] for s in subnets}) < 2:
        raise Refused("InvalidParameterException", "Subnets specified must be in at least two different AZs")
    vpc = world.get(subnets[0].inputs["vpcId"], VPC)
    service = (made.inputs.get("kubernetesNetworkConfig") or {}).get("serviceIpv4Cidr")
    if service and _overlap(service, vpc.inputs["cidrBlock"]):
        raise Refused("InvalidParameterException", f"serviceIpv4Cidr {service} overlaps the VPC")
    if (version := made.inputs.get("version")) is not None:
        check_version_step("InvalidParameterException", made.outputs.get("version"), version)
        made.outputs["version"] = version
    made.outputs |= {"vpcConfig": {**made.inputs["vpcConfig"], "vpcId": vpc.identifier}, "status": "ACTIVE"}
    made.outputs["vpcConfig"]["clusterSecurityGroupId"] = f"{_CLUSTER_GROUP}{made.identifier}"
    made.outputs |= api_server()


def api_server() -> dict[str, Any]:
    """Where the simulated cluster is reached: a real kube-apiserver if the test started one, else an address that nobody answers at."""
    endpoint, authority = os.environ.get(API_SERVER, "https://192.0.2.1 ").split(" ", 1)
    return {"endpoint": endpoint, "certificateAuthority": {"data": authority}}


def _node_group(world: World, made: Object) -> None:
    control_plane = world.get(made.inputs["clusterName"], CLUSTER).outputs.get("version")
    version = made.inputs.get("version") or control_plane
    # Kubernetes' version skew policy: a kubelet is never newer than the API server.
    if control_plane is not None and minor_version(version) > minor_version(control_plane):
        raise Refused(
            "InvalidParameterException", f"Nodegroup Kubernetes version {version} is newer than {control_plane}"
        )


def _template(world: World, made: Object) -> None:
    made.outputs |= {"latestVersion": made.outputs.get("latestVersion", 0) + 1, "defaultVersion": 1}


def _access_entry(world: World, made: Object) -> None:
    cluster = world.get(made.inputs["clusterName"], CLUSTER)
    mode = (made.inputs.keys() and (cluster.inputs.get("accessConfig") or {}).get("authenticationMode")) or "CONFIG_MAP"
    if mode == "CONFIG_MAP":
        raise Refused(
            "InvalidRequestException",
            "The cluster's authentication mode must be set to one of [API, API_AND_CONFIG_MAP]",
        )
    if made.inputs.get("type", "STANDARD") != "STANDARD" and made.inputs.get("kubernetesGroups"):
        raise Refused("InvalidParameterException", "kubernetesGroups only for entries of type STANDARD")


def _eip(world: World, made: Object) -> None:
    made.outputs |= {"publicIp": f"192.0.2.{world.made % 250 + 1}", "allocationId": made.identifier}


def _nat(world: World, made: Object) -> None:
    subnet = world.get(made.inputs["subnetId"], SUBNET)
    if not any(g.inputs.get("vpcId") == subnet.inputs["vpcId"] for g in world.of(IGW)):
        raise Refused("Gateway.NotAttached", f"{subnet.inputs['vpcId']} has no internet gateway attached")


class Aws(Rules):
    """AWS."""

    package = "aws"
    in_use = "DependencyViolation"
    checks: ClassVar[Mapping[str, Check]] = {
        VPC: _vpc,
        SUBNET: _subnet,
        ENI: _eni,
        INSTANCE: _instance,
        TGW: _transit_gateway,
        TGW_VPC: _vpc_attachment,
        CONNECT: _connect,
        PEER: _connect_peer,
        TGW_ASSOCIATION: _one_association,
        ROUTE: _route,
        ASSOCIATION: _table_association,
        INGRESS: _group_rule,
        EGRESS: _group_rule,
        SERVER_ENDPOINT: _server_endpoint,
        SERVER_PEER: _server_peer,
        SERVER_PROPAGATION: _propagation,
        CLUSTER: _cluster,
        NODE_GROUP: _node_group,
        TEMPLATE: _template,
        ENTRY: _access_entry,
        EIP: _eip,
        NAT: _nat,
    }
    references: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
        SUBNET: {"vpcId": (VPC,)},
        ENI: {"subnetId": (SUBNET,), "securityGroups": (GROUP,)},
        GROUP: {"vpcId": (VPC,)},
        IGW: {"vpcId": (VPC,)},
        NAT: {"subnetId": (SUBNET,), "allocationId": (EIP,)},
        ROUTE_TABLE: {"vpcId": (VPC,)},
        ROUTE: {
            "routeTableId": (ROUTE_TABLE,),
            "gatewayId": (IGW,),
            "natGatewayId": (NAT,),
            "transitGatewayId": (TGW,),
        },
        ASSOCIATION: {"routeTableId": (ROUTE_TABLE,), "subnetId": (SUBNET,)},
        ENDPOINT: {
            "vpcId": (VPC,),
            "subnetIds": (SUBNET,),
            "securityGroupIds": (GROUP,),
            "routeTableIds": (ROUTE_TABLE,),
        },
        INGRESS: {"securityGroupId": (GROUP,), "referencedSecurityGroupId": (GROUP,)},
        EGRESS: {"securityGroupId": (GROUP,), "referencedSecurityGroupId": (GROUP,)},
        TGW_VPC: {"transitGatewayId": (TGW,), "vpcId": (VPC,), "subnetIds": (SUBNET,)},
        CONNECT: {"transitGatewayId": (TGW,), "transportAttachmentId": (TGW_VPC,)},
        PEER: {"transitGatewayAttachmentId": (CONNECT,)},
        TGW_TABLE: {"transitGatewayId": (TGW,)},
        TGW_ASSOCIATION: {"transitGatewayRouteTableId": (TGW_TABLE,), "transitGatewayAttachmentId": ATTACHMENTS},
        TGW_PROPAGATION: {"transitGatewayRouteTableId": (TGW_TABLE,), "transitGatewayAttachmentId": ATTACHMENTS},
        SERVER_VPC: {"routeServerId": (SERVER,), "vpcId": (VPC,)},
        SERVER_ENDPOINT: {"routeServerId": (SERVER,), "subnetId": (SUBNET,)},
        SERVER_PEER: {"routeServerEndpointId": (SERVER_ENDPOINT,)},
        SERVER_PROPAGATION: {"routeServerId": (SERVER,), "routeTableId": (ROUTE_TABLE,)},
        CLUSTER: {"vpcConfig.subnetIds": (SUBNET,), "vpcConfig.securityGroupIds": (GROUP,), "roleArn": (ROLE,)},
        NODE_GROUP: {
            "clusterName": (CLUSTER,),
            "subnetIds": (SUBNET,),
            "nodeRoleArn": (ROLE,),
            "launchTemplate.id": (TEMPLATE,),
        },
        ADDON: {"clusterName": (CLUSTER,), "serviceAccountRoleArn": (ROLE,)},
        ENTRY: {"clusterName": (CLUSTER,), "principalArn": (ROLE,)},
        POLICY: {"role": (ROLE,)},
        INLINE: {"role": (ROLE,)},
        PROFILE: {"role": (ROLE,)},
        KEY: {},
        LOGS: {},
    }
    # Objects whose identifier is the name that the program gave them.
    _NAMED: ClassVar[Mapping[str, str]] = {CLUSTER: "name", ROLE: "name", PROFILE: "name", LOGS: "name"}
    _JOINED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        NODE_GROUP: ("clusterName", "nodeGroupName"),
        ADDON: ("clusterName", "addonName"),
        ENTRY: ("clusterName", "principalArn"),
        TGW_ASSOCIATION: ("transitGatewayRouteTableId", "transitGatewayAttachmentId"),
        TGW_PROPAGATION: ("transitGatewayRouteTableId", "transitGatewayAttachmentId"),
    }

    def automatic_name(self, token: str) -> str | None:
        return {**self._NAMED, NODE_GROUP: "nodeGroupName", GROUP: "name"}.get(token)

    def added(self, token: str, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        if token in FRAMEWORK or "tagsAll" not in sdk.resource_type(token).outputs:
            return {}
        return {"tagsAll": {**_default_tags(config), **(inputs.get("tags") or {})}}

    def identifier(
        self, world: World, token: str, name: str, inputs: Mapping[str, Any], config: Mapping[str, Any]
    ) -> str:
        number = world.number()
        if token in self._NAMED:
            return str(inputs[self._NAMED[token]])
        if token in self._JOINED:
            # AWS gives an association and a propagation of the same pair the same name; here the type is part of it.
            kind = f"{token.rsplit(':', 1)[1]}/" if token in (TGW_ASSOCIATION, TGW_PROPAGATION) else ""
            return kind + ":".join(str(inputs[key]) for key in self._JOINED[token])
        return f"{PREFIXES.get(token, token.rsplit(':', 1)[1].lower())}-{number:017x}"

    def outputs(self, world: World, made: Object, config: Mapping[str, Any]) -> dict[str, Any]:
        region = str(made.inputs.get("region") or config.get("region") or "")
        if not region:
            raise Refused("MissingRegion", "the provider has no region")
        known = sdk.resource_type(made.token).outputs
        service = made.token.split(":")[1].split("/")[0]
        tags = {**(_default_tags(config)), **(made.inputs.get("tags") or {})}
        all_ = {
            "region": region,
            "arn": f"arn:aws:{service}:{region}:123456789012:{made.identifier}",
            "tagsAll": tags or None,
            **dict.fromkeys(
                (f"{made.token.rsplit(':', 1)[1][:1].lower()}{made.token.rsplit(':', 1)[1][1:]}Id",), made.identifier
            ),
        }
        return {k: v for k, v in all_.items() if k in known and v is not None}

    def resolve(self, world: World, value: Any, path: str, tokens: tuple[str, ...]) -> Object:
        if str(value).startswith("arn:"):
            for present in world.objects.values():
                if present.outputs.get("arn") == value and present.token in tokens:
                    return present
            raise Refused("InvalidParameterException", f"{path} {value!r} does not exist")
        if str(value).startswith(_CLUSTER_GROUP):
            return world.get(str(value).removeprefix(_CLUSTER_GROUP), CLUSTER)
        return super().resolve(world, value, path, tokens)

    def replaces(self, token: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if token == INSTANCE and name in ("userData", "userDataBase64"):
            return bool(new.get("userDataReplaceOnChange"))
        return aws_create_only(token, name)

    def users(self, world: World, present: Object) -> list[str]:
        arn = present.outputs.get("arn", present.identifier)
        return sorted({*world.users(present.identifier), *world.users(arn)})


def _default_tags(config: Mapping[str, Any]) -> dict[str, Any]:
    tags = values_at(config, "defaultTags.tags")
    return dict(tags[0]) if tags else {}
