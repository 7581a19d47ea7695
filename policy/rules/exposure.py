"""What the whole internet could reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policy.model import Parameters, Resource

SECURITY_GROUP = "aws:ec2/securityGroup:SecurityGroup"
SECURITY_GROUP_RULE = "aws:ec2/securityGroupRule:SecurityGroupRule"
INGRESS_RULE = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
FIREWALL = "gcp:compute/firewall:Firewall"
EKS = "aws:eks/cluster:Cluster"
GKE = "gcp:container/cluster:Cluster"
DOORS = (SECURITY_GROUP, SECURITY_GROUP_RULE, INGRESS_RULE, FIREWALL, EKS, GKE)
ANYWHERE = ("0.0.0.0/0", "::/0")


def _open(sources: Any) -> list[str]:
    return [source for source in sources or [] if source in ANYWHERE]


def _hits(first: Any, last: Any, ports: Parameters) -> list[int]:
    """Which of the ports lie in a range; a range without ends is all of them."""
    low, high = (0, 65535) if first is None or last is None or first < 0 else (int(first), int(last))
    return [int(port) for port in ports["ports"] if low <= port <= high]


def _aws_rule(rule: Mapping[str, Any], sources: list[str], protocol: Any, parameters: Parameters) -> Iterator[str]:
    # ICMP's "ports" are types; -1 is every protocol, which the API also takes as `all`.
    if str(protocol) not in ("tcp", "udp", "6", "17", "-1", "all"):
        return
    whole = str(protocol) in ("-1", "all")
    for port in _hits(None if whole else rule.get("fromPort"), rule.get("toPort"), parameters):
        yield from (f"{source} reaches port {port}. Name the networks that need it" for source in sources)


def not_open_to_everybody(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """BGP, BFD, SSH and the API server are not reachable from everywhere.

    A VIP's own ports may be; the machinery behind it has a handful of peers, which are known. The ports are a parameter: 22, 179, 3784, 3785, 4784
    (BFD, RFC 5881 and 5883), 6443 and 10250.
    """
    properties = resource.properties
    match resource.type:
        case "aws:ec2/securityGroup:SecurityGroup":
            for rule in properties.get("ingress") or []:
                sources = _open(rule.get("cidrBlocks")) + _open(rule.get("ipv6CidrBlocks"))
                yield from _aws_rule(rule, sources, rule.get("protocol"), parameters)
        case "aws:ec2/securityGroupRule:SecurityGroupRule" if properties.get("type") == "ingress":
            sources = _open(properties.get("cidrBlocks")) + _open(properties.get("ipv6CidrBlocks"))
            yield from _aws_rule(properties, sources, properties.get("protocol"), parameters)
        case "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
            sources = _open([properties.get("cidrIpv4"), properties.get("cidrIpv6")])
            yield from _aws_rule(properties, sources, properties.get("ipProtocol"), parameters)
        case "gcp:compute/firewall:Firewall" if properties.get("direction", "INGRESS") == "INGRESS":
            for rule in properties.get("allows") or []:
                if str(rule.get("protocol")).lower() in ("tcp", "udp", "all", "6", "17"):
                    for span in rule.get("ports") or ["0-65535"]:
                        first, _, last = str(span).partition("-")
                        for port in _hits(int(first), int(last or first), parameters):
                            for source in _open(properties.get("sourceRanges")):
                                yield f"{source} reaches port {port}. Name the networks that need it"
        case "aws:eks/cluster:Cluster":
            access = properties.get("vpcConfig") or {}
            # Both are the API's defaults.
            if access.get("endpointPublicAccess", True) and _open(access.get("publicAccessCidrs") or ANYWHERE):
                yield "the API server answers everybody. Set vpcConfig.publicAccessCidrs, or endpointPublicAccess off"
        case "gcp:container/cluster:Cluster":
            networks = (properties.get("masterAuthorizedNetworksConfig") or {}).get("cidrBlocks") or []
            if _open([network.get("cidrBlock") for network in networks]):
                yield "the API server answers everybody. Name networks in masterAuthorizedNetworksConfig"
