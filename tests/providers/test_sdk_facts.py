"""The stand-ins' knowledge of types against facts that nobody here wrote: the SDKs' classes and CloudFormation's schemas."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.standin import aws, gcp, sdk
from tests.providers.standin.replacement import aws_create_only, cloudformation_type, gcp_create_only
from tests.providers.standin.rules import values_at

PEER = "aws:ec2transitgateway/connectPeer:ConnectPeer"
PEER_INPUTS: dict[str, Any] = {
    "transitGatewayAttachmentId": "tgw-attach-1",
    "peerAddress": "10.0.0.10",
    "insideCidrBlocks": ["169.254.100.0/29"],
}


def test_a_type_has_the_required_inputs_of_its_args_class() -> None:
    # pulumi-aws 7.51.1, ConnectPeerArgs: the parameters without a default.
    assert sdk.resource_type(PEER).required == {"insideCidrBlocks", "peerAddress", "transitGatewayAttachmentId"}


def test_outputs_that_only_the_cloud_knows_are_listed() -> None:
    outputs = sdk.resource_type(PEER).outputs
    assert {"bgpPeerAddress", "bgpTransitGatewayAddresses", "arn"} <= outputs.keys()


def test_a_type_that_the_sdk_lacks_is_no_type() -> None:
    with pytest.raises(sdk.UnknownType, match="aws:ec2/vpcs:Vpcs"):
        sdk.resource_type("aws:ec2/vpcs:Vpcs")


def test_inputs_that_the_schema_accepts_have_no_finding() -> None:
    assert sdk.findings(sdk.resource_type(PEER), PEER_INPUTS) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"peerAddress": None}, None),
        ({"peerAddress": 7}, "peerAddress"),
        ({"insideCidrBlocks": "169.254.100.0/29"}, "insideCidrBlocks"),
        ({"insideCidrBlocks": [7]}, "insideCidrBlocks[0]"),
        ({"peerAdress": "10.0.0.10"}, "peerAdress"),
        ({"tags": {"a": 1}}, "tags.a"),
    ],
)
def test_an_input_of_the_wrong_kind_is_found_where_it_stands(change: dict[str, Any], where: str | None) -> None:
    found = [path for path, _ in sdk.findings(sdk.resource_type(PEER), {**PEER_INPUTS, **change})]
    assert found == ([where] if where else [])


def test_a_missing_input_is_found() -> None:
    short = {k: v for k, v in PEER_INPUTS.items() if k != "peerAddress"}
    assert sdk.findings(sdk.resource_type(PEER), short) == [("peerAddress", "required, and missing")]


def test_nested_objects_are_checked_by_their_own_class() -> None:
    server_peer = sdk.resource_type("aws:vpc/routeServerPeer:RouteServerPeer")
    base = {"routeServerEndpointId": "rse-1", "peerAddress": "10.0.0.10"}
    assert sdk.findings(server_peer, {**base, "bgpOptions": {"peerAsn": 65010}}) == []
    assert sdk.findings(server_peer, {**base, "bgpOptions": {}}) == [("bgpOptions.peerAsn", "required, and missing")]
    assert sdk.findings(server_peer, {**base, "bgpOptions": {"peerAsn": 65010, "password": "x"}}) == [
        ("bgpOptions.password", "no such field")
    ]


def test_every_type_that_rules_know_is_one_of_the_sdk() -> None:
    for token in {*aws.Aws.checks, *aws.Aws.references, *aws.PREFIXES}:
        assert sdk.known_token(token), token


def test_every_google_type_is_one_of_the_sdk_and_stands_in_the_table_of_replacements() -> None:
    for token in {*gcp.Gcp.checks, *gcp.Gcp.references}:
        assert sdk.known_token(token), token
        assert gcp_create_only(token, "no such input") is False


def test_google_objects_are_replaced_where_the_api_has_no_method_that_changes_them() -> None:
    # Compute Engine API: routes has insert and delete only; instances.update changes canIpForward.
    assert gcp_create_only(gcp.ROUTE, "destRange")
    assert not gcp_create_only(gcp.INSTANCE, "canIpForward")
    assert gcp_create_only(gcp.INSTANCE, "metadataStartupScript")
    assert not gcp_create_only(gcp.SPOKE, "linkedRouterApplianceInstances")


def test_every_reference_that_rules_follow_is_an_input_of_the_sdk() -> None:
    for token, references in aws.Aws.references.items():
        for path in references:
            assert path.split(".")[0] in sdk.resource_type(token).inputs, (token, path)


@pytest.mark.parametrize(
    ("token", "name", "replaces"),
    [
        # createOnlyProperties of the CloudFormation schemas in cfn-lint 1.58.0, read by hand.
        ("aws:ec2/vpc:Vpc", "cidrBlock", True),
        ("aws:ec2/vpc:Vpc", "enableDnsHostnames", False),
        ("aws:ec2/subnet:Subnet", "availabilityZone", True),
        ("aws:ec2/instance:Instance", "ami", True),
        ("aws:ec2/instance:Instance", "instanceType", False),
        ("aws:ec2/networkInterface:NetworkInterface", "sourceDestCheck", False),
        ("aws:eks/cluster:Cluster", "version", False),
        ("aws:eks/cluster:Cluster", "encryptionConfig", True),
        ("aws:eks/nodeGroup:NodeGroup", "instanceTypes", True),
        ("aws:ec2transitgateway/transitGateway:TransitGateway", "amazonSideAsn", True),
        ("aws:ec2transitgateway/transitGateway:TransitGateway", "transitGatewayCidrBlocks", False),
        (PEER, "bgpAsn", True),
        (PEER, "tags", False),
        ("aws:vpc/routeServerPeer:RouteServerPeer", "bgpOptions", True),
    ],
)
def test_a_change_replaces_what_cloudformation_says_it_does(token: str, name: str, replaces: bool) -> None:
    assert aws_create_only(token, name) is replaces


def test_names_of_types_are_found_in_cloudformation() -> None:
    assert cloudformation_type("aws:ec2/vpcEndpoint:VpcEndpoint") == "AWS::EC2::VPCEndpoint"
    assert cloudformation_type(PEER) == "AWS::EC2::TransitGatewayConnectPeer"
    assert cloudformation_type("aws:eks/nodeGroup:NodeGroup") == "AWS::EKS::Nodegroup"


def test_values_are_found_below_lists() -> None:
    assert values_at({"a": [{"b": 1}, {"b": [2, 3]}, {}]}, "a.b") == [1, 2, 3]
