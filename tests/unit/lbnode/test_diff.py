"""The diff against a small simulator of the kernel, written from ip_vs_ctl.c: additions go to the list's head."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode import diff, maglev
from lbnode.diff import diff_edge, diff_worker
from lbnode.model import (
    Destination,
    EdgeState,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    Remains,
    RouterLink,
    Tunnel,
    VirtualKey,
    VirtualService,
    WorkerState,
)
from lbnode.operations import (
    AddAddress,
    AddDestination,
    AddProbeDevice,
    AddProbeRoute,
    AddService,
    AttachPrograms,
    EnsureLink,
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
    RemoveService,
    RemoveTranslation,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    ReplaceTranslation,
    SetSysctl,
    SetTimeouts,
    SetWeight,
    UpdateService,
)
from lbnode.packet_tables import DeliveryTable, EdgeFilter, TranslationTable, WorkerFilter

VIP = IPv4Address("203.0.113.10")
KEY = VirtualKey(VIP, Protocol.TCP, 80)
KEYS = [KEY, VirtualKey(VIP, Protocol.UDP, 53), VirtualKey(IPv4Address("203.0.113.11"), Protocol.TCP, 80)]
NODES = [IPv4Address("198.18.0.20") + n for n in range(8)]
NODES6 = [IPv6Address("2001:db8::20") + n for n in range(3)]
EDGE, EDGE6 = IPv4Address("198.18.0.11"), IPv6Address("2001:db8::11")
SYSCTLS = {"net.ipv4.vs.expire_nodest_conn": "1", "net.ipv4.vs.sloppy_tcp": "1"}


@dataclass
class KernelDestination:
    address: object
    weight: int
    last_weight: int
    nat_port: int | None


@dataclass
class Kernel:
    """The edge node's kernel as far as operations reach it. It refuses what the real one refuses."""

    sysctls: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SYSCTLS, "0"))
    timeouts: IpvsTimeouts = field(default_factory=lambda: IpvsTimeouts(900, 120, 300))
    filter_digest: str | None = None
    vips: set[object] = field(default_factory=set)
    services: dict[VirtualKey, tuple[VirtualService, list[KernelDestination]]] = field(default_factory=dict)
    probe_devices: set[int] = field(default_factory=set)
    probe_routes: set[ProbeRoute] = field(default_factory=set)
    translation_digest: str | None = None
    links: dict[str, RouterLink] = field(default_factory=dict)

    def apply(self, operation: Operation) -> None:
        match operation:
            case SetSysctl(name, value):
                self.sysctls[name] = value
            case SetTimeouts(timeouts):
                self.timeouts = timeouts
            case ReplaceFilter(table):
                self.filter_digest = table.digest
            case RemoveFilter():
                assert self.filter_digest is not None
                self.filter_digest = None
            case AddAddress(address):
                assert address not in self.vips
                self.vips.add(address)
            case RemoveAddress(address):
                self.vips.remove(address)
            case AddService(service):
                assert service.key not in self.services
                assert service.destinations == ()
                self.services[service.key] = (service, [])
            case UpdateService(service):
                self.services[service.key] = (service, self.services[service.key][1])
            case RemoveService(key):
                del self.services[key]
            case AddDestination(key, address, weight, nat_port):
                destinations = self.services[key][1]
                # ip_vs_lookup_dest: by address and port, whatever the way of forwarding.
                assert all(
                    (d.address, d.nat_port or key.port) != (address, nat_port or key.port) for d in destinations
                ), "EEXIST"
                # __ip_vs_update_dest: list_add_rcu() to the head; last_weight is set when adding.
                destinations.insert(0, KernelDestination(address, weight, weight, nat_port))
            case SetWeight(key, address, weight, nat_port):
                [found] = [d for d in self.services[key][1] if (d.address, d.nat_port) == (address, nat_port)]
                found.weight = weight
                if weight:
                    found.last_weight = weight
            case RemoveDestination(key, address, nat_port):
                destinations = self.services[key][1]
                [found] = [d for d in destinations if (d.address, d.nat_port) == (address, nat_port)]
                destinations.remove(found)
            case AddProbeDevice(version):
                assert version not in self.probe_devices
                self.probe_devices.add(version)
            case RemoveProbeDevice(version):
                self.probe_devices.remove(version)
                self.probe_routes = {r for r in self.probe_routes if r.probe_address.version != version}
            case ReplaceTranslation(translation):
                self.translation_digest = translation.digest
            case RemoveTranslation():
                assert self.translation_digest is not None
                self.translation_digest = None
            case AddProbeRoute(route):
                assert route.probe_address.version in self.probe_devices
                assert all(r.probe_address != route.probe_address for r in self.probe_routes), "EEXIST"
                self.probe_routes.add(route)
            case RemoveProbeRoute(route):
                self.probe_routes.remove(route)
            case EnsureLink(link):
                assert self.filter_digest is not None, "its addresses would answer everybody"
                # ip_tunnel_newlink: two devices with the same ends.
                assert all(o.router_address != link.router_address for n, o in self.links.items() if n != link.device)
                self.links[link.device] = link
            case RemoveLink(device):
                del self.links[device]
            case _:
                pytest.fail(f"no operation of an edge node: {operation}")

    def read(self) -> EdgeState:
        services = []
        for key in sorted(self.services, key=lambda k: k.order):
            service, destinations = self.services[key]
            # The last weight is nowhere to be read.
            seen = tuple(Destination(d.address, d.weight or 1, d.weight == 0, d.nat_port) for d in destinations)
            services.append(replace(service, destinations=seen))
        return EdgeState(
            dict(self.sysctls),
            self.timeouts,
            self.filter_digest,
            frozenset(self.vips),
            tuple(services),
            frozenset(self.probe_devices),
            frozenset(self.probe_routes),
            self.translation_digest,
            frozenset(self.links.values()),
        )


destination_sets = st.lists(
    st.tuples(st.sampled_from(NODES), st.integers(1, 3), st.booleans()), max_size=8, unique_by=lambda d: d[0]
).map(lambda ds: tuple(sorted((Destination(a, 1 if z else w, z) for a, w, z in ds), key=lambda d: int(d.address))))


#: By translation, to the service's own port among others: there the kernel takes a tunnel and a translation for the same destination.
pod_sets = st.lists(
    st.tuples(st.sampled_from(NODES[:4]), st.sampled_from([80, 8080]), st.booleans()),
    max_size=6,
    unique_by=lambda d: d[:2],
).map(lambda ds: tuple(sorted((Destination(a, 1, z, p) for a, p, z in ds), key=lambda d: (int(d.address), d.nat_port))))


#: Few names and few routers, so that one router's link gets another name and one name another router.
link_sets = st.frozensets(
    st.builds(
        RouterLink,
        name=st.sampled_from(["a", "b", "c"]),
        node_address=st.just(EDGE),
        router_address=st.sampled_from(NODES[:3]),
        addresses=st.just(frozenset({IPv4Interface("169.254.6.1/29")})),
        ttl=st.just(64),
        mtu_bytes=st.sampled_from([1400, 1476]),
    ),
    max_size=3,
).filter(lambda links: len({k.name for k in links}) == len({k.router_address for k in links}) == len(links))


@st.composite
def edge_states(draw: st.DrawFn) -> tuple[EdgeState, EdgeFilter]:
    services = tuple(
        VirtualService(
            key,
            draw(destination_sets | pod_sets),
            draw(st.booleans()),
            key.protocol is Protocol.UDP and draw(st.booleans()),
        )
        for key in sorted(draw(st.sets(st.sampled_from(KEYS))), key=lambda k: k.order)
    )
    table = EdgeFilter((), frozenset(s.key for s in services))
    routes = draw(st.sets(st.tuples(st.sampled_from(NODES[:3]), st.sampled_from(NODES), st.just(EDGE)), max_size=3))
    routes6 = draw(st.sets(st.tuples(st.sampled_from(NODES6), st.sampled_from(NODES6), st.just(EDGE6)), max_size=2))
    families = draw(st.sampled_from([{4}, {4, 6}]))
    wanted = routes | (routes6 if 6 in families else set())
    state = EdgeState(
        sysctls=SYSCTLS,
        filter_digest=table.digest,
        vips=frozenset(s.key.address for s in services),
        services=services,
        probe_devices=frozenset(families),
        probe_routes=frozenset({p: ProbeRoute(p, w, e) for p, w, e in wanted}.values()),
        links=draw(link_sets),
    )
    return state, table


@given(st.lists(edge_states(), min_size=1, max_size=5))
def test_carried_out_operations_reach_the_desired_state_and_leave_nothing_to_do(
    history: list[tuple[EdgeState, EdgeFilter]],
) -> None:
    kernel = Kernel()
    for desired, table in history:
        for operation in diff_edge(desired, table, kernel.read()):
            kernel.apply(operation)
        assert kernel.read() == desired
        assert diff_edge(desired, table, kernel.read()) == ()


@given(st.lists(edge_states(), min_size=1, max_size=4), edge_states(), st.data())
def test_a_diff_broken_off_anywhere_is_finished_by_the_next_one(
    history: list[tuple[EdgeState, EdgeFilter]], last: tuple[EdgeState, EdgeFilter], data: st.DataObject
) -> None:
    kernel = Kernel()
    for desired, table in history:
        operations = diff_edge(desired, table, kernel.read())
        for operation in operations[: data.draw(st.integers(0, len(operations)))]:
            kernel.apply(operation)
    for operation in diff_edge(*last, kernel.read()):
        kernel.apply(operation)
    assert kernel.read() == last[0]


@given(st.lists(edge_states(), max_size=4), st.lists(edge_states(), max_size=4), edge_states())
def test_the_hash_table_is_the_same_whatever_came_before(
    one: list[tuple[EdgeState, EdgeFilter]],
    other: list[tuple[EdgeState, EdgeFilter]],
    last: tuple[EdgeState, EdgeFilter],
) -> None:
    """Order *and* last weights agree, which together are all that ip_vs_mh reads."""
    ends = []
    for history in (one, other):
        kernel = Kernel()
        for desired, table in [*history, last]:
            for operation in diff_edge(desired, table, kernel.read()):
                kernel.apply(operation)
        ends.append({k: [(d.address, d.weight, d.last_weight) for d in ds] for k, (_, ds) in kernel.services.items()})
    assert ends[0] == ends[1]


@given(st.sampled_from([(destination_sets, pod_sets), (pod_sets, destination_sets)]), st.data())
def test_another_way_of_forwarding_is_a_new_service(
    ways: tuple[st.SearchStrategy[tuple[Destination, ...]], st.SearchStrategy[tuple[Destination, ...]]],
    data: st.DataObject,
) -> None:
    before, after = (data.draw(way.filter(bool)) for way in ways)
    kernel = _kernel_with(before)
    operations = diff_edge(*_one_service(after), kernel.read())
    assert RemoveService(KEY) in operations
    for operation in operations:
        kernel.apply(operation)
    assert kernel.read().services[0].destinations == after


def test_a_translation_is_there_before_the_filter_has_its_vip_tracked_and_goes_with_the_last_one() -> None:
    kernel = _kernel_with((Destination(NODES[0]),))
    state, table = _one_service((Destination(NODES[0], nat_port=8080),))
    table = replace(table, translated=frozenset({VIP}))
    translation = TranslationTable((), frozenset({VIP}))
    translated = replace(state, filter_digest=table.digest, translation_digest=translation.digest)
    operations = diff_edge(translated, table, kernel.read(), translation)
    assert operations.index(ReplaceTranslation(translation)) < operations.index(ReplaceFilter(table))
    for operation in operations:
        kernel.apply(operation)
    assert diff_edge(translated, table, kernel.read(), translation) == ()
    back = diff_edge(*_one_service((Destination(NODES[0]),)), kernel.read())
    assert RemoveTranslation() in back


@given(destination_sets.filter(bool), destination_sets.filter(bool))
def test_a_destination_list_is_never_empty_on_its_way(
    before: tuple[Destination, ...], after: tuple[Destination, ...]
) -> None:
    kernel = Kernel()
    for operation in diff_edge(*_one_service(before), kernel.read()):
        kernel.apply(operation)
    survivors = {d.address for d in before} & {d.address for d in after}
    for operation in diff_edge(*_one_service(after), kernel.read()):
        kernel.apply(operation)
        there = {d.address for d in kernel.services[KEY][1]}
        assert there
        assert len(survivors - there) <= 1


@given(destination_sets, destination_sets)
def test_connections_survive_moves(before: tuple[Destination, ...], after: tuple[Destination, ...]) -> None:
    """A destination that stays may be away for an instant, but only while the kernel keeps connections of absent destinations."""
    kernel = Kernel()
    for operation in diff_edge(*_one_service(before), kernel.read()):
        kernel.apply(operation)
    stays = {d.address for d in after}
    for operation in diff_edge(*_one_service(after), kernel.read()):
        if isinstance(operation, RemoveDestination) and operation.address in stays:
            assert kernel.sysctls[diff.EXPIRE_NODEST_CONN] == "0"
        kernel.apply(operation)
    assert kernel.sysctls[diff.EXPIRE_NODEST_CONN] == "1"


def test_without_reordering_the_tables_of_two_histories_differ() -> None:
    """The negative control of the canonical order: appending as the kernel does moves flows of healthy destinations."""
    addresses = NODES[:6]
    canonical = [Destination(a) for a in addresses]
    late = [Destination(addresses[3]), *(Destination(a) for a in addresses if a != addresses[3])]
    owners = [[d.address for d in ds] for ds in (canonical, late)]
    one, other = (maglev.table(ds, 80) for ds in (canonical, late))
    moved = sum(owners[0][a] != owners[1][b] for a, b in zip(one, other, strict=True))
    assert 0 < moved < 0.05 * len(one)


def test_a_destination_that_only_drains_is_reweighed_in_place() -> None:
    kernel = _kernel_with((Destination(NODES[0]), Destination(NODES[1])))
    desired = _one_service((Destination(NODES[0]), Destination(NODES[1], 1, True)))
    assert diff_edge(*desired, kernel.read()) == (SetWeight(KEY, NODES[1], 0),)


def test_a_drained_destination_that_comes_back_gets_its_weight() -> None:
    kernel = _kernel_with((Destination(NODES[0]), Destination(NODES[1], 1, True)))
    desired = _one_service((Destination(NODES[0]), Destination(NODES[1])))
    assert diff_edge(*desired, kernel.read()) == (SetWeight(KEY, NODES[1], 1),)


def test_a_new_drained_destination_is_added_with_its_weight_first() -> None:
    kernel = _kernel_with((Destination(NODES[1]),))
    desired = _one_service((Destination(NODES[0], 1, True), Destination(NODES[1])))
    assert diff_edge(*desired, kernel.read()) == (AddDestination(KEY, NODES[0], 1), SetWeight(KEY, NODES[0], 0))


def test_a_removed_destination_leaves_the_others_alone() -> None:
    kernel = _kernel_with(tuple(Destination(a) for a in NODES[:5]))
    desired = _one_service(tuple(Destination(a) for a in NODES[:5] if a != NODES[2]))
    assert diff_edge(*desired, kernel.read()) == (RemoveDestination(KEY, NODES[2]),)


def test_a_new_first_destination_moves_nobody_and_touches_no_sysctl() -> None:
    kernel = _kernel_with(tuple(Destination(a) for a in NODES[1:5]))
    desired = _one_service(tuple(Destination(a) for a in NODES[:5]))
    assert diff_edge(*desired, kernel.read()) == (AddDestination(KEY, NODES[0], 1),)


def test_a_late_destination_moves_only_those_before_it() -> None:
    kernel = _kernel_with((Destination(NODES[0]), Destination(NODES[2])))
    desired = _one_service((Destination(NODES[0]), Destination(NODES[1]), Destination(NODES[2])))
    assert diff_edge(*desired, kernel.read()) == (
        SetSysctl(diff.EXPIRE_NODEST_CONN, "0"),
        AddDestination(KEY, NODES[1], 1),
        RemoveDestination(KEY, NODES[0]),
        AddDestination(KEY, NODES[0], 1),
        SetSysctl(diff.EXPIRE_NODEST_CONN, "1"),
    )


@given(edge_states(), edge_states())
def test_a_vip_is_never_here_without_its_service_or_its_filter(
    before: tuple[EdgeState, EdgeFilter], after: tuple[EdgeState, EdgeFilter]
) -> None:
    kernel = Kernel()
    for operation in diff_edge(*before, kernel.read()):
        kernel.apply(operation)
    for operation in diff_edge(*after, kernel.read()):
        kernel.apply(operation)
        if isinstance(operation, AddAddress):
            assert kernel.filter_digest == after[0].filter_digest
            wanted = {s.key for s in after[0].services if s.key.address == operation.address}
            assert wanted <= kernel.services.keys()
        if isinstance(operation, RemoveService) and operation.key.address in kernel.vips:
            assert kernel.filter_digest == after[0].filter_digest, "the node's own port would show"


@given(edge_states())
def test_clearing_takes_everything_away_and_the_filter_last(before: tuple[EdgeState, EdgeFilter]) -> None:
    kernel = Kernel()
    for operation in diff_edge(*before, kernel.read()):
        kernel.apply(operation)
    operations = diff_edge(replace(EdgeState(), timeouts=kernel.timeouts), None, kernel.read())
    for operation in operations:
        kernel.apply(operation)
    left = kernel.read()
    assert (left.vips, left.services, left.filter_digest, left.probe_devices) == (frozenset(), (), None, frozenset())
    assert operations[-1] == RemoveFilter()


@given(edge_states(), edge_states())
def test_nothing_but_the_filters_end_comes_after_the_first_thing_of_ipv6_probing(
    before: tuple[EdgeState, EdgeFilter], after: tuple[EdgeState, EdgeFilter]
) -> None:
    """So a kernel that cannot do IPv6 tunnels has everything of IPv4 in place when it says so."""
    kernel = Kernel()
    for operation in diff_edge(*before, kernel.read()):
        kernel.apply(operation)
    operations = diff_edge(*after, kernel.read())

    def of_ipv6_probing(operation: Operation) -> bool:
        match operation:
            case AddProbeDevice(version) | RemoveProbeDevice(version):
                return version == 6
            case AddProbeRoute(route) | RemoveProbeRoute(route):
                return route.probe_address.version == 6
        return False

    kinds = [of_ipv6_probing(o) for o in operations]
    assert kinds == sorted(kinds)


def test_a_changed_flag_keeps_the_destinations() -> None:
    kernel = _kernel_with((Destination(NODES[0]),))
    state, table = _one_service((Destination(NODES[0]),))
    desired = replace(state, services=(replace(state.services[0], hash_source_port=False),))
    bare = replace(desired.services[0], destinations=())
    assert diff_edge(desired, table, kernel.read()) == (UpdateService(bare),)


@given(edge_states(), edge_states())
def test_lost_programs_come_back_and_what_another_agent_left_goes_when_all_else_is_done(
    before: tuple[EdgeState, EdgeFilter], after: tuple[EdgeState, EdgeFilter]
) -> None:
    left = frozenset({Remains("xdp", "eth0"), Remains("ipvs")})
    usual = diff_edge(*after, before[0])
    lost = frozenset({"eth0", "eth1"})
    worst = replace(before[0], remains=left, lost_programs=lost)
    assert diff_edge(*after, worst) == (*usual, AttachPrograms(lost), RemoveRemains(left))


def test_the_filter_comes_first_when_there_is_none() -> None:
    state, table = _one_service((Destination(NODES[0]),))
    observed = replace(state, filter_digest=None, services=(), sysctls=SYSCTLS)
    assert diff_edge(state, table, observed)[0] == ReplaceFilter(table)


WORKER_FILTER = WorkerFilter((), (IPv4Address("192.0.2.21"),), ((4, 1440),))
TUNNELS = frozenset(Tunnel(IPv4Address(f"198.18.0.{n}"), NODES[1]) for n in (11, 12))
WORKER = WorkerState(
    filter_digest=WORKER_FILTER.digest, tunnels=TUNNELS, probe_addresses=frozenset(WORKER_FILTER.probe_addresses)
)


def test_a_fresh_worker_answers_probes_only_when_all_else_is_there() -> None:
    operations = diff_worker(WORKER, WORKER_FILTER, WorkerState())
    assert [type(o) for o in operations] == [ReplaceFilter, EnsureTunnel, EnsureTunnel, AddAddress]


def test_a_worker_without_its_filter_stops_answering_probes_before_it_is_mended() -> None:
    operations = diff_worker(WORKER, WORKER_FILTER, replace(WORKER, filter_digest=None))
    probe = WORKER_FILTER.probe_addresses[0]
    assert operations == (RemoveAddress(probe), ReplaceFilter(WORKER_FILTER), AddAddress(probe))


def test_a_lost_tunnel_is_mended_while_other_edge_nodes_go_on_probing() -> None:
    lost = min(TUNNELS, key=lambda t: t.device)
    operations = diff_worker(WORKER, WORKER_FILTER, replace(WORKER, tunnels=TUNNELS - {lost}))
    assert operations == (EnsureTunnel(lost),)


def test_a_tunnel_that_is_wrong_is_mended_and_not_removed() -> None:
    broken = frozenset(replace(t, ready=False) for t in TUNNELS)
    operations = diff_worker(WORKER, WORKER_FILTER, replace(WORKER, tunnels=broken))
    assert {type(o) for o in operations} == {EnsureTunnel}


def test_the_tunnel_of_a_gone_edge_node_is_removed() -> None:
    stranger = Tunnel(IPv4Address("198.18.0.99"), NODES[1])
    operations = diff_worker(WORKER, WORKER_FILTER, replace(WORKER, tunnels=TUNNELS | {stranger}))
    assert operations == (RemoveTunnel(stranger.device),)


def test_a_worker_as_desired_has_nothing_to_do() -> None:
    assert diff_worker(WORKER, WORKER_FILTER, WORKER) == ()


def test_a_changed_delivery_is_replaced_while_probes_are_answered() -> None:
    table = DeliveryTable(())
    desired = replace(WORKER, delivery_digest=table.digest)
    assert diff_worker(desired, WORKER_FILTER, WORKER, table) == (ReplaceDelivery(table),)
    assert diff_worker(desired, WORKER_FILTER, desired, table) == ()
    assert diff_worker(WORKER, WORKER_FILTER, desired) == (RemoveDelivery(),)


def test_a_cleared_worker_loses_the_probe_address_first_and_the_filter_last() -> None:
    operations = diff_worker(WorkerState(), None, WORKER)
    assert [type(o) for o in operations] == [RemoveAddress, RemoveTunnel, RemoveTunnel, RemoveFilter]


def test_a_thousand_random_changes_end_in_the_order_of_addresses() -> None:
    rng = random.Random(7)
    kernel = Kernel()
    for _ in range(300):
        chosen = sorted(rng.sample(NODES, rng.randint(1, len(NODES))))
        for operation in diff_edge(*_one_service(tuple(map(Destination, chosen))), kernel.read()):
            kernel.apply(operation)
        assert [d.address for d in kernel.services[KEY][1]] == chosen


def _one_service(destinations: tuple[Destination, ...]) -> tuple[EdgeState, EdgeFilter]:
    table = EdgeFilter((), frozenset({KEY}))
    services = (VirtualService(KEY, destinations),)
    return EdgeState(SYSCTLS, filter_digest=table.digest, vips=frozenset({VIP}), services=services), table


def _kernel_with(destinations: tuple[Destination, ...]) -> Kernel:
    kernel = Kernel()
    for operation in diff_edge(*_one_service(destinations), kernel.read()):
        kernel.apply(operation)
    return kernel
