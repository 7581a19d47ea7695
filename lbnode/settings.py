"""What the agent is told: the schema of its ConfigMap, and the part of a stack's configuration that becomes it.

The same classes read the ConfigMap in the pod and write it in the Pulumi program, so that the two cannot drift. Every error
says which value breaks which rule and what to do. Keys are camelCase outside and snake_case inside.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lbnode.bgp_settings import Bgp
from lbnode.errors import ConfigError
from lbnode.link import check_links
from lbnode.model import SMALLEST_IPV6_MTU_BYTES, TUNNEL_OVERHEAD_BYTES, IPAddress, IPNetwork
from lbnode.outside_edge import OutsideEdge, check_outside_edges
from lbnode.pools import Pool
from lbnode.schema import Cidr, Milliseconds, Port, Strict, Whole, first_duplicate, overlap
from lbnode.via_edge import ViaEdge
from lbnode.xdp_settings import Xdp

#: What balances in the kernel of edge nodes.
DataPlane = Literal["ipvs", "xdp"]
#: Of the environment: what the pod of an edge node has the privileges and mounts for, IPVS where it is not set.
DATA_PLANE_VARIABLE = "DATA_PLANE"
Seconds = Annotated[float, Field(ge=0, le=3600)]
#: The kernel refuses idle times of IPVS above INT_MAX / HZ (``ip_vs_set_timeout``), and HZ is at most 1000.
IdleSeconds = Annotated[Whole, Field(ge=1, le=2_147_483)]


class Network(Strict):
    """What the fabric and the cluster already use; pools and the probe network must stay clear of all of it.

    ``fabric_mtu_bytes`` is the MTU between edge nodes and workers. The probe network gives each worker one address: the low bits
    of its node address, so that edge nodes and workers agree without talking.
    """

    node_cidrs: tuple[Cidr, ...] = Field(min_length=1)
    pod_cidrs: tuple[Cidr, ...] = ()
    service_cidrs: tuple[Cidr, ...] = ()
    probe_cidrs: tuple[Cidr, ...] = (IPv4Network("192.0.2.0/24"),)
    fabric_mtu_bytes: Whole = Field(default=1500, ge=576, le=65535)


class Health(Strict):
    """Probing of workers by edge nodes. A worker is healthy after ``rise`` successes and unhealthy after ``fall`` failures in a row.

    A VIP goes when fewer than ``low_watermark`` of its workers are healthy and returns at ``high_watermark`` (fractions; 0 means at least one).
    """

    interval_ms: Milliseconds = 500
    timeout_ms: Milliseconds = 450
    rise: Whole = Field(default=2, ge=1, le=1000)
    fall: Whole = Field(default=3, ge=1, le=1000)
    low_watermark: float = Field(default=0.0, ge=0, le=1)
    high_watermark: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Health:
        if self.low_watermark > self.high_watermark:
            raise ValueError(
                f"lowWatermark {self.low_watermark} is above highWatermark {self.high_watermark}: a VIP would flap. Swap them"
            )
        if self.timeout_ms > self.interval_ms:
            raise ValueError(
                f"timeoutMs {self.timeout_ms} is above intervalMs {self.interval_ms}: probes would pile up. Lower the timeout"
            )
        return self


class ActiveProbes(Health):
    """Active probes of pods by the worker that runs them, for Services that ask for it by ``samegate.dev/probe``; annotations of the Service
    take the place of these values. The pace is that of GLB director: each 2 s, 1 s for an answer, out after 3 failures.

    A worker gets nothing new for the Service when fewer than ``low_watermark`` of its pods pass, until ``high_watermark`` do (fractions; 0
    means at least one). A worker has at most ``at_once`` probes under way.
    """

    interval_ms: Annotated[Whole, Field(ge=100, le=3_600_000)] = 2000
    timeout_ms: Milliseconds = 1000
    at_once: Annotated[Whole, Field(ge=1, le=1024)] = 64


class Ipvs(Strict):
    """Idle times of IPVS connections in seconds, and how many TCP connections may begin.

    ``max_syn_per_second`` is for each VIP on each edge node; SYNs above it are dropped, and connections that are there go on. IPVS keeps an
    unfinished connection for 60 s, so that a flood of forged SYNs leaves at most 61 times as many there; without it nothing but memory bounds
    them. Needs the kernel module ``xt_hashlimit``, which keeps it in whole microseconds from one SYN to the next: at most a tenth more. On a node
    without it there is no limit, and a warning.
    """

    tcp_seconds: IdleSeconds = 900
    tcp_fin_seconds: IdleSeconds = 120
    udp_seconds: IdleSeconds = 30
    max_syn_per_second: Annotated[Whole, Field(ge=1000, le=100_000)] | None = None


class Drain(Strict):
    """On drain and SIGTERM: withdraw, keep forwarding for ``withdraw_seconds``, then stop."""

    withdraw_seconds: Seconds = 5.0


class Ports(Strict):
    """TCP ports of the agents' own HTTP pages (metrics, readiness, status) on the node address."""

    edge: Port = 9474
    worker: Port = 9475
    controller: Port = 9476


class AgentSettings(Strict):
    """Everything the agent's three roles need to know; the same text for all nodes.

    ``share_across_namespaces`` lets Services of different namespaces share an address by an equal sharing key; off, a key counts within its
    namespace. ``packet_filter`` is ``nftables`` unless a kernel has no nftables tables for IP; ``iptables-legacy`` costs the pods ``NET_RAW``.
    ``forwarding`` is ``tunnel``: to the worker role, with the client's address and through the loss of any edge node. ``nat`` is for pods on nodes
    that cannot run the worker role: edge nodes send to the pods themselves and translate both addresses, so the app sees an edge node's address
    instead of the client's, and connections end when their edge node leaves. A Service may choose by ``samegate.dev/forwarding``.
    ``dataplane`` is ``ipvs``, or ``xdp``: our own program at the devices of edge nodes. It serves TCP and UDP by tunnel; SCTP and ``forwarding: nat``
    are refused with it.
    ``return_path`` is how replies leave a worker: ``direct``, with a VIP as their source, or ``via-edge``, through a live edge node, where the
    fabric drops packets from addresses that are not the sender's own.
    """

    pools: tuple[Pool, ...] = Field(min_length=1)
    bgp: Bgp
    network: Network
    service_class: str = Field(default="samegate.dev/lb", min_length=1)
    serve_without_class: bool = False
    edge_node_selector: dict[str, str] = Field(default={"samegate.dev/role": "edge"}, min_length=1)
    worker_node_selector: dict[str, str] = Field(default={"samegate.dev/role": "worker"}, min_length=1)
    outside_edges: tuple[OutsideEdge, ...] = ()
    share_across_namespaces: bool = False
    forwarding: Literal["tunnel", "nat"] = "tunnel"
    return_path: Literal["direct", "via-edge"] = Field(default="direct", alias="return")
    via_edge: ViaEdge = ViaEdge()
    weights: Literal["equal", "endpoints"] = "equal"
    packet_filter: Literal["nftables", "iptables-legacy"] = "nftables"
    dataplane: DataPlane = "ipvs"
    xdp: Xdp = Xdp()
    health: Health = Health()
    active_probes: ActiveProbes = ActiveProbes()
    ipvs: Ipvs = Ipvs()
    drain: Drain = Drain()
    ports: Ports = Ports()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _roles_differ(self) -> AgentSettings:
        edge, worker = self.edge_node_selector.items(), self.worker_node_selector.items()
        if edge <= worker or worker <= edge:
            raise ValueError(
                f"edgeNodeSelector {dict(edge)} and workerNodeSelector {dict(worker)} select the same nodes: no node can be both. Give the roles different labels"
            )
        return self

    @model_validator(mode="after")
    def _served_by_xdp(self) -> AgentSettings:
        if self.dataplane != "xdp":
            return self
        if not self.xdp.devices:
            raise ValueError(
                "dataplane xdp without xdp.devices: the program has to be told where packets for VIPs come in. Name the devices of the edge nodes, like [eth0]"
            )
        if self.forwarding == "nat":
            raise ValueError(
                "dataplane xdp together with forwarding nat: the program forwards by tunnel only. Use forwarding tunnel, or dataplane ipvs"
            )
        if self.ipvs.max_syn_per_second is not None:
            raise ValueError(
                "dataplane xdp together with ipvs.maxSynPerSecond: the program takes SYNs before the packet filter counts them, and its tables do not grow. Remove it, or use dataplane ipvs"
            )
        if self.bgp.links:
            raise ValueError(
                "dataplane xdp together with bgp.links: packets for VIPs come in GRE, in which the program does not look. Use dataplane ipvs, or peers without links"
            )
        if self.outside_edges:
            raise ValueError(
                "dataplane xdp together with outsideEdges: edge nodes outside the cluster forward by IPVS alone. Use dataplane ipvs, or edge nodes of the cluster"
            )
        return self

    @model_validator(mode="after")
    def _families_fit(self) -> AgentSettings:
        families = sorted({n.version for n in self.pool_networks})
        smallest = SMALLEST_IPV6_MTU_BYTES + TUNNEL_OVERHEAD_BYTES[6]
        if 6 in families and self.network.fabric_mtu_bytes < smallest:
            raise ValueError(
                f"fabricMtuBytes {self.network.fabric_mtu_bytes} is too small for IPv6 pools: their tunnel takes {TUNNEL_OVERHEAD_BYTES[6]} bytes, "
                f"and IPv6 needs {SMALLEST_IPV6_MTU_BYTES} in it (RFC 8200 section 5). Raise the fabric's MTU to {smallest}, or drop the IPv6 pools"
            )
        for family in families:
            if not any(f"IPv{family}" in peer.address_families for peer in self.bgp.peers):
                raise ValueError(
                    f"no peer has IPv{family} in its addressFamilies, but pools have IPv{family} networks: they would be announced to nobody. "
                    "Add the family to a peer, or drop those networks"
                )
        return self

    @model_validator(mode="after")
    def _disjoint(self) -> AgentSettings:
        if (twice := first_duplicate(p.name for p in self.pools)) is not None:
            raise ValueError(f"two pools are named {twice}: names must be unique. Rename one")
        taken: list[tuple[str, IPNetwork]] = []
        for what, networks in (
            ("the node network", self.network.node_cidrs),
            ("the pod network", self.network.pod_cidrs),
            ("the service network", self.network.service_cidrs),
            ("the probe network", self.network.probe_cidrs),
        ):
            taken += [(what, n) for n in networks]
        for pool in self.pools:
            for network in pool.cidrs:
                for what, other in taken:
                    if overlap(network, other):
                        raise ValueError(
                            f"{network} of pool {pool.name} overlaps {what} {other}: a VIP would shadow it. Choose a network that nothing else uses"
                        )
                taken.append((f"pool {pool.name}", network))
        reserved = [(what, n) for what, n in taken if what == "the probe network" or what.startswith("pool ")]
        check_outside_edges(self.outside_edges, reserved)
        check_links(self.bgp.links, taken, {n.version for n in self.pool_networks}, self.network.fabric_mtu_bytes)
        for probe in self.network.probe_cidrs:
            for what, other in taken:
                if what != "the probe network" and overlap(probe, other):
                    raise ValueError(
                        f"the probe network {probe} overlaps {what} {other}: probes would go astray. Choose a network that nothing else uses"
                    )
        return self

    @model_validator(mode="after")
    def _links_outside_pools(self) -> AgentSettings:
        for peer in self.bgp.peers:
            for address in peer.local_addresses:
                for pool in self.pools:
                    if any(address in network for network in pool.cidrs):
                        raise ValueError(
                            f"peer {peer.name} has local address {address}, which lies in pool {pool.name}: it would be given away as a VIP. "
                            "Use a link address outside every pool"
                        )
        return self

    @model_validator(mode="after")
    def _heard_by_somebody(self) -> AgentSettings:
        for pool in self.pools:
            if (unheard := self.bgp.unheard(pool.local_preference, pool.prepend)) is not None:
                raise ValueError(f"pool {pool.name}: {unheard}")
        return self

    @property
    def pool_networks(self) -> tuple[IPNetwork, ...]:
        """All networks of all pools, in the order of the settings."""
        return tuple(n for p in self.pools for n in p.cidrs)

    @property
    def needs_namespaces(self) -> bool:
        """Whether a pool selects namespaces by their labels, which the controller then has to read."""
        return any(p.namespace_selector is not None for p in self.pools)

    def max_segment_bytes(self, version: int) -> int:
        """Largest TCP segment whose packet still fits tunnel and links: the smaller MTU less IP and TCP headers (40 or 60 bytes)."""
        fabric_mtu_bytes = self.network.fabric_mtu_bytes
        links = [link.inside_mtu_bytes(fabric_mtu_bytes) for link in self.bgp.links]
        return min([fabric_mtu_bytes - TUNNEL_OVERHEAD_BYTES[version], *links]) - {4: 40, 6: 60}[version]

    def probe_address(self, node_address: IPAddress) -> IPAddress | None:
        """The probe address of the worker at ``node_address``: the probe network's prefix with the node address' low bits.

        ``None`` when no probe network has the family of the address.
        """
        for network in self.network.probe_cidrs:
            if network.version == node_address.version:
                return network[int(node_address) & (network.num_addresses - 1)]
        return None

    def to_json(self) -> str:
        """The text of the ConfigMap; :func:`parse` reads it back to an equal value."""
        # With IPVS the text says nothing of the other data plane, so that agents of before it read the settings too.
        unsaid = {"dataplane", "xdp"} if self.dataplane == "ipvs" and self.xdp == Xdp() else None
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude=unsaid), indent=2, sort_keys=True) + "\n"


#: Rule and way out for findings of pydantic whose own words are about Python.
_PLAIN = {
    "extra_forbidden": ("unknown settings key", "Remove it or mend its spelling"),
    "missing": ("required and missing", "Add it"),
    "ip_v4_network": ("not a network in CIDR notation, or with host bits set", "Write it like 203.0.113.0/24"),
    "ip_v4_address": ("not an IP address", "Write it like 198.18.0.2"),
    "model_type": ("not an object with keys", "Write its keys below it"),
}
_SCHEMA = "See the schema: python -m lbnode schema"


def config_error(error: ValidationError, root: str) -> ConfigError:
    """One :class:`ConfigError` for the first finding of pydantic, with its path, and a count of the others."""
    findings: dict[tuple[str, ...], Any] = {}
    for finding in error.errors(include_url=False):
        # A union adds a part for each member that was tried, which is no key of the settings.
        path = tuple(str(p) for p in finding["loc"] if "[" not in str(p))
        findings.setdefault(path, finding)
    # A list whose only item is wrong is also too short, which says nothing new.
    own = [p for p in findings if not any(len(o) > len(p) and o[: len(p)] == p for o in findings)]
    path = own[0]
    first = findings[path]
    given = first.get("input")
    shown = f" = {given!r}" if isinstance(given, str | int | float | bool) or given is None else ""
    if first["type"] in _PLAIN:
        rule, way_out = _PLAIN[first["type"]]
    else:
        rule, _, way_out = first["msg"].removeprefix("Value error, ").partition(". ")
    way_out = f"{way_out}. {_SCHEMA}" if way_out else _SCHEMA
    if len(own) > 1:
        way_out += f". {len(own) - 1} more finding(s) follow once this is mended"
    return ConfigError(".".join((root, *path)) + shown, rule, way_out)


def parse(raw: Any, root: str = "settings") -> AgentSettings:
    """Settings from plain JSON values.

    Raises:
        ConfigError: a value breaks a rule; the message names value, rule and way out.
    """
    try:
        return AgentSettings.model_validate(raw)
    except ValidationError as error:
        raise config_error(error, root) from None


class PendingSettings(ConfigError):
    """Good settings that the next agent takes: the one that runs goes on with those before them."""


def other_dataplane(asked: DataPlane, own: DataPlane, way_out: str) -> PendingSettings:
    """Why an agent that was started with one data plane does not take settings that ask for another one."""
    return PendingSettings(
        f"dataplane {asked}",
        f"this agent was started with {own} and has the privileges for that alone",
        way_out,
    )


def with_dataplane(settings: AgentSettings, own: DataPlane, way_out: str) -> AgentSettings:
    """The settings but for their data plane, for an agent that starts with another one.

    Raises:
        ConfigError: that data plane does not serve them.
    """
    if settings.dataplane == own:
        return settings
    try:
        return parse({**settings.model_dump(mode="json", by_alias=True), "dataplane": own})
    except ConfigError as error:
        rule = f"this agent was started with {own}, which cannot serve by the other settings ({error.rule})"
        raise ConfigError(f"dataplane {settings.dataplane}", rule, way_out) from None


def parse_json(text: str, root: str = "settings") -> AgentSettings:
    """Settings from the text of a ConfigMap.

    Raises:
        ConfigError: the text is not JSON, or a value breaks a rule.
    """
    try:
        raw = json.loads(text)
        # Half of a surrogate pair can be written in JSON, but neither logged nor sent to anybody.
        json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            root, f"not JSON: {error}", "Mend the ConfigMap; the last good settings stay in force"
        ) from None
    return parse(raw, root)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of :class:`AgentSettings`, for editors."""
    return AgentSettings.model_json_schema(by_alias=True)
