"""What every edge data plane does, in memory and in the kernel. In the kernel ``ipvsadm`` and ``ip`` must agree."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.dataplane.base import EdgeDataPlane
from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.errors import Bug, Retry
from lbnode.model import (
    AddAddress,
    AddDestination,
    AddProbeDevice,
    AddProbeRoute,
    AddService,
    Destination,
    EdgeFilter,
    EdgeState,
    IpvsTimeouts,
    Operation,
    ProbeRoute,
    Protocol,
    RemoveAddress,
    RemoveDestination,
    RemoveFilter,
    RemoveProbeDevice,
    RemoveProbeRoute,
    RemoveService,
    RemoveTranslation,
    RemoveTunnel,
    ReplaceFilter,
    ReplaceTranslation,
    SetSysctl,
    SetTimeouts,
    SetWeight,
    TranslationTable,
    UpdateService,
    VirtualKey,
    VirtualService,
)
from tests.conformance.node import (
    POOLS,
    SYSCTLS,
    ipvs_destinations,
    ipvs_services,
    loopback_addresses,
    sh,
    worker_address,
)

VIP = ip_address("203.0.113.1")
VIP6 = ip_address("2001:db8:113::1")
WEB = VirtualKey(VIP, Protocol.TCP, 80)
DNS = VirtualKey(VIP, Protocol.UDP, 53)
WEB6 = VirtualKey(VIP6, Protocol.TCP, 80)
ONE, TWO, THREE = (worker_address(n) for n in (1, 2, 3))
FILTER = EdgeFilter(POOLS, frozenset({WEB, DNS, WEB6}))
ROUTE = ProbeRoute(ip_address("192.0.2.21"), ONE)


def is_kernel(plane: object) -> bool:
    return isinstance(plane, KernelEdge)


def service(plane: EdgeDataPlane, key: VirtualKey) -> VirtualService:
    (found,) = [s for s in plane.read().services if s.key == key]
    return found


def test_a_fresh_node_has_nothing_of_ours(edge: EdgeDataPlane) -> None:
    state = edge.read()
    assert (state.vips, state.services, state.filter_digest) == (frozenset(), (), None)
    assert (state.probe_device, state.probe_routes) == (False, frozenset())
    assert set(state.sysctls) == set(SYSCTLS)


def test_services_are_maglev_with_fallback_and_their_own_flags(edge: EdgeDataPlane) -> None:
    services = [VirtualService(WEB), VirtualService(DNS, hash_source_port=False, one_packet=True), VirtualService(WEB6)]
    edge.apply([AddService(s) for s in services])
    assert {s.key: s for s in edge.read().services} == {s.key: s for s in services}
    assert [s.key.order for s in edge.read().services] == sorted(s.key.order for s in services)
    if is_kernel(edge):
        assert ipvs_services() == {
            "tcp 203.0.113.1:80": "-s mh -b mh-fallback,mh-port",
            "udp 203.0.113.1:53": "-s mh -o -b mh-fallback",
            "tcp [2001:db8:113::1]:80": "-s mh -b mh-fallback,mh-port",
        }


def test_a_new_destination_stands_at_the_head_of_the_list(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(WEB)), *(AddDestination(WEB, a, 2) for a in (TWO, ONE, THREE))])
    assert [d.address for d in service(edge, WEB).destinations] == [THREE, ONE, TWO]
    if is_kernel(edge):
        assert ipvs_destinations("tcp 203.0.113.1:80") == [(f"{a}:80", "Tunnel", 2) for a in (THREE, ONE, TWO)]


def test_a_drained_destination_keeps_its_place_and_its_last_weight(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 3), AddDestination(WEB, TWO, 3), SetWeight(WEB, ONE, 0)])
    assert service(edge, WEB).destinations == (Destination(TWO, 3), Destination(ONE, 3, drained=True))
    if is_kernel(edge):
        assert ipvs_destinations("tcp 203.0.113.1:80") == [(f"{TWO}:80", "Tunnel", 3), (f"{ONE}:80", "Tunnel", 0)]


def test_a_weight_changes_in_place(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 1), AddDestination(WEB, TWO, 1), SetWeight(WEB, ONE, 5)])
    assert service(edge, WEB).destinations == (Destination(TWO, 1), Destination(ONE, 5))


def test_pods_are_destinations_by_translation_to_their_own_ports(edge: EdgeDataPlane) -> None:
    for key, pod, shown in ((WEB, ip_address("198.18.131.5"), "198.18.131.5"), (WEB6, ip_address("2001:db8:1::5"), "[2001:db8:1::5]")):
        edge.apply([AddService(VirtualService(key)), AddDestination(key, pod, 2, 8080), AddDestination(key, pod, 1, key.port)])
        assert service(edge, key).destinations == (Destination(pod, 1, nat_port=key.port), Destination(pod, 2, nat_port=8080))
        assert service(edge, key).intact
        edge.apply([SetWeight(key, pod, 0, 8080), RemoveDestination(key, pod, key.port)])
        assert service(edge, key).destinations == (Destination(pod, 2, drained=True, nat_port=8080),)
        if is_kernel(edge):
            host = f"[{key.address}]" if key.address.version == 6 else str(key.address)
            assert ipvs_destinations(f"tcp {host}:80") == [(f"{shown}:8080", "Masq", 0)]


def test_the_same_address_and_port_is_one_destination_whatever_the_way(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 1)])
    with pytest.raises(Retry, match="AddDestination"):
        edge.apply([AddDestination(WEB, ONE, 1, WEB.port)])


def test_the_diff_turns_a_service_from_tunnel_to_translation_and_back(edge: EdgeDataPlane) -> None:
    tunnel = EdgeState(timeouts=edge.read().timeouts, vips=frozenset({VIP}), services=(VirtualService(WEB, (Destination(ONE), Destination(TWO))),))
    table = TranslationTable(POOLS, frozenset({VIP, VIP6}))
    pods = tuple(Destination(a, nat_port=p) for a in (ONE, TWO) for p in (80, 8080))
    translated = replace(tunnel, services=(VirtualService(WEB, pods),), translation_digest=table.digest)
    for state in (tunnel, translated, tunnel):
        edge.apply(diff_edge(state, None, edge.read(), table))
        assert diff_edge(state, None, edge.read(), table) == ()
        assert service(edge, WEB).destinations == state.services[0].destinations


def test_the_translation_comes_changes_and_goes(edge: EdgeDataPlane) -> None:
    table = TranslationTable(POOLS, frozenset({VIP, VIP6}))
    other = TranslationTable(POOLS, frozenset({VIP}))
    assert edge.read().translation_digest is None
    for wanted in (table, other):
        edge.apply([ReplaceTranslation(wanted)])
        assert edge.read().translation_digest == wanted.digest
    if is_kernel(edge):
        sh("iptables-legacy -t filter -D SAMEGATE-INPUT 1")
        assert edge.read().translation_digest is None
        edge.apply([ReplaceTranslation(other)])
    edge.apply([RemoveTranslation(), RemoveTranslation()])
    assert edge.read().translation_digest is None
    if is_kernel(edge):
        assert "SAMEGATE" not in sh("iptables-legacy-save -t nat") + sh("ip6tables-legacy-save -t filter")


def test_looking_at_a_node_without_translation_makes_no_table(edge: EdgeDataPlane) -> None:
    edge.apply([ReplaceFilter(FILTER)])
    edge.read()
    if is_kernel(edge):
        assert set(Path("/proc/thread-self/net/ip_tables_names").read_text().split()) == {"raw", "mangle"}


def test_flags_change_and_destinations_stay(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(DNS)), AddDestination(DNS, ONE, 1)])
    edge.apply([UpdateService(VirtualService(DNS, hash_source_port=False, one_packet=True))])
    assert service(edge, DNS) == VirtualService(DNS, (Destination(ONE),), hash_source_port=False, one_packet=True)
    edge.apply([UpdateService(VirtualService(DNS))])
    assert service(edge, DNS) == VirtualService(DNS, (Destination(ONE),))
    if is_kernel(edge):
        assert ipvs_services() == {"udp 203.0.113.1:53": "-s mh -b mh-fallback,mh-port"}


def test_destinations_and_services_go(edge: EdgeDataPlane) -> None:
    edge.apply([AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 1), AddDestination(WEB, TWO, 1), RemoveDestination(WEB, ONE)])
    assert [d.address for d in service(edge, WEB).destinations] == [TWO]
    edge.apply([RemoveService(WEB)])
    assert edge.read().services == ()


@pytest.mark.parametrize(
    "operation",
    [
        AddService(VirtualService(WEB)),
        AddDestination(WEB, ONE, 1),
        RemoveDestination(WEB, TWO),
        SetWeight(WEB, TWO, 1),
        RemoveService(DNS),
        AddDestination(DNS, ONE, 1),
    ],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'address', '')}",
)
def test_an_operation_that_the_kernel_refuses_is_named(edge: EdgeDataPlane, operation: Operation) -> None:
    edge.apply([AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 1)])
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


def test_timeouts_are_set(edge: EdgeDataPlane) -> None:
    edge.apply([SetTimeouts(IpvsTimeouts(600, 60, 20))])
    assert edge.read().timeouts == IpvsTimeouts(600, 60, 20)
    if is_kernel(edge):
        assert sh("ipvsadm -Ln --timeout").split() == ["Timeout", "(tcp", "tcpfin", "udp):", "600", "60", "20"]


def test_sysctls_are_set(edge: EdgeDataPlane) -> None:
    edge.apply([SetSysctl("net.ipv4.vs.sloppy_tcp", "1")])
    assert edge.read().sysctls["net.ipv4.vs.sloppy_tcp"] == "1"
    if is_kernel(edge):
        assert sh("sysctl -n net.ipv4.vs.sloppy_tcp").strip() == "1"


def test_the_filter_comes_changes_and_goes(edge: EdgeDataPlane) -> None:
    edge.apply([ReplaceFilter(FILTER)])
    assert edge.read().filter_digest == FILTER.digest
    other = EdgeFilter(POOLS, frozenset({DNS}))
    edge.apply([ReplaceFilter(other)])
    assert edge.read().filter_digest == other.digest
    edge.apply([RemoveFilter()])
    assert edge.read().filter_digest is None


def test_probe_routes_need_the_device_and_go_with_it(edge: EdgeDataPlane) -> None:
    with pytest.raises(Retry):
        edge.apply([AddProbeRoute(ROUTE)])
    edge.apply([AddProbeDevice(), AddProbeRoute(ROUTE)])
    state = edge.read()
    assert (state.probe_device, state.probe_routes) == (True, {ROUTE})
    moved = ProbeRoute(ROUTE.probe_address, TWO)
    edge.apply([AddProbeRoute(moved)])
    assert edge.read().probe_routes == {moved}
    if is_kernel(edge):
        assert f"encap ip id 0 src 198.18.0.11 dst {TWO}" in sh("ip route show dev sgprobe")
    edge.apply([RemoveProbeRoute(moved), RemoveProbeRoute(moved)])
    assert edge.read().probe_routes == frozenset()
    edge.apply([AddProbeRoute(ROUTE), RemoveProbeDevice(), RemoveProbeDevice()])
    state = edge.read()
    assert (state.probe_device, state.probe_routes) == (False, frozenset())


def everything() -> EdgeState:
    return EdgeState(
        sysctls={"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.vs.expire_nodest_conn": "1", "net.ipv4.vs.conn_reuse_mode": "1"},
        timeouts=IpvsTimeouts(),
        filter_digest=FILTER.digest,
        vips=frozenset({VIP, VIP6}),
        services=tuple(
            sorted(
                (
                    VirtualService(WEB, (Destination(ONE), Destination(TWO), Destination(THREE, drained=True))),
                    VirtualService(DNS, (Destination(ONE),), hash_source_port=False, one_packet=True),
                    VirtualService(WEB6, (Destination(TWO),)),
                ),
                key=lambda s: s.key.order,
            )
        ),
        probe_device=True,
        probe_routes=frozenset({ROUTE}),
    )


def test_the_diff_brings_everything_in_place_and_then_finds_nothing_to_do(edge: EdgeDataPlane) -> None:
    edge.apply(diff_edge(everything(), FILTER, edge.read()))
    assert edge.read() == everything()
    assert diff_edge(everything(), FILTER, edge.read()) == ()


def test_cleaning_takes_away_everything_of_ours(edge: EdgeDataPlane) -> None:
    edge.apply(diff_edge(everything(), FILTER, edge.read()))
    edge.clean()
    state = edge.read()
    assert (state.vips, state.services, state.filter_digest, state.probe_device) == (frozenset(), (), None, False)


def test_what_lies_outside_the_pools_is_neither_seen_nor_touched(edge: EdgeDataPlane) -> None:
    foreign = VirtualKey(ip_address("198.51.100.7"), Protocol.TCP, 80)
    edge.apply([AddService(VirtualService(foreign)), AddAddress(foreign.address)])
    assert (edge.read().services, edge.read().vips) == ((), frozenset())
    edge.clean()
    with pytest.raises(Retry):
        edge.apply([AddService(VirtualService(foreign))])
    if is_kernel(edge):
        assert loopback_addresses() == {foreign.address}
