"""From the cluster's objects to the desired data plane of an edge node.

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

from lbnode.attributes import asks_for_attributes
from lbnode.facts import Rejection, VipFacts, Worker, WorkerHealth
from lbnode.model import (
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    ReturnTunnel,
    ServiceName,
    VirtualKey,
    VirtualService,
)
from lbnode.objects import (
    SHARING_ANNOTATION,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    Snapshot,
    is_ours,
    slices_by_service,
    slices_of,
)
from lbnode.packet_tables import EdgeFilter, TranslationTable
from lbnode.remembered import Remembered
from lbnode.router_links import link_sessions, link_warnings, router_links
from lbnode.served import Served, Surroundings, ports_of, serve
from lbnode.settings import AgentSettings
from lbnode.translate.nodes import edge_blocked, silent_pools, unserved_families, unspoken, workers_of
from lbnode.translate.strays import strays_of
from lbnode.translate.sysctls import edge_sysctls
from lbnode.translate.touched import Asked, outline, touched

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


class Memory:
    """What :func:`translate_edge` worked out last time, for a caller that asks after every change. See :mod:`lbnode.remembered`."""

    def __init__(self) -> None:
        self.workers: Remembered[tuple[tuple[Worker, ...], tuple[str, ...]]] = Remembered()
        self.surroundings: Remembered[Surroundings] = Remembered()
        self.served: Remembered[Served] = Remembered()
        self.by_seniority: Remembered[list[ServiceObject]] = Remembered()
        self.strays: Remembered[list[str]] = Remembered()
        self.digests: Remembered[str] = Remembered()
        self.last: _Last | None = None

    def end_of_round(self) -> None:
        """Forget what this round had no use for."""
        for each in (self.workers, self.surroundings, self.by_seniority, self.served, self.strays, self.digests):
            each.end_of_round()


#: Everything that :func:`lbnode.served.serve` makes a Service's part of.
_Own = tuple[
    Surroundings,
    ServiceObject,
    list[EndpointSliceObject],
    tuple[tuple[ServiceObject, ...], ...],
    frozenset[tuple[ServiceName, str]],
    frozenset[tuple[ServiceName, IPAddress]],
    frozenset[tuple[ServiceName, IPAddress]],
]


class _Sayings:
    """What grace and probes say, by Service."""

    def __init__(self, asked: Asked) -> None:
        self._graced = _by_name(asked.graced)
        self._without = _by_name(asked.health.without_endpoints)
        self._failing = _by_name(asked.health.failing_probes)

    def own(
        self,
        around: Surroundings,
        service: ServiceObject,
        slices: list[EndpointSliceObject],
        holders: tuple[tuple[ServiceObject, ...], ...],
    ) -> _Own:
        """Everything that the Service's part is made of."""
        return (
            around,
            service,
            slices,
            holders,
            self._graced.get(service.name, frozenset()),
            self._without.get(service.name, frozenset()),
            self._failing.get(service.name, frozenset()),
        )


@dataclass
class _Last:
    """A plan, what it was asked of, and of which parts it is made. ``places`` are where a VIP's service stands in the plan."""

    asked: Asked
    plan: EdgePlan
    parts: dict[ServiceName, tuple[_Own, Served]]
    places: Mapping[VirtualKey, int]


def translate_edge(
    snapshot: Snapshot,
    settings: AgentSettings,
    node_name: str,
    health: WorkerHealth = WorkerHealth(),  # noqa: B008 - frozen
    graced: frozenset[tuple[ServiceName, str]] = frozenset(),
    missing: frozenset[Protocol] = frozenset(),
    memory: Memory | None = None,
    limits_syn: bool = True,
) -> EdgePlan:
    """The plan of the edge node ``node_name``. ``health`` drains the destinations that this node's own probes speak against.

    ``graced`` are Services on Nodes, by the Node's name, whose unready endpoints stand in while no endpoint is ready. ``missing`` are protocols
    that this node's kernel does not have, and ``limits_syn`` whether it can limit new connections. With the ``memory`` of the last time the same
    plan comes sooner.
    """
    memory = Memory() if memory is None else memory
    asked = Asked(snapshot, settings, node_name, health, graced, missing, limits_syn)
    if (plan := _with_other_endpoints(asked, memory)) is not None:
        return plan
    pools = settings.pool_networks
    seen = (snapshot.nodes, settings)
    workers, doubts = memory.workers.get("", seen, partial(workers_of, *seen))
    warnings = list(doubts)
    node = snapshot.nodes.get(node_name)
    unserved = unserved_families(node, settings)
    edges = [n for _, n in sorted(snapshot.nodes.items()) if n.matches(settings.edge_node_selector)]
    warnings += [w for edge in edges for w in unspoken(edge, settings)] + link_warnings(edges, settings)
    kernels = {n.kernel_version for n in edges if n.kernel_version}
    if len(kernels) > 1 and settings.dataplane == "ipvs":
        shown = ", ".join(f"{n.name} {n.kernel_version}" for n in edges if n.kernel_version)
        warnings.append(
            f"edge nodes run different kernels ({shown}): their hash tables may differ in size, and flows break when one leaves. Use one build"
        )

    facts = (snapshot.nodes, settings, node, frozenset(unserved), missing, health.unhealthy)
    around = memory.surroundings.get("", facts, partial(Surroundings, *facts))
    slices = slices_by_service(snapshot)
    sayings = _Sayings(asked)
    rejections = list(snapshot.rejections)
    vips: dict[IPAddress, VipFacts] = {}
    holders: defaultdict[IPAddress, list[ServiceObject]] = defaultdict(list)
    services: list[VirtualService] = []
    limited: set[tuple[VirtualKey, IPNetwork]] = set()
    parts: dict[ServiceName, tuple[_Own, Served]] = {}
    served_by_us = (snapshot.services, settings)
    for service in memory.by_seniority.get("", served_by_us, partial(_by_seniority, *served_by_us)):
        older = tuple(tuple(holders[address]) for address in service.addresses)
        own = sayings.own(around, service, slices[service.name], older)
        served = memory.served.get(service.name, own, partial(serve, *own))
        parts[service.name] = (own, served)
        services += served.services
        limited |= served.limited
        rejections += served.rejections
        warnings += served.warnings
        for vip in served.facts:
            holders[vip.address].append(service)
            if vip.address in vips:
                vips[vip.address] = replace(vips[vip.address], sharing=(*vips[vip.address].sharing, vip))
                rejections += _attributes_that_differ(service, vip, vips[vip.address])
            else:
                vips[vip.address] = vip

    services.sort(key=lambda s: s.key.order)
    here = frozenset(a for a in vips if a.version not in unserved)
    translated = frozenset(a for a in here if not vips[a].probed)
    closed = _closed_families(snapshot, settings, translated, vips)
    links = router_links(node, settings, frozenset(unserved))
    max_syn_per_second = settings.ipvs.max_syn_per_second
    if max_syn_per_second is not None and not limits_syn:
        warnings.append(
            f"ipvs.maxSynPerSecond {max_syn_per_second} is not in force: this node's kernel cannot limit new connections. "
            "Run `modprobe xt_hashlimit` on the node, name it in /etc/modules-load.d/samegate.conf, and start the agent anew"
        )
    table = EdgeFilter(
        pools,
        frozenset(s.key for s in services) - closed,
        translated,
        frozenset(limited),
        frozenset(a.ip for link in links for a in link.addresses),
        link_sessions(links, node_name, settings.bgp),
        _returning(node, settings),
        max_syn_per_second if limits_syn else None,
    )
    digest = memory.digests.get("filter", (table,), lambda: table.digest)
    translation = TranslationTable(pools, translated) if translated else None
    state = EdgeState(
        sysctls=edge_sysctls(
            settings.dataplane,
            {a.version for a in translated},
            any(s.key.protocol is Protocol.SCTP for s in services),
            {a.version for _, a in table.returning},
        ),
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
        links=links,
        return_tunnels=frozenset(
            ReturnTunnel(w.address, own)
            for w in workers
            for _, own in table.returning
            if own.version == w.address.version
        ),
    )
    strays = _stray_endpoints(snapshot, slices, settings, memory)
    memory.end_of_round()
    plan = EdgePlan(
        state=state,
        filter=table,
        translation=translation,
        vips=vips,
        workers=workers,
        draining=node is not None and node.draining,
        blocked=edge_blocked(node, node_name, settings),
        unserved=unserved,
        rejections=tuple(rejections),
        warnings=tuple(warnings + silent_pools(edges, settings) + strays),
    )
    memory.last = _Last(asked, plan, parts, {s.key: place for place, s in enumerate(services)})
    return plan


def _with_other_endpoints(asked: Asked, memory: Memory) -> EdgePlan | None:
    """The last plan with the parts of the Services that were touched since, which is what working everything out anew would give; ``None`` where
    more has changed, or one of these parts changes more than itself.
    """
    last = memory.last
    names = touched(last.asked, asked) if last is not None else None
    if last is None or names is None or len(last.places) != len(last.plan.state.services):
        return None
    ours = [name for name in names if name in last.parts]
    if not ours:
        last.asked = asked
        return last.plan
    slices, sayings = slices_of(asked.snapshot.slices, set(ours)), _Sayings(asked)
    vips, services, parts = dict(last.plan.vips), list(last.plan.state.services), {}
    for name in ours:
        (around, service, before, holders, *_), served = last.parts[name]
        own = sayings.own(around, service, slices[name], holders)
        now = memory.served.again(name, own, partial(serve, *own))
        where = (asked.snapshot.nodes, asked.settings)
        if (
            outline(now) != outline(served)
            or strays_of(service, slices[name], *where) != strays_of(service, before, *where)
            # Another Service holds the address, too.
            or any(vips[vip.address] is not vip for vip in served.facts)
        ):
            return None
        parts[name] = (own, now)
        vips |= {vip.address: vip for vip in now.facts}
        for each in now.services:
            services[last.places[each.key]] = each
    plan = replace(last.plan, vips=vips, state=replace(last.plan.state, services=tuple(services)))
    memory.last = _Last(asked, plan, last.parts | parts, last.places)
    return plan


def retain_announced(plan: EdgePlan, observed: EdgeState, announced: frozenset[IPAddress]) -> EdgePlan:
    """The plan with what the kernel holds for VIPs that routers still send us, though the cluster no longer wants them.

    A Service that went away is withdrawn first and leaves the kernel when the routers have moved on. One that was forwarded by ``nat`` is not
    kept: which clients it was open to can no longer be told.
    """
    leaving = (announced & observed.vips) - plan.state.vips
    if not leaving:
        return plan
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


def _returning(node: NodeObject | None, settings: AgentSettings) -> frozenset[tuple[IPNetwork, IPAddress]]:
    """Who probes through the tunnels from workers, and the address of this node that answers, by family."""
    if settings.return_path != "via-edge" or node is None:
        return frozenset()
    families = {n.version for n in settings.pool_networks}
    probes = {n.version: n for n in reversed(settings.network.probe_cidrs) if n.version in families}
    return frozenset(
        (network, own) for version, network in probes.items() if (own := node.address(version)) is not None
    )


def _closed_families(
    snapshot: Snapshot, settings: AgentSettings, translated: frozenset[IPAddress], vips: Mapping[IPAddress, VipFacts]
) -> frozenset[VirtualKey]:
    """Keys of translated VIPs whose Service has source ranges, but none of the VIP's family: nobody may come in."""
    found: set[VirtualKey] = set()
    for address in translated:
        for service in (snapshot.services[v.service] for v in vips[address].all_services):
            if service.source_ranges and not any(r.version == address.version for r in service.source_ranges):
                found |= {
                    VirtualKey(address, protocol, port.port)
                    for port, protocol in ports_of(service, True, frozenset(), settings.dataplane)[0]
                }
    return frozenset(found)


def _attributes_that_differ(service: ServiceObject, own: VipFacts, vip: VipFacts) -> list[Rejection]:
    """A shared address has one route, and the oldest Service speaks for it."""
    if own.attributes == vip.attributes or not asks_for_attributes(service):
        return []
    message = (
        f"address {vip.address} is shared and has one route, which goes as {vip.service} asks ({str(vip.attributes) or 'nothing'}), "
        f"not as this Service does ({str(own.attributes) or 'nothing'}). Ask for the same there, or use another {SHARING_ANNOTATION}"
    )
    return [Rejection(service.name, "SharingAttributesDiffer", message)]


def _by_seniority(services: Mapping[ServiceName, ServiceObject], settings: AgentSettings) -> list[ServiceObject]:
    """Those that are for us."""
    return sorted((s for s in services.values() if is_ours(s, settings)), key=lambda s: s.seniority)


def _by_name(pairs: Iterable[tuple[ServiceName, Other]]) -> dict[ServiceName, frozenset[tuple[ServiceName, Other]]]:
    """The pairs of each Service."""
    found: defaultdict[ServiceName, set[tuple[ServiceName, Other]]] = defaultdict(set)
    for pair in pairs:
        found[pair[0]].add(pair)
    return {name: frozenset(each) for name, each in found.items()}


def _stray_endpoints(
    snapshot: Snapshot,
    slices: Mapping[ServiceName, Sequence[EndpointSliceObject]],
    settings: AgentSettings,
    memory: Memory,
) -> list[str]:
    """Endpoints of our Services with Local policy on nodes that are no workers: traffic never gets there."""
    warnings: dict[ServiceName, list[str]] = {}
    for name, service in snapshot.services.items():
        known = (service, slices[name], snapshot.nodes, settings)
        if found := memory.strays.get(name, known, partial(strays_of, *known)):
            warnings[name] = found
    return [text for name in sorted(warnings) for text in warnings[name]]
