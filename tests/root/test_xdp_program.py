"""The XDP program on flows, run by the kernel itself: nothing leaves the machine."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from bench.xdp_rig import BY_HASH, DNS, WEB, WEB6, Bench, bench, frame, network
from lbnode.dataplane.libbpf import Run
from lbnode.model import IPAddress, VirtualKey
from tests.root.xdp_model import TX, maglev, slot_of
from tools.bpf import CLANG, HARNESS, build

pytestmark = pytest.mark.root

SYN = 0x02


class Rig:
    """The program with the VIPs of the benchmark, and a device that a packet came in by."""

    def __init__(self, loaded: Bench, device: int) -> None:
        self.bench = loaded
        self.device = device

    def run(self, packet: bytes) -> Run:
        return self.bench.object.run("samegate", packet, device=self.device)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    if shutil.which(CLANG) is None:
        pytest.skip(f"{CLANG} is not on PATH")
    with network() as device, bench(build(HARNESS)) as loaded:
        yield Rig(loaded, device)


def worker_of(run: Run, version: int) -> IPAddress:
    return ip_address(run.packet[30:34] if version == 4 else run.packet[38:54])


def test_a_hundred_thousand_flows_go_where_a_table_of_the_paper_says(rig: Rig) -> None:
    chosen = random.Random(5)
    tables = {}
    for version, workers in rig.bench.workers.items():
        tables[version] = maglev([str(w) for w in workers], [1] * len(workers))

    def expected(key: VirtualKey, client: IPAddress, port: int) -> IPAddress:
        return ip_address(tables[key.address.version][slot_of(str(key), str(client), port)])

    for number in range(100_000):
        key = (WEB, DNS, WEB6, BY_HASH)[number % 4]
        version = key.address.version
        client = IPv4Address(chosen.getrandbits(32)) if version == 4 else IPv6Address(chosen.getrandbits(128))
        port = chosen.randrange(1, 65536)
        run = rig.run(frame(key, client=client, client_port=port, flags=SYN))
        assert run.verdict == TX
        assert worker_of(run, version) == expected(key, client, port), (key, client, port)
