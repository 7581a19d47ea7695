"""Where VIPs come from, against everything else that has addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from policy.model import Finding, Parameters, Resource, Stack, readable
from policy.rules.agent_settings import stack_settings

IPNetwork = IPv4Network | IPv6Network

ROUTE_SERVER = "aws:vpc/routeServer:RouteServer"
CONNECT = "aws:ec2transitgateway/connect:Connect"
CLOUD_ROUTER = "gcp:compute/router:Router"

#: Where each type keeps the networks that it takes: property names, nested ones behind a dot, of lists all items.
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "aws:ec2/vpc:Vpc": ("cidrBlock", "ipv6CidrBlock"),
    "aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation": ("cidrBlock",),
    "aws:ec2/subnet:Subnet": ("cidrBlock", "ipv6CidrBlock"),
    "aws:eks/cluster:Cluster": ("kubernetesNetworkConfig.serviceIpv4Cidr", "kubernetesNetworkConfig.serviceIpv6Cidr"),
    "aws:ec2transitgateway/transitGateway:TransitGateway": ("transitGatewayCidrBlocks",),
    "gcp:compute/subnetwork:Subnetwork": ("ipCidrRange", "secondaryIpRanges.ipCidrRange"),
    "gcp:container/cluster:Cluster": (
        "ipAllocationPolicy.clusterIpv4CidrBlock",
        "ipAllocationPolicy.servicesIpv4CidrBlock",
        "privateClusterConfig.masterIpv4CidrBlock",
    ),
}


def _values(value: Any, path: list[str]) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _values(value.get(path[0]), path[1:])
    else:
        for item in range(len(value)):
            yield from _values(value[item], path)


def _networks(resource: Resource, name: str) -> list[IPNetwork]:
    found = []
    for text in _values(resource.properties, name.split(".")):
        try:
            found.append(ip_network(text))
        except ValueError:
            continue  # a length alone, like /20, lets the cloud choose
    return found


def pools(settings: Mapping[str, Any]) -> list[tuple[str, IPNetwork]]:
    """The networks of all pools with their pool's name."""
    return [(p.get("name", "?"), ip_network(c)) for p in settings.get("pools") or [] for c in p.get("cidrs") or []]


def pools_are_apart(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """VIP pools share no address with any VPC, subnet, node, pod or service range.

    A cloud's own routes win over what is announced (GCP: subnet routes cannot be overridden; AWS: the local route), and kube-proxy takes
    what lies in the service range: a VIP there is never reached, or takes an address from somebody.
    """
    found = stack_settings(stack)
    if found is None:
        return
    where, settings = found
    network = settings.get("network") or {}
    taken = [
        (f"{key} of the settings", where.urn, ip_network(cidr))
        for key in ("nodeCidrs", "podCidrs", "serviceCidrs", "probeCidrs")
        for cidr in network.get(key) or []
    ]
    for type_, names in NETWORKS.items():
        for name in names:

            def read(resource: Resource, name: str = name) -> list[IPNetwork]:
                return _networks(resource, name)

            for resource, networks in readable(stack.of(type_), read):
                taken += [(f"{name} of {resource.name}", resource.urn, n) for n in networks]
    for pool, mine in pools(settings):
        for what, urn, other in taken:
            if mine.version == other.version and mine.overlaps(other):
                yield Finding(
                    f"{mine} of pool {pool} overlaps {what}, {other}. Choose a network that nothing else uses", urn
                )


def pools_fit_the_fabric(stack: Stack, parameters: Parameters) -> Iterator[Finding]:
    """On a cloud's fabric a pool is announced by host routes only, and no more than the fabric takes.

    Beyond its quota a fabric drops routes silently (GCP keeps the shortest masks, so /32 go first; Route Server's 100 and Connect's 1,000
    cannot be raised), and an aggregate sends what no edge node serves. The quotas are parameters, since some can be raised.
    """
    found = stack_settings(stack)
    if found is None:
        return
    where, settings = found
    for type_, name in (
        (ROUTE_SERVER, "routeServer"),
        (CONNECT, "transitGatewayConnect"),
        (CLOUD_ROUTER, "cloudRouter"),
    ):
        if next(stack.of(type_), None) is None:
            continue
        quota = int(parameters[name])
        addresses = sum(network.num_addresses for _, network in pools(settings))
        if addresses > quota:
            yield Finding(
                f"the pools have {addresses} addresses, and {name} takes {quota} routes: those beyond are dropped. Use smaller pools",
                where.urn,
            )
        for pool in settings.get("pools") or []:
            if pool.get("aggregate") is not None:
                yield Finding(
                    f"pool {pool.get('name')} has an aggregate, which {name} must not get. Remove it", where.urn
                )
