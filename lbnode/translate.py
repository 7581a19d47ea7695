"""From the cluster's objects to the desired data plane of one node.

A pure function of a snapshot, the settings and the node's name, so that all edge nodes that see the same objects build the same hash
tables. What an edge node alone knows (its probes) enters as :class:`WorkerHealth` and changes only whether a destination is drained,
never its place in the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from lbnode import sharing
from lbnode.active_probe import ActiveProbe, Backend, local_backends, read_active_probe
from lbnode.attributes import asks_for_attributes, attributes_of
from lbnode.delivery import delivery_table
from lbnode.destinations import Target, destinations_of, drain_unfit
from lbnode.model import (
    DeliveryTable,
    Destination,
    EdgeFilter,
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    Rejection,
    ServiceName,
    TranslationTable,
    Tunnel,
    VipFacts,
    VirtualKey,
    VirtualService,
    Worker,
    WorkerFilter,
    WorkerHealth,
    WorkerState,
    address_order,
)
from lbnode.objects import (
    FORWARDING_ANNOTATION,
    ONE_PACKET_ANNOTATION,
    SERVICE_PROXY_LABEL,
    SHARING_ANNOTATION,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    ServicePort,
    Snapshot,
    forwarding_of,
    is_on,
    is_ours,
)
from lbnode.pools import Pool, pool_of
from lbnode.remembered import Remembered
from lbnode.settings import AgentSettings

#: Kernel: Documentation/networking/ipvs-sysctl.rst. Mid-stream packets of flows that another edge node saw open are scheduled; connections to
#: a removed destination end at once; a reused source port is scheduled anew; ICMP errors follow the packet that they quote.
#: Answers to probes come back by the uplink though their source is routed into a tunnel, which a strict reverse path filter drops; the kernel
#: takes the larger of this and the device's own value (ip-sysctl), and 2 is loose.
EDGE_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": "2",
    "net.ipv4.vs.conn_reuse_mode": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    "net.ipv4.vs.schedule_icmp": "1",
    "net.ipv4.vs.sloppy_tcp": "1",
}
#: With translation, in addition: IPVS shows connection tracking what it does, so that the source can be translated too; and replies are
#: forwarded, for which the kernel has a switch of its own in each family.
NAT_SYSCTLS = {"net.ipv4.vs.conntrack": "1"}
FORWARDING_SYSCTLS = {4: {"net.ipv4.ip_forward": "1"}, 6: {"net.ipv6.conf.all.forwarding": "1"}}
#: With SCTP, in addition: as ``sloppy_tcp``.
SCTP_SYSCTLS = {"net.ipv4.vs.sloppy_sctp": "1"}
#: Every sysctl that a plan may ask for.
ALL_EDGE_SYSCTLS = (
    *EDGE_SYSCTLS,
    *NAT_SYSCTLS,
    *SCTP_SYSCTLS,
    *(name for names in FORWARDING_SYSCTLS.values() for name in names),
)
NAT_NOTE = "forwarding nat: the app sees an edge node's address instead of the client's, and connections end when their edge node leaves"

#: Not set by the agent, because kube-proxy and the pod network own it; without it no packet reaches a pod (ip-sysctl).
WORKER_NEEDS = {"net.ipv4.ip_forward": "1"}


Other = TypeVar("Other")


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """What an edge node should be. ``blocked`` is a reason and its explanation when this node must not announce at all; ``unserved`` has
    them by IP version when it cannot serve that family. VIPs of such a family are in ``vips`` and not in ``state``.
    """

    state: EdgeState
    filter: EdgeFilter
    translation: TranslationTable | None = None
    vips: Mapping[IPAddress, VipFacts] = field(default_factory=dict)
    workers: tuple[Worker, ...] = ()
    draining: bool = False
    blocked: tuple[str, str] | None = None
    unserved: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """kube-proxy's health check node port of a Service on this node: HTTP 200 while it has a ready local endpoint."""

    service: ServiceName
    port: int


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker should be, and the Services whose endpoints its kube-proxy is to be asked for, and the pods to probe.

    ``delivered`` are the Services that the worker delivers by itself where kube-proxy does not.
    """

    state: WorkerState
    filter: WorkerFilter
    delivery: DeliveryTable
    delivered: frozenset[ServiceName] = frozenset()
    checks: tuple[HealthCheck, ...] = ()
    backends: Mapping[Backend, ActiveProbe] = field(default_factory=dict)
    blocked: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()


class Memory:
    """What :func:`translate_edge` worked out last time, for a caller that asks after every change. See :mod:`lbnode.remembered`."""

    def __init__(self) -> None:
        self.targets: Remembered[tuple[Target, list[Rejection]]] = Remembered()
        self.fitted: Remembered[tuple[Destination, ...]] = Remembered()
        self.services: Remembered[VirtualService] = Remembered()
        self.facts: Remembered[tuple[VipFacts, list[Rejection]]] = Remembered()
        self.strays: Remembered[list[str]] = Remembered()
        self.digests: Remembered[str] = Remembered()

    def end_of_round(self) -> None:
        """Forget what this round had no use for."""
        for each in (self.targets, self.fitted, self.services, self.facts, self.strays, self.digests):
            each.end_of_round()


def translate_edge(
    snapshot: Snapshot,
    settings: AgentSettings,
    node_name: str,
    health: WorkerHealth = WorkerHealth(),  # noqa: B008 - frozen
    graced: frozenset[tuple[ServiceName, str]] = frozenset(),
    missing: frozenset[Protocol] = frozenset(),
    memory: Memory | None = None,
) -> EdgePlan:
    """The plan of the edge node ``node_name``. ``health`` drains the destinations that this node's own probes speak against.

    ``graced`` are Services on Nodes, by the Node's name, whose unready endpoints stand in while no endpoint is ready. ``missing`` are protocols
    that this node's kernel does not have. With the ``memory`` of the last time the same plan comes sooner.
    """
    memory = Memory() if memory is None else memory
    graced_of = _by_name(graced)
    speaks_against = (_by_name(health.without_endpoints), _by_name(health.failing_probes))
    pools = settings.pool_networks
    workers, warnings = _workers(snapshot, settings)
    node = snapshot.nodes.get(node_name)
    unserved = _unserved(node, settings)
    edges = [n for _, n in sorted(snapshot.nodes.items()) if n.matches(settings.edge_node_selector)]
    warnings += [w for edge in edges for w in _unspoken(edge, settings)]
    kernels = {n.kernel_version for n in edges if n.kernel_version}
    if len(kernels) > 1:
        shown = ", ".join(f"{n.name} {n.kernel_version}" for n in edges if n.kernel_version)
        warnings.append(
            f"edge nodes run different kernels ({shown}): their hash tables may differ in size, and flows break when one leaves. Use one build"
        )

    slices = _by_service(snapshot)
    rejections = list(snapshot.rejections)
    vips: dict[IPAddress, VipFacts] = {}
    holders: defaultdict[IPAddress, list[ServiceObject]] = defaultdict(list)
    services: list[VirtualService] = []
    limited: set[tuple[VirtualKey, IPNetwork]] = set()
    for service in sorted(snapshot.services.values(), key=lambda s: s.seniority):
        if not is_ours(service, settings):
            continue
        forwarding = forwarding_of(service, settings)
        if (problem := _forwarding_problem(service, forwarding)) is not None:
            rejections.append(problem)
            continue
        nat = forwarding == "nat"
        if nat:
            warnings.append(f"{service.name}: {NAT_NOTE}")
        ports, refused = _ports(service, nat, missing)
        rejections += refused
        if (mistake := read_active_probe(service, settings.active_probes)[1]) is not None:
            rejections.append(mistake)
        refusal = (refused[0].reason, refused[0].message) if refused and not ports else None
        for address in service.addresses:
            if any(holder.name == service.name for holder in holders[address]):
                continue
            pool = pool_of(address, settings.pools)
            problem = _address_problem(service, address, holders[address], settings)
            if pool is None or problem is not None:
                rejections += [problem] if problem is not None else []
                continue
            holders[address].append(service)
            targets: list[Target] = []
            for port, protocol in ports:
                asked = (
                    snapshot.nodes,
                    slices[service.name],
                    settings,
                    service,
                    port,
                    protocol,
                    address.version,
                    graced_of.get(service.name, frozenset()),
                    nat,
                )
                place = (service.name, address.version, protocol, port.port)
                target, refused = memory.targets.get(place, asked, partial(destinations_of, *asked))
                rejections += [r for r in refused if r not in rejections]
                targets.append(target)
                if address.version in unserved:
                    continue
                key = VirtualKey(address, protocol, port.port)
                # A probe speaks of workers and their tunnels, not of pods.
                destinations = target.destinations
                if not nat:
                    against = tuple(each.get(service.name, frozenset()) for each in speaks_against)
                    destinations = memory.fitted.get(
                        place,
                        (destinations, health.unhealthy, *against),
                        partial(drain_unfit, destinations, service.name, protocol, health),
                    )
                if nat:
                    limited |= {
                        (key, network) for network in service.source_ranges if network.version == address.version
                    }
                one_packet = protocol is Protocol.UDP and is_on(service.annotations.get(ONE_PACKET_ANNOTATION))
                said = (key, destinations, not service.client_ip_affinity, one_packet)
                services.append(memory.services.get(place, said, partial(VirtualService, *said)))
            known = (service, address, targets, pool, settings, node, nat, refusal)
            facts, refused = memory.facts.get((service.name, address), known, partial(_facts, *known))
            rejections += [r for r in refused if r not in rejections]
            if address in vips:
                vips[address] = replace(vips[address], sharing=(*vips[address].sharing, facts))
                rejections += _attributes_that_differ(service, facts, vips[address])
            else:
                vips[address] = facts

    services.sort(key=lambda s: s.key.order)
    here = frozenset(a for a in vips if a.version not in unserved)
    translated = frozenset(a for a in here if not vips[a].probed)
    closed = _closed_families(snapshot, settings, translated, vips)
    table = EdgeFilter(pools, frozenset(s.key for s in services) - closed, translated, frozenset(limited))
    digest = memory.digests.get("filter", (table,), lambda: table.digest)
    translation = TranslationTable(pools, translated) if translated else None
    state = EdgeState(
        sysctls=_sysctls(translated, any(s.key.protocol is Protocol.SCTP for s in services)),
        timeouts=IpvsTimeouts(settings.ipvs.tcp_seconds, settings.ipvs.tcp_fin_seconds, settings.ipvs.udp_seconds),
        filter_digest=digest,
        vips=here,
        services=tuple(services),
        probe_devices=frozenset(n.version for n in pools) - unserved.keys(),
        probe_routes=frozenset(
            ProbeRoute(w.probe_address, w.address, edge_address)
            for w in workers
            if w.probe_address is not None
            and node is not None
            and (edge_address := node.address(w.address.version)) is not None
        ),
        translation_digest=translation.digest if translation is not None else None,
    )
    strays = _stray_endpoints(snapshot, slices, settings, memory)
    memory.end_of_round()
    return EdgePlan(
        state=state,
        filter=table,
        translation=translation,
        vips=vips,
        workers=tuple(workers),
        draining=node is not None and node.draining,
        blocked=_edge_blocked(node, node_name, settings),
        unserved=unserved,
        rejections=tuple(rejections),
        warnings=tuple(warnings + _silent_pools(edges, settings) + strays),
    )


def translate_worker(
    snapshot: Snapshot,
    settings: AgentSettings,
    node_name: str,
    graced: frozenset[tuple[ServiceName, str]] = frozenset(),
    failing: frozenset[tuple[ServiceName, IPAddress]] = frozenset(),
) -> WorkerPlan:
    """The plan of the worker ``node_name``: a tunnel from each edge node, its filter, its probe addresses, what it delivers by itself, its
    checks of kube-proxy, its active probes of its own pods. ``graced`` as in :func:`translate_edge`; ``failing`` are pods that fail those probes.
    """
    pools = settings.pool_networks
    node = snapshot.nodes.get(node_name)
    workers, warnings = _workers(snapshot, settings)
    probe_addresses = tuple(w.probe_address for w in workers if w.name == node_name and w.probe_address is not None)
    families = sorted({n.version for n in pools})
    table = WorkerFilter(pools, probe_addresses, tuple((f, settings.max_segment_bytes(f)) for f in families))
    edges = [n for n in snapshot.nodes.values() if n.matches(settings.edge_node_selector) and n.name != node_name]
    tunnels = frozenset(
        Tunnel(edge_address, node_address)
        for edge in edges
        for family in families
        if node is not None
        and (edge_address := edge.address(family)) is not None
        and (node_address := node.address(family)) is not None
    )
    checks = tuple(
        HealthCheck(service.name, service.health_check_node_port)
        for _, service in sorted(snapshot.services.items())
        if is_ours(service, settings)
        and service.local
        and service.health_check_node_port
        and forwarding_of(service, settings) == "tunnel"
    )
    blocked = None
    if node is None:
        blocked = ("NodeUnknown", f"there is no Node {node_name} in the cluster. Set NODE_NAME to the Node's name")
    delivery, delivered = delivery_table(
        snapshot.services.values(), snapshot.nodes, _by_service(snapshot), settings, node_name, graced, failing
    )
    state = WorkerState(
        filter_digest=table.digest,
        tunnels=tunnels,
        probe_addresses=frozenset(probe_addresses),
        delivery_digest=delivery.digest,
    )
    return WorkerPlan(
        state, table, delivery, delivered, checks, _backends(snapshot, settings, node_name), blocked, tuple(warnings)
    )


def _backends(snapshot: Snapshot, settings: AgentSettings, node_name: str) -> dict[Backend, ActiveProbe]:
    slices = _by_service(snapshot)
    found: dict[Backend, ActiveProbe] = {}
    for service in snapshot.services.values():
        if not is_ours(service, settings):
            continue
        probe, _ = read_active_probe(service, settings.active_probes)
        if probe is not None:
            found |= dict.fromkeys(local_backends(service.name, probe, slices[service.name], node_name), probe)
    return found


def retain_announced(plan: EdgePlan, observed: EdgeState, announced: frozenset[IPAddress]) -> EdgePlan:
    """The plan with what the kernel holds for VIPs that routers still send us, though the cluster no longer wants them.

    A Service that went away is withdrawn first and leaves the kernel when the routers have moved on. One that was forwarded by ``nat`` is not
    kept: which clients it was open to can no longer be told.
    """
    leaving = (announced & observed.vips) - plan.state.vips
    leaving -= {
        s.key.address
        for s in observed.services
        if s.key.address in leaving and any(d.nat_port is not None for d in s.destinations)
    }
    if not leaving:
        return plan
    kept = [s for s in observed.services if s.key.address in leaving]
    table = replace(plan.filter, served=plan.filter.served | {s.key for s in kept})
    services = tuple(sorted((*plan.state.services, *kept), key=lambda s: s.key.order))
    state = replace(plan.state, vips=plan.state.vips | leaving, services=services, filter_digest=table.digest)
    return replace(plan, state=state, filter=table)


def _workers(snapshot: Snapshot, settings: AgentSettings) -> tuple[list[Worker], list[str]]:
    """Workers by address, with their probe addresses; two that would share one get it for the first only."""
    found: list[Worker] = []
    warnings: list[str] = []
    owners: dict[IPAddress, str] = {}
    families = sorted({n.version for n in settings.pool_networks})
    for _, node in sorted(snapshot.nodes.items()):
        if not node.matches(settings.worker_node_selector):
            continue
        for family in families:
            if (address := node.address(family)) is None:
                warnings.append(
                    f"worker {node.name} has no internal IPv{family} address: it gets no IPv{family} traffic"
                )
                continue
            probe = settings.probe_address(address)
            if probe is None:
                warnings.append(
                    f"worker {node.name} cannot be probed: no IPv{family} network in network.probeCidrs. Add one"
                )
            elif (owner := owners.setdefault(probe, node.name)) != node.name:
                warnings.append(
                    f"workers {owner} and {node.name} would share the probe address {probe}: {node.name} is not probed and gets no VIP announced. "
                    "Make network.probeCidrs as long as the node network"
                )
                probe = None
            found.append(Worker(node.name, address, probe))
    return sorted(found, key=lambda w: address_order(w.address)), warnings


def _sysctls(translated: Iterable[IPAddress], sctp: bool) -> dict[str, str]:
    wanted = EDGE_SYSCTLS | (SCTP_SYSCTLS if sctp else {})
    families = {a.version for a in translated}
    if not families:
        return wanted
    return wanted | NAT_SYSCTLS | {n: v for f in sorted(families) for n, v in FORWARDING_SYSCTLS[f].items()}


def _forwarding_problem(service: ServiceObject, forwarding: str) -> Rejection | None:
    if forwarding in ("tunnel", "nat"):
        return None
    message = f"annotation {FORWARDING_ANNOTATION} = {forwarding!r} is neither tunnel nor nat. Write one of them, or remove it"
    return Rejection(service.name, "InvalidForwarding", message)


def _closed_families(
    snapshot: Snapshot, settings: AgentSettings, translated: frozenset[IPAddress], vips: Mapping[IPAddress, VipFacts]
) -> frozenset[VirtualKey]:
    """Keys of translated VIPs whose Service has source ranges, but none of the VIP's family: nobody may come in."""
    found: set[VirtualKey] = set()
    for address in translated:
        for service in (snapshot.services[v.service] for v in vips[address].all_services):
            if service.source_ranges and not any(r.version == address.version for r in service.source_ranges):
                found |= {
                    VirtualKey(address, protocol, port.port) for port, protocol in _ports(service, True, frozenset())[0]
                }
    return frozenset(found)


def _ports(
    service: ServiceObject, nat: bool, missing: frozenset[Protocol]
) -> tuple[list[tuple[ServicePort, Protocol]], list[Rejection]]:
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


def _attributes_that_differ(service: ServiceObject, own: VipFacts, vip: VipFacts) -> list[Rejection]:
    """A shared address has one route, and the oldest Service speaks for it."""
    if own.attributes == vip.attributes or not asks_for_attributes(service):
        return []
    message = (
        f"address {vip.address} is shared and has one route, which goes as {vip.service} asks ({str(vip.attributes) or 'nothing'}), "
        f"not as this Service does ({str(own.attributes) or 'nothing'}). Ask for the same there, or use another {SHARING_ANNOTATION}"
    )
    return [Rejection(service.name, "SharingAttributesDiffer", message)]


def _elsewhere(node: NodeObject | None, pool: Pool) -> tuple[str, str] | None:
    """Why an edge node leaves the VIPs of ``pool`` to others, for good. It still programs them, so that a change finds it ready."""
    if node is None:
        return None
    if node.excluded:
        return ("NodeExcluded", f"Node {node.name} has the label exclude-from-external-load-balancers")
    if not pool.announced_by(node.name, node.labels):
        chosen = [*pool.nodes, *([_selector(pool.node_selector)] if pool.node_selector else [])]
        return ("NodeNotSelected", f"pool {pool.name} is for {', '.join(chosen)}")
    return None


def _silent_pools(edges: Sequence[NodeObject], settings: AgentSettings) -> list[str]:
    return [
        f"pool {pool.name} is announced by nobody: no edge node is among its nodes or matches its nodeSelector. Mend them, or label a node"
        for pool in settings.pools
        if edges and not any(pool.announced_by(n.name, n.labels) for n in edges)
    ]


def _by_service(snapshot: Snapshot) -> defaultdict[ServiceName, list[EndpointSliceObject]]:
    found: defaultdict[ServiceName, list[EndpointSliceObject]] = defaultdict(list)
    for piece in snapshot.slices:
        if piece.service is not None:
            found[piece.service].append(piece)
    return found


def _by_name(pairs: Iterable[tuple[ServiceName, Other]]) -> dict[ServiceName, frozenset[tuple[ServiceName, Other]]]:
    """The pairs of each Service."""
    found: defaultdict[ServiceName, set[tuple[ServiceName, Other]]] = defaultdict(set)
    for pair in pairs:
        found[pair[0]].add(pair)
    return {name: frozenset(each) for name, each in found.items()}


def _facts(
    service: ServiceObject,
    address: IPAddress,
    targets: Sequence[Target],
    pool: Pool,
    settings: AgentSettings,
    node: NodeObject | None,
    nat: bool,
    refusal: tuple[str, str] | None,
) -> tuple[VipFacts, list[Rejection]]:
    """One VIP's facts over all its ports, and what of its attributes is refused: a worker counts when it is active for any port."""
    attributes, refused = attributes_of(service, address, pool, settings.bgp)
    facts = VipFacts(
        address=address,
        service=service.name,
        workers=frozenset(d.address for t in targets for d in t.destinations if not d.drained),
        held=frozenset(a for t in targets for a in t.held),
        endpoints=max((t.endpoints for t in targets), default=0),
        terminating_only=any(t.terminating_only for t in targets),
        deleting=service.deleting,
        attributes=attributes,
        elsewhere=_elsewhere(node, pool),
        probed=not nat,
        refused=refusal,
    )
    return facts, list(refused)


def _unserved(node: NodeObject | None, settings: AgentSettings) -> dict[int, tuple[str, str]]:
    """Why an edge node cannot serve a family of the pools, by IP version."""
    if node is None:
        return {}
    return {
        family: (
            "NoNodeAddress",
            f"edge node {node.name} has no internal IPv{family} address to be the next hop. Give it one (kubelet --node-ip), or drop the IPv{family} pools",
        )
        for family in sorted({n.version for n in settings.pool_networks})
        if node.address(family) is None
    }


def _unspoken(edge: NodeObject, settings: AgentSettings) -> list[str]:
    """What an edge node does not announce, or not to every router, for want of an address."""
    silent = [
        f"edge node {edge.name} has no internal IPv{peer.address.version} address to speak from to peer {peer.name} = {peer.address}: "
        "it announces nothing to it. Give the node one, or name the router's address of the other family"
        for peer in settings.bgp.peers
        if (not peer.nodes or edge.name in peer.nodes) and edge.address(peer.address.version) is None
    ]
    return [*(message for _, message in _unserved(edge, settings).values()), *silent]


def _edge_blocked(node: NodeObject | None, node_name: str, settings: AgentSettings) -> tuple[str, str] | None:
    if node is None:
        return ("NodeUnknown", f"there is no Node {node_name} in the cluster. Set NODE_NAME to the Node's name")
    if not node.matches(settings.edge_node_selector):
        return (
            "NotAnEdgeNode",
            f"Node {node_name} does not match edgeNodeSelector {settings.edge_node_selector}. Label it",
        )
    if node.matches(settings.worker_node_selector):
        message = (
            f"Node {node_name} matches edgeNodeSelector and workerNodeSelector: a worker's kube-proxy would take the VIPs from IPVS. "
            "Make it one of the two"
        )
        return ("EdgeNodeIsWorker", message)
    return None


def _stray_endpoints(
    snapshot: Snapshot,
    slices: Mapping[ServiceName, Sequence[EndpointSliceObject]],
    settings: AgentSettings,
    memory: Memory,
) -> list[str]:
    """Endpoints of our Services with Local policy on nodes that are no workers: traffic never gets there."""
    warnings: list[str] = []
    for name, service in sorted(snapshot.services.items()):
        known = (service, slices[name], snapshot.nodes, settings)
        warnings += memory.strays.get(name, known, partial(_strays_of, *known))
    return warnings


def _strays_of(
    service: ServiceObject,
    slices: Sequence[EndpointSliceObject],
    nodes: Mapping[str, NodeObject],
    settings: AgentSettings,
) -> list[str]:
    if not (is_ours(service, settings) and service.local) or forwarding_of(service, settings) == "nat":
        return []
    warnings = []
    for name in sorted({e.node_name for s in slices for e in s.endpoints if e.node_name}):
        node = nodes.get(name)
        if node is None or not node.matches(settings.worker_node_selector):
            what = "an edge node" if node is not None and node.matches(settings.edge_node_selector) else "no worker"
            warnings.append(
                f"{service.name} has endpoints on {name}, which is {what}: they get no traffic. "
                f"Keep its pods on workers ({_selector(settings.worker_node_selector)})"
            )
    return warnings


def _selector(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
