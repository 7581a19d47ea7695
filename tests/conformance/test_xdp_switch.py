"""From one data plane to the other on one node: by an agent that clears before it ends, and by one that dies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.errors import ConfigError
from lbnode.model import Destination, EdgeState, IpvsTimeouts, Protocol, Remains, VirtualKey, VirtualService
from lbnode.packet_tables import EdgeFilter
from tests.conformance.node import IPV4, POOLS, SYSCTLS, loopback_addresses, new_namespace, sh
from tests.conformance.xdp import bpf_file_system, xdp_node
from tools.bpf import CLANG, OUTPUT

pytestmark = pytest.mark.root

WEB = VirtualKey(IPV4.vip, Protocol.TCP, 80)
FILTER = EdgeFilter(POOLS, frozenset({WEB}))
WANTED = EdgeState(
    timeouts=IpvsTimeouts(600, 60, 20),
    filter_digest=FILTER.digest,
    vips=frozenset({IPV4.vip}),
    services=(VirtualService(WEB, (Destination(IPV4.worker(1)), Destination(IPV4.worker(2)))),),
    probe_devices=frozenset({4}),
)


@pytest.fixture(scope="module")
def built() -> Path:
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    return OUTPUT / "samegate.bpf.o"


class Node:
    """A node on which agents with either data plane come and go."""

    def __init__(self, built: Path, folder: Path, pins: Path) -> None:
        self.built, self.records, self.pins = built, folder / "record", pins

    def ipvs(self, stack: ExitStack, pins: Path | None = None) -> KernelEdge:
        plane = KernelEdge(POOLS, sysctls=SYSCTLS, record_directory=self.records, pins=pins or self.pins)
        stack.callback(plane.close)
        return plane

    def xdp(self, stack: ExitStack) -> KernelEdge:
        return stack.enter_context(xdp_node(self.built, self.records, self.pins, devices=("eth0",))).plane


@pytest.fixture
def node(built: Path, tmp_path: Path) -> Iterator[Node]:
    with new_namespace(), bpf_file_system(tmp_path / "bpf") as mounted:
        yield Node(built, tmp_path, mounted / "samegate")


def serve(plane: KernelEdge) -> None:
    plane.apply(diff_edge(WANTED, FILTER, plane.read()))


def has_program() -> bool:
    return "prog/xdp" in sh("ip -d link show dev eth0")


def loses_its_program() -> bool:
    """The kernel takes a program off its device some time after the last that held it."""
    for _ in range(50):
        if not has_program():
            return True
        time.sleep(0.1)
    return False


def test_services_of_an_ipvs_agent_that_died_are_not_xdps_and_go_once_xdp_serves(node: Node) -> None:
    with ExitStack() as first:
        before = sh("ipvsadm -Ln --timeout")
        serve(node.ipvs(first))
    with ExitStack() as second:
        plane = node.xdp(second)
        found = plane.read()
        assert (found.services, found.remains) == ((), frozenset({Remains("ipvs")}))
        serve(plane)
        assert sh("ipvsadm -Sn") == ""
        assert sh("ipvsadm -Ln --timeout") == before
        now = plane.read()
        assert ({s.key for s in now.services}, now.remains) == ({WEB}, frozenset())
        assert diff_edge(WANTED, FILTER, now) == ()


def test_the_program_of_an_xdp_agent_that_died_goes_once_ipvs_serves(node: Node) -> None:
    with ExitStack() as first:
        serve(node.xdp(first))
    assert has_program()
    with ExitStack() as second:
        plane = node.ipvs(second)
        assert plane.read().remains == {Remains("xdp", "eth0")}
        serve(plane)
        assert loses_its_program()
        assert str(IPV4.worker(1)) in sh("ipvsadm -Sn")
        assert diff_edge(WANTED, FILTER, plane.read()) == ()


def test_an_ipvs_agent_without_the_bpf_file_system_serves_beside_the_program_and_says_how_to_remove_it(
    node: Node, tmp_path: Path
) -> None:
    with ExitStack() as first:
        serve(node.xdp(first))
    with ExitStack() as second:
        plane = node.ipvs(second, tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="rm -r /sys/fs/bpf/samegate"):
            serve(plane)
        assert str(IPV4.worker(1)) in sh("ipvsadm -Sn")
        assert plane.read().remains == {Remains("xdp", "eth0")}
        # What the message says, here in its place.
        shutil.rmtree(node.pins)
        assert loses_its_program()
        assert plane.read().remains == frozenset()


@pytest.mark.parametrize("first_is", ["ipvs", "xdp"])
def test_an_agent_that_clears_leaves_what_the_next_one_needs_and_nothing_that_balances(
    node: Node, first_is: str
) -> None:
    with ExitStack() as first:
        before = sh("ipvsadm -Ln --timeout")
        plane = node.ipvs(first) if first_is == "ipvs" else node.xdp(first)
        serve(plane)
        plane.clear()
        assert loopback_addresses() == set()
        assert plane.read().filter_digest == FILTER.digest
        assert plane.read().probe_devices == {4}
    assert sh("ipvsadm -Sn") == ""
    assert sh("ipvsadm -Ln --timeout") == before
    assert loses_its_program()
    with ExitStack() as second:
        plane = node.xdp(second) if first_is == "ipvs" else node.ipvs(second)
        assert plane.read().remains == frozenset()
        serve(plane)
        assert diff_edge(WANTED, FILTER, plane.read()) == ()


def test_the_state_of_an_xdp_agent_is_gone_when_an_ipvs_agent_cleans(node: Node) -> None:
    with ExitStack() as first:
        serve(node.xdp(first))
    with ExitStack() as second:
        node.ipvs(second).clean()
    assert loses_its_program()
    assert not node.pins.exists()
    assert loopback_addresses() == set()
