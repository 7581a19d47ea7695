"""The same packet filter by the nf_tables backend, on this machine's own kernel in namespaces of our own."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from lbnode.dataplane.filter import PacketFilter
from lbnode.dataplane.rules import DELIVERY_TABLES
from lbnode.model import Protocol, VirtualKey
from lbnode.packet_tables import Delivery, DeliveryTable, EdgeFilter, FilterTable, WorkerFilter

pytestmark = pytest.mark.root

POOLS = (ip_network("203.0.113.0/24"),)
EDGE = EdgeFilter(POOLS, frozenset({VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)}))
# A rate that the kernel cannot keep as it is.
LIMITED_EDGE = replace(EDGE, max_syn_per_second=7000)
WORKER = WorkerFilter(POOLS, (ip_address("192.0.2.1"),), ((4, 1440), (6, 1400)))
Run = Callable[[Sequence[str], str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run() -> Iterator[Run]:
    name = f"sgf-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)

    def call(command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", name, *command], input=text, capture_output=True, text=True, check=False
        )

    try:
        tried = call(
            ["iptables-nft-restore", "--noflush"],
            "*raw\n:SGF-TRIAL - [0:0]\n-A SGF-TRIAL -j CT --notrack\n-F SGF-TRIAL\n-X SGF-TRIAL\nCOMMIT\n",
        )
        if tried.returncode != 0:
            pytest.skip(f"this kernel has no nf_tables for iptables: {tried.stderr.strip()}")
        yield call
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize("table", [EDGE, LIMITED_EDGE, WORKER], ids=["edge", "limited edge", "worker"])
def test_the_filter_comes_is_watched_and_goes(run: Run, table: FilterTable) -> None:
    packet_filter = PacketFilter(POOLS, run)
    assert packet_filter.digest() is None
    packet_filter.replace(table)
    assert packet_filter.digest() == table.digest
    rules = run(["iptables-nft-save"], "").stdout
    assert "-A SAMEGATE-FORWARD -d 203.0.113.0/24" in rules

    run(["iptables-nft", "-t", "mangle", "-D", "SAMEGATE-FORWARD", "1"], "")
    assert packet_filter.digest() is None
    packet_filter.replace(table)
    assert packet_filter.digest() == table.digest

    # Another process finds the filter where it is, whatever else would work.
    assert PacketFilter(POOLS, run).digest() == table.digest
    packet_filter.remove()
    assert "SAMEGATE" not in run(["iptables-nft-save"], "").stdout


@pytest.mark.parametrize("version", [4, 6])
def test_a_delivery_by_client_address_reads_back_as_it_was_written(run: Run, version: int) -> None:
    pool, pod, client = {
        4: ("203.0.113.0/24", "198.18.131.5", "198.51.100.0/24"),
        6: ("2001:db8:113::/64", "2001:db8:83::5", "2001:db8:51::/48"),
    }[version]
    pools = (ip_network(pool),)
    key = VirtualKey(pools[0][1], Protocol.UDP, 53)
    pods = tuple((ip_address(pod) + n, 5353) for n in range(3))
    table = DeliveryTable(pools, (Delivery(key, pods, (ip_network(client),), by_client=True),))
    delivery = PacketFilter(pools, run, DELIVERY_TABLES)
    delivery.replace(table)
    assert delivery.digest() == table.digest


def test_the_delivery_stands_behind_other_peoples_rules_beside_the_filter_and_goes(run: Run) -> None:
    key = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
    pods = tuple((ip_address(f"198.18.131.{n}"), 8080) for n in (5, 6, 7))
    table = DeliveryTable(POOLS, (Delivery(key, pods, (ip_network("198.51.100.0/24"),)),))
    run(
        ["iptables-nft", "-t", "nat", "-A", "PREROUTING", "-m", "comment", "--comment", "kube-proxy", "-j", "ACCEPT"],
        "",
    )
    packet_filter, delivery = PacketFilter(POOLS, run), PacketFilter(POOLS, run, DELIVERY_TABLES)
    packet_filter.replace(WORKER)
    delivery.replace(table)
    assert (packet_filter.digest(), delivery.digest()) == (WORKER.digest, table.digest)
    rules = [
        r for r in run(["iptables-nft-save", "-t", "nat"], "").stdout.splitlines() if r.startswith("-A PREROUTING")
    ]
    assert ["kube-proxy" in rules[0], "SAMEGATE" in rules[-1], len(rules)] == [True, True, 2]

    delivery.remove()
    assert delivery.digest() is None
    assert packet_filter.digest() == WORKER.digest
    left = run(["iptables-nft-save", "-t", "nat"], "").stdout
    assert "SAMEGATE" not in left and "kube-proxy" in left
