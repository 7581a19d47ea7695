"""What a stack says of GCP, checked before anything is registered. Quotas and their sources are the constants here."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from components.cloud_settings import ApiAccess, CloudSettings, NumberedNode, check_pools, check_zones
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings

PEERS_PER_ROUTER = 128
"""BGP peers of one Cloud Router (Cloud Router quotas); each edge node has two."""
MAX_EDGE_NODES = PEERS_PER_ROUTER // 2
UNIQUE_PREFIXES = 250
"""Prefixes that a region's Cloud Routers learn (Cloud Router quotas, Google's example). Over it the longest masks, our VIPs, go first."""
ETHERNET_MTU_BYTES = (1300, 8896)
"""What a VPC network takes (VPC documentation, MTU)."""
KUBERNETES_VERSIONS = ("1.32", "1.33", "1.34", "1.35")
"""Minor versions of GKE's channels, November 2026 to be confirmed: `gcloud container get-server-config`."""
_FULL_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+-gke\.[0-9]+")
MACHINE_FAMILIES = frozenset(
    ["c2", "c2d", "c3", "c3d", "c4", "c4a", "c4d", "e2", "n1", "n2", "n2d", "n4", "t2a", "t2d"]
)
"""Compute Engine, machine families for general purpose and compute (2026)."""


class ApiServer(ApiAccess):
    """How the program and operators reach the API server; there is no default.

    `in-network`: the DNS endpoint from Google's network only. `cidrs`: the IP endpoint from these networks. `proxy`: the private endpoint
    through a proxy. `dns`: the DNS endpoint from anywhere, guarded by IAM alone.
    """

    access: Literal["in-network", "cidrs", "proxy", "dns"]


class EdgeNode(NumberedNode):
    """One edge node. Its name and addresses follow from ``number``, so that no other node changes when one comes or goes. ``draining`` is what
    ``samegate.dev/drain`` is on a Node, which it is not.
    """

    number: Annotated[int, Field(ge=1, le=MAX_EDGE_NODES)]
    draining: bool = False


class Edge(CloudSettings):
    """``image`` is a boot image of Debian or Ubuntu with a full kernel, by its full name: families move. Podman is installed where it lacks."""

    nodes: tuple[EdgeNode, ...] = Field(min_length=1)
    machine_type: str = "c3-standard-4"
    image: str = Field(pattern=r"^projects/[^/]+/global/images/[^/]+$")
    disk_gib: Annotated[int, Field(ge=10, le=1000)] = 20

    @field_validator("image")
    @classmethod
    def _no_family(cls, image: str) -> str:
        if "/family/" in image:
            raise ValueError(
                f"edge.image {image!r} is a family, which moves under a running stack. Name one image of it"
            )
        return image


class Workers(CloudSettings):
    """The node pool; counts are of one zone."""

    machine_type: str = "n2-standard-4"
    minimum: Annotated[int, Field(ge=1)] = 1
    maximum: Annotated[int, Field(ge=1)] = 3
    disk_gib: Annotated[int, Field(ge=20, le=1000)] = 50


class CloudRouter(CloudSettings):
    """The default fabric: two sessions a node, ECMP over all nodes. ``password_key`` names a key of ``bgpKeys`` for TCP MD5."""

    asn: Annotated[int, Field(ge=64512, le=4294967294)] = 64512
    keepalive_seconds: Annotated[int, Field(ge=20, le=60)] = 20
    password_key: str | None = Field(default=None, pattern=r"^[-._a-zA-Z0-9]+$")
    unique_prefixes: Annotated[int, Field(ge=1, le=5000)] = UNIQUE_PREFIXES

    @model_validator(mode="before")
    @classmethod
    def _no_bfd(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "bfd" in raw:
            raise ValueError(
                "cloudRouter.bfd would be ignored: Cloud Router has BFD for VLAN attachments only, not for router appliances. Remove it"
            )
        return raw


class Gcp(CloudSettings):
    """A GKE Standard cluster of its own in a network of its own; zones, image and version are explicit, so that no preview asks Google.

    Zones: `gcloud compute zones list --filter region:REGION`; images: `gcloud compute images list --no-standard-images`.
    """

    kind: Literal["gcp"] = "gcp"
    project: str = Field(pattern=r"^[a-z][-a-z0-9:.]{4,61}[a-z0-9]$")
    region: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")
    zones: tuple[str, ...] = Field(min_length=2, max_length=3)
    node_cidr: IPv4Network
    edge_cidr: IPv4Network
    pod_cidr: IPv4Network
    service_cidr: IPv4Network
    master_cidr: IPv4Network = IPv4Network("172.16.255.0/28")
    mtu_bytes: Annotated[int, Field(ge=ETHERNET_MTU_BYTES[0], le=ETHERNET_MTU_BYTES[1])] = 8896
    kubernetes_version: str
    api_server: ApiServer
    workers: Workers = Workers()
    edge: Edge
    fabric: Literal["router-appliance", "passthrough"] = "router-appliance"
    cloud_router: CloudRouter | None = None
    client_cidrs: tuple[IPv4Network, ...] = Field(min_length=1)
    internet_ingress: Literal["none", "passthrough"] = "none"
    datapath: Literal["legacy", "advanced"] = "legacy"
    autopilot: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    protect: bool = True

    @property
    def router(self) -> CloudRouter:
        """The settings of the Cloud Router, with their defaults."""
        return self.cloud_router or CloudRouter()

    @model_validator(mode="after")
    def _delivers(self) -> Gcp:
        if self.autopilot:
            raise ValueError(
                "autopilot: true is refused: Autopilot runs Dataplane V2 and no privileged pods, so tunnelled packets never reach a Service. "
                "Leave it out for a Standard cluster"
            )
        if self.datapath != "legacy":
            raise ValueError(
                f"datapath {self.datapath!r} (Dataplane V2) is refused: it is Cilium without kube-proxy, and what is tunnelled to a node "
                "never reaches the Service (cilium#33020). Leave it out for the legacy data path"
            )
        return self

    @field_validator("kubernetes_version")
    @classmethod
    def _version(cls, value: str) -> str:
        if ".".join(value.split(".")[:2]) not in KUBERNETES_VERSIONS:
            raise ValueError(
                f"kubernetesVersion {value!r} is none that GKE offers and samegate knows. Use one of {', '.join(KUBERNETES_VERSIONS)}"
            )
        # SDK documentation of NodePool.version: with a fuzzy one every preview shows a change.
        if not _FULL_VERSION.fullmatch(value):
            raise ValueError(
                f"kubernetesVersion {value!r} is no full version: GKE answers with one, so that every preview would show a change of the "
                "node pool. Take one like 1.34.1-gke.1829001 from `gcloud container get-server-config`"
            )
        return value

    @model_validator(mode="after")
    def _zones_fit(self) -> Gcp:
        for zone in self.zones:
            if zone.rpartition("-")[0] != self.region:
                raise ValueError(f"zone {zone!r} is not of the region {self.region}. Name zones like {self.region}-b")
        check_zones(self.edge.nodes, self.zones)
        for what, machine in (("edge", self.edge.machine_type), ("workers", self.workers.machine_type)):
            if machine.count("-") < 2 or machine.split("-")[0] not in MACHINE_FAMILIES:
                raise ValueError(
                    f"{what}.machineType {machine!r} is no type that samegate knows: families {', '.join(sorted(MACHINE_FAMILIES))}. "
                    "Correct its spelling"
                )
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Gcp:
        networks = taken(self)
        for position, (what, block) in enumerate(networks):
            for other, theirs in networks[:position]:
                if block.overlaps(theirs):
                    raise ValueError(
                        f"{what} {block} overlaps {other} {theirs}: subnet routes cannot be overridden. Move one"
                    )
        highest = max(node.number for node in self.edge.nodes)
        if self.edge_cidr.num_addresses < 16 + highest:
            raise ValueError(
                f"edgeCidr {self.edge_cidr} has no address for edge node {highest}: counting starts at ten. Widen it to a /25"
            )
        if self.master_cidr.prefixlen != 28:
            raise ValueError(f"masterCidr {self.master_cidr} is no /28, which is what GKE takes. Use 172.16.255.0/28")
        return self

    @model_validator(mode="after")
    def _fabric_heeds(self) -> Gcp:
        if self.fabric == "passthrough" and self.cloud_router is not None:
            raise ValueError(
                "fabric is 'passthrough' and cloudRouter is set: it would be ignored, there is no BGP. Remove it, or choose router-appliance"
            )
        return self


def taken(settings: Gcp) -> list[tuple[str, IPv4Network]]:
    """Every network that the stack gives to something, with its name."""
    return [
        ("nodeCidr", settings.node_cidr),
        ("edgeCidr", settings.edge_cidr),
        ("podCidr", settings.pod_cidr),
        ("serviceCidr", settings.service_cidr),
        ("masterCidr", settings.master_cidr),
    ]


def check_agent(settings: Gcp, agent: AgentSettings) -> None:
    """What only both halves together can break.

    Raises:
        ConfigError: an ASN clash, or a pool that the fabric cannot carry.
    """
    if settings.fabric == "router-appliance" and agent.bgp.local_asn == settings.router.asn:
        raise ConfigError(
            f"bgp.localAsn {agent.bgp.local_asn}",
            "is also cloudRouter.asn: router appliances must have another number than the Cloud Router",
            "Change one of the two",
        )
    check_pools(
        agent,
        taken(settings),
        "GCP",
        "whose subnet route cannot be overridden",
        "Take a network that nothing in the VPC uses",
    )
    prefixes = sum(n.num_addresses for pool in agent.pools for n in pool.cidrs)
    if settings.fabric == "router-appliance" and prefixes > settings.router.unique_prefixes:
        raise ConfigError(
            f"pools of {prefixes} addresses",
            f"the region learns {settings.router.unique_prefixes} prefixes, and drops the longest, our VIPs, first",
            "Use smaller pools (a /25 has 128), or raise the quota and set cloudRouter.uniquePrefixes to it",
        )


def node_address(settings: Gcp, number: int) -> IPv4Address:
    """The fixed address of an edge node: Google keeps the first two and the last two, the Cloud Router has four and five."""
    return settings.edge_cidr[9 + number]


def router_addresses(settings: Gcp) -> tuple[IPv4Address, IPv4Address]:
    """The Cloud Router's redundant pair of interfaces in the edge subnet."""
    return settings.edge_cidr[4], settings.edge_cidr[5]
