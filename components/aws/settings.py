"""What a stack says of AWS, checked before anything is registered. Quotas and their sources are the constants here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from components.aws.instance_types import KNOWN_FAMILIES, family
from components.cloud_settings import ApiAccess, CloudSettings, NumberedNode, check_pools, check_zones
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings

PEERS_PER_CONNECT = 4
"""Connect peers of one Connect attachment (Transit Gateway quotas, fixed)."""
CONNECT_MTU_BYTES = 8500
"""Largest packet through a Transit Gateway (Transit Gateway quotas, MTU)."""
GRE_OVERHEAD_BYTES = 44
"""What GRE takes of it: 20 IPv4 + 4 GRE, and 20 that AWS asks to leave (evidence: GRE MTU = min(8500, link) - 44)."""
ROUTE_SERVER_ROUTES = 100
"""Routes of one route server peer, and of one route table from it (VPC quotas, fixed)."""
MAX_EDGE_NODES = 64
"""As many /29 blocks as ``inside`` has by default; a Route Server allows fewer (see `_fabric_holds`)."""
ROUTE_SERVER_SESSIONS = 20
"""Sessions of one endpoint (VPC quotas: peering sessions per network interface)."""
RESERVED_INSIDE = tuple(
    IPv4Network(f"169.254.{part}/29") for part in ("0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "169.248")
)
"""Blocks that AWS keeps for itself (Transit Gateway guide, Connect peers)."""
KUBERNETES_VERSIONS = ("1.32", "1.33", "1.34", "1.35")
"""Of EKS in standard support, November 2026 to be confirmed against the account: `aws eks describe-cluster-versions`."""
BFD_AND_KEEPALIVE = Literal["bfd", "bgp-keepalive"]


class ApiServer(ApiAccess):
    """How the program and operators reach the API server. There is no default: whether it stands on the internet is a decision.

    `in-network`: the private endpoint only; run from inside the VPC or a connected network. `cidrs`: also the public endpoint, from these
    networks. `proxy`: the private endpoint through an HTTPS or SOCKS5 proxy, written into the kubeconfig.
    """

    access: Literal["in-network", "cidrs", "proxy"]


class EdgeNode(NumberedNode):
    """One edge node. Its name and all its addresses follow from ``number``, so that no other node changes when one comes or goes."""

    number: Annotated[int, Field(ge=1, le=MAX_EDGE_NODES)]


class Edge(CloudSettings):
    """``image`` is an AMI of Amazon Linux 2023 for EKS, of the cluster's Kubernetes version."""

    nodes: tuple[EdgeNode, ...] = Field(min_length=1)
    machine_type: str = "c7gn.large"
    image: str = Field(pattern=r"^ami-[0-9a-f]{8,17}$")
    disk_gib: Annotated[int, Field(ge=20, le=1000)] = 40


class Workers(CloudSettings):
    """The managed node group."""

    machine_type: str = "m7g.large"
    architecture: Literal["arm64", "x86_64"] = "arm64"
    minimum: Annotated[int, Field(ge=1)] = 2
    desired: Annotated[int, Field(ge=1)] = 2
    maximum: Annotated[int, Field(ge=1)] = 6
    disk_gib: Annotated[int, Field(ge=20, le=1000)] = 40

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if not self.minimum <= self.desired <= self.maximum:
            raise ValueError(
                f"workers: minimum {self.minimum}, desired {self.desired}, maximum {self.maximum} are not in this order. Correct them"
            )
        return self


class TransitGateway(CloudSettings):
    """The default fabric: GRE and two BGP sessions a node, ECMP over all nodes.

    ``cidr`` holds the gateway's GRE addresses and lies outside every VPC. ``inside`` holds the /29 blocks of the sessions. ``propagate_to``
    are route tables of the same gateway (other VPCs, Direct Connect) that learn the VIPs, too.
    """

    asn: Annotated[int, Field(ge=64512, le=4294967294)] = 64512
    cidr: IPv4Network = IPv4Network("10.255.0.0/24")
    inside: IPv4Network = IPv4Network("169.254.100.0/22")
    propagate_to: tuple[Annotated[str, Field(pattern=r"^tgw-rtb-[0-9a-f]+$")], ...] = ()

    @model_validator(mode="after")
    def _blocks(self) -> TransitGateway:
        if self.cidr.prefixlen > 24:
            raise ValueError(f"transitGateway.cidr {self.cidr} is too small: AWS takes a /24 or larger. Widen it")
        if not self.inside.subnet_of(IPv4Network("169.254.0.0/16")) or self.inside.prefixlen > 29:
            raise ValueError(
                f"transitGateway.inside {self.inside} is no part of 169.254.0.0/16 that holds a /29: the sessions' blocks are link-local. "
                "Use 169.254.100.0/22"
            )
        return self

    def inside_block(self, number: int) -> IPv4Network:
        """The /29 of the edge node with this number. ValueError where there is none, or AWS keeps it."""
        position = (number - 1) * 8
        if position >= self.inside.num_addresses:
            raise ValueError(
                f"edge node {number} has no /29 in transitGateway.inside {self.inside}: it holds {self.inside.num_addresses // 8}. "
                "Widen it, or use lower numbers"
            )
        block = IPv4Network((int(self.inside.network_address) + position, 29))
        if block in RESERVED_INSIDE:
            raise ValueError(
                f"the /29 {block} of edge node {number} is one that AWS keeps for itself. Move transitGateway.inside to 169.254.100.0/22"
            )
        return block


class RouteServer(CloudSettings):
    """The fallback without GRE: one active edge node for each VIP, the others stand by. Never ECMP.

    ``client_cidrs`` may send to VIPs: security groups see that traffic here, other than inside GRE.
    """

    asn: Annotated[int, Field(ge=64512, le=4294967294)] = 64512
    liveness: BFD_AND_KEEPALIVE = "bfd"
    client_cidrs: tuple[IPv4Network, ...] = ()


class Aws(CloudSettings):
    """An EKS cluster of its own in a VPC of its own.

    Zones, images and versions are explicit, so that no preview has to ask AWS: `aws ec2 describe-availability-zones`, and for the AMI
    `aws ssm get-parameter --name /aws/service/eks/optimized-ami/VERSION/amazon-linux-2023/arm64/standard/recommended/image_id`.
    ``protect`` keeps what holds state (the cluster, the key of its secrets) from deletion: set it to false and run `up` before `destroy`.
    """

    kind: Literal["aws"] = "aws"
    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$")
    zones: tuple[str, ...] = Field(min_length=2, max_length=3)
    vpc_cidr: IPv4Network
    service_cidr: IPv4Network = IPv4Network("172.20.0.0/16")
    nat: bool = False
    kubernetes_version: str
    api_server: ApiServer
    admin_role_arns: tuple[Annotated[str, Field(pattern=r"^arn:aws[-a-z]*:iam::[0-9]{12}:(role|user)/.+$")], ...] = ()
    workers: Workers = Workers()
    edge: Edge
    fabric: Literal["transit-gateway", "route-server"] = "transit-gateway"
    transit_gateway: TransitGateway | None = None
    route_server: RouteServer | None = None
    internet_ingress: Literal["none", "nlb", "byoip"] = "none"
    mtu_bytes: Annotated[int, Field(ge=1400, le=9001)] = 9001
    tags: dict[str, str] = Field(default_factory=dict)
    protect: bool = True

    @property
    def gateway(self) -> TransitGateway:
        """The settings of the Transit Gateway, with their defaults."""
        return self.transit_gateway or TransitGateway()

    @property
    def server(self) -> RouteServer:
        """The settings of the Route Server, with their defaults."""
        return self.route_server or RouteServer()

    @field_validator("internet_ingress")
    @classmethod
    def _no_internet(cls, value: str) -> str:
        if value != "none":
            raise ValueError(
                f"internetIngress {value!r} is not there: an NLB would hide the VIP and force NAT, BYOIP needs a /24 of your own and one "
                "active node (docs/live-checklist.md says what is missing). Leave it out"
            )
        return value

    @field_validator("kubernetes_version")
    @classmethod
    def _version(cls, value: str) -> str:
        if value not in KUBERNETES_VERSIONS:
            raise ValueError(
                f"kubernetesVersion {value!r} is none that EKS supports and samegate knows. Use one of {', '.join(KUBERNETES_VERSIONS)}"
            )
        return value

    @model_validator(mode="after")
    def _zones_fit(self) -> Aws:
        for zone in self.zones:
            if not zone.startswith(self.region) or len(zone) != len(self.region) + 1:
                raise ValueError(f"zone {zone!r} is not of the region {self.region}. Name zones like {self.region}a")
        if len(set(self.zones)) != len(self.zones):
            raise ValueError(
                f"zones {list(self.zones)} name one twice: EKS wants two or three different ones. Remove it"
            )
        check_zones(self.edge.nodes, self.zones)
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Aws:
        if not 16 <= self.vpc_cidr.prefixlen <= 20:
            raise ValueError(
                f"vpcCidr {self.vpc_cidr} is no /16 to /20: subnets of three zones and their pods must fit, and AWS takes no more. Choose another"
            )
        if self.service_cidr.overlaps(self.vpc_cidr):
            raise ValueError(
                f"serviceCidr {self.service_cidr} overlaps vpcCidr {self.vpc_cidr}: Services would shadow nodes. Move one"
            )
        if self.fabric == "transit-gateway":
            for what, block in (("vpcCidr", self.vpc_cidr), ("serviceCidr", self.service_cidr)):
                if self.gateway.cidr.overlaps(block):
                    raise ValueError(
                        f"transitGateway.cidr {self.gateway.cidr} overlaps {what} {block}: it must lie outside every VPC. Move it"
                    )
            for node in self.edge.nodes:
                self.gateway.inside_block(node.number)
        return self

    @model_validator(mode="after")
    def _fabric_holds(self) -> Aws:
        other = {"transit-gateway": "route_server", "route-server": "transit_gateway"}[self.fabric]
        if getattr(self, other) is not None:
            raise ValueError(
                f"fabric is {self.fabric!r} and {to_camel(other)} is set: it would be ignored. Remove it, or choose that fabric"
            )
        if self.fabric == "route-server":
            if len(self.edge.nodes) > ROUTE_SERVER_SESSIONS:
                raise ValueError(
                    f"{len(self.edge.nodes)} edge nodes are more than a route server endpoint has sessions ({ROUTE_SERVER_SESSIONS}). "
                    "Use fewer, or fabric: transit-gateway"
                )
            if not self.server.client_cidrs:
                raise ValueError(
                    "routeServer.clientCidrs is empty: nobody could reach a VIP, because security groups see its traffic on this fabric. "
                    "Name the networks of the clients"
                )
        for what, machine in (("edge", self.edge.machine_type), ("workers", self.workers.machine_type)):
            if family(machine) not in KNOWN_FAMILIES:
                raise ValueError(
                    f"{what}.machineType {machine!r} is no type that samegate knows: families {', '.join(sorted(KNOWN_FAMILIES))}. "
                    "Correct its spelling, or add the family to components/aws/instance_types.py"
                )
        return self


def check_agent(settings: Aws, agent: AgentSettings) -> None:
    """What only both halves together can break.

    Raises:
        ConfigError: an ASN clash, a pool that the fabric cannot carry, an option that the fabric would ignore.
    """
    fabric_asn = settings.gateway.asn if settings.fabric == "transit-gateway" else settings.server.asn
    if agent.bgp.local_asn == fabric_asn:
        raise ConfigError(
            f"bgp.localAsn {agent.bgp.local_asn}",
            f"is also the {settings.fabric}'s own: the session would be internal, and AWS would pass no route on",
            "Change one of the two",
        )
    check_pools(agent, _taken(settings), "AWS", "whose own route wins", "Take a network that lies outside every VPC")
    if settings.fabric == "route-server":
        routes = sum(n.num_addresses for pool in agent.pools for n in pool.cidrs)
        if routes > ROUTE_SERVER_ROUTES:
            raise ConfigError(
                f"pools of {routes} addresses",
                f"a route server installs {ROUTE_SERVER_ROUTES} routes, and every VIP is one",
                "Use pools of at most a /26 and a /27 together, or fabric: transit-gateway",
            )


def _taken(settings: Aws) -> list[tuple[str, IPv4Network]]:
    taken = [("vpcCidr", settings.vpc_cidr), ("serviceCidr", settings.service_cidr)]
    if settings.fabric == "transit-gateway":
        taken += [("transitGateway.cidr", settings.gateway.cidr), ("transitGateway.inside", settings.gateway.inside)]
    return taken


def node_address(subnet: IPv4Network, number: int) -> IPv4Address:
    """The fixed address of an edge node in its subnet: AWS keeps the first four, so counting starts at ten."""
    return subnet[9 + number]
