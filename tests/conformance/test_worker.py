"""What every worker data plane does, in memory and in the kernel. In the kernel ``ip`` must agree."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lbnode.dataplane.base import WorkerDataPlane
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_worker
from lbnode.errors import Bug, Retry
from lbnode.model import Protocol, ReturnPath, Tunnel, VirtualKey, WorkerState
from lbnode.operations import (
    AddAddress,
    EnsureTunnel,
    RemoveAddress,
    RemoveDelivery,
    RemoveFilter,
    RemoveReturnPath,
    RemoveService,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    SetReturnPath,
)
from lbnode.packet_tables import Delivery, DeliveryTable, WorkerFilter
from tests.conformance.node import FAMILIES, POOLS, PROBE_NETWORKS, Family, loopback_addresses, new_namespace, sh

FILTER = WorkerFilter(POOLS, tuple(f.probe for f in FAMILIES), ((4, 1440), (6, 1400)))


PODS = tuple((ip_address(f"198.18.131.{n}"), 8080) for n in (5, 6, 7))
DELIVERIES = DeliveryTable(
    POOLS,
    (
        Delivery(VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80), PODS),
        Delivery(VirtualKey(ip_address("203.0.113.1"), Protocol.UDP, 53), PODS[:1], (ip_network("198.51.100.0/24"),)),
        Delivery(VirtualKey(ip_address("2001:db8:113::1"), Protocol.TCP, 80), ((ip_address("2001:db8:1::5"), 8080),)),
    ),
)


def east(family: Family) -> Tunnel:
    return Tunnel(family.edge(1), family.node)


def west(family: Family) -> Tunnel:
    return Tunnel(family.edge(2), family.node)


def way_back(family: Family, *group: Tunnel) -> ReturnPath:
    """By both edge nodes to themselves, by these for everything else."""
    both = frozenset({family.edge(1), family.edge(2)})
    taking = frozenset(t.edge_address for t in group) or both
    return ReturnPath(family.version, family.node, 0x2000, 100, 7310, edges=both, group=taking)


def is_kernel(plane: object) -> bool:
    return isinstance(plane, KernelWorker)


def test_a_fresh_worker_has_nothing_of_ours(worker: WorkerDataPlane) -> None:
    assert worker.read() == WorkerState(sysctls={"net.ipv4.ip_forward": "0"})


def test_tunnels_come_ready_and_repeating_is_harmless(worker: WorkerDataPlane, family: Family) -> None:
    tunnel = east(family)
    worker.apply([EnsureTunnel(tunnel), EnsureTunnel(west(family)), EnsureTunnel(tunnel)])
    assert worker.read().tunnels == {tunnel, west(family)}
    if is_kernel(worker):
        shown = sh(f"ip -d addr show dev {tunnel.device}")
        assert f"remote {tunnel.edge_address} local {family.node}" in shown
        assert ",UP" in shown
        if family.version == 4:
            assert "ipip ipip " in shown
            assert f"inet {family.node}/32" in shown
            assert sh(f"sysctl -n net.ipv4.conf.{tunnel.device}.rp_filter").strip() == "2"
        else:
            assert "ip6tnl ip6ip6 " in shown
            assert "encaplimit none" in shown
            assert "inet6" not in shown, "with a link-local address it would send reports into the tunnel"


def test_a_tunnel_goes_and_the_others_stay(worker: WorkerDataPlane) -> None:
    tunnels = [of(f) for f in FAMILIES for of in (east, west)]
    worker.apply([*map(EnsureTunnel, tunnels), *(RemoveTunnel(east(f).device) for f in (*FAMILIES, *FAMILIES))])
    assert worker.read().tunnels == {west(f) for f in FAMILIES}


def test_the_filter_comes_changes_and_goes(worker: WorkerDataPlane) -> None:
    worker.apply([ReplaceFilter(FILTER)])
    assert worker.read().filter_digest == FILTER.digest
    other = WorkerFilter(POOLS, (), ((4, 1200), (6, 1200)))
    worker.apply([ReplaceFilter(other)])
    assert worker.read().filter_digest == other.digest
    worker.apply([RemoveFilter()])
    assert worker.read().filter_digest is None


def test_the_delivery_comes_changes_and_goes_beside_the_filter(worker: WorkerDataPlane) -> None:
    worker.apply([ReplaceFilter(FILTER), ReplaceDelivery(DELIVERIES)])
    assert worker.read().delivery_digest == DELIVERIES.digest
    if is_kernel(worker):
        rules = sh("iptables-legacy-save -t nat")
        assert [f"--to-destination 198.18.131.{n}:8080" in rules for n in (5, 6, 7, 8)] == [True, True, True, False]
        assert "-s 198.51.100.0/24 -d 203.0.113.1/32 -p udp -m udp --dport 53" in rules
        assert "--to-destination [2001:db8:1::5]:8080" in sh("ip6tables-legacy-save -t nat")
    nothing = DeliveryTable(POOLS)
    worker.apply([ReplaceDelivery(nothing)])
    assert worker.read().delivery_digest == nothing.digest
    worker.apply([RemoveDelivery(), RemoveDelivery()])
    assert worker.read().delivery_digest is None
    assert worker.read().filter_digest == FILTER.digest
    if is_kernel(worker):
        assert "SAMEGATE" not in sh("iptables-legacy-save -t nat") + sh("ip6tables-legacy-save -t nat")


@pytest.mark.root
def test_new_endpoints_are_in_force_without_a_tool_that_lists_rules_and_every_word_is_read_the_next_time(
    kernel_worker: KernelWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    genuine = kernel_worker._delivery._call

    def note(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        started.append(command[0])
        return genuine(command, text)

    kernel_worker.apply([ReplaceDelivery(DELIVERIES)])
    kernel_worker.read()
    kernel_worker.read()
    monkeypatch.setattr(kernel_worker._delivery, "_call", note)
    fewer = replace(DELIVERIES, deliveries=DELIVERIES.deliveries[1:])
    kernel_worker.apply([ReplaceDelivery(fewer)])
    assert kernel_worker.read().delivery_digest == fewer.digest
    assert started == ["iptables-legacy-restore", "ip6tables-legacy-restore"]
    # Control: one word of one rule, which leaves the outline as it is.
    chain, rule = next(r for r in sh("iptables-legacy-save -t nat").splitlines() if "--dport 53" in r).split(" ", 2)[1:]
    sh(f"iptables-legacy -t nat -R {chain} 1 {rule.replace('--dport 53', '--dport 54')}")
    assert kernel_worker.read().delivery_digest is None


@pytest.mark.root
@pytest.mark.parametrize(("tool", "vip"), [("iptables-legacy", "203.0.113.9"), ("ip6tables-legacy", "2001:db8:113::9")])
def test_a_delivery_that_was_harmed_is_noticed_and_rules_of_others_are_none_of_ours(
    kernel_worker: KernelWorker, tool: str, vip: str
) -> None:
    kernel_worker.apply([ReplaceDelivery(DELIVERIES)])
    sh(f"{tool} -t nat -I PREROUTING -d {vip} -j RETURN")
    assert kernel_worker.read().delivery_digest == DELIVERIES.digest
    sh(f"{tool} -t nat -F SAMEGATE-PREROUTING")
    assert kernel_worker.read().delivery_digest is None


def test_the_way_back_comes_changes_and_goes_family_by_family(worker: WorkerDataPlane, family: Family) -> None:
    worker.apply([EnsureTunnel(of(f)) for f in FAMILIES for of in (east, west)])
    worker.apply([SetReturnPath(way_back(f)) for f in FAMILIES])
    assert worker.read().return_paths == {way_back(f) for f in FAMILIES}
    [other] = [f for f in FAMILIES if f != family]
    fewer = way_back(family, west(family))
    elsewhere = replace(fewer, mark_mask=0x40, rule_priority=90, route_table=300)
    for changed in (fewer, elsewhere, way_back(family)):
        worker.apply([SetReturnPath(changed), SetReturnPath(changed)])
        assert worker.read().return_paths == {changed, way_back(other)}
    if is_kernel(worker):
        rules = " ".join(sh(f"ip -{family.version} rule").split())
        assert "100: from all fwmark 0x2000/0x2000 lookup 7310" in rules
        assert "lookup 300" not in rules
        routes = sh(f"ip -{family.version} route show table 7310")
        assert "default nhid" in routes
        for tunnel in (east(family), west(family)):
            assert f"{tunnel.edge_address} dev {tunnel.device} " in routes
        ours = sh(f"ip -{family.version} route show table all proto 115").splitlines()
        assert len([line for line in ours if not line.startswith("\t")]) == 3, "members of the group are indented"
    worker.apply([RemoveReturnPath(family.version), RemoveReturnPath(family.version)])
    assert worker.read().return_paths == {way_back(other)}
    worker.clean()
    assert worker.read().return_paths == frozenset()
    if is_kernel(worker):
        assert sh("ip nexthop show") == ""


def test_a_way_back_by_a_tunnel_that_is_not_there_is_for_later(worker: WorkerDataPlane, family: Family) -> None:
    worker.apply([EnsureTunnel(east(family))])
    with pytest.raises(Retry, match=f"{family.edge(2)}"):
        worker.apply([SetReturnPath(way_back(family))])


def test_a_tunnel_that_goes_takes_its_part_of_the_way_back_with_it(worker: WorkerDataPlane, family: Family) -> None:
    worker.apply([EnsureTunnel(east(family)), EnsureTunnel(west(family)), SetReturnPath(way_back(family))])
    worker.apply([RemoveTunnel(east(family).device)])
    [left] = worker.read().return_paths
    assert (left.edges, left.group) == ({family.edge(2)}, {family.edge(2)})


def test_probe_addresses_come_and_go(worker: WorkerDataPlane, family: Family) -> None:
    worker.apply([AddAddress(family.probe), AddAddress(family.probe)])
    assert worker.read().probe_addresses == {family.probe}
    if is_kernel(worker):
        assert loopback_addresses() == {family.probe}
    worker.apply([RemoveAddress(family.probe), RemoveAddress(family.probe)])
    assert worker.read().probe_addresses == frozenset()


def test_addresses_outside_the_probe_network_are_not_seen(worker: WorkerDataPlane) -> None:
    worker.apply([AddAddress(ip_address("203.0.113.9"))])
    assert worker.read().probe_addresses == frozenset()


def test_an_operation_of_an_edge_node_is_a_bug(worker: WorkerDataPlane) -> None:
    with pytest.raises(Bug):
        worker.apply([RemoveService(VirtualKey(ip_address("203.0.113.9"), Protocol.TCP, 80))])


DESIRED = WorkerState(
    {"net.ipv4.ip_forward": "1"},
    FILTER.digest,
    frozenset(of(f) for f in FAMILIES for of in (east, west)),
    frozenset(f.probe for f in FAMILIES),
    DELIVERIES.digest,
    frozenset(map(way_back, FAMILIES)),
)


def test_the_diff_brings_everything_in_place_and_then_finds_nothing_to_do(worker: WorkerDataPlane) -> None:
    worker.apply(diff_worker(DESIRED, FILTER, worker.read(), DELIVERIES))
    assert worker.read() == DESIRED
    assert diff_worker(DESIRED, FILTER, worker.read(), DELIVERIES) == ()


def test_cleaning_takes_away_everything_of_ours(worker: WorkerDataPlane) -> None:
    worker.apply(diff_worker(DESIRED, FILTER, worker.read(), DELIVERIES))
    worker.clean()
    state = worker.read()
    assert (state.filter_digest, state.tunnels, state.probe_addresses) == (None, frozenset(), frozenset())
    assert (state.delivery_digest, state.return_paths) == (None, frozenset())
    if is_kernel(worker):
        assert sh("sysctl -n net.ipv4.ip_forward").strip() == "0"


@pytest.mark.root
def test_the_filter_of_a_family_whose_last_pool_is_gone_is_taken_away(tmp_path: Path) -> None:
    with new_namespace():
        former = KernelWorker(POOLS, PROBE_NETWORKS, record_directory=tmp_path)
        former.apply([ReplaceFilter(FILTER), ReplaceDelivery(DELIVERIES), EnsureTunnel(east(FAMILIES[1]))])
        former.close()
        now = KernelWorker(POOLS[:1], PROBE_NETWORKS, record_directory=tmp_path)
        only4 = WorkerFilter(POOLS[:1], (), ((4, 1440),))
        now.apply(diff_worker(WorkerState(filter_digest=only4.digest), only4, now.read()))
        assert "SAMEGATE" not in sh("ip6tables-legacy-save")
        assert "SAMEGATE" in sh("iptables-legacy-save")
        assert now.read().tunnels == frozenset()
        now.clean()
        assert "SAMEGATE" not in sh("iptables-legacy-save")
        now.close()


IPV4, IPV6 = FAMILIES
EAST, EAST6 = east(IPV4), east(IPV6)


@pytest.mark.root
@pytest.mark.parametrize(
    ("tunnel", "harm"),
    [
        (EAST, f"ip addr del {IPV4.node}/32 dev {EAST.device}"),
        (EAST, f"ip link set {EAST.device} down"),
        (EAST, f"sysctl -qw net.ipv4.conf.{EAST.device}.rp_filter=0"),
        (EAST, f"ip tunnel change {EAST.device} mode ipip local {IPV4.node} remote 198.18.0.99"),
        (EAST, f"ip link del {EAST.device}"),
        (EAST6, f"ip link set {EAST6.device} down"),
        (EAST6, f"sysctl -qw net.ipv6.conf.{EAST6.device}.disable_ipv6=1"),
        (
            EAST6,
            f"ip -6 tunnel change {EAST6.device} mode ip6ip6 local {IPV6.node} remote 2001:db8::99 encaplimit none",
        ),
        (
            EAST6,
            f"ip -6 tunnel change {EAST6.device} mode ip6ip6 local {IPV6.node} remote {EAST6.edge_address} encaplimit 4",
        ),
        (
            EAST6,
            f"ip -6 tunnel change {EAST6.device} mode any local {IPV6.node} remote {EAST6.edge_address} encaplimit none",
        ),
        (EAST6, f"ip link del {EAST6.device}"),
    ],
)
def test_a_tunnel_that_was_harmed_is_noticed_and_mended(kernel_worker: KernelWorker, tunnel: Tunnel, harm: str) -> None:
    desired = WorkerState(tunnels=frozenset({tunnel}))
    kernel_worker.apply(diff_worker(desired, None, kernel_worker.read()))
    sh(harm)
    assert kernel_worker.read() != desired
    kernel_worker.apply(diff_worker(desired, None, kernel_worker.read()))
    assert kernel_worker.read() == desired
    assert f"remote {tunnel.edge_address} local {tunnel.node_address}" in sh(f"ip -d link show dev {tunnel.device}")


@pytest.mark.root
@pytest.mark.parametrize(("tunnel", "device"), [(EAST, "tunl0"), (EAST6, "ip6tnl0")])
def test_the_device_that_unwraps_for_anybody_is_warned_of(
    kernel_worker: KernelWorker, tunnel: Tunnel, device: str
) -> None:
    kernel_worker.apply([EnsureTunnel(tunnel)])
    assert kernel_worker.warnings() == ()
    sh(f"ip link set {device} up")
    (warning,) = kernel_worker.warnings()
    assert device in warning
