"""A client, a router, edge machines and a worker machine on one rack, for the cases that send requests.

The router is a namespace with the rack's bridge; the machines are User-Mode Linux on taps of it. A VIP is routed to the edge nodes that the case
says. What each machine is set up to be is in :mod:`bench.rig_inside`. The worker has an address more for every edge node: what it answers from
there goes back through that edge node, and everything else, its answers from VIPs too, straight to the router.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from bench.processor import session_seconds
from bench.sandbox import PREFIX
from lab import netns, network, throwaway

RACK, CLIENT = f"{PREFIX}rack", f"{PREFIX}client"
RACK_NETWORK = IPv4Network("198.18.0.0/24")
CLIENT_NETWORK = IPv4Network("198.18.8.0/24")
VIPS = IPv4Network("203.0.113.0/24")
ROUTER, WORKER = RACK_NETWORK[1], RACK_NETWORK[21]
_ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 600.0
_REQUEST_SECONDS = 30
_BURST_BYTES, _QUEUE_BYTES = 4000, 400_000
"""Of a limited port (tc-tbf(8)): room for more packets than a case has in flight."""
MODULES = (
    "ip_vs",
    "ip_vs_mh",
    "ipip",
    "iptable_nat",
    "iptable_filter",
    "xt_CT",
    "xt_TCPMSS",
    "xt_conntrack",
    "xt_nat",
    "ip6table_filter",
    "ip6table_raw",
    "ip6table_mangle",
)


class RigError(RuntimeError):
    """A machine did not become what it should, or a request got no answer; the text holds what was said."""


@dataclass(frozen=True, slots=True)
class EdgeNode:
    """The `number`-th edge node, from 1: its way of forwarding and the VIP that it serves."""

    number: int
    way: str
    vip: IPv4Address

    @property
    def address(self) -> IPv4Address:
        """In the rack."""
        return RACK_NETWORK[10 + self.number]

    @property
    def worker_address(self) -> IPv4Address:
        """The worker's address that answers through this edge node."""
        return RACK_NETWORK[30 + self.number]


@dataclass(frozen=True, slots=True)
class Answered:
    """A run of the client: requests, how many a second, and the CPU seconds of each edge machine for all of them."""

    requests: int
    rate: float
    edge_cpu_seconds: Mapping[int, float]


class Rig:
    """The rack while it stands; :func:`standing` makes it."""

    def __init__(self, edges: Sequence[EdgeNode], leaders: Mapping[int, int]) -> None:
        self.edges = tuple(edges)
        self._leaders = leaders

    def route(self, vip: IPv4Address, edges: Sequence[EdgeNode]) -> None:
        """Let the router spread the VIP's flows over these edge nodes by a hash of addresses and ports."""
        hops = [word for edge in edges for word in ("nexthop", "via", str(edge.address))]
        netns.run(RACK, ["ip", "route", "replace", f"{vip}/32", *hops])

    def limit(self, kbit_per_second: int | None) -> None:
        """What each edge node's port lets in from the rack; ``None``: as much as there is. Nothing is dropped for it, packets wait."""
        for edge in self.edges:
            netns.run(RACK, ["tc", "qdisc", "del", "dev", f"tap{edge.number}", "root"], check=False)
            if kbit_per_second is not None:
                rate = f"root tbf rate {kbit_per_second}kbit burst {_BURST_BYTES} limit {_QUEUE_BYTES}"
                netns.run(RACK, ["tc", "qdisc", "add", "dev", f"tap{edge.number}", *rate.split()])

    def ask(self, vip: IPv4Address, path: str, requests: int, at_once: int) -> Answered:
        """Requests to the VIP, each over a connection of its own.

        Raises:
            RigError: not every request was answered in full.
        """
        before = self._cpu_seconds()
        said = ab(vip, path, requests, at_once)
        after = self._cpu_seconds()
        spent = {number: after[number] - seconds for number, seconds in before.items()}
        return Answered(requests, rate_of(said, requests), spent)

    def idle_cpu_share(self, seconds: float = 2.0) -> dict[int, float]:
        """What each edge machine takes of a processor while nobody asks anything."""
        before = self._cpu_seconds()
        time.sleep(seconds)
        return {number: (self._cpu_seconds()[number] - spent) / seconds for number, spent in before.items()}

    def _cpu_seconds(self) -> dict[int, float]:
        return {number: session_seconds(leader) for number, leader in self._leaders.items()}


def ab(vip: IPv4Address, path: str, requests: int, at_once: int) -> str:
    """What ab(1) says of so many requests from the client, `at_once` at a time. Raises RigError when it gives up."""
    argv = ["ab", "-q", "-n", str(requests), "-c", str(at_once), "-s", str(_REQUEST_SECONDS), f"http://{vip}/{path}"]
    done = netns.run(CLIENT, argv, check=False, timeout_seconds=600)
    if done.returncode != 0:
        raise RigError(f"`{' '.join(argv)}`: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def rate_of(said: str, requests: int) -> float:
    """Requests a second in the output of ab(1).

    Raises:
        RigError: some requests failed, or were answered by an error.
    """
    counts = {name: int(count) for name, count in re.findall(r"^(Complete|Failed|Non-2xx) \w+:\s+(\d+)", said, re.M)}
    rate = re.search(r"^Requests per second:\s+([\d.]+)", said, re.M)
    if rate is None or counts.get("Complete") != requests or counts.get("Failed") or counts.get("Non-2xx"):
        raise RigError(f"{requests} requests were not all answered: {counts}\n{said}")
    return float(rate[1])


@contextmanager
def standing(edges: Sequence[EdgeNode], scratch: Path) -> Iterator[Rig]:
    """The rack with these edge nodes, ready to be asked: every VIP is routed to the nodes that serve it.

    Raises:
        RigError: a machine does not come up, or a VIP does not answer.
    """
    _cable([f"tap{n}" for n in range(len(edges) + 1)])
    answering = [f"{e.number}:{e.worker_address}:{e.address}" for e in edges]
    vips = sorted({str(e.vip) for e in edges})
    with ExitStack() as stack:
        worker = ["worker", str(WORKER), ",".join(vips), *answering]
        machines = {0: _boot(stack, 0, worker, scratch)}
        for edge in edges:
            command = [edge.way, str(edge.address), str(edge.vip), str(WORKER), str(edge.worker_address)]
            machines[edge.number] = _boot(stack, edge.number, command, scratch)
        for number, process in machines.items():
            _wait_ready(number, process, scratch)
        rig = Rig(edges, {number: process.pid for number, process in machines.items() if number})
        for vip in {e.vip for e in edges}:
            rig.route(vip, [e for e in edges if e.vip == vip])
            rate_of(ab(vip, "small", 20, 1), 20)
        yield rig


def _cable(taps: Sequence[str]) -> None:
    for namespace, sysctls in ((RACK, network.ROUTER_SYSCTLS), (CLIENT, network.HOST_SYSCTLS)):
        netns.create(namespace)
        netns.run(namespace, ["sysctl", "--quiet", "--write", *(f"{k}={v}" for k, v in sysctls.items())])
    # Each request is a connection, and its port must be free again in time.
    netns.run(
        CLIENT, ["sysctl", "--quiet", "--write", "net.ipv4.ip_local_port_range=1024 65000", "net.ipv4.tcp_tw_reuse=1"]
    )
    netns.run(RACK, ["ip", "link", "add", "rack", "type", "bridge"])
    netns.run(RACK, ["ip", "address", "add", f"{ROUTER}/{RACK_NETWORK.prefixlen}", "dev", "rack"])
    netns.run(RACK, ["ip", "link", "set", "rack", "up"])
    for tap in taps:
        netns.run(RACK, ["ip", "tuntap", "add", "dev", tap, "mode", "tap"])
        netns.run(RACK, ["ip", "link", "set", tap, "master", "rack", "up"])
    veth = ["ip", "link", "add", "client", "netns", RACK, "type", "veth", "peer", "name", "eth0", "netns", CLIENT]
    netns.run(None, veth)
    for namespace, device, host in ((RACK, "client", 1), (CLIENT, "eth0", 2)):
        address = f"{CLIENT_NETWORK[host]}/{CLIENT_NETWORK.prefixlen}"
        netns.run(namespace, ["ip", "address", "add", address, "dev", device])
        netns.run(namespace, ["ip", "link", "set", device, "up"])
    netns.run(CLIENT, ["ip", "route", "add", "default", "via", str(CLIENT_NETWORK[1])])


def _boot(stack: ExitStack, number: int, arguments: Sequence[str], scratch: Path) -> subprocess.Popen[str]:
    exchange = scratch / f"machine{number}"
    exchange.mkdir()
    return stack.enter_context(
        throwaway.running(
            [sys.executable, "-m", "bench.rig_inside", *arguments],
            exchange,
            modules=MODULES,
            cwd=_ROOT,
            memory_mib=256,
            namespace=RACK,
            # Locally administered (IEEE 802), one for each machine.
            taps=[throwaway.Tap(f"tap{number}", f"02:53:47:42:00:{number:02x}")],
        )
    )


def _wait_ready(number: int, process: subprocess.Popen[str], scratch: Path) -> None:
    exchange = scratch / f"machine{number}"
    deadline = time.monotonic() + _READY_SECONDS
    while not (exchange / "ready").exists():
        if process.poll() is not None or (exchange / "exit-code").exists() or time.monotonic() > deadline:
            raise RigError(f"machine {number} did not get ready: {throwaway.result(exchange).output[-3000:]}")
        time.sleep(0.1)
