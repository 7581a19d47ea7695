from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.dataplane import xdp_records
from lbnode.dataplane.xdp_table import destination_record, places, vip_table, wire_service
from lbnode.errors import ConfigError
from lbnode.model import IPAddress
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
