"""Case `many-edges`: a hundred edge nodes with a thousand VIPs at one router; a node dies, one is stopped, the router starts again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path

from bench.case import Bars, Case, Lines, Order
from bench.document import Measured
from bench.fib import Fib
from bench.figures import Row
from bench.sandbox import PREFIX
from lab import netns, network
from lab.routers import base, frr
from lbnode.facts import RouteAttributes
from lbnode.settings import AgentSettings, parse
from lbnode.speaker.bird_config import render

EDGES, VIPS = 100, 1000
QUICK_EDGES, QUICK_VIPS = 10, 100
ROUTER = f"{PREFIX}router"
RACK, POOL = IPv4Network("198.18.0.0/24"), IPv4Network("198.19.0.0/22")
_ROUTER_ADDRESS, _FIRST_EDGE = RACK[1], 101
_INTERVAL_SECONDS = 0.05
_SETTLE_SECONDS = 240.0
_ROOT = Path(__file__).resolve().parent.parent
#: Debian's FRR is built for 256 paths, and listens to 100 neighbours unless it is told otherwise.
_BGPD = f"""\
hostname router
router bgp 65001
 bgp router-id {_ROUTER_ADDRESS}
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 3 9
 neighbor EDGE peer-group
 neighbor EDGE remote-as 65010
 neighbor EDGE bfd {base.BFD_MULTIPLIER} {base.BFD_INTERVAL_MS} {base.BFD_INTERVAL_MS}
 bgp listen limit 250
 bgp listen range {RACK} peer-group EDGE
 address-family ipv4 unicast
  neighbor EDGE activate
  maximum-paths 128
 exit-address-family
"""


class NotConverged(RuntimeError):
    """The router did not come to hold what it should in time; the text holds what it last held."""


def settings() -> AgentSettings:
    """As an edge node has them; BFD as in the lab."""
    bfd = {"intervalMs": base.BFD_INTERVAL_MS, "multiplier": base.BFD_MULTIPLIER}
    peer = {"name": "router", "address": str(_ROUTER_ADDRESS), "asn": 65001, "bfd": bfd, "holdTimeSeconds": 9}
    return parse(
        {
            "pools": [{"name": "public", "cidrs": [str(POOL)]}],
            "bgp": {"localAsn": 65010, "peers": [peer]},
            "network": {"nodeCidrs": [str(RACK)], "podCidrs": ["198.18.128.0/20"], "serviceCidrs": ["198.18.96.0/20"]},
        }
    )


class Fabric:
    """The router and its edge nodes; the `number`-th node, from 0, has a namespace and a BIRD of its own."""

    def __init__(self, edges: int, vips: int, scratch: Path) -> None:
        self.edges, self.vips = edges, vips
        self._scratch = scratch
        self._birds: dict[int, subprocess.Popen[str]] = {}
        self._daemons: list[subprocess.Popen[str]] = []

    def address(self, number: int) -> IPv4Address:
        return RACK[_FIRST_EDGE + number]

    def cable(self) -> None:
        """Namespaces, a bridge and a cable to each node."""
        netns.create(ROUTER)
        netns.run(ROUTER, ["sysctl", "--quiet", "--write", *(f"{k}={v}" for k, v in network.ROUTER_SYSCTLS.items())])
        lines = [
            "link add rack type bridge",
            f"address add {_ROUTER_ADDRESS}/{RACK.prefixlen} dev rack",
            "link set rack up",
        ]
        for number in range(self.edges):
            netns.create(node(number))
            lines += [
                f"link add edge{number} type veth peer name eth0 netns {node(number)}",
                f"link set edge{number} master rack up",
            ]
        netns.run(ROUTER, ["ip", "-batch", "-"], input="\n".join(lines))
        for number in range(self.edges):
            inside = f"address add {self.address(number)}/{RACK.prefixlen} dev eth0\nlink set eth0 up\n"
            netns.run(node(number), ["ip", "-batch", "-"], input=inside)

    def start_router(self) -> None:
        """FRR anew."""
        folder = self._scratch / "frr"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        for program, text in (("zebra", ""), ("bfdd", ""), ("bgpd", _BGPD)):
            (folder / f"{program}.conf").write_text(text)
            own = {"zebra": ["--nl-bufsize", "8388608"], "bfdd": ["--bfdctl", str(folder / "bfdd.sock")]}.get(
                program, []
            )
            argv = [
                *(str(frr.PROGRAMS / program), "--user", "root", "--group", "frrvty", "--log", "stdout"),
                *("--config_file", str(folder / f"{program}.conf"), "--pid_file", str(folder / f"{program}.pid")),
                *("--vty_socket", str(folder), "--vty_port", "0", "--socket", str(folder / "zserv.api"), *own),
            ]
            self._daemons.append(self._start(ROUTER, argv, f"{program}.log"))
            _until(lambda name=program: (folder / f"{name}.vty").exists(), f"{program} starts", 30)  # type: ignore[misc]

    def stop_router(self) -> None:
        """SIGKILL, as when it loses power: no route by BGP stays in the kernel."""
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        # zebra's routes are made of its next hops and go with them; `ip route flush` cannot take such routes.
        netns.run(ROUTER, ["ip", "nexthop", "flush"])
        if left := netns.run(ROUTER, ["ip", "route", "show", "proto", "bgp"]).stdout:
            raise NotConverged(f"a router without power still has routes: {left[:200]}")

    def bfd_up(self) -> int:
        """How many of the router's BFD sessions are up."""
        argv = ["vtysh", "--vty_socket", str(self._scratch / "frr"), "-c", "show bfd peers json"]
        return sum(peer.get("status") == "up" for peer in json.loads(netns.run(ROUTER, argv).stdout))

    def start_bird(self, number: int) -> None:
        """BIRD of a node, by the configuration that the agent writes for these VIPs."""
        file = self._scratch / f"bird{number}.conf"
        if not file.exists():
            now, routes = settings(), {ip_network(POOL[n + 1]): RouteAttributes() for n in range(self.vips)}
            file.write_text(render(now.bgp, now.pools, node(number), [self.address(number)], routes))
        control = str(self._scratch / f"bird{number}.ctl")
        argv = ["bird", "-f", "-c", str(file), "-s", control, "-P", str(self._scratch / f"bird{number}.pid")]
        self._birds[number] = self._start(node(number), argv, f"bird{number}.log")

    def stop_bird(self, number: int) -> None:
        """SIGTERM: it closes its session."""
        bird = self._birds.pop(number)
        bird.terminate()
        bird.wait(30)

    def set_link(self, number: int, state: str) -> None:
        """The node's own end of its cable `up` or `down`: the router only hears nothing more."""
        netns.run(node(number), ["ip", "link", "set", "eth0", state])

    def _start(self, namespace: str, argv: list[str], log: str) -> subprocess.Popen[str]:
        with (self._scratch / log).open("a") as file:
            return netns.popen(namespace, argv, stdout=file, stderr=file)

    @contextmanager
    def watched(self, number: int) -> Iterator[Callable[[], Fib]]:
        """The next reading of the router's kernel, about the node."""
        argv = [sys.executable, "-m", "bench.fib", str(self.address(number)), str(_INTERVAL_SECONDS)]
        process = netns.popen(ROUTER, argv)
        if process.stdout is None:
            raise RuntimeError("a watch without output was started")
        lines = process.stdout
        try:
            yield lambda: Fib(**json.loads(lines.readline()))
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def node(number: int) -> str:
    """The namespace of a node."""
    return f"{PREFIX}edge{number}"


def follow(next_reading: Callable[[], Fib], since: float, settled: Callable[[Fib], bool], what: str) -> list[Fib]:
    """The readings that began after `since`, until one is settled.

    Raises:
        NotConverged: none was in time.
    """
    found: list[Fib] = []
    while not found or not settled(found[-1]):
        reading = next_reading()
        if reading.at_seconds < since:
            continue
        found.append(reading)
        if reading.at_seconds - since > _SETTLE_SECONDS:
            raise NotConverged(f"{what}: not within {_SETTLE_SECONDS:.0f} s; last {reading}")
    return found


def measure(order: Order) -> Measured:
    """Each round: a node dies and comes back, a node is stopped and started, and the router is started again."""
    edges, vips = (QUICK_EDGES, QUICK_VIPS) if order.quick else (EDGES, VIPS)
    fabric = Fabric(edges, vips, order.scratch)
    samples: dict[str, list[float]] = defaultdict(list)
    curves: dict[str, list[tuple[float, float]]] = {}

    def whole(reading: Fib) -> bool:
        return reading.hops == edges * vips

    order.say(f"{edges} namespaces and BIRDs, one FRR, {vips} VIPs")
    fabric.cable()
    fabric.start_router()
    for number in range(edges):
        fabric.start_bird(number)
    with fabric.watched(0) as reading:
        follow(reading, time.monotonic(), whole, "all nodes come up")
    for number in range(order.rounds):

        def note(name: str, since: float, readings: list[Fib], round_number: int = number) -> None:
            samples[f"{name}_seconds"].append(readings[-1].at_seconds - since)
            samples[f"{name}_lost"].append(vips - min(r.routes for r in readings))
            if round_number == 0:
                curves[f"{name}_stale"] = [(r.at_seconds - since, r.with_address) for r in readings]
                curves[f"{name}_hops"] = [(r.at_seconds - since, r.hops) for r in readings]
            order.say(f"round {round_number + 1}, {name}: {samples[f'{name}_seconds'][-1]:.2f} s")

        # Else the death of a node is seen by BGP's hold time alone.
        _until(lambda: fabric.bfd_up() == edges, "BFD with all nodes", _SETTLE_SECONDS, 0.5)
        leaver = number % edges
        with fabric.watched(leaver) as reading:
            since = time.monotonic()
            fabric.set_link(leaver, "down")
            note("dies", since, follow(reading, since, lambda r: not r.with_address, "a node dies"))
            since = time.monotonic()
            fabric.set_link(leaver, "up")
            note("returns", since, follow(reading, since, whole, "a node returns"))
            since = time.monotonic()
            fabric.stop_bird(leaver)
            note("stops", since, follow(reading, since, lambda r: not r.with_address, "a node stops"))
            fabric.start_bird(leaver)
            follow(reading, time.monotonic(), whole, "a node starts")
            fabric.stop_router()
            since = time.monotonic()
            fabric.start_router()
            readings = follow(reading, since, whole, "the router starts")
            note("restart", since, readings)
            samples["restart_lost"][-1] = vips - readings[-1].routes
    return Measured(samples, curves, conditions={"edges": edges, "vips": vips, "bfd_ms": base.BFD_INTERVAL_MS})


def _until(holds: Callable[[], bool], what: str, seconds: float, pause_seconds: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise NotConverged(f"{what}: not within {seconds:g} s")
        time.sleep(pause_seconds)


_HOST_STOOD_STILL = (
    "BFD gives a node 0.9 s. A host too busy to let a hundred of them speak within that looks to the router like a rack without power, and all VIPs go until "
    "the sessions are back. See `load` in the conditions; on a quiet machine measure anew."
)


def _lost(key: str, series: str) -> Row:
    return Row(key, "VIPs without any route meanwhile", "", series, target=0.0, why_missed=_HOST_STOOD_STILL)


CASE = Case(
    name="many-edges",
    title="A hundred edge nodes at one router",
    question="How long does a router with 100 edge nodes and 1,000 VIPs take after a node leaves, and after it starts again, and is anything lost?",
    method=(
        "Each edge node is a network namespace with a BIRD of its own, by the configuration that the agent renders for these VIPs, BFD at 300 ms times 3; "
        "the router is FRR with up to 128 paths. The agents themselves do not run: a hundred of them do not fit two processors, and what is asked is what "
        "routers and daemons do. The router's kernel is read by netlink again and again, with pauses of 50 ms: a node has left when no route names it any more; the router is back "
        "when every VIP has all next hops. *Dies* is a cable that goes silent, so BFD's 0.9 s are in it; *stops* is a BIRD that is told to end. *Restart* "
        "begins when the router's daemons, killed before, are started with an empty routing table. A VIP is lost while it has no route at all."
    ),
    rows=(
        Row("many-edges-node-dies", "from the cable's silence to the last route without the node", "s", "dies_seconds"),
        _lost("many-edges-node-dies-lost", "dies_lost"),
        Row("many-edges-node-returns", "from the cable's return to all routes with the node", "s", "returns_seconds"),
        _lost("many-edges-node-returns-lost", "returns_lost"),
        Row("many-edges-node-stops", "from BIRD's SIGTERM to the last route without the node", "s", "stops_seconds"),
        _lost("many-edges-node-stops-lost", "stops_lost"),
        Row(
            "many-edges-router-restart",
            "from the start of the router's daemons to all next hops of all VIPs",
            "s",
            "restart_seconds",
        ),
        Row("many-edges-router-restart-lost", "VIPs that did not come back", "", "restart_lost", target=0.0),
    ),
    plots=(
        Lines(
            "many-edges-leave.svg",
            "Routes that still name the node that left (first round)",
            "seconds after it left",
            "routes",
            {"dies (silent)": "dies_stale", "stops (closes its session)": "stops_stale"},
        ),
        Lines(
            "many-edges-restart.svg",
            "Next hops in the router's kernel after its start (first round)",
            "seconds after the start",
            "next hops of all VIPs",
            {"next hops": "restart_hops"},
        ),
        Bars(
            "many-edges.svg",
            "Convergence",
            "seconds",
            {
                "node dies": "dies_seconds",
                "node returns": "returns_seconds",
                "node stops": "stops_seconds",
                "router restart": "restart_seconds",
            },
        ),
    ),
    measure=measure,
    minutes=8,
)
