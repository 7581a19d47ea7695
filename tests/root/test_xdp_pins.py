"""The XDP data plane through restarts of the agent, changes of the program, and input that it refuses; run by this machine's own kernel."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from lbnode.dataplane.libbpf import Run
from lbnode.dataplane.xdp_program import PROGRAM, Mode, Sizes
from lbnode.dataplane.xdp_records import Drop
from lbnode.dataplane.xdp_state import XdpState
from lbnode.diff import diff_edge
from lbnode.errors import ConfigError, Retry
from lbnode.model import Destination, EdgeState, IpvsTimeouts, Protocol, VirtualKey, VirtualService
from lbnode.operations import (
    AddDestination,
    AddService,
    AttachPrograms,
    RemoveDestination,
    RemoveService,
    ReplaceFilter,
    SetTimeouts,
    SetWeight,
)
from lbnode.packet_tables import EdgeFilter
from tests.conformance.node import IPV4, POOLS, new_namespace, sh
from tests.conformance.xdp import XdpNode, bpf_file_system, xdp_node
from tests.root.xdp_model import DROP, TX
from tools.bpf import CLANG, build

pytestmark = pytest.mark.root

WEB = VirtualKey(IPV4.vip, Protocol.TCP, 80)
DNS = VirtualKey(IPV4.vip, Protocol.UDP, 53)
#: So many sets that no flow of these tests has to give way to another one.
SIZES = Sizes(vip_places=256, services=31, destinations=255, flow_sets=4096)
ONE, TWO, THREE = (IPV4.worker(n) for n in (1, 2, 3))
TWO_WORKERS = [AddService(VirtualService(WEB)), AddDestination(WEB, ONE, 1), AddDestination(WEB, TWO, 1)]


@pytest.fixture(scope="module")
def built() -> Path:
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    return build()


class Machine:
    """A node on which agents come and go."""

    def __init__(self, built: Path, folder: Path, pins: Path) -> None:
        self.built = built
        self.folder = folder
        self.pins = pins / "samegate"

    def agent(self, stack: ExitStack, sizes: Sizes = SIZES, mode: Mode | None = None, device: str = "eth0") -> XdpNode:
        node = xdp_node(self.built, self.folder / "record", self.pins, devices=(device,), sizes=sizes, mode=mode)
        return stack.enter_context(node)


@pytest.fixture
def machine(built: Path, tmp_path: Path) -> Iterator[Machine]:
    # Each processor has a table of flows of its own, and the scheduler would have packets of a flow come to both.
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    with new_namespace(), bpf_file_system(tmp_path / "bpf") as pins:
        sh("sysctl -qw net.ipv4.ip_forward=1")
        for number, worker in enumerate((ONE, TWO, THREE), 1):
            sh(f"ip neigh add {worker} lladdr 02:00:00:00:01:{number:02} dev eth0 nud permanent")
        yield Machine(built, tmp_path, pins)
    os.sched_setaffinity(0, processors)


def send(node: XdpNode, port: int, flags: str = "A") -> Run:
    packet = Ether(src="02:00:00:00:00:fe", dst="02:00:00:00:00:01") / IP(src="10.1.2.3", dst=str(WEB.address))
    segment = bytes(packet / TCP(sport=port, dport=80, flags=flags))
    return node.loaded.run(PROGRAM, segment, device=socket.if_nametoindex("eth0"))


def worker(run: Run) -> str:
    assert run.verdict == TX
    return str(ip_address(run.packet[30:34]))


def remake_eth0() -> None:
    """As when its driver is loaded anew."""
    sh("ip link del eth0")
    sh("ip link add eth0 type veth peer name peer0")
    sh(f"ip addr add {IPV4.node}/{IPV4.prefix_length} dev eth0")
    sh("ip link set eth0 up")
    sh("ip link set peer0 up")


def program_number() -> str:
    """The program at the device, as ip shows it."""
    words = sh("ip -d link show dev eth0").split()
    return words[words.index("prog/xdp") + 2] if "prog/xdp" in words else ""


def test_an_agent_that_starts_again_finds_all_that_the_one_before_left(machine: Machine) -> None:
    limits = frozenset({(WEB, ip_network("10.0.0.0/8"))})
    with ExitStack() as first:
        node = machine.agent(first)
        node.plane.apply(
            [ReplaceFilter(EdgeFilter(POOLS, frozenset({WEB}), limited=limits)), SetTimeouts(IpvsTimeouts(600, 60, 20))]
        )
        node.plane.apply([*TWO_WORKERS, SetWeight(WEB, TWO, 0), AddService(VirtualService(DNS, one_packet=True))])
        for port in range(100):
            send(node, 1000 + port)
        before, counted = node.plane.read(), node.plane.traffic([WEB])
    with ExitStack() as second:
        node = machine.agent(second)
        assert (node.plane.read(), node.plane.traffic([WEB])) == (before, counted)
        assert sum(t.total.received_packets for t in counted) == 100
        assert node.state.limited() == limits


def test_hits_and_drops_are_told_and_the_next_agent_tells_them_too(machine: Machine) -> None:
    fragment = bytes(
        Ether(src="02:00:00:00:00:fe", dst="02:00:00:00:00:01")
        / IP(src="10.1.2.3", dst=str(WEB.address), flags="MF")
        / TCP(sport=1000, dport=80, flags="A")
    )
    with ExitStack() as first:
        node = machine.agent(first)
        node.plane.apply(TWO_WORKERS)
        for port in (*range(1000, 1050), *range(1000, 1050), 1000):
            send(node, port)
        for _ in range(3):
            node.loaded.run(PROGRAM, fragment, device=socket.if_nametoindex("eth0"))
    with ExitStack() as second:
        node = machine.agent(second)
        assert sum(t.total.table_hits or 0 for t in node.plane.traffic([WEB])) == 51
        told = node.plane.drops()
        assert {at: count for at, count in told.items() if count} == {(WEB, "Fragment"): 3}
        assert {reason for _, reason in told} == {drop.reason for drop in Drop}
        node.plane.apply([RemoveService(WEB)])
        node.plane.apply([AddService(VirtualService(DNS))])
        assert not any(node.plane.drops().values()), "a number that is used again begins at nothing"


def test_a_known_flow_stays_with_a_worker_that_drains_also_after_a_restart(machine: Machine) -> None:
    ports = range(1000, 1200)
    with ExitStack() as first:
        node = machine.agent(first)
        node.plane.apply(TWO_WORKERS)
        chosen = {port: worker(send(node, port)) for port in ports}
        assert set(chosen.values()) == {str(ONE), str(TWO)}
    with ExitStack() as second:
        node = machine.agent(second)
        node.plane.apply([SetWeight(WEB, TWO, 0)])
        assert {port: worker(send(node, port)) for port in ports} == chosen
        assert {worker(send(node, port)) for port in range(5000, 5100)} == {str(ONE)}
        assert {worker(send(node, port, "S")) for port in ports} == {str(ONE)}, "a connection that opens is new"


def test_flows_of_a_worker_that_is_gone_are_nobodys_and_its_place_inherits_none(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        node.plane.apply(TWO_WORKERS)
        kept = [port for port in range(1000, 1200) if worker(send(node, port)) == str(ONE)]
        node.plane.apply([RemoveDestination(WEB, TWO)])
        assert {worker(send(node, port)) for port in range(1000, 1200)} == {str(ONE)}
        node.plane.apply([AddDestination(WEB, THREE, 1)])
        assert {worker(send(node, port)) for port in kept} == {str(ONE)}


def test_a_flow_that_another_node_saw_open_goes_where_it_went_there(machine: Machine) -> None:
    """The ring alone decides for a flow that is not in the table."""
    places = []
    for order in ([ONE, TWO, THREE], [THREE, ONE, TWO]):
        with ExitStack() as stack:
            node = machine.agent(stack)
            node.plane.apply([AddService(VirtualService(WEB)), *(AddDestination(WEB, w, 1) for w in order)])
            places.append([worker(send(node, port)) for port in range(1000, 1100)])
            node.plane.clean()
    assert places[0] == places[1]


def test_the_program_is_replaced_under_traffic_and_no_packet_passes_it_by(machine: Machine) -> None:
    """The kernel would answer a packet that is not seen by the program, and nothing here would count it."""
    sent, ending = 0, threading.Event()
    with ExitStack() as stack:
        node = machine.agent(stack, mode=Mode.NATIVE)
        node.plane.apply([AddService(VirtualService(DNS)), AddDestination(DNS, ONE, 1)])
        mac = Path("/sys/class/net/eth0/address").read_text().strip()
        packet = Ether(src="02:00:00:00:00:fe", dst=mac) / IP(src="10.1.2.3", dst=str(DNS.address))
        frame = bytes(packet / UDP(sport=1000, dport=53) / b"question")
        # A socket belongs to the namespace that it was made in, so any thread can send by it.
        sender = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        sender.bind(("peer0", 0))

        def flood() -> None:
            nonlocal sent
            while not ending.is_set():
                sender.send(frame)
                sent += 1

        thread = threading.Thread(target=flood)
        thread.start()
        numbers = set()
        for _ in range(5):
            with ExitStack() as other:
                machine.agent(other)
                numbers.add(program_number())
        ending.set()
        thread.join()
        assert len(numbers) == 5
        for _ in range(100):
            counted = node.plane.traffic([DNS])[0].total.received_packets
            if counted == sent:
                break
            ending.wait(0.05)
            ending.clear()
            ending.wait(0.05)
        assert counted == sent > 100


def test_maps_of_another_size_begin_anew_and_the_former_ones_go(machine: Machine) -> None:
    with ExitStack() as first:
        machine.agent(first).plane.apply(TWO_WORKERS)
        former = [p.name for p in machine.pins.iterdir() if p.is_dir()]
    with ExitStack() as second:
        node = machine.agent(second, sizes=Sizes(vip_places=256, services=31, destinations=127, flow_sets=256))
        assert node.plane.read().services == ()
        assert len([p for p in machine.pins.iterdir() if p.is_dir()]) == 1
        assert not [p for p in machine.pins.iterdir() if p.name in former]


def test_cleaning_takes_the_program_from_its_device_and_all_that_is_pinned(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        node.plane.apply(TWO_WORKERS)
        assert program_number()
        node.plane.clean()
    assert not program_number()
    assert not machine.pins.exists()


def test_a_device_that_was_made_anew_is_noticed_and_has_the_program_again(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        node.plane.apply(TWO_WORKERS)
        before = program_number()
        remake_eth0()
        assert program_number() == ""
        found = node.plane.read()
        assert found.lost_programs == {"eth0"}
        node.plane.apply(diff_edge(replace(found, lost_programs=frozenset()), None, found))
        assert program_number() == before != ""
        assert node.plane.read().lost_programs == frozenset()
    assert program_number() == before, "it is pinned as before"


def test_a_device_that_is_away_is_named_until_it_is_back(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        sh("ip link del eth0")
        for _ in range(2):
            assert node.plane.read().lost_programs == {"eth0"}
            with pytest.raises(ConfigError, match="network device eth0: there is none here"):
                node.plane.apply([AttachPrograms(frozenset({"eth0"}))])
        sh("ip link add eth0 type veth peer name peer0")
        node.plane.apply([AttachPrograms(frozenset({"eth0"}))])
        assert node.plane.read().lost_programs == frozenset()


def test_a_program_of_others_that_came_meanwhile_is_named_and_left_alone(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        remake_eth0()
        sh(f"ip link set dev eth0 xdp obj {machine.built} sec xdp")
        theirs = program_number()
        assert node.plane.read().lost_programs == {"eth0"}
        with pytest.raises(ConfigError, match="another XDP program is at it"):
            node.plane.apply([AttachPrograms(frozenset({"eth0"}))])
        assert program_number() == theirs != ""


@pytest.mark.parametrize("at_work", [False, True], ids=["first start", "at work before"])
def test_an_agent_that_one_of_its_devices_fails_leaves_the_others_as_they_were(machine: Machine, at_work: bool) -> None:
    sh("ip link add eth1 type veth peer name peer1")
    if at_work:
        with ExitStack() as first:
            machine.agent(first)
    before = program_number()
    assert bool(before) is at_work
    sh(f"ip link set dev eth1 xdp obj {machine.built} sec xdp")
    with ExitStack() as second, pytest.raises(ConfigError, match="network device eth1: another XDP program is at it"):
        second.enter_context(
            xdp_node(machine.built, machine.folder / "record", machine.pins, devices=("eth0", "eth1"), sizes=SIZES)
        )
    assert program_number() == before
    assert {p.name for p in machine.pins.glob("link-*")} == ({"link-eth0"} if at_work else set())


def test_a_write_that_was_broken_off_is_noticed_and_mended(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = VirtualService(
        WEB, tuple(sorted([Destination(ONE), Destination(TWO), Destination(THREE)], key=lambda d: d.order))
    )

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with ExitStack() as first:
        node = machine.agent(first)
        node.plane.apply(TWO_WORKERS)
        before = {port: worker(send(node, port)) for port in range(1000, 1100)}
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            broken.setattr(XdpState, "_swap", dies)
            node.plane.apply([AddDestination(WEB, THREE, 1)])
    with ExitStack() as second:
        node = machine.agent(second)
        assert not node.plane.read().services[0].intact
        assert {port: worker(send(node, port)) for port in before} == before, "known flows go on"
        desired = EdgeState(timeouts=node.plane.read().timeouts, services=(wanted,))
        node.plane.apply(diff_edge(desired, None, node.plane.read()))
        assert node.plane.read().services == (wanted,)
        assert {port: worker(send(node, port)) for port in before} == before


def test_a_device_that_is_not_there_is_named_with_those_that_are(machine: Machine) -> None:
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"network device eth7: .* Name one of: .*eth0"):
        machine.agent(stack, device="eth7")


def test_another_program_at_the_device_is_named_and_left_alone(machine: Machine) -> None:
    with ExitStack() as stranger:
        stranger.enter_context(xdp_node(machine.built, machine.folder / "other", None, devices=("eth0",)))
        before = program_number()
        with (
            ExitStack() as stack,
            pytest.raises(ConfigError, match=rf"another XDP program is at it \(number {before}\)"),
        ):
            machine.agent(stack)
        assert program_number() == before != ""


def test_a_folder_that_is_in_no_bpf_file_system_is_refused_with_the_command_that_mounts_one(
    built: Path, tmp_path: Path
) -> None:
    with new_namespace(), ExitStack() as stack, pytest.raises(ConfigError, match="mount -t bpf"):
        stack.enter_context(xdp_node(built, tmp_path / "record", tmp_path / "plain"))


def test_a_program_that_the_device_takes_in_generic_mode_only_says_why_not_natively(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack, device="lo")
        assert (node.attached[0].mode, bool(node.attached[0].reason)) == (Mode.GENERIC, True)


def test_native_mode_that_cannot_be_had_is_refused(machine: Machine) -> None:
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"network device lo: .*native mode"):
        machine.agent(stack, device="lo", mode=Mode.NATIVE)


def test_more_than_the_maps_hold_is_refused_and_what_was_served_goes_on(machine: Machine) -> None:
    small = Sizes(vip_places=64, services=2, destinations=3, flow_sets=64)
    with ExitStack() as stack:
        node = machine.agent(stack, sizes=small)
        node.plane.apply(TWO_WORKERS)
        before = node.plane.read()
        keys = [VirtualKey(IPV4.vip, Protocol.TCP, 1000 + n) for n in range(2)]
        with pytest.raises(ConfigError, match=r"3 services: .* hold 2"):
            node.plane.apply([AddService(VirtualService(k)) for k in keys])
        with pytest.raises(ConfigError, match=r"4 destinations: .* hold 3"):
            node.plane.apply([AddDestination(WEB, IPV4.worker(n), 1) for n in (3, 4)])
        assert node.plane.read() == before
        assert worker(send(node, 1000)) in (str(ONE), str(TWO))


def test_a_worker_that_no_route_leads_to_is_named_and_the_others_are_served(machine: Machine) -> None:
    sh("ip -6 route flush all")
    sh("ip -6 addr flush dev eth0")
    with ExitStack() as stack:
        node = machine.agent(stack)
        node.plane.apply(TWO_WORKERS[:2])
        with pytest.raises(ConfigError, match="worker 2001:db8:9::9: this node has no IPv6 address"):
            node.plane.apply([AddDestination(WEB, ip_address("2001:db8:9::9"), 1)])
        assert worker(send(node, 1000)) == str(ONE)


def test_operations_before_one_that_is_refused_are_done(machine: Machine) -> None:
    with ExitStack() as stack:
        node = machine.agent(stack)
        with pytest.raises(Retry, match="RemoveService"):
            node.plane.apply([*TWO_WORKERS, RemoveService(DNS)])
        assert [s.key for s in node.plane.read().services] == [WEB]
        assert send(node, 1000).verdict == TX
        node.plane.apply([RemoveDestination(WEB, ONE), RemoveDestination(WEB, TWO)])
        assert send(node, 1000).verdict == DROP
