"""What has to be done to turn an observed data plane into the desired one, in order. The order is decided here and nowhere else.

Carried out completely, the operations leave nothing to do: a second diff is empty. Broken off anywhere, they leave a state from which a
new diff goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lbnode.model import (
    Destination,
    EdgeState,
    IPAddress,
    Place,
    RouterLink,
    VirtualKey,
    VirtualService,
    WorkerState,
    address_order,
    alike,
)
from lbnode.operations import (
    AddAddress,
    AddDestination,
    AddProbeDevice,
    AddProbeRoute,
    AddService,
    AttachPrograms,
    EnsureLink,
    EnsureReturnTunnel,
    EnsureTunnel,
    Operation,
    RemoveAddress,
    RemoveDelivery,
    RemoveDestination,
    RemoveFilter,
    RemoveLink,
    RemoveProbeDevice,
    RemoveProbeRoute,
    RemoveRemains,
    RemoveReturnPath,
    RemoveReturnTunnel,
    RemoveService,
    RemoveTranslation,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    ReplaceTranslation,
    SetReturnPath,
    SetSysctl,
    SetTimeouts,
    SetWeight,
    UpdateService,
)
from lbnode.packet_tables import DeliveryTable, FilterTable, TranslationTable

#: While destinations move, packets of their connections must wait for them to come back rather than end the connection (ipvs-sysctl).
EXPIRE_NODEST_CONN = "net.ipv4.vs.expire_nodest_conn"


def diff_edge(
    desired: EdgeState,
    filter_table: FilterTable | None,
    observed: EdgeState,
    translation: TranslationTable | None = None,
    alike: Callable[[VirtualService, VirtualService], bool] = alike,
) -> tuple[Operation, ...]:
    """Operations for an edge node. ``filter_table`` and ``translation`` are the tables whose digests ``desired`` has.

    ``alike`` says whether a wanted and an observed service need nothing, for a caller that remembers it (:class:`lbnode.remembered.Comparison`).
    """
    before = {s.key: s for s in observed.services}
    after = {s.key: s for s in desired.services}
    operations: list[Operation] = list(_sysctls(desired, observed))
    if desired.timeouts != observed.timeouts:
        operations.append(SetTimeouts(desired.timeouts))

    # Before the filter that guards them changes: without its rules they would take anything out of a tunnel.
    kept = {t.device for t in desired.return_tunnels}
    operations += [RemoveReturnTunnel(d) for d in sorted({t.device for t in observed.return_tunnels} - kept)]
    # The same for links, and before another one gets the ends of one that is to change.
    operations += [RemoveLink(device) for device, _ in sorted(_ends(observed.links) - _ends(desired.links), key=str)]
    filter_operations = _filter(desired.filter_digest, filter_table, observed.filter_digest)
    # Without any filter a VIP that is still here shows the node's own ports: close that first of all.
    if observed.filter_digest is None:
        operations += filter_operations
        filter_operations = []

    # The prober's way comes before anything that waits for its answer.
    operations += _probe_paths(4, desired, observed)

    # A service that turns from tunnel to translation is made anew, and meanwhile its VIP must not show the node's own ports.
    differing = [s for s in desired.services if (old := before.get(s.key)) is None or not alike(s, old)]
    turned = _turned(differing, before) & observed.vips
    operations += [RemoveAddress(a) for a in sorted(turned, key=address_order)]
    # Services with their destinations before the filter lets their ports in, and before their VIP is here.
    operations += _services(differing, before, desired.sysctls.get(EXPIRE_NODEST_CONN))

    # The filter before new VIPs, so that a VIP never shows the node's own ports; and before services go, for the same reason.
    # What kube-proxy must not take comes before the filter has it tracked.
    wanted = translation if desired.translation_digest is not None else None
    if wanted is not None and desired.translation_digest != observed.translation_digest:
        operations.append(ReplaceTranslation(wanted))
    if desired.filter_digest is not None:
        operations += filter_operations
    present = observed.vips - turned
    operations += [AddAddress(a) for a in sorted(desired.vips - present, key=address_order)]
    operations += [RemoveAddress(a) for a in sorted(present - desired.vips, key=address_order)]
    operations += [RemoveService(key) for key in sorted(before.keys() - after.keys(), key=lambda k: k.order)]
    if observed.translation_digest is not None and wanted is None:
        operations.append(RemoveTranslation())
    operations += _return_tunnels(4, desired, observed)
    # A kernel without GRE stops here: it may serve by routers that need no link.
    operations += [EnsureLink(link) for link in sorted(desired.links - observed.links, key=lambda each: each.name)]
    # A kernel without the tunnels of IPv6 stops here, with IPv4 in place.
    operations += _probe_paths(6, desired, observed)
    operations += _return_tunnels(6, desired, observed)
    # The device may be away or taken: all else is done before that is told.
    if observed.lost_programs:
        operations.append(AttachPrograms(observed.lost_programs))
    # What the other data plane left serves until its successor does; and where it cannot be taken away, it is the same.
    if observed.remains:
        operations.append(RemoveRemains(observed.remains))
    # Taking everything away: the filter last.
    if desired.filter_digest is None:
        operations += filter_operations
    return tuple(operations)


def _return_tunnels(version: int, desired: EdgeState, observed: EdgeState) -> Iterator[EnsureReturnTunnel]:
    missing = desired.return_tunnels - observed.return_tunnels
    for tunnel in sorted(missing, key=lambda t: address_order(t.worker_address)):
        if tunnel.worker_address.version == version:
            yield EnsureReturnTunnel(tunnel)


def _ends(links: Iterable[RouterLink]) -> set[tuple[str, tuple[IPAddress, IPAddress]]]:
    return {(link.device, (link.node_address, link.router_address)) for link in links}


def _probe_paths(version: int, desired: EdgeState, observed: EdgeState) -> Iterator[Operation]:
    there, wanted = (
        {r for r in state.probe_routes if r.probe_address.version == version} for state in (observed, desired)
    )
    if version in desired.probe_devices - observed.probe_devices:
        yield AddProbeDevice(version)
    # A route goes before its successor to the same probe address comes.
    for route in sorted(there - wanted, key=lambda r: address_order(r.probe_address)):
        yield RemoveProbeRoute(route)
    kept = there if version in observed.probe_devices else set()
    for route in sorted(wanted - kept, key=lambda r: address_order(r.probe_address)):
        yield AddProbeRoute(route)
    if version in observed.probe_devices - desired.probe_devices:
        yield RemoveProbeDevice(version)


def diff_worker(
    desired: WorkerState,
    filter_table: FilterTable | None,
    observed: WorkerState,
    delivery_table: DeliveryTable | None = None,
) -> tuple[Operation, ...]:
    """Operations for a worker. ``filter_table`` and ``delivery_table`` are those whose digests ``desired`` has."""
    sysctls = list(_sysctls(desired, observed))
    filter_operations = _filter(desired.filter_digest, filter_table, observed.filter_digest)

    # A worker that answers probes says that segments are clamped and strangers kept out. While that is not so it must not answer.
    # A missing tunnel does not count here: it silences the probes of its own edge node and of no other.
    # Nor does it answer while its replies would leave another way than its edge nodes are told; which of them take replies now is not that.
    shapes, wanted_shapes = ({p.shape for p in state.return_paths} for state in (observed, desired))
    unsafe = bool(sysctls or filter_operations or wanted_shapes - shapes)
    keep = frozenset() if unsafe else desired.probe_addresses
    operations: list[Operation] = [RemoveAddress(a) for a in sorted(observed.probe_addresses - keep, key=address_order)]
    operations += sysctls
    # The filter before tunnels, which would otherwise deliver anything that anybody wraps; after them when all is taken away.
    if desired.filter_digest is not None:
        operations += filter_operations
    operations += [
        EnsureTunnel(t) for t in sorted(desired.tunnels - observed.tunnels, key=lambda t: address_order(t.edge_address))
    ]
    # Behind the tunnels that it leads to, before those that it no longer leads to.
    versions = {p.version for p in desired.return_paths}
    operations += [RemoveReturnPath(v) for v in sorted({p.version for p in observed.return_paths} - versions)]
    changed = desired.return_paths - observed.return_paths
    operations += [SetReturnPath(p) for p in sorted(changed, key=lambda p: p.version)]
    devices = {t.device for t in desired.tunnels}
    operations += [RemoveTunnel(d) for d in sorted({t.device for t in observed.tunnels} - devices)]
    # Nothing waits for it: kube-proxy's own rules come first.
    if desired.delivery_digest != observed.delivery_digest:
        operations.append(
            RemoveDelivery()
            if desired.delivery_digest is None or delivery_table is None
            else ReplaceDelivery(delivery_table)
        )
    if desired.filter_digest is None:
        operations += filter_operations
    held = observed.probe_addresses & keep
    operations += [AddAddress(a) for a in sorted(desired.probe_addresses - held, key=address_order)]
    return tuple(operations)


def _sysctls(desired: EdgeState | WorkerState, observed: EdgeState | WorkerState) -> Iterator[SetSysctl]:
    for name, value in sorted(desired.sysctls.items()):
        if observed.sysctls.get(name) != value:
            yield SetSysctl(name, value)


def _filter(desired: str | None, table: FilterTable | None, observed: str | None) -> list[Operation]:
    if desired == observed:
        return []
    return [RemoveFilter()] if desired is None or table is None else [ReplaceFilter(table)]


def _services(
    desired: Sequence[VirtualService], before: Mapping[VirtualKey, VirtualService], expire_nodest_conn: str | None
) -> list[Operation]:
    operations: list[Operation] = []
    moves = False
    for service in desired:
        old = before.get(service.key)
        if old is not None and (not old.intact or _turns(old, service)):
            # Somebody changed more of it than flags and weights, or it is served another way from now on: nothing that it holds can be kept.
            operations.append(RemoveService(service.key))
            old = None
        if old is None:
            operations.append(AddService(replace(service, destinations=())))
            operations += _destinations(service, ())[0]
            continue
        if (old.hash_source_port, old.one_packet) != (service.hash_source_port, service.one_packet):
            operations.append(UpdateService(replace(service, destinations=())))
        changes, moved = _destinations(service, old.destinations)
        operations += changes
        moves = moves or moved
    if moves and expire_nodest_conn not in (None, "0"):
        # A moved destination is gone for an instant. Its connections must outlive that; it brings them back from the kernel's trash.
        return [SetSysctl(EXPIRE_NODEST_CONN, "0"), *operations, SetSysctl(EXPIRE_NODEST_CONN, str(expire_nodest_conn))]
    return operations


def _turned(desired: Sequence[VirtualService], before: Mapping[VirtualKey, VirtualService]) -> frozenset[IPAddress]:
    """VIPs of services that are forwarded another way from now on."""
    return frozenset(s.key.address for s in desired if s.key in before and _turns(before[s.key], s))


def _turns(old: VirtualService, new: VirtualService) -> bool:
    """Whether some destinations are tunnelled to and others not; nothing says it of a service without any."""
    return len({d.nat_port is None for d in (*old.destinations, *new.destinations)}) > 1


def _destinations(service: VirtualService, observed: Sequence[Destination]) -> tuple[list[Operation], bool]:
    """Bring the kernel's list, which grows at its head, into the order of ``service.destinations``. Also whether any had to move.

    What stays is the longest tail of the desired order that the kernel's list has in this order, perhaps with others in between.
    Everything before that tail is put at the head one after the other, from the tail's end on; nothing else changes the order.
    The list is never empty in between: either something stays, or the first step adds a destination that was not there.
    """
    key, wanted = service.key, service.destinations
    if len(wanted) == len(observed) and all(w.place == o.place for w, o in zip(wanted, observed, strict=True)):
        # By far the most frequent case, and the only one that an endpoint's change costs 10,000 destinations: no order to work out.
        return [
            o for w, old in zip(wanted, observed, strict=True) if w != old for o in _reweigh(service, w, old)
        ], False
    there = {d.place: d for d in observed}
    first_kept = len(wanted)
    for destination in reversed(observed):
        if first_kept and destination.place == wanted[first_kept - 1].place:
            first_kept -= 1

    operations: list[Operation] = []
    for destination in wanted[first_kept:]:
        operations += _reweigh(service, destination, there[destination.place])
    moved = False
    for destination in reversed(wanted[:first_kept]):
        if destination.place in there:
            moved = True
            operations.append(RemoveDestination(key, *destination.place))
        # With its weight first, also when it drains: the kernel remembers the last weight that was not 0 and keeps the slots by it.
        operations.append(AddDestination(key, destination.address, destination.weight, destination.nat_port))
        if destination.drained:
            operations.append(SetWeight(key, destination.address, 0, destination.nat_port))
    # What is not wanted goes after its successors are there.
    stay: set[Place] = {d.place for d in wanted}
    operations += [RemoveDestination(key, *d.place) for d in observed if d.place not in stay]
    return operations, moved


def _reweigh(service: VirtualService, wanted: Destination, old: Destination) -> Iterator[SetWeight]:
    # The kernel does not show the last weight of a drained destination, so there is one only: translate gives all drained ones the same.
    if wanted.drained and old.drained:
        return
    if wanted.weight != old.weight or (old.drained and not wanted.drained):
        yield SetWeight(service.key, wanted.address, wanted.weight, wanted.nat_port)
    if wanted.drained:
        yield SetWeight(service.key, wanted.address, 0, wanted.nat_port)
