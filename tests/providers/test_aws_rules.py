"""What the simulated AWS refuses, each rule as AWS documents it; without any engine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.standin import aws
from tests.providers.standin.cloud import Object, Refused, World

CONFIG = {"region": "eu-central-1"}
RULES = aws.Aws()


class Account:
    """An account in memory: makes things and keeps their identifiers by name."""

    def __init__(self) -> None:
        self.world = World()

    def make(self, token: str, name: str, /, **inputs: Any) -> Object:
        made = RULES.create(self.world, token, name, inputs, CONFIG)
        self.world.objects[made.identifier] = made
        return made

    def vpc(self, cidr: str = "10.64.0.0/16", name: str = "vpc") -> str:
        return self.make(aws.VPC, name, cidrBlock=cidr).identifier

    def subnet(self, vpc: str, cidr: str, zone: str = "eu-central-1a") -> str:
        return self.make(aws.SUBNET, cidr, vpcId=vpc, cidrBlock=cidr, availabilityZone=zone).identifier

    def connect(self) -> str:
        vpc = self.vpc()
        subnet = self.subnet(vpc, "10.64.0.0/20")
        gateway = self.make(aws.TGW, "gateway", amazonSideAsn=64512, transitGatewayCidrBlocks=["10.255.0.0/24"])
        transport = self.make(
            aws.TGW_VPC, "vpc", transitGatewayId=gateway.identifier, vpcId=vpc, subnetIds=[subnet]
        ).identifier
        return self.make(
            aws.CONNECT, "connect", transitGatewayId=gateway.identifier, transportAttachmentId=transport
        ).identifier

    def peer(self, connect: str, number: int, **changes: Any) -> Object:
        return self.make(
            aws.PEER,
            f"peer{number}",
            **{
                "transitGatewayAttachmentId": connect,
                "peerAddress": f"10.64.0.{9 + number}",
                "insideCidrBlocks": [f"169.254.100.{8 * (number - 1)}/29"],
                "bgpAsn": "65010",
                **changes,
            },
        )


@pytest.fixture
def account() -> Account:
    return Account()


def test_a_subnet_lies_in_its_vpc(account: Account) -> None:
    vpc = account.vpc()
    with pytest.raises(Refused, match=r"InvalidSubnet.Range"):
        account.subnet(vpc, "10.65.0.0/20")


def test_subnets_of_a_vpc_do_not_overlap(account: Account) -> None:
    vpc = account.vpc()
    account.subnet(vpc, "10.64.0.0/20")
    with pytest.raises(Refused, match=r"InvalidSubnet.Conflict"):
        account.subnet(vpc, "10.64.8.0/24")


def test_a_zone_of_another_region_is_refused(account: Account) -> None:
    with pytest.raises(Refused, match="availabilityZone"):
        account.subnet(account.vpc(), "10.64.0.0/20", "us-east-1a")


def test_a_reference_to_nothing_and_to_the_wrong_type_are_refused(account: Account) -> None:
    with pytest.raises(Refused, match="does not exist"):
        account.subnet("vpc-0", "10.64.0.0/20")
    subnet = account.subnet(account.vpc(), "10.64.0.0/20")
    with pytest.raises(Refused, match="is a aws:ec2/subnet:Subnet"):
        account.make(aws.GROUP, "group", vpcId=subnet, description="x")


@pytest.mark.parametrize("address", ["10.64.16.10", "10.64.0.3", "10.64.15.255"])
def test_an_address_is_the_subnets_and_not_awss_own(account: Account, address: str) -> None:
    subnet = account.subnet(account.vpc(), "10.64.0.0/20")
    with pytest.raises(Refused, match="InvalidParameterValue"):
        account.make(aws.ENI, "eni", subnetId=subnet, privateIps=[address])


def test_an_address_is_given_once(account: Account) -> None:
    subnet = account.subnet(account.vpc(), "10.64.0.0/20")
    account.make(aws.ENI, "one", subnetId=subnet, privateIps=["10.64.0.10"])
    with pytest.raises(Refused, match=r"InvalidIPAddress.InUse"):
        account.make(aws.ENI, "two", subnetId=subnet, privateIps=["10.64.0.10"])


def test_an_interface_serves_one_instance(account: Account) -> None:
    subnet = account.subnet(account.vpc(), "10.64.0.0/20")
    eni = account.make(aws.ENI, "eni", subnetId=subnet, privateIps=["10.64.0.10"]).identifier
    account.make(aws.INSTANCE, "one", primaryNetworkInterface={"networkInterfaceId": eni})
    with pytest.raises(Refused, match=r"InvalidNetworkInterface.InUse"):
        account.make(aws.INSTANCE, "two", primaryNetworkInterface={"networkInterfaceId": eni})


def test_source_destination_check_is_the_interfaces_not_the_instances(account: Account) -> None:
    subnet = account.subnet(account.vpc(), "10.64.0.0/20")
    eni = account.make(aws.ENI, "eni", subnetId=subnet, privateIps=["10.64.0.10"]).identifier
    with pytest.raises(Refused, match="InvalidParameterCombination"):
        account.make(aws.INSTANCE, "one", primaryNetworkInterface={"networkInterfaceId": eni}, sourceDestCheck=False)


def test_an_attachment_has_at_most_four_peers(account: Account) -> None:
    connect = account.connect()
    for number in range(1, 5):
        account.peer(connect, number)
    with pytest.raises(Refused, match="TransitGatewayConnectPeerLimitExceeded"):
        account.peer(connect, 5)


@pytest.mark.parametrize(
    "block", ["169.254.0.0/29", "169.254.5.0/29", "169.254.169.248/29", "169.254.100.0/30", "10.0.0.0/29"]
)
def test_reserved_and_odd_inside_blocks_are_refused(account: Account, block: str) -> None:
    with pytest.raises(Refused, match="InvalidParameterValue"):
        account.peer(account.connect(), 1, insideCidrBlocks=[block])


def test_an_inside_block_is_used_once_on_a_gateway(account: Account) -> None:
    connect = account.connect()
    account.peer(connect, 1)
    with pytest.raises(Refused, match="in use by peer1"):
        account.peer(connect, 2, insideCidrBlocks=["169.254.100.0/29"])


def test_a_peer_gets_the_addresses_that_aws_documents(account: Account) -> None:
    # SDK documentation of insideCidrBlocks: from 169.254.100.0/29, .1 is the customer's, .2 and .3 the gateway's.
    outputs = account.peer(account.connect(), 1).outputs
    assert outputs["bgpPeerAddress"] == "169.254.100.1"
    assert outputs["bgpTransitGatewayAddresses"] == ["169.254.100.2", "169.254.100.3"]


def test_a_peer_without_an_asn_takes_the_gateways(account: Account) -> None:
    connect = account.connect()
    made = account.make(
        aws.PEER,
        "p",
        transitGatewayAttachmentId=connect,
        peerAddress="10.64.0.10",
        insideCidrBlocks=["169.254.100.0/29"],
    )
    assert made.outputs["bgpAsn"] == "64512"


def test_the_gateways_end_lies_in_its_blocks(account: Account) -> None:
    with pytest.raises(Refused, match="is not in the transit gateway's CIDR blocks"):
        account.peer(account.connect(), 1, transitGatewayAddress="10.254.0.1")


def test_a_gateways_block_lies_outside_every_vpc(account: Account) -> None:
    account.vpc("10.255.0.0/16")
    with pytest.raises(Refused, match="overlaps the VPC"):
        account.make(aws.TGW, "gateway", transitGatewayCidrBlocks=["10.255.0.0/24"])


def test_a_gateways_block_is_at_least_a_slash_24(account: Account) -> None:
    with pytest.raises(Refused, match="/24 or larger"):
        account.make(aws.TGW, "gateway", transitGatewayCidrBlocks=["10.255.0.0/25"])


def test_a_vpc_knows_a_gateway_only_by_an_attachment(account: Account) -> None:
    vpc = account.vpc()
    table = account.make(aws.ROUTE_TABLE, "table", vpcId=vpc).identifier
    gateway = account.make(aws.TGW, "gateway", transitGatewayCidrBlocks=["10.255.0.0/24"]).identifier
    with pytest.raises(Refused, match=r"InvalidTransitGatewayID.NotFound"):
        account.make(
            aws.ROUTE, "r", routeTableId=table, destinationCidrBlock="203.0.113.0/24", transitGatewayId=gateway
        )


def test_a_route_server_endpoint_wants_the_association_first(account: Account) -> None:
    vpc = account.vpc()
    subnet = account.subnet(vpc, "10.64.0.0/20")
    server = account.make(aws.SERVER, "server", amazonSideAsn=64512).identifier
    with pytest.raises(Refused, match="IncorrectState"):
        account.make(aws.SERVER_ENDPOINT, "e", routeServerId=server, subnetId=subnet)
    account.make(aws.SERVER_VPC, "a", routeServerId=server, vpcId=vpc)
    for number in (1, 2):
        account.make(aws.SERVER_ENDPOINT, f"e{number}", routeServerId=server, subnetId=subnet)
    with pytest.raises(Refused, match="2 endpoints per subnet"):
        account.make(aws.SERVER_ENDPOINT, "e3", routeServerId=server, subnetId=subnet)


def test_what_is_in_use_is_not_deleted(account: Account) -> None:
    vpc = account.vpc()
    account.subnet(vpc, "10.64.0.0/20")
    with pytest.raises(Refused, match="DependencyViolation"):
        RULES.delete(account.world, account.world.get(vpc))


def test_eks_wants_two_zones(account: Account) -> None:
    vpc = account.vpc()
    subnets = [account.subnet(vpc, "10.64.0.0/20"), account.subnet(vpc, "10.64.16.0/20")]
    role = account.make(aws.ROLE, "role", name="role", assumeRolePolicy="{}")
    with pytest.raises(Refused, match="at least two different AZs"):
        account.make(aws.CLUSTER, "c", name="c", roleArn=role.outputs["arn"], vpcConfig={"subnetIds": subnets})


def test_a_rule_is_written_once_and_from_one_source(account: Account) -> None:
    group = account.make(aws.GROUP, "group", vpcId=account.vpc(), description="x").identifier
    rule = {"securityGroupId": group, "ipProtocol": "47", "cidrIpv4": "10.255.0.0/24"}
    account.make(aws.INGRESS, "one", **rule)
    with pytest.raises(Refused, match=r"InvalidPermission.Duplicate"):
        account.make(aws.INGRESS, "two", **rule)
    with pytest.raises(Refused, match="exactly one source"):
        account.make(aws.INGRESS, "three", **{**rule, "referencedSecurityGroupId": group})


def test_a_namesake_does_not_keep_an_object_from_deletion(account: Account) -> None:
    vpc = account.vpc()
    zones = ("eu-central-1a", "eu-central-1b")
    subnets = [account.subnet(vpc, f"10.64.{n * 16}.0/20", zone) for n, zone in enumerate(zones)]
    role = account.make(aws.ROLE, "role", name="role", assumeRolePolicy="{}")
    cluster = account.make(
        aws.CLUSTER, "c", name="shared", roleArn=role.outputs["arn"], vpcConfig={"subnetIds": subnets}
    )
    account.make(aws.TGW, "gateway", tags={"Name": "shared"})
    RULES.delete(account.world, cluster)
