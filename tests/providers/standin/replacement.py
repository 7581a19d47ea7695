"""Which changes replace an object instead of changing it, from sources that are not ours.

AWS: `createOnlyProperties` of the CloudFormation schemas that cfn-lint carries. GCP publishes nothing of the kind that can be read by a
program: ``gcp_create_only.toml`` is a table with its source at each line.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# By where it lies, because importing it takes seconds.
_SCHEMAS = Path(str(getattr(find_spec("cfnlint"), "origin", ""))).parent / "data" / "schemas"
_REGION = "us-east-1"

#: Where the SDK's name of a type is not CloudFormation's.
_TYPES = {
    "aws:ec2/eip:Eip": "AWS::EC2::EIP",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "AWS::EC2::SubnetRouteTableAssociation",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "AWS::EC2::VPCEndpoint",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "AWS::EC2::SecurityGroupIngress",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "AWS::EC2::SecurityGroupEgress",
    "aws:vpc/routeServerVpcAssociation:RouteServerVpcAssociation": "AWS::EC2::RouteServerAssociation",
    "aws:ec2transitgateway/transitGateway:TransitGateway": "AWS::EC2::TransitGateway",
    "aws:cloudwatch/logGroup:LogGroup": "AWS::Logs::LogGroup",
    "aws:eks/nodeGroup:NodeGroup": "AWS::EKS::Nodegroup",
}
#: Where the SDK's name of a property is not CloudFormation's (path below `properties`, or nothing where CloudFormation has none).
_PROPERTIES = {
    ("aws:ec2/instance:Instance", "ami"): "ImageId",
    ("aws:ec2/instance:Instance", "primaryNetworkInterface"): "NetworkInterfaces",
    ("aws:ec2/networkInterface:NetworkInterface", "privateIps"): "PrivateIpAddresses",
    ("aws:ec2/securityGroup:SecurityGroup", "description"): "GroupDescription",
    ("aws:ec2/securityGroup:SecurityGroup", "name"): "GroupName",
    ("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "securityGroupId"): "GroupId",
    ("aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule", "securityGroupId"): "GroupId",
    ("aws:ec2transitgateway/connect:Connect", "transportAttachmentId"): "TransportTransitGatewayAttachmentId",
    ("aws:ec2transitgateway/connectPeer:ConnectPeer", "peerAddress"): "ConnectPeerConfiguration/PeerAddress",
    ("aws:ec2transitgateway/connectPeer:ConnectPeer", "insideCidrBlocks"): "ConnectPeerConfiguration/InsideCidrBlocks",
    (
        "aws:ec2transitgateway/connectPeer:ConnectPeer",
        "transitGatewayAddress",
    ): "ConnectPeerConfiguration/TransitGatewayAddress",
    ("aws:ec2transitgateway/connectPeer:ConnectPeer", "bgpAsn"): "ConnectPeerConfiguration/BgpConfigurations/*/PeerAsn",
    ("aws:ec2transitgateway/vpcAttachment:VpcAttachment", "subnetIds"): "AddSubnetIds",
    ("aws:eks/nodeGroup:NodeGroup", "subnetIds"): "Subnets",
    ("aws:eks/nodeGroup:NodeGroup", "nodeRoleArn"): "NodeRole",
    ("aws:eks/nodeGroup:NodeGroup", "nodeGroupName"): "NodegroupName",
    ("aws:iam/role:Role", "name"): "RoleName",
    ("aws:iam/instanceProfile:InstanceProfile", "name"): "InstanceProfileName",
    ("aws:cloudwatch/logGroup:LogGroup", "name"): "LogGroupName",
    ("aws:ec2/launchTemplate:LaunchTemplate", "name"): "LaunchTemplateName",
    # The provider adds and removes subnets of an attachment in place (ModifyTransitGatewayVpcAttachment).
    # Attachments of policies are pairs: CloudFormation has no type for them, and either half is the identity.
}
_PAIRS = {"aws:iam/rolePolicyAttachment:RolePolicyAttachment": ("role", "policyArn")}


def cloudformation_type(token: str) -> str:
    """The CloudFormation type of an SDK token: ``aws:ec2/subnet:Subnet`` is ``AWS::EC2::Subnet``."""
    if token in _TYPES:
        return _TYPES[token]
    _, module, name = token.split(":")
    service = module.split("/")[0]
    if service == "ec2transitgateway":
        return f"AWS::EC2::TransitGateway{name}"
    upper = {"ec2": "EC2", "vpc": "EC2", "eks": "EKS", "iam": "IAM", "kms": "KMS"}.get(service, service.capitalize())
    return f"AWS::{upper}::{'VPC' if name == 'Vpc' else name}"


@cache
def _create_only(token: str) -> frozenset[str]:
    index: Mapping[str, str] = json.loads((_SCHEMAS / "providers" / f"{_REGION}.json").read_text())
    file = index[cloudformation_type(token)]
    schema: Mapping[str, Any] = json.loads((_SCHEMAS / "resources" / f"{file.removesuffix('.json')}.json").read_text())
    return frozenset(p.removeprefix("/properties/") for p in schema.get("createOnlyProperties") or ())


def aws_create_only(token: str, name: str) -> bool:
    """Whether the input replaces the object when it changes. KeyError for a type that CloudFormation does not have."""
    if token in _PAIRS:
        return name in _PAIRS[token]
    path = _PROPERTIES.get((token, name), name[:1].upper() + name[1:])
    return path in _create_only(token)


@cache
def _gcp_table() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).with_name("gcp_create_only.toml")).read_text())


def gcp_create_only(token: str, name: str) -> bool:
    """Whether the input replaces the object when it changes. KeyError for a type that the table lacks."""
    entry = _gcp_table()[re.sub(r"^gcp:(\w+)/\w+:(\w+)$", r"\1.\2", token)]
    return name in entry["create_only"]
