"""Echoes over a real link between two network namespaces: size, the don't-fragment bit, and the kernel's own errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.root.speaker_rig import missing_namespaces

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing_namespaces()), reason=missing_namespaces())]

ROOT = Path(__file__).parents[2]
#: Runs in the namespace of the edge node.
PROGRAM = """\
import asyncio, dataclasses, json, sys
from ipaddress import ip_address
from pathlib import Path
from lbnode.probe import Prober, ensure_ping_allowed

mtu, rounds, targets = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
former = ensure_ping_allowed(Path("/proc/sys/net"))

async def main():
    prober = Prober(mtu, 400)
    for _ in range(rounds):
        results = await prober.probe({ip_address(t): ip_address(t) for t in targets})
        print(json.dumps([dataclasses.asdict(r) for r in results], default=str))

asyncio.run(main())
"""


class Link:
    def __init__(self) -> None:
        self.edge, self.worker = (f"sgs-{os.getpid()}-p{end}" for end in "ew")

    def ip(self, namespace: str, *words: str) -> str:
        return subprocess.run(["ip", "-n", namespace, *words], check=True, capture_output=True, text=True).stdout

    def probe(self, *targets: str, mtu: int = 1500, rounds: int = 1) -> list[dict[str, Any]]:
        """Results of the last round."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.edge, sys.executable, "-c", PROGRAM, str(mtu), str(rounds), *targets],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return results

    def received_bytes(self) -> int:
        (device,) = json.loads(self.ip(self.worker, "-j", "-s", "link", "show", "v0"))
        return int(device["stats64"]["rx"]["bytes"])


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    try:
        for name in (made.edge, made.worker):
            subprocess.run(["ip", "netns", "add", name], check=True)
        made.ip(made.edge, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", made.worker)
        for name, address in ((made.edge, "198.18.0.11/24"), (made.worker, "198.18.0.21/24")):
            made.ip(name, "link", "set", "v0", "addrgenmode", "none")
            made.ip(name, "address", "add", address, "dev", "v0")
            made.ip(name, "link", "set", "v0", "up")
        made.ip(made.worker, "address", "add", "192.0.2.21/32", "dev", "v0")
        made.ip(made.edge, "route", "add", "192.0.2.0/24", "dev", "v0")
        yield made
    finally:
        for name in (made.edge, made.worker):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_a_worker_that_holds_its_probe_address_answers_and_another_one_does_not(link: Link) -> None:
    there, absent = link.probe("192.0.2.21", "192.0.2.99")
    assert (there["ok"], there["reason"]) == (True, "Answered")
    assert 0 < there["rtt_ms"] < 400
    # Without an answer to ARP the kernel waits longer than the probe does.
    assert (absent["ok"], absent["reason"]) == (False, "Timeout")


def test_the_packet_has_the_size_that_the_tunnel_leaves(link: Link) -> None:
    link.probe("192.0.2.21")
    before = link.received_bytes()
    link.probe("192.0.2.21")
    # 1500 less 20 for the tunnel, and 14 of Ethernet; ARP is known from the first probe.
    assert link.received_bytes() - before == 1480 + 14


def test_a_link_that_is_too_small_for_the_tunnel_shows(link: Link) -> None:
    assert link.probe("192.0.2.21", mtu=1500)[0]["ok"]
    link.ip(link.edge, "link", "set", "v0", "mtu", "1400")
    (result,) = link.probe("192.0.2.21", mtu=1500)
    assert (result["ok"], result["reason"]) == (False, "TooBig")
    assert link.probe("192.0.2.21", mtu=1420)[0]["ok"]


def test_a_fabric_that_silently_drops_large_packets_shows(link: Link) -> None:
    # The far end alone is smaller: the near end does not know, as with a wrong MTU inside a fabric.
    link.ip(link.worker, "link", "set", "v0", "mtu", "1400")
    (result,) = link.probe("192.0.2.21", mtu=1500)
    assert (result["ok"], result["reason"]) == (False, "Timeout")
    assert link.probe("192.0.2.21", mtu=1420)[0]["ok"]


def test_a_worker_without_a_route_is_told_apart(link: Link) -> None:
    (result,) = link.probe("192.0.2.21", "10.9.9.9")[1:]
    assert (result["ok"], result["reason"]) == (False, "NoRoute")


def test_a_dead_neighbour_becomes_unreachable_and_recovers_in_the_same_process(link: Link) -> None:
    (result,) = link.probe("192.0.2.99", rounds=10)
    assert (result["ok"], result["reason"]) in {(False, "Unreachable"), (False, "Timeout")}
    process = subprocess.Popen(
        ["ip", "netns", "exec", link.edge, sys.executable, "-uc", PROGRAM, "1500", "30", "192.0.2.77"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        for _ in range(9):
            assert not json.loads(process.stdout.readline())[0]["ok"]
        link.ip(link.worker, "address", "add", "192.0.2.77/32", "dev", "v0")
        reasons = [json.loads(line)[0]["reason"] for line in process.stdout]
    assert reasons[-1] == "Answered"


def test_the_group_range_of_the_namespace_is_widened_to_this_group_only(link: Link) -> None:
    read = ["ip", "netns", "exec", link.edge, "cat", "/proc/sys/net/ipv4/ping_group_range"]
    assert subprocess.run(read, check=True, capture_output=True, text=True).stdout.split() == ["1", "0"]
    link.probe("192.0.2.21")
    group = str(os.getegid())
    assert subprocess.run(read, check=True, capture_output=True, text=True).stdout.split() == [group, group]
