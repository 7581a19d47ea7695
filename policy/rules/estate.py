"""Ownership: tags, and what must not vanish."""

from __future__ import annotations

from collections.abc import Iterator

from policy.model import Parameters, Resource

#: Types that cost money or hold addresses, and take tags or labels.
TAGGED = (
    "aws:ec2/vpc:Vpc",
    "aws:ec2/subnet:Subnet",
    "aws:ec2/instance:Instance",
    "aws:ec2/networkInterface:NetworkInterface",
    "aws:ec2/securityGroup:SecurityGroup",
    "aws:ec2transitgateway/transitGateway:TransitGateway",
    "aws:ec2transitgateway/connect:Connect",
    "aws:vpc/routeServer:RouteServer",
    "aws:eks/cluster:Cluster",
    "aws:kms/key:Key",
    "gcp:compute/instance:Instance",
    "gcp:compute/address:Address",
    "gcp:container/cluster:Cluster",
    "gcp:networkconnectivity/hub:Hub",
    "gcp:networkconnectivity/spoke:Spoke",
)
_LABELS = {"gcp:container/cluster:Cluster": "resourceLabels"}


def required_tags(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """Everything that costs money carries the required tags.

    Who owns it and which stack made it is asked on the day the bill comes or the stack is gone.
    """
    aws = resource.type.startswith("aws:")
    key = "tags" if aws else _LABELS.get(resource.type, "labels")
    # The AWS provider says in `tagsAll` what its default tags add, already before the update (pulumi-aws, provider/tags.go).
    given = {**(resource.properties.get(key) or {}), **((resource.properties.get("tagsAll") or {}) if aws else {})}
    missing = [tag for tag in parameters["awsTags" if aws else "gcpLabels"] if not given.get(tag)]
    if missing:
        yield f"{key} lacks {', '.join(missing)}. Add what is missing"


def state_is_protected(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """What holds state, or an address that others know, is protected.

    One wrong setting that means replacement would otherwise delete the cluster with everything in it. The types are a parameter.
    """
    if resource.type in parameters["types"] and not resource.protect:
        yield "it holds state and is not protected. Give it ResourceOptions(protect=True)"
