"""What every worker data plane does, in memory and in the kernel. In the kernel ``ip`` must agree."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from lbnode.dataplane.base import WorkerDataPlane
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_worker
from lbnode.errors import Bug
from lbnode.model import (
    AddAddress,
    Delivery,
    DeliveryTable,
    EnsureTunnel,
    Protocol,
    RemoveAddress,
    RemoveDelivery,
    RemoveFilter,
    RemoveService,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    Tunnel,
    VirtualKey,
    WorkerFilter,
    WorkerState,
)
from tests.conformance.node import NODE, POOLS, loopback_addresses, sh

PROBE = ip_address("192.0.2.11")
EAST, WEST = (Tunnel(ip_address(a), NODE) for a in ("198.18.0.31", "198.18.0.32"))
FILTER = WorkerFilter(POOLS, (PROBE,), ((4, 1440), (6, 1400)))
PODS = tuple((ip_address(f"198.18.131.{n}"), 8080) for n in (5, 6, 7))
DELIVERIES = DeliveryTable(
    POOLS,
    (
        Delivery(VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80), PODS),
        Delivery(VirtualKey(ip_address("203.0.113.1"), Protocol.UDP, 53), PODS[:1], (ip_network("198.51.100.0/24"),)),
        Delivery(VirtualKey(ip_address("2001:db8:113::1"), Protocol.TCP, 80), ((ip_address("2001:db8:1::5"), 8080),)),
    ),
)


def is_kernel(plane: object) -> bool:
    return isinstance(plane, KernelWorker)


def test_a_fresh_worker_has_nothing_of_ours(worker: WorkerDataPlane) -> None:
    assert worker.read() == WorkerState(sysctls={"net.ipv4.ip_forward": "0"})


def test_tunnels_come_ready_and_repeating_is_harmless(worker: WorkerDataPlane) -> None:
    worker.apply([EnsureTunnel(EAST), EnsureTunnel(WEST), EnsureTunnel(EAST)])
    assert worker.read().tunnels == {EAST, WEST}
    if is_kernel(worker):
        shown = sh(f"ip -d addr show dev {EAST.device}")
        assert f"ipip ipip remote {EAST.edge_address} local {NODE}" in shown
        assert f"inet {NODE}/32" in shown and ",UP" in shown
        assert sh(f"sysctl -n net.ipv4.conf.{EAST.device}.rp_filter").strip() == "2"


def test_a_tunnel_goes_and_the_others_stay(worker: WorkerDataPlane) -> None:
    worker.apply([EnsureTunnel(EAST), EnsureTunnel(WEST), RemoveTunnel(EAST.device), RemoveTunnel(EAST.device)])
    assert worker.read().tunnels == {WEST}


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
def test_a_delivery_that_was_harmed_is_noticed_and_rules_of_others_are_none_of_ours(
    kernel_worker: KernelWorker,
) -> None:
    kernel_worker.apply([ReplaceDelivery(DELIVERIES)])
    sh("iptables-legacy -t nat -I PREROUTING -d 203.0.113.9/32 -j RETURN")
    assert kernel_worker.read().delivery_digest == DELIVERIES.digest
    sh("iptables-legacy -t nat -F SAMEGATE-PREROUTING")
    assert kernel_worker.read().delivery_digest is None


def test_probe_addresses_come_and_go(worker: WorkerDataPlane) -> None:
    worker.apply([AddAddress(PROBE), AddAddress(PROBE)])
    assert worker.read().probe_addresses == {PROBE}
    if is_kernel(worker):
        assert loopback_addresses() == {PROBE}
    worker.apply([RemoveAddress(PROBE), RemoveAddress(PROBE)])
    assert worker.read().probe_addresses == frozenset()


def test_addresses_outside_the_probe_network_are_not_seen(worker: WorkerDataPlane) -> None:
    worker.apply([AddAddress(ip_address("203.0.113.9"))])
    assert worker.read().probe_addresses == frozenset()


def test_an_operation_of_an_edge_node_is_a_bug(worker: WorkerDataPlane) -> None:
    with pytest.raises(Bug):
        worker.apply([RemoveService(VirtualKey(ip_address("203.0.113.9"), Protocol.TCP, 80))])


DESIRED = WorkerState(
    {"net.ipv4.ip_forward": "1"}, FILTER.digest, frozenset({EAST, WEST}), frozenset({PROBE}), DELIVERIES.digest
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
    assert state.delivery_digest is None
    if is_kernel(worker):
        assert sh("sysctl -n net.ipv4.ip_forward").strip() == "0"


@pytest.mark.root
@pytest.mark.parametrize(
    "harm",
    [
        f"ip addr del {NODE}/32 dev {EAST.device}",
        f"ip link set {EAST.device} down",
        f"sysctl -qw net.ipv4.conf.{EAST.device}.rp_filter=0",
        f"ip tunnel change {EAST.device} mode ipip local {NODE} remote 198.18.0.99",
        f"ip link del {EAST.device}",
    ],
)
def test_a_tunnel_that_was_harmed_is_noticed_and_mended(kernel_worker: KernelWorker, harm: str) -> None:
    desired = WorkerState(tunnels=frozenset({EAST}))
    kernel_worker.apply(diff_worker(desired, None, kernel_worker.read()))
    sh(harm)
    assert kernel_worker.read() != desired
    kernel_worker.apply(diff_worker(desired, None, kernel_worker.read()))
    assert kernel_worker.read() == desired
    assert f"remote {EAST.edge_address} local {NODE}" in sh(f"ip -d link show dev {EAST.device}")


@pytest.mark.root
def test_the_device_that_unwraps_for_anybody_is_warned_of(kernel_worker: KernelWorker) -> None:
    kernel_worker.apply([EnsureTunnel(EAST)])
    assert kernel_worker.warnings() == ()
    sh("ip link set tunl0 up")
    assert "tunl0" in kernel_worker.warnings()[0]
