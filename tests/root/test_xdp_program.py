"""The XDP program on packets, run by the kernel itself: nothing leaves the machine."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from bench.xdp_rig import BY_HASH, DNS, WEB, WEB6, Bench, bench, frame, network
from lbnode.dataplane.libbpf import Run
from lbnode.dataplane.xdp_records import Drop
from lbnode.model import Destination, IPAddress, Protocol, VirtualKey
from lbnode.ring import ring, slot
from tools.bpf import CLANG, HARNESS, build

pytestmark = pytest.mark.root

DROP, PASS, TX = 1, 2, 3  # enum xdp_action of linux/bpf.h
ROUTER = bytes.fromhex("0200000000fe")
SYN = 0x02


class Rig:
    """The program with the VIPs of the benchmark, and a device that a packet came in by."""

    def __init__(self, loaded: Bench, device: int) -> None:
        self.bench = loaded
        self.device = device
        self.rings = {v: ring(Destination(w) for w in loaded.workers[v]) for v in (4, 6)}

    def run(self, packet: bytes) -> Run:
        return self.bench.object.run("samegate", packet, device=self.device)

    def drops(self, reason: Drop) -> int:
        # One value for each processor that the kernel can have.
        raw = self.bench.object.map("drops").each_processor(reason)
        return sum(int.from_bytes(value, "little") for value in raw)

    def expected(self, key: VirtualKey, client: IPAddress, port: int) -> IPAddress:
        return self.rings[key.address.version][slot(key, client, port)].address


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    with network() as device, bench(build(HARNESS)) as loaded:
        yield Rig(loaded, device)


def ones_complement(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def worker_of(run: Run, version: int) -> IPAddress:
    return ip_address(run.packet[30:34] if version == 4 else run.packet[38:54])


@pytest.mark.parametrize("key", [WEB, DNS, BY_HASH], ids=str)
def test_an_ipv4_packet_leaves_in_a_tunnel_as_rfc_2003_has_it(rig: Rig, key: VirtualKey) -> None:
    packet = frame(key)
    run = rig.run(packet)
    outer = run.packet[14:34]
    assert run.verdict == TX
    assert run.packet[:6] == ROUTER
    assert run.packet[12:14] == b"\x08\x00"
    assert (outer[0], outer[8], outer[9]) == (0x45, 64, 4)
    assert int.from_bytes(outer[2:4], "big") == int.from_bytes(packet[16:18], "big") + 20
    assert outer[6:8] == b"\x40\x00", "not to be fragmented"
    assert ip_address(outer[12:16]) == ip_address("198.18.0.1")
    assert ones_complement(outer) == 0xFFFF
    assert run.packet[34:] == packet[14:], "what is inside is untouched"


def test_an_ipv6_packet_leaves_in_a_tunnel_as_rfc_2473_has_it(rig: Rig) -> None:
    packet = frame(WEB6)
    run = rig.run(packet)
    outer = run.packet[14:54]
    assert (run.verdict, run.packet[:6], run.packet[12:14]) == (TX, ROUTER, b"\x86\xdd")
    assert (outer[0] >> 4, outer[6], outer[7]) == (6, 41, 64)
    assert int.from_bytes(outer[4:6], "big") == int.from_bytes(packet[18:20], "big") + 40
    assert ip_address(outer[8:24]) == ip_address("2001:db8::1")
    assert run.packet[54:] == packet[14:]


@pytest.mark.parametrize("traffic_class", [0x00, 0x02, 0xB8, 0xFF])
def test_the_traffic_class_is_copied_outside(rig: Rig, traffic_class: int) -> None:
    packet = bytearray(frame(WEB))
    packet[15] = traffic_class
    outer = rig.run(bytes(packet)).packet[14:34]
    assert outer[1] == traffic_class
    assert ones_complement(outer) == 0xFFFF


def changed(packet: bytes, at: int, *values: int) -> bytes:
    return packet[:at] + bytes(values) + packet[at + len(values) :]


OTHER = VirtualKey(IPv4Address("203.0.113.9"), Protocol.TCP, 80)
OTHER6 = VirtualKey(IPv6Address("2001:db8:113::9"), Protocol.TCP, 80)
UNTOUCHED = {
    "another address": frame(OTHER),
    "another IPv6 address": frame(OTHER6),
    "another port of a VIP": frame(VirtualKey(WEB.address, Protocol.TCP, 81)),
    "the TCP port of a UDP VIP": frame(VirtualKey(WEB.address, Protocol.TCP, 53)),
    "the UDP port of a TCP VIP": frame(VirtualKey(WEB.address, Protocol.UDP, 80)),
    "SCTP to a VIP": changed(frame(WEB), 23, 132),
    "ICMP to a VIP": changed(frame(WEB), 23, 1),
    "ICMP to another address": changed(frame(OTHER), 23, 1),
    "a fragment to another address": changed(frame(OTHER), 20, 0x20, 0x00),
    "a later fragment to another address": changed(frame(OTHER), 20, 0x00, 0x10),
    "IP options to another address": changed(frame(OTHER), 14, 0x46),
    "ARP": changed(frame(WEB), 12, 0x08, 0x06),
    "a frame with a VLAN tag": changed(frame(WEB), 12, 0x81, 0x00),
    "LLDP": changed(frame(WEB), 12, 0x88, 0xCC),
    "a cut off IPv4 header": frame(WEB)[:30],
    "a cut off TCP header": frame(WEB)[:50],
    "a cut off UDP header": frame(DNS)[:40],
    "a cut off IPv6 header": frame(WEB6)[:40],
    "IPv6 with an extension header": changed(frame(WEB6), 20, 0),
}


@pytest.mark.parametrize("packet", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_what_is_not_to_be_balanced_passes_untouched(rig: Rig, packet: bytes) -> None:
    run = rig.run(packet)
    assert (run.verdict, run.packet) == (PASS, packet)


@pytest.mark.parametrize("offset", [(0x20, 0x00), (0x00, 0x10)], ids=["first", "later"])
def test_fragments_to_a_vip_are_dropped_and_counted(rig: Rig, offset: tuple[int, int]) -> None:
    before = rig.drops(Drop.FRAGMENT)
    assert rig.run(changed(frame(WEB), 20, *offset)).verdict == DROP
    assert rig.drops(Drop.FRAGMENT) == before + 1


def test_ip_options_to_a_vip_are_dropped_and_counted(rig: Rig) -> None:
    before = rig.drops(Drop.OPTIONS)
    assert rig.run(changed(frame(WEB), 14, 0x46)).verdict == DROP
    assert rig.drops(Drop.OPTIONS) == before + 1


@pytest.mark.parametrize(("length", "verdict"), [(1480, TX), (1481, DROP)])
def test_a_packet_that_may_be_cut_and_does_not_fit_with_its_outer_header_is_dropped_and_counted(
    rig: Rig, length: int, verdict: int
) -> None:
    """By IPv4 an answer is for those alone who have said that they want none of their packets cut."""
    before = rig.drops(Drop.TOO_BIG)
    packet = changed(frame(WEB), 16, *length.to_bytes(2, "big")).ljust(14 + length, b"x")
    assert rig.run(changed(packet, 20, 0x00)).verdict == verdict
    assert rig.drops(Drop.TOO_BIG) == before + (verdict == DROP)


def test_a_hundred_thousand_flows_go_where_the_model_says(rig: Rig) -> None:
    """The model is Python's own ring and hash, written apart from the program's."""
    chosen = random.Random(5)
    for number in range(100_000):
        key = (WEB, DNS, WEB6, BY_HASH)[number % 4]
        version = key.address.version
        client = IPv4Address(chosen.getrandbits(32)) if version == 4 else IPv6Address(chosen.getrandbits(128))
        port = chosen.randrange(1, 65536)
        run = rig.run(frame(key, client=client, client_port=port, flags=SYN))
        assert run.verdict == TX
        assert worker_of(run, version) == rig.expected(key, client, port), (key, client, port)


def test_random_and_mutated_packets_have_a_verdict_of_the_model(rig: Rig) -> None:
    """A verdict is one of three, and what passes or is dropped was not changed. The kernel's log is not looked at here."""
    chosen = random.Random(6)
    templates = [frame(k) for k in (WEB, DNS, WEB6, BY_HASH, OTHER)]
    for _ in range(10_000):
        packet = bytearray(chosen.choice(templates))
        if chosen.random() < 0.2:
            packet = bytearray(chosen.randbytes(chosen.randrange(14, 200)))
        for _ in range(chosen.randrange(4)):
            packet[chosen.randrange(len(packet))] = chosen.randrange(256)
        if chosen.random() < 0.3:
            del packet[chosen.randrange(14, len(packet) + 1) :]
        run = rig.run(bytes(packet))
        assert run.verdict in (DROP, PASS, TX)
        if run.verdict == TX:
            assert run.packet.endswith(bytes(packet[14:]))
            assert len(run.packet) - len(packet) in (20, 40)
        else:
            assert run.packet == bytes(packet)
