"""What one Service comes to on an edge node: its VIPs with their facts, its IPVS services, what of it is refused. Pure.

One Service at a time, from everything that it depends on and nothing else, so that a caller may keep what did not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lbnode import sharing
from lbnode.active_probe import read_active_probe
from lbnode.attributes import attributes_of
from lbnode.destinations import Target, destinations_of, drain_unfit
from lbnode.facts import Rejection, VipFacts, WorkerHealth
from lbnode.model import IPAddress, IPNetwork, Protocol, ServiceName, VirtualKey, VirtualService
from lbnode.objects import (
    FORWARDING_ANNOTATION,
    ONE_PACKET_ANNOTATION,
    SERVICE_PROXY_LABEL,
    SHARING_ANNOTATION,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    ServicePort,
    forwarding_of,
    is_on,
)
from lbnode.pools import Pool, pool_of
from lbnode.settings import AgentSettings, DataPlane

NAT_NOTE = "forwarding nat: the app sees an edge node's address instead of the client's, and connections end when their edge node leaves"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every Service is judged by: the cluster's Nodes, the edge node's own among them (``node``), the settings, the IP versions that the
    node cannot serve, the protocols that its kernel lacks, and the workers that its probes speak against.
    """

    nodes: Mapping[str, NodeObject]
    settings: AgentSettings
    node: NodeObject | None
    unserved: frozenset[int]
    missing: frozenset[Protocol]
    unhealthy: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class Served:
    """``facts`` are those of each VIP that the Service has; ``limited`` as in :class:`lbnode.packet_tables.EdgeFilter`."""

    facts: tuple[VipFacts, ...] = ()
    services: tuple[VirtualService, ...] = ()
    limited: frozenset[tuple[VirtualKey, IPNetwork]] = frozenset()
    rejections: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()


def serve(
    around: Surroundings,
    service: ServiceObject,
    slices: Sequence[EndpointSliceObject],
    holders: Sequence[Sequence[ServiceObject]],
    graced: frozenset[tuple[ServiceName, str]],
    without_endpoints: frozenset[tuple[ServiceName, IPAddress]],
    failing_probes: frozenset[tuple[ServiceName, IPAddress]],
) -> Served:
    """Serve one Service of ours.

    ``slices`` are its own; ``holders`` are for each of its addresses the older Services that hold it; the last three are as in
    :func:`lbnode.translate.edge.translate_edge` and :class:`lbnode.facts.WorkerHealth`, as far as they name this Service.
    """
    settings = around.settings
    forwarding = forwarding_of(service, settings)
    if (problem := _forwarding_problem(service, forwarding, settings.dataplane)) is not None:
        return Served(rejections=(problem,))
    nat = forwarding == "nat"
    ports, refused = ports_of(service, nat, around.missing, settings.dataplane)
    rejections = list(refused)
    if (mistake := read_active_probe(service, settings.active_probes)[1]) is not None:
        rejections.append(mistake)
    refusal = (refused[0].reason, refused[0].message) if refused and not ports else None
    health = WorkerHealth(
        unhealthy=around.unhealthy, without_endpoints=without_endpoints, failing_probes=failing_probes
    )

    facts: dict[IPAddress, VipFacts] = {}
    services: list[VirtualService] = []
    limited: set[tuple[VirtualKey, IPNetwork]] = set()
    for address, older in zip(service.addresses, holders, strict=True):
        if address in facts:
            continue
        pool = pool_of(address, settings.pools)
        if (problem := _address_problem(service, address, older, settings)) is not None:
            rejections.append(problem)
        if pool is None or problem is not None:
            continue
        targets: list[Target] = []
        for port, protocol in ports:
            target, refused = destinations_of(
                around.nodes, slices, settings, service, port, protocol, address.version, graced, nat
            )
            rejections += [r for r in refused if r not in rejections]
            targets.append(target)
            if address.version in around.unserved:
                continue
            key = VirtualKey(address, protocol, port.port)
            if nat:
                limited |= {(key, network) for network in service.source_ranges if network.version == address.version}
            services.append(
                VirtualService(
                    key=key,
                    # A probe speaks of workers and their tunnels, not of pods.
                    destinations=target.destinations
                    if nat
                    else drain_unfit(target.destinations, service.name, protocol, health),
                    hash_source_port=not service.client_ip_affinity,
                    one_packet=protocol is Protocol.UDP and is_on(service.annotations.get(ONE_PACKET_ANNOTATION)),
                )
            )
        attributes, refused = attributes_of(service, address, pool, settings.bgp)
        rejections += [r for r in refused if r not in rejections]
        facts[address] = VipFacts(
            address=address,
            service=service.name,
            # A worker counts when it is active for any port.
            workers=frozenset(d.address for t in targets for d in t.destinations if not d.drained),
            held=frozenset(a for t in targets for a in t.held),
            endpoints=max((t.endpoints for t in targets), default=0),
            terminating_only=any(t.terminating_only for t in targets),
            deleting=service.deleting,
            attributes=attributes,
            elsewhere=_elsewhere(around.node, pool),
            probed=not nat,
            refused=refusal,
        )
    warnings = (f"{service.name}: {NAT_NOTE}",) if nat else ()
    return Served(tuple(facts.values()), tuple(services), frozenset(limited), tuple(rejections), warnings)


def _forwarding_problem(service: ServiceObject, forwarding: str, dataplane: DataPlane) -> Rejection | None:
    if forwarding == "nat" and dataplane == "xdp":
        message = (
            f"annotation {FORWARDING_ANNOTATION} = {forwarding!r}, but edge nodes forward by XDP, which does so by tunnel only. "
            "Remove it, or have dataplane ipvs in the settings"
        )
        return Rejection(service.name, "NotByXdp", message)
    if forwarding in ("tunnel", "nat"):
        return None
    message = f"annotation {FORWARDING_ANNOTATION} = {forwarding!r} is neither tunnel nor nat. Write one of them, or remove it"
    return Rejection(service.name, "InvalidForwarding", message)


def ports_of(
    service: ServiceObject, nat: bool, missing: frozenset[Protocol], dataplane: DataPlane
) -> tuple[list[tuple[ServicePort, Protocol]], list[Rejection]]:
    """The ports of a Service that can be served, with their protocols, and why the others are not."""
    served: list[tuple[ServicePort, Protocol]] = []
    refused: list[Rejection] = []
    seen: set[tuple[Protocol, int]] = set()
    for port in service.ports:
        label = f"port {port.name or port.port}"
        if port.protocol not in Protocol.__members__:
            message = f"{label}: protocol {port.protocol} is not served, only TCP, UDP and SCTP are. Use another load balancer class for it"
            refused.append(Rejection(service.name, "UnsupportedProtocol", message))
            continue
        key = (Protocol(port.protocol), port.port)
        if key in seen:
            message = f"{label}: {port.protocol} {port.port} is there twice. Remove one"
            refused.append(Rejection(service.name, "DuplicatePort", message))
            continue
        seen.add(key)
        if key[0] is Protocol.SCTP and dataplane == "xdp":
            message = f"{label}: SCTP is not forwarded by XDP. Have dataplane ipvs in the settings, or use another load balancer class for it"
            refused.append(Rejection(service.name, "NotByXdp", message))
            continue
        if key[0] in missing:
            message = (
                f"{label}: {port.protocol} is not in this edge node's kernel (IPVS with CONFIG_IP_VS_PROTO_{port.protocol}, module xt_{port.protocol.lower()}). "
                f"Run `modprobe xt_{port.protocol.lower()}` on the node or use a kernel that has both, and start the agent anew"
            )
            refused.append(Rejection(service.name, "ProtocolNotInKernel", message))
            continue
        if nat and key[0] is Protocol.SCTP:
            message = (
                f"{label}: SCTP together with forwarding nat: an association names its addresses inside, where nobody translates them. "
                f"Use forwarding tunnel ({FORWARDING_ANNOTATION})"
            )
            refused.append(Rejection(service.name, "SctpWithNat", message))
            continue
        if nat and key[0] is Protocol.UDP and is_on(service.annotations.get(ONE_PACKET_ANNOTATION)):
            message = (
                f"{label}: one packet at a time ({ONE_PACKET_ANNOTATION}) together with forwarding nat: the answers would come back untranslated. "
                "Remove one of the two annotations"
            )
            refused.append(Rejection(service.name, "OnePacketWithNat", message))
            continue
        served.append((port, key[0]))
    return served, refused


def _address_problem(
    service: ServiceObject, address: IPAddress, holders: Sequence[ServiceObject], settings: AgentSettings
) -> Rejection | None:
    """Why ``service`` is not served at ``address``, which older Services may hold."""
    if not any(address in network for network in settings.pool_networks):
        pools = ", ".join(map(str, settings.pool_networks))
        message = f"address {address} is in no pool ({pools}). Clear the Service's status or add a pool that holds it"
        return Rejection(service.name, "AddressOutsidePool", message)
    for holder in holders:
        problem = sharing.obstacle(service, holder, address, settings.share_across_namespaces)
        if problem is not None:
            return Rejection(service.name, *problem)
        mine, theirs = (forwarding_of(s, settings) for s in (service, holder))
        if mine != theirs:
            # Translation is by address: what one port's packets need would break the other's.
            message = (
                f"address {address} is shared with {holder.name}, which is forwarded by {theirs}, and this Service by {mine}: an address has one way "
                f"of forwarding. Give both the same {FORWARDING_ANNOTATION}, or use another {SHARING_ANNOTATION}"
            )
            return Rejection(service.name, "SharingForwardingDiffers", message)
    if (proxy := service.labels.get(SERVICE_PROXY_LABEL)) is not None:
        message = f"label {SERVICE_PROXY_LABEL}={proxy}: kube-proxy leaves this Service to another proxy and would not deliver. Remove the label"
        return Rejection(service.name, "ForeignServiceProxy", message)
    return None


def _elsewhere(node: NodeObject | None, pool: Pool) -> tuple[str, str] | None:
    """Why an edge node leaves the VIPs of ``pool`` to others, for good. It still programs them, so that a change finds it ready."""
    if node is None:
        return None
    if node.excluded:
        return ("NodeExcluded", f"Node {node.name} has the label exclude-from-external-load-balancers")
    if not pool.announced_by(node.name, node.labels):
        chosen = [*pool.nodes, *([selector_text(pool.node_selector)] if pool.node_selector else [])]
        return ("NodeNotSelected", f"pool {pool.name} is for {', '.join(chosen)}")
    return None


def selector_text(selector: Mapping[str, str]) -> str:
    """Labels as kubectl takes them."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
