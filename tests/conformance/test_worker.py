"""What every worker data plane does, in memory and in the kernel. In the kernel ``ip`` must agree."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from lbnode.dataplane.base import WorkerDataPlane
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_worker
from lbnode.errors import Bug
from lbnode.model import (
    AddAddress,
    EnsureTunnel,
    Protocol,
    RemoveAddress,
    RemoveFilter,
    RemoveService,
    RemoveTunnel,
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


DESIRED = WorkerState({"net.ipv4.ip_forward": "1"}, FILTER.digest, frozenset({EAST, WEST}), frozenset({PROBE}))


def test_the_diff_brings_everything_in_place_and_then_finds_nothing_to_do(worker: WorkerDataPlane) -> None:
    worker.apply(diff_worker(DESIRED, FILTER, worker.read()))
    assert worker.read() == DESIRED
    assert diff_worker(DESIRED, FILTER, worker.read()) == ()


def test_cleaning_takes_away_everything_of_ours(worker: WorkerDataPlane) -> None:
    worker.apply(diff_worker(DESIRED, FILTER, worker.read()))
    worker.clean()
    state = worker.read()
    assert (state.filter_digest, state.tunnels, state.probe_addresses) == (None, frozenset(), frozenset())
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
