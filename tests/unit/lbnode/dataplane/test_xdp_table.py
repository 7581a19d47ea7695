from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane import xdp_records
from lbnode.dataplane.xdp_program import Sizes, layout, vlan_links
from lbnode.dataplane.xdp_table import (
    Stored,
    address_vips,
    destination_record,
    key_of,
    made_of,
    place_numbers,
    places,
    served,
    source_key,
    source_of_key,
    vip_of,
    vip_table,
    wire_service,
    worker_of,
)
from lbnode.errors import ConfigError
from lbnode.model import Destination, IPAddress, IPNetwork, Protocol, VirtualKey, VirtualService
from lbnode.ring import SLOTS, halves

HEADER = Path(__file__).resolve().parents[4] / "lbnode" / "bpf" / "record.h"
RECORDS: dict[str, type[ctypes.Structure]] = {
    "sg_vip": xdp_records.Vip,
    "sg_destination": xdp_records.DestinationRecord,
    "sg_flow": xdp_records.Flow,
    "sg_traffic": xdp_records.Traffic,
    "sg_limits": xdp_records.Limits,
    "sg_tag": xdp_records.Tag,
    "sg_link": xdp_records.LinkRecord,
    "sg_source": xdp_records.Source,
    "sg_timeouts": xdp_records.Timeouts,
    "sg_capture": xdp_records.Capture,
    "sg_captured": xdp_records.Captured,
    "sg_drops": xdp_records.Drops,
}


def vip(address: IPAddress, port: int) -> xdp_records.Vip:
    high, low = halves(address)
    return xdp_records.Vip(high, low, wire_service(address.version, 6, port), port)


def test_every_record_has_the_layout_that_the_c_compiler_gives_it(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) on PATH")
    lines = []
    for name, record in RECORDS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [f'printf("{name}.{f[0]} %zu\\n", offsetof(struct {name}, {f[0]}));' for f in record._fields_]
    lines.append('printf("captured %u %d %u\\n", SG_VIP_CAPTURED, SG_CAPTURE_BYTES, SG_CAME);')
    lines.append('printf("slots %d flows %d drops %d", SG_RING_SLOTS, SG_FLOWS_PER_SET, SG_DROPS);')
    source = tmp_path / "layout.c"
    head = f'#include <stdio.h>\n#include <stddef.h>\n#include "{HEADER}"\n'
    source.write_text(head + "int main(void) {" + "\n".join(lines) + "}\n")
    subprocess.run(["cc", "-o", tmp_path / "layout", source], check=True)
    told = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = []
    for name, record in RECORDS.items():
        ours.append(f"{name} {ctypes.sizeof(record)}")
        ours += [f"{name}.{f[0]} {getattr(record, f[0]).offset}" for f in record._fields_]
    drops = len(xdp_records.Drop)
    ours.append(f"captured {xdp_records.VIP_CAPTURED} {xdp_records.CAPTURE_BYTES} {xdp_records.CAME}")
    assert told == [*ours, f"slots {SLOTS} flows {xdp_records.FLOWS_PER_SET} drops {drops}"]
    assert xdp_records.RING_SLOTS == SLOTS


def test_the_names_of_drops_are_those_of_the_header() -> None:
    body = HEADER.read_text().split("enum sg_drop {")[1].split("}")[0]
    names = [name for name in re.findall(r"SG_DROP_(\w+)", body) if name != "S"]
    assert names == [drop.name for drop in xdp_records.Drop]


def test_each_vip_stands_in_one_of_the_two_places_where_it_is_looked_for() -> None:
    vips = [vip(ip_address("203.0.113.0") + n, 80 + n % 7) for n in range(400)]
    vips += [vip(ip_address("2001:db8:113::") + n, 443) for n in range(400)]
    table = vip_table(vips, 2048)
    assert sum(entry is not None for entry in table) == len(vips)
    for place, entry in enumerate(table):
        assert entry is None or place in places(entry, 2047)


def test_too_many_vips_are_refused_with_a_size_that_helps() -> None:
    with pytest.raises(ConfigError, match=r"17 addresses and ports: .* table of 16\. Set it to 32"):
        vip_table([vip(ip_address("203.0.113.1"), port) for port in range(1, 18)], 16)


def test_the_sum_of_an_outer_header_completes_to_a_valid_checksum() -> None:
    """RFC 1071: the folded sum over a header with its checksum is all ones."""
    edge, worker = ip_address("198.18.0.1"), ip_address("198.19.0.200")
    record = destination_record(1, worker, edge)
    length, traffic_class = 84, 0x2E
    total = record.header_sum + int.from_bytes(length.to_bytes(2, "big"), "little") + (traffic_class << 8)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    checksum = (~total & 0xFFFF).to_bytes(2, "little")
    header = bytes([0x45, traffic_class, 0, length, 0, 0, 0x40, 0, 64, 4]) + checksum + edge.packed + worker.packed
    whole = sum(int.from_bytes(header[n : n + 2], "big") for n in range(0, 20, 2))
    while whole >> 16:
        whole = (whole & 0xFFFF) + (whole >> 16)
    assert whole == 0xFFFF


ADDRESSES = st.ip_addresses()
KEYS = st.builds(VirtualKey, ADDRESSES, st.sampled_from([Protocol.TCP, Protocol.UDP]), st.integers(1, 65535))
WEB = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
EDGE = ip_address("198.18.0.11")


@given(KEYS, st.booleans(), st.booleans())
def test_what_a_client_connects_to_is_read_back_from_the_record(key: VirtualKey, port: bool, one_packet: bool) -> None:
    service = VirtualService(key, hash_source_port=port, one_packet=one_packet)
    vip = vip_of(service, 7, made_of({}), limited=True)
    assert key_of(vip) == key
    assert served([vip], [])[key].service == service


@given(ADDRESSES)
def test_the_end_of_a_tunnel_is_read_back_from_the_record(worker: IPAddress) -> None:
    assert worker_of(destination_record(1, worker, worker)) == worker


@given(st.data())
def test_a_network_of_clients_is_read_back_from_its_key(data: st.DataObject) -> None:
    address = data.draw(ADDRESSES)
    network: IPNetwork = ip_network((address, data.draw(st.integers(0, address.max_prefixlen))), strict=False)
    key = VirtualKey(address, Protocol.TCP, 80)
    assert source_of_key(source_key(5, network), {5: key}) == (key, network)
    assert source_of_key(source_key(5, network), {6: key}) is None


def stored(number: int, worker: str, rank: int, generation: int = 1, *, drained: bool = False) -> Stored:
    record = destination_record(generation, ip_address(worker), EDGE)
    record.vip, record.rank, record.weight, record.drained = 3, rank, 2, drained
    return Stored(number, record)


def test_destinations_are_read_back_with_the_one_that_came_last_at_the_head() -> None:
    there = [stored(1, "198.18.0.21", 0), stored(2, "198.18.0.22", 1, drained=True), stored(9, "198.18.0.23", 2)]
    vip = vip_of(VirtualService(WEB), 3, made_of({s.number: s.record for s in there}), limited=False)
    found = served([vip, *address_vips({WEB: 3})], there)
    assert found[WEB].service == VirtualService(
        WEB,
        (
            Destination(ip_address("198.18.0.23"), 2),
            Destination(ip_address("198.18.0.22"), 2, drained=True),
            Destination(ip_address("198.18.0.21"), 2),
        ),
    )
    assert len(found) == 1, "what stands for the address as a whole is no service"


def test_an_address_as_a_whole_counts_for_one_of_its_services() -> None:
    dns, other = VirtualKey(WEB.address, Protocol.UDP, 53), VirtualKey(ip_address("203.0.113.9"), Protocol.TCP, 80)
    found = list(address_vips({dns: 7, WEB: 3, other: 4}))
    assert [vip.id for vip in found] == [7, 4]
    assert {vip.service & 0xFFFFFF for vip in found} == {0}, "no protocol and no port"


@pytest.mark.parametrize(
    "now",
    [
        [stored(1, "198.18.0.21", 0)],
        [stored(1, "198.18.0.21", 0), stored(2, "198.18.0.22", 1, drained=True)],
        [stored(1, "198.18.0.21", 0), stored(2, "198.18.0.22", 1, generation=2)],
        [stored(1, "198.18.0.21", 0), stored(2, "198.18.0.99", 1)],
        [],
    ],
    ids=["one is gone", "one drains", "a place was used again", "another worker", "all are gone"],
)
def test_a_ring_of_other_destinations_than_are_there_is_not_intact(now: list[Stored]) -> None:
    then = [stored(1, "198.18.0.21", 0), stored(2, "198.18.0.22", 1)]
    vip = vip_of(VirtualService(WEB), 3, made_of({s.number: s.record for s in then}), limited=False)
    assert served([vip], then)[WEB].intact
    assert not served([vip], now)[WEB].intact


def test_places_stay_with_who_has_them_and_new_ones_are_free_ones() -> None:
    there = [stored(4, "198.18.0.21", 0)]
    vip = vip_of(VirtualService(WEB), 3, 0, limited=False)
    dns = VirtualKey(WEB.address, Protocol.UDP, 53)
    one, two = Destination(ip_address("198.18.0.21")), Destination(ip_address("198.18.0.22"))
    wanted = {WEB: VirtualService(WEB, (two, one)), dns: VirtualService(dns, (one,))}
    found = place_numbers(served([vip], there), wanted, iter([1, 2]), iter([5, 6]), 10, 10)
    assert found == {WEB: (3, {two.place: 5, one.place: 4}), dns: (1, {one.place: 6})}


def test_the_memory_of_the_maps_grows_by_16_bytes_a_flow_and_processor() -> None:
    one, two = Sizes(flow_sets=1 << 10), Sizes(flow_sets=1 << 20)
    assert two.memory_bytes(2) - one.memory_bytes(2) == 2 * ((1 << 20) - (1 << 10)) * 4 * 16


def test_the_word_for_the_layout_is_one_that_a_path_can_hold() -> None:
    assert re.fullmatch("[0-9a-f]{8}", layout())


def test_devices_of_vlans_are_read_from_the_kernels_list() -> None:
    text = (
        "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n"
        "eth0.100       | 100  | eth0\nstorage        | 7  | bond0\n"
    )
    numbers = {"eth0": 2, "eth0.100": 5, "bond0": 3, "storage": 9}
    found = vlan_links(text, numbers.__getitem__)
    assert {index: (r.device, bytes(r.tag)) for index, r in found.items()} == {
        5: (2, b"\x81\x00\x00\x64"),
        9: (3, b"\x81\x00\x00\x07"),
    }
