"""What every edge data plane does, in memory and in the kernel. In the kernel ``ipvsadm`` and ``ip`` must agree."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.dataplane.base import EdgeDataPlane
from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.ipvs_traffic import IpvsBalancer
from lbnode.diff import diff_edge
from lbnode.errors import Bug, Retry
from lbnode.model import (
    Counters,
    Destination,
    EdgeState,
    IPAddress,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    ReturnTunnel,
    VirtualKey,
    VirtualService,
)
from lbnode.operations import (
    AddAddress,
    AddDestination,
    AddProbeDevice,
    AddProbeRoute,
    AddService,
    EnsureReturnTunnel,
    Operation,
    RemoveAddress,
    RemoveDestination,
    RemoveFilter,
    RemoveProbeDevice,
    RemoveProbeRoute,
    RemoveReturnTunnel,
    RemoveService,
    RemoveTranslation,
    RemoveTunnel,
    ReplaceFilter,
    ReplaceTranslation,
    SetSysctl,
    SetTimeouts,
    SetWeight,
    UpdateService,
)
from lbnode.packet_tables import EdgeFilter, TranslationTable
from tests.conformance.node import (
    FAMILIES,
    IPV4,
    IPV6,
    POOLS,
    SYSCTLS,
    Family,
    ipvs_destinations,
    ipvs_services,
    loopback_addresses,
    sh,
    with_port,
)

VIP, VIP6 = IPV4.vip, IPV6.vip


def web(family: Family) -> VirtualKey:
    return VirtualKey(family.vip, Protocol.TCP, 80)


def dns(family: Family) -> VirtualKey:
    return VirtualKey(family.vip, Protocol.UDP, 53)


def three_workers(family: Family) -> list[IPAddress]:
    return [family.worker(n) for n in (1, 2, 3)]


def probe_route(family: Family, number: int = 1) -> ProbeRoute:
    return ProbeRoute(family.probe, family.worker(number), family.node)


FILTER = EdgeFilter(POOLS, frozenset(key(f) for f in FAMILIES for key in (web, dns)))


def is_kernel(plane: object) -> bool:
    return isinstance(plane, KernelEdge)


def is_ipvs(plane: object) -> bool:
    return isinstance(plane, KernelEdge) and isinstance(plane.balancer, IpvsBalancer)


def service(plane: EdgeDataPlane, key: VirtualKey) -> VirtualService:
    (found,) = [s for s in plane.read().services if s.key == key]
    return found


def test_a_fresh_node_has_nothing_of_ours(edge: EdgeDataPlane) -> None:
    state = edge.read()
    assert (state.vips, state.services, state.filter_digest) == (frozenset(), (), None)
    assert (state.probe_devices, state.probe_routes) == (frozenset(), frozenset())
    assert set(state.sysctls) == set(SYSCTLS)


def test_services_are_maglev_with_fallback_and_their_own_flags(edge: EdgeDataPlane) -> None:
    services = [
        flagged
        for family in FAMILIES
        for flagged in (
            VirtualService(web(family)),
            VirtualService(dns(family), hash_source_port=False, one_packet=True),
        )
    ]
    edge.apply([AddService(s) for s in services])
    assert {s.key: s for s in edge.read().services} == {s.key: s for s in services}
    assert [s.key.order for s in edge.read().services] == sorted(s.key.order for s in services)
    if is_ipvs(edge):
        assert ipvs_services() == {
            "tcp 203.0.113.1:80": "-s mh -b mh-fallback,mh-port",
            "udp 203.0.113.1:53": "-s mh -o -b mh-fallback",
            "tcp [2001:db8:113::1]:80": "-s mh -b mh-fallback,mh-port",
            "udp [2001:db8:113::1]:53": "-s mh -o -b mh-fallback",
        }


def test_a_new_destination_stands_at_the_head_of_the_list(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, three) = web(family), three_workers(family)
    edge.apply([AddService(VirtualService(key)), *(AddDestination(key, a, 2) for a in (two, one, three))])
    assert [d.address for d in service(edge, key).destinations] == [three, one, two]
    if is_ipvs(edge):
        shown = ipvs_destinations(f"tcp {with_port(family.vip, 80)}")
        assert shown == [(with_port(a, 80), "Tunnel", 2) for a in (three, one, two)]


def test_a_drained_destination_keeps_its_place_and_its_last_weight(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, _) = web(family), three_workers(family)
    edge.apply(
        [
            AddService(VirtualService(key)),
            AddDestination(key, one, 3),
            AddDestination(key, two, 3),
            SetWeight(key, one, 0),
        ]
    )
    assert service(edge, key).destinations == (Destination(two, 3), Destination(one, 3, drained=True))
    if is_ipvs(edge):
        shown = ipvs_destinations(f"tcp {with_port(family.vip, 80)}")
        assert shown == [(with_port(two, 80), "Tunnel", 3), (with_port(one, 80), "Tunnel", 0)]


def test_a_weight_changes_in_place(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, _) = web(family), three_workers(family)
    edge.apply(
        [
            AddService(VirtualService(key)),
            AddDestination(key, one, 1),
            AddDestination(key, two, 1),
            SetWeight(key, one, 5),
        ]
    )
    assert service(edge, key).destinations == (Destination(two, 1), Destination(one, 5))


def test_pods_are_destinations_by_translation_to_their_own_ports(edge: EdgeDataPlane, family: Family) -> None:
    key, pod = web(family), family.worker(1)
    edge.apply(
        [AddService(VirtualService(key)), AddDestination(key, pod, 2, 8080), AddDestination(key, pod, 1, key.port)]
    )
    by_port = (Destination(pod, 1, nat_port=key.port), Destination(pod, 2, nat_port=8080))
    assert service(edge, key).destinations == by_port
    assert service(edge, key).intact
    edge.apply([SetWeight(key, pod, 0, 8080), RemoveDestination(key, pod, key.port)])
    assert service(edge, key).destinations == (Destination(pod, 2, drained=True, nat_port=8080),)
    if is_ipvs(edge):
        shown = ipvs_destinations(f"tcp {with_port(family.vip, 80)}")
        assert shown == [(with_port(pod, 8080), "Masq", 0)]


def test_the_same_address_and_port_is_one_destination_whatever_the_way(edge: EdgeDataPlane, family: Family) -> None:
    key, one = web(family), family.worker(1)
    edge.apply([AddService(VirtualService(key)), AddDestination(key, one, 1)])
    with pytest.raises(Retry, match="AddDestination"):
        edge.apply([AddDestination(key, one, 1, key.port)])


def test_the_diff_turns_a_service_from_tunnel_to_translation_and_back(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, _) = web(family), three_workers(family)
    tunnel = EdgeState(
        timeouts=edge.read().timeouts,
        vips=frozenset({family.vip}),
        services=(VirtualService(key, (Destination(one), Destination(two))),),
    )
    table = TranslationTable(POOLS, frozenset({VIP, VIP6}))
    pods = tuple(Destination(a, nat_port=p) for a in (one, two) for p in (80, 8080))
    translated = replace(tunnel, services=(VirtualService(key, pods),), translation_digest=table.digest)
    for state in (tunnel, translated, tunnel):
        edge.apply(diff_edge(state, None, edge.read(), table))
        assert diff_edge(state, None, edge.read(), table) == ()
        assert service(edge, key).destinations == state.services[0].destinations


def test_the_translation_comes_changes_and_goes(edge: EdgeDataPlane, family: Family) -> None:
    table = TranslationTable(POOLS, frozenset({VIP, VIP6}))
    other = TranslationTable(POOLS, frozenset({family.vip}))
    assert edge.read().translation_digest is None
    for wanted in (table, other):
        edge.apply([ReplaceTranslation(wanted)])
        assert edge.read().translation_digest == wanted.digest
    if is_kernel(edge):
        sh(f"{family.tools} -t filter -D SAMEGATE-INPUT 1")
        assert edge.read().translation_digest is None
        edge.apply([ReplaceTranslation(other)])
    edge.apply([RemoveTranslation(), RemoveTranslation()])
    assert edge.read().translation_digest is None
    if is_kernel(edge):
        saved = [sh(f"{f.tools}-save -t {table}") for f in FAMILIES for table in ("nat", "filter")]
        assert "SAMEGATE" not in "".join(saved)


def test_looking_at_a_node_without_translation_makes_no_table(edge: EdgeDataPlane, family: Family) -> None:
    edge.apply([ReplaceFilter(FILTER)])
    edge.read()
    if is_kernel(edge):
        names = Path(f"/proc/thread-self/net/{family.tools.removesuffix('tables-legacy')}_tables_names")
        assert set(names.read_text().split()) == {"raw", "mangle"}


def test_flags_change_and_destinations_stay(edge: EdgeDataPlane, family: Family) -> None:
    key, one = dns(family), family.worker(1)
    edge.apply([AddService(VirtualService(key)), AddDestination(key, one, 1)])
    edge.apply([UpdateService(VirtualService(key, hash_source_port=False, one_packet=True))])
    assert service(edge, key) == VirtualService(key, (Destination(one),), hash_source_port=False, one_packet=True)
    edge.apply([UpdateService(VirtualService(key))])
    assert service(edge, key) == VirtualService(key, (Destination(one),))
    if is_ipvs(edge):
        assert ipvs_services() == {f"udp {with_port(family.vip, 53)}": "-s mh -b mh-fallback,mh-port"}


def test_destinations_and_services_go(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, _) = web(family), three_workers(family)
    edge.apply(
        [
            AddService(VirtualService(key)),
            AddDestination(key, one, 1),
            AddDestination(key, two, 1),
            RemoveDestination(key, one),
        ]
    )
    assert [d.address for d in service(edge, key).destinations] == [two]
    edge.apply([RemoveService(key)])
    assert edge.read().services == ()


@pytest.mark.parametrize(
    "operation",
    [
        refused
        for family in FAMILIES
        for key, other, one, two in [(web(family), dns(family), family.worker(1), family.worker(2))]
        for refused in (
            AddService(VirtualService(key)),
            AddDestination(key, one, 1),
            RemoveDestination(key, two),
            SetWeight(key, two, 1),
            RemoveService(other),
            AddDestination(other, one, 1),
        )
    ],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'address', '') or getattr(o, 'key', '') or o.service.key}",
)
def test_an_operation_that_the_kernel_refuses_is_named(edge: EdgeDataPlane, operation: Operation) -> None:
    for family in FAMILIES:
        edge.apply([AddService(VirtualService(web(family))), AddDestination(web(family), family.worker(1), 1)])
    before = edge.read()
    with pytest.raises(Retry, match=type(operation).__name__):
        edge.apply([operation])
    assert edge.read() == before


def test_an_operation_of_a_worker_is_a_bug(edge: EdgeDataPlane) -> None:
    with pytest.raises(Bug):
        edge.apply([RemoveTunnel("sgt-0")])


def test_addresses_are_held_as_host_addresses_and_repeating_is_harmless(edge: EdgeDataPlane) -> None:
    edge.apply([AddAddress(VIP), AddAddress(VIP6), AddAddress(VIP)])
    assert edge.read().vips == {VIP, VIP6}
    if is_kernel(edge):
        assert loopback_addresses() == {VIP, VIP6}
    edge.apply([RemoveAddress(VIP), RemoveAddress(VIP)])
    assert edge.read().vips == {VIP6}


def test_destinations_that_nothing_went_to_have_counted_nothing(edge: EdgeDataPlane, family: Family) -> None:
    key, (one, two, _) = web(family), three_workers(family)
    edge.apply([AddService(VirtualService(key)), AddDestination(key, one, 1), AddDestination(key, two, 1)])
    found = edge.traffic([key, dns(family)])
    # IPVS does not count what it finds in its table.
    nothing = Counters(table_hits=0 if edge.drops() else None)
    assert {(t.key, t.worker): t.total for t in found} == {(key, one): nothing, (key, two): nothing}
    assert not any(count for (of, _), count in edge.drops().items() if of is not None)


def test_timeouts_are_set(edge: EdgeDataPlane) -> None:
    edge.apply([SetTimeouts(IpvsTimeouts(600, 60, 20))])
    assert edge.read().timeouts == IpvsTimeouts(600, 60, 20)
    if is_ipvs(edge):
        assert sh("ipvsadm -Ln --timeout").split() == ["Timeout", "(tcp", "tcpfin", "udp):", "600", "60", "20"]


def test_sysctls_are_set(edge: EdgeDataPlane) -> None:
    edge.apply([SetSysctl("net.ipv4.vs.sloppy_tcp", "1")])
    assert edge.read().sysctls["net.ipv4.vs.sloppy_tcp"] == "1"
    if is_kernel(edge):
        assert sh("sysctl -n net.ipv4.vs.sloppy_tcp").strip() == "1"


def test_the_filter_comes_changes_and_goes(edge: EdgeDataPlane) -> None:
    edge.apply([ReplaceFilter(FILTER)])
    assert edge.read().filter_digest == FILTER.digest
    other = EdgeFilter(POOLS, frozenset({dns(IPV4)}))
    edge.apply([ReplaceFilter(other)])
    assert edge.read().filter_digest == other.digest
    edge.apply([RemoveFilter()])
    assert edge.read().filter_digest is None


def test_probe_routes_need_the_device_and_go_with_it(edge: EdgeDataPlane, family: Family) -> None:
    route, version = probe_route(family), family.version
    with pytest.raises(Retry):
        edge.apply([AddProbeRoute(route)])
    edge.apply([AddProbeDevice(version), AddProbeRoute(route)])
    state = edge.read()
    assert (state.probe_devices, state.probe_routes) == ({version}, {route})
    moved = probe_route(family, 2)
    edge.apply([AddProbeRoute(moved)])
    assert edge.read().probe_routes == {moved}
    if is_kernel(edge):
        shown = " ".join(sh(f"ip -{version} route show dev {family.probe_device}").split())
        encapsulation = "encap ip" if version == 4 else "encap ip6"
        assert f"{family.probe} {encapsulation} id 0 src {family.node} dst {family.worker(2)}" in shown
        assert f"src {family.node}" in shown.split(f"dst {family.worker(2)}")[1]
    edge.apply([RemoveProbeRoute(moved), RemoveProbeRoute(moved)])
    assert edge.read().probe_routes == frozenset()
    edge.apply([AddProbeRoute(route), RemoveProbeDevice(version), RemoveProbeDevice(version)])
    state = edge.read()
    assert (state.probe_devices, state.probe_routes) == (frozenset(), frozenset())


def test_the_probe_devices_of_the_families_come_and_go_by_themselves(edge: EdgeDataPlane) -> None:
    edge.apply(
        [AddProbeDevice(4), AddProbeRoute(probe_route(IPV4)), AddProbeDevice(6), AddProbeRoute(probe_route(IPV6))]
    )
    edge.apply([RemoveProbeDevice(4)])
    state = edge.read()
    assert (state.probe_devices, state.probe_routes) == ({6}, {probe_route(IPV6)})


def returning(family: Family, number: int = 1) -> ReturnTunnel:
    return ReturnTunnel(family.worker(number), family.node)


def test_tunnels_for_what_comes_back_are_ready_and_repeating_is_harmless(edge: EdgeDataPlane, family: Family) -> None:
    one, two = returning(family), returning(family, 2)
    edge.apply([EnsureReturnTunnel(one), EnsureReturnTunnel(two), EnsureReturnTunnel(one)])
    assert edge.read().return_tunnels == {one, two}
    if is_kernel(edge):
        shown = sh(f"ip -d addr show dev {one.device}")
        assert f"remote {one.worker_address} local {family.node}" in shown
        if family.version == 4:
            assert f"inet {family.node}/32" in shown
            conf = f"net.ipv4.conf.{one.device}"
            assert sh(f"sysctl -n {conf}.rp_filter {conf}.accept_local").split() == ["2", "1"]
    edge.apply([RemoveReturnTunnel(one.device), RemoveReturnTunnel(one.device)])
    assert edge.read().return_tunnels == {two}
    edge.clean()
    assert edge.read().return_tunnels == frozenset()


def everything() -> EdgeState:
    return EdgeState(
        sysctls={
            "net.ipv4.vs.sloppy_tcp": "1",
            "net.ipv4.vs.expire_nodest_conn": "1",
            "net.ipv4.vs.conn_reuse_mode": "1",
        },
        timeouts=IpvsTimeouts(),
        filter_digest=FILTER.digest,
        vips=frozenset({VIP, VIP6}),
        services=tuple(
            sorted(
                (
                    each
                    for family in FAMILIES
                    for one, two, three in [three_workers(family)]
                    for each in (
                        VirtualService(
                            web(family), (Destination(one), Destination(two), Destination(three, drained=True))
                        ),
                        VirtualService(dns(family), (Destination(one),), hash_source_port=False, one_packet=True),
                    )
                ),
                key=lambda s: s.key.order,
            )
        ),
        probe_devices=frozenset({4, 6}),
        probe_routes=frozenset(map(probe_route, FAMILIES)),
        return_tunnels=frozenset(map(returning, FAMILIES)),
    )


def test_the_diff_brings_everything_in_place_and_then_finds_nothing_to_do(edge: EdgeDataPlane) -> None:
    edge.apply(diff_edge(everything(), FILTER, edge.read()))
    assert edge.read() == everything()
    assert diff_edge(everything(), FILTER, edge.read()) == ()


def test_cleaning_takes_away_everything_of_ours(edge: EdgeDataPlane) -> None:
    edge.apply(diff_edge(everything(), FILTER, edge.read()))
    edge.clean()
    state = edge.read()
    assert (state.vips, state.services, state.filter_digest, state.probe_devices) == (
        frozenset(),
        (),
        None,
        frozenset(),
    )


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8:51::7"])
def test_what_lies_outside_the_pools_is_neither_seen_nor_touched(edge: EdgeDataPlane, address: str) -> None:
    foreign = VirtualKey(ip_address(address), Protocol.TCP, 80)
    edge.apply([AddService(VirtualService(foreign)), AddAddress(foreign.address)])
    assert (edge.read().services, edge.read().vips) == ((), frozenset())
    edge.clean()
    with pytest.raises(Retry):
        edge.apply([AddService(VirtualService(foreign))])
    if is_kernel(edge):
        assert loopback_addresses() == {foreign.address}
