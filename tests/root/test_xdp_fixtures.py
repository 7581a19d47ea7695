"""Single packets through the XDP program, run by the kernel itself; nothing leaves the machine."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from bench.xdp_rig import network
from lbnode.dataplane.libbpf import Object, Run
from lbnode.dataplane.xdp import XdpBalancer
from lbnode.dataplane.xdp_program import PROGRAM, Attachment, Sizes, kernel_hertz, load_program
from lbnode.dataplane.xdp_records import Drop, LinkRecord, Tag, limits, timeouts
from lbnode.dataplane.xdp_state import XdpState
from lbnode.operations import AddDestination, AddService
from tests.root.xdp_fixtures import (
    CUT_OFF,
    EDGE,
    EDGE6,
    FIXTURES,
    LIMITS,
    MTU,
    ROUTER,
    SERVICES,
    US,
    WEB_WORKER,
    Answered,
    Dropped,
    Outcome,
    Passes,
    Tunnelled,
    came,
    to_web,
)
from tests.root.xdp_model import Model, Said
from tools.bpf import CLANG, build

pytestmark = pytest.mark.root

DROP, PASS, TX, REDIRECT = 1, 2, 3, 4  # enum xdp_action of linux/bpf.h
SIZES = Sizes(vip_places=64, services=15, destinations=31, flow_sets=64)


class Edge:
    """The program with the services of the fixtures."""

    def __init__(self, loaded: Object, device: int, state: XdpState, balancer: XdpBalancer) -> None:
        self.loaded = loaded
        self.device = device
        self.state = state
        self.balancer = balancer

    def run(self, packet: bytes) -> Run:
        return self.loaded.run(PROGRAM, packet, device=self.device)

    def drops(self) -> dict[Drop, int]:
        """Of all services together, from the raw map: seven counters of 64 bits for each service and processor."""
        raw = [v for n in range(SIZES.services + 1) for v in self.loaded.map("drops").each_processor(n)]
        return {d: sum(int.from_bytes(v[8 * d : 8 * d + 8], "little") for v in raw) for d in Drop}

    def drops_of(self, address: str) -> dict[str, int]:
        """Of all services of an address, as the agent tells them, by the reasons that were met."""
        found = Counter[str]()
        for (key, reason), count in self.balancer.drops().items():
            if key is not None and str(key.address) == address:
                found[reason] += count
        return dict(+found)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with serving(None) as found:
        yield found


@contextmanager
def serving(pins: Path | None) -> Iterator[Edge]:
    """The program with the services of the fixtures, and ``pins`` as in :func:`lbnode.dataplane.xdp_program.load_program`."""
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    hertz = kernel_hertz()
    # As many messages as there are tests, which may all run in one jiffy.
    constants = limits(SIZES.vip_places, SIZES.flow_sets, MTU, hertz)
    constants.messages = 1 << 30
    with network() as device:
        loaded, folder = load_program(build(), SIZES, constants, pins)
        with loaded:
            loaded.map("timeouts")[0] = timeouts(900, 120, 30, hertz)
            state = XdpState(loaded, SIZES, hertz, folder)
            balancer = XdpBalancer([], state, Attachment(None, None))
            balancer.limit(LIMITS)
            for service in SERVICES:
                added = [AddDestination(service.key, d.address, d.weight) for d in service.destinations]
                balancer.apply([AddService(replace(service, destinations=())), *added])
            yield Edge(loaded, device, state, balancer)
            balancer.close()


def tunnelled(packet: Packet, worker: str) -> bytes:
    """As RFC 2003 and RFC 2473 have it: the class copied, 64 hops, and by IPv4 not to be fragmented."""
    inner = packet.payload
    while isinstance(inner, Dot1Q | Dot1AD):
        inner = inner.payload
    traffic_class = inner.tos if isinstance(inner, IP) else inner.tc
    if ip_address(worker).version == 4:
        outer = IP(src=EDGE, dst=worker, id=0, flags="DF", ttl=64, tos=traffic_class)
    else:
        outer = IPv6(src=EDGE6, dst=worker, hlim=64, tc=traffic_class)
    return bytes(Ether(src=US, dst=ROUTER) / outer / inner)


def expected(packet: Packet, outcome: Outcome) -> tuple[int, bytes, Drop | None]:
    """Verdict, packet, and what is counted as dropped."""
    match outcome:
        case Passes():
            return PASS, bytes(packet), None
        case Dropped(reason):
            return DROP, bytes(packet), reason
        case Tunnelled(worker):
            return TX, tunnelled(packet, worker), None
        case Answered(sent, reason):
            return TX, bytes(sent), reason


def shown(packet: bytes) -> str:
    text: str = Ether(packet).show(dump=True)
    return text


@pytest.mark.parametrize(("packet", "outcome"), FIXTURES.values(), ids=FIXTURES.keys())
def test_each_packet_comes_to_what_its_fixture_says(edge: Edge, packet: Packet, outcome: Outcome) -> None:
    verdict, sent, reason = expected(packet, outcome)
    before = edge.drops()
    run = edge.run(bytes(packet))
    counted = {d: n - before[d] for d, n in edge.drops().items() if n != before[d]}
    assert run.verdict == verdict
    assert run.packet == sent, f"{shown(run.packet)}\ninstead of\n{shown(sent)}"
    assert counted == ({} if reason is None else {reason: 1})


COUNTED = {
    name: (packet, reason)
    for name, (packet, outcome) in FIXTURES.items()
    if (reason := expected(packet, outcome)[2]) is not None
}


@pytest.mark.parametrize(("packet", "reason"), COUNTED.values(), ids=COUNTED.keys())
def test_what_is_dropped_counts_for_the_vip_that_it_came_for(edge: Edge, packet: Packet, reason: Drop) -> None:
    vip = (packet.getlayer(IP) or packet.getlayer(IPv6)).dst
    before = edge.drops_of(vip)
    edge.run(bytes(packet))
    assert edge.drops_of(vip) == {**before, reason.reason: before.get(reason.reason, 0) + 1}


@pytest.mark.parametrize("packet", CUT_OFF.values(), ids=CUT_OFF.keys())
def test_what_ends_too_early_passes_as_it_is(edge: Edge, packet: bytes) -> None:
    before = edge.drops()
    run = edge.run(packet)
    assert (run.verdict, run.packet, edge.drops()) == (PASS, packet, before)


def test_padding_of_the_link_stays_and_the_outer_length_is_of_the_packet(edge: Edge) -> None:
    packet = bytes(came(to_web())).ljust(60, b"\0")
    run = edge.run(packet)
    assert run.packet == tunnelled(came(to_web()), WEB_WORKER) + bytes(6)


def test_the_way_by_a_device_of_a_vlan_leaves_by_the_one_under_it_with_a_tag(edge: Edge) -> None:
    """The kernel's route names the VLAN's device; here our only device plays both."""
    tag = Tag(int.from_bytes(b"\x81\x00", "little"), int.from_bytes((100).to_bytes(2, "big"), "little"))
    links = edge.loaded.map("links")
    links[edge.device] = LinkRecord(edge.device, tag)
    # The way is looked up anew where there is none.
    for place in range(1, SIZES.destinations + 1):
        edge.loaded.map("traffic").clear_each_processor(place)
    try:
        for packet in (came(to_web()), came(Dot1Q(vlan=7) / to_web()), came(Dot1AD(vlan=7) / Dot1Q(vlan=8) / to_web())):
            run = edge.run(bytes(packet))
            plain = tunnelled(packet, WEB_WORKER)
            assert run.verdict == TX
            assert run.packet == plain[:12] + b"\x81\x00\x00\x64" + plain[12:]
    finally:
        links.remove(edge.device.to_bytes(4, "little"))
        for place in range(1, SIZES.destinations + 1):
            edge.loaded.map("traffic").clear_each_processor(place)


MODEL = Model(
    workers={
        (str(s.key.address), s.key.protocol.number, s.key.port): str(s.destinations[0].address)
        if s.destinations
        else None
        for s in SERVICES
    },
    limits={(str(key.address), key.protocol.number, key.port): str(network) for key, network in LIMITS},
    us=US,
    router=ROUTER,
    edges={4: EDGE, 6: EDGE6},
)


@pytest.mark.parametrize(("packet", "outcome"), FIXTURES.values(), ids=FIXTURES.keys())
def test_the_model_says_of_each_fixture_what_it_says_itself(packet: Packet, outcome: Outcome) -> None:
    """Else a model that is wrong about a whole kind of packets would be found out by chance only."""
    verdict, sent, reason = expected(packet, outcome)
    assert MODEL.say(bytes(packet)) == Said(verdict, sent, None if reason is None else reason.name)


def mutated(chance: random.Random, templates: Sequence[bytes]) -> bytes:
    """A packet of the fixtures with up to four bytes changed, most of them in headers, and sometimes cut off; or any bytes at all."""
    packet = bytearray(chance.choice(templates))
    if chance.random() < 0.05:
        packet = bytearray(chance.randbytes(chance.randrange(14, 200)))
    for _ in range(chance.randrange(5)):
        packet[chance.randrange(min(len(packet), 100))] = chance.randrange(256)
    if chance.random() < 0.2:
        del packet[chance.randrange(14, len(packet) + 1) :]
    return bytes(packet)


def test_ten_thousand_mutated_packets_come_to_what_the_model_says_and_the_kernel_warns_of_nothing(edge: Edge) -> None:
    chance = random.Random(7)
    templates = [bytes(packet) for packet, _ in FIXTURES.values()]
    before, said = edge.drops(), Counter[str]()
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    for _ in range(10_000):
        packet = mutated(chance, templates)
        wanted, run = MODEL.say(packet), edge.run(packet)
        assert (run.verdict, run.packet) == (wanted.verdict, wanted.frame), f"{packet.hex()}\n{shown(packet)}"
        if wanted.reason is not None:
            said[wanted.reason] += 1
    assert {d.name: n - before[d] for d, n in edge.drops().items() if n != before[d]} == dict(said)
    later = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    new = later[later.rindex(log[-200:]) + 200 :] if log[-200:] in later else later
    assert not [line for line in new.splitlines() if "WARNING" in line or "BUG" in line or "Oops" in line]
