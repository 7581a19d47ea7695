"""An edge node by a standalone file, over the memory twin and the kernel; and in the kernel the whole command, with BIRD and a worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from lbnode.dataplane.base import EdgeDataPlane
from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.memory import MemoryEdge
from lbnode.model import IPAddress
from lbnode.observe import EdgeMetrics
from lbnode.probe import ProbeResult
from lbnode.roles.edge import Edge
from lbnode.roles.outside import StandaloneNode
from lbnode.settings import AgentSettings
from lbnode.speaker.memory import MemorySpeaker
from lbnode.translate.sysctls import EDGE_SYSCTLS
from tests.conformance.node import (
    IPV4,
    POOLS,
    inside,
    ipvs_destinations,
    ipvs_services,
    loopback_addresses,
    new_namespace,
    sh,
)

ROOT = Path(__file__).parents[2]
VIP = "203.0.113.1"


def text(**changes: Any) -> str:
    """A file for the node of the suite; its pools are those of the data planes."""
    raw: dict[str, Any] = {
        "settings": {
            "pools": [{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}],
            "bgp": {"localAsn": 65010, "peers": [{"name": "r", "address": "198.18.0.1", "asn": 65001, "bfd": None}]},
            "network": {"nodeCidrs": ["198.18.0.0/24"]},
            "drain": {"withdrawSeconds": 0},
        },
        "edgeNodes": [{"name": "edge1", "addresses": [str(IPV4.node)]}],
        "workers": [{"name": f"worker{n}", "addresses": [f"198.18.0.2{n}"]} for n in (1, 2)],
        "services": [
            {
                "name": "web",
                "addresses": [VIP],
                "ports": [{"port": 80, "targetPort": 8080}, {"port": 53, "protocol": "UDP"}],
                "onePacket": True,
                "workers": [{"name": "worker1", "weight": 2}, {"name": "worker2"}],
            }
        ],
    }
    return json.dumps(raw | changes)


class Node:
    """The edge role over a given data plane, with every worker answering."""

    def __init__(self, path: Path, plane: EdgeDataPlane) -> None:
        self.path = path
        path.write_text(text())
        self.outside = StandaloneNode(path, "edge", "edge1")
        self.now = 100.0
        self.announced: frozenset[IPAddress] = frozenset()

        def speaker(settings: AgentSettings, addresses: tuple[IPAddress, ...]) -> MemorySpeaker:
            self.speaker = MemorySpeaker(settings.bgp, settings.pools, "edge1", addresses)
            return self.speaker

        self.edge = Edge(
            "edge1",
            lambda: self.outside.settings,
            self.outside.copy,
            plane,
            speaker,
            EdgeMetrics("test"),
            lambda: self.now,
        )

    def run(self, new_text: str | None = None) -> set[str]:
        """Passes and probes until decided; the VIPs announced."""
        if new_text is not None:
            self.path.write_text(new_text)
        self.outside.poll()

        async def go() -> None:
            for _ in range(4):
                self.now += 0.5
                self.edge.probed(tuple(ProbeResult(w, True, "Answered") for w in self.edge.probe_targets()))
                await self.edge.pass_once()

        asyncio.run(go())
        return {str(a) for a in self.speaker.history[-1]} if self.speaker.history else set()


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.root)])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EdgeDataPlane]:
    """As the suite's own, but with all the sysctls that the role asks for."""
    if request.param == "memory":
        yield MemoryEdge(POOLS, dict.fromkeys(EDGE_SYSCTLS, "0"))
        return
    with new_namespace():
        plane = KernelEdge(POOLS, sysctls=EDGE_SYSCTLS, record_directory=tmp_path / "record")
        yield plane
        plane.close()


@pytest.fixture
def node(edge: EdgeDataPlane, tmp_path: Path) -> Node:
    return Node(tmp_path / "standalone.json", edge)


def is_kernel(edge: EdgeDataPlane) -> bool:
    return isinstance(edge, KernelEdge)


def test_a_file_becomes_services_in_the_data_plane_and_announcements(node: Node, edge: EdgeDataPlane) -> None:
    assert node.run() == {VIP}
    state = edge.read()
    assert {str(a) for a in state.vips} == {VIP}
    assert [(str(s.key), [(str(d.address), d.weight) for d in s.destinations]) for s in state.services] == [
        (f"{kind}://{VIP}:{port}", [("198.18.0.21", 2), ("198.18.0.22", 1)])
        for kind, port in (("tcp", 80), ("udp", 53))
    ]
    if is_kernel(edge):
        assert ipvs_services() == {
            f"tcp {VIP}:80": "-s mh -b mh-fallback,mh-port",
            f"udp {VIP}:53": "-s mh -o -b mh-fallback,mh-port",
        }
        assert {str(a) for a in loopback_addresses()} == {VIP}


def test_a_half_written_file_changes_nothing_in_the_data_plane(node: Node, edge: EdgeDataPlane) -> None:
    node.run()
    before, writes = edge.read(), node.edge.view.kernel_writes
    assert node.run(text()[:-40]) == {VIP}
    assert "neither YAML nor JSON" in node.outside.settings_error
    assert (edge.read(), node.edge.view.kernel_writes) == (before, writes)


def test_drained_workers_and_services_that_leave_go_as_the_file_says(node: Node, edge: EdgeDataPlane) -> None:
    node.run()
    services = json.loads(text())["services"]
    services[0]["workers"][0]["drained"] = True
    assert node.run(text(services=services)) == {VIP}
    drained = [[d.drained for d in s.destinations] for s in edge.read().services]
    assert drained == [[True, False], [False]], "TCP keeps its slots, UDP moves on"
    if is_kernel(edge):
        assert [w for *_, w in ipvs_destinations(f"tcp {VIP}:80")] == [0, 1]
    assert node.run(text(services=[])) == set()
    assert (edge.read().services, edge.read().vips) == ((), frozenset())


# The whole command: `lbnode run` for edge and worker by one file, with BIRD, in namespaces of one machine.

CLIENT, EDGE, WORKER = "198.18.3.2", "198.18.1.2", "198.18.2.2"
BOOT_SECONDS = 120.0


def whole_text() -> str:
    raw = json.loads(text())
    raw["settings"]["network"] = {"nodeCidrs": ["198.18.0.0/16"]}
    raw["settings"]["pools"] = [{"name": "p", "cidrs": ["203.0.113.0/24"]}]
    raw["settings"]["packetFilter"] = "iptables-legacy"
    raw["edgeNodes"] = [{"name": "edge1", "addresses": [EDGE]}]
    raw["workers"] = [{"name": "worker1", "addresses": [WORKER]}]
    raw["services"] = [{"name": "web", "addresses": [VIP], "ports": [{"port": 80, "targetPort": 8080}]}]
    return json.dumps(raw)


def until(what: Callable[[], Any], seconds: float = BOOT_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError, AssertionError, KeyError):
            if found := what():
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s")
        time.sleep(0.2)


class Machines:
    """Client, router, edge node and worker; the roles' processes in the latter two."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        path.write_text(whole_text())
        # Former sysctls are recorded there, and the machine's root is read-only.
        sh("mount -t tmpfs tmpfs /var/lib")
        stack.callback(sh, "umount /var/lib")
        for name in ("router", "client", "edge", "worker"):
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
            sh(f"ip -n {name} link set lo up")
            sh(
                f"ip netns exec {name} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.rp_filter=0"
            )
        for name, address in (("edge", EDGE), ("worker", WORKER), ("client", CLIENT)):
            router = address.removesuffix("2") + "1"
            sh(f"ip link add eth0 netns {name} type veth peer name to-{name} netns router")
            sh(f"ip -n {name} addr add {address}/24 dev eth0")
            sh(f"ip -n router addr add {router}/24 dev to-{name}")
            sh(f"ip -n {name} link set eth0 up")
            sh(f"ip -n router link set to-{name} up")
            sh(f"ip -n {name} route add default via {router}")
        sh(f"ip -n router route add 203.0.113.0/24 via {EDGE}")
        supervisor = ROOT / "image" / "bird-supervisor.sh"
        Path("/run/samegate").mkdir(exist_ok=True)
        self.log = path.with_suffix(".log").open("wb")
        stack.callback(self.log.close)
        self.bird = self.start(stack, "edge", ["sh", str(supervisor), "/run/samegate"])
        self.worker = self.start(stack, "worker", self.lbnode("run", "worker", "worker1"))
        self.edge = self.start(stack, "edge", self.lbnode("run", "edge", "edge1"))

    def lbnode(self, verb: str, role: str, node: str) -> list[str]:
        return [sys.executable, "-m", "lbnode", verb, role, "--standalone", str(self.path), "--node", node]

    def start(self, stack: ExitStack, namespace: str, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command],
            cwd=ROOT,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def page(self, name: str = "v1/status") -> str:
        with inside("/run/netns/client"), urllib.request.urlopen(f"http://{EDGE}:9474/{name}", timeout=5) as answer:
            return str(answer.read().decode())

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.page())
        return found

    def announced(self) -> dict[str, bool]:
        return {vip: said["announced"] for vip, said in self.status()["vips"].items()}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    if shutil.which("bird") is None:
        pytest.skip("bird is not installed (Debian package bird2)")
    with ExitStack() as stack:
        yield Machines(tmp_path_factory.mktemp("standalone") / "standalone.json", stack)


@pytest.mark.root
def test_two_commands_and_one_file_serve_a_vip_from_client_to_process(machines: Machines) -> None:
    try:
        until(lambda: machines.announced() == {VIP: True})
    except AssertionError:
        pytest.fail(machines.path.with_suffix(".log").read_text()[-6000:])
    with inside("/run/netns/worker"):
        listener = socket.create_server(("0.0.0.0", 8080))
    with listener:
        listener.settimeout(10)
        with inside("/run/netns/client"), socket.create_connection((VIP, 80), timeout=10) as client:
            server, (seen, _) = listener.accept()
            assert seen == CLIENT
            server.sendall(b"hello")
            assert client.recv(5) == b"hello"
            server.close()

    # A half-written file: said in the page and the metric, and everything goes on.
    with inside("/run/netns/edge"):
        before = sh("ipvsadm -Sn"), sh("ip addr show dev lo")
    machines.path.write_text(whole_text()[:-20])
    assert "standalone.json" in until(lambda: machines.status()["settings_error"])
    assert "samegate_settings_refused 1.0" in machines.page("metrics")
    time.sleep(3)
    assert machines.announced() == {VIP: True}
    with inside("/run/netns/edge"):
        assert (sh("ipvsadm -Sn"), sh("ip addr show dev lo")) == before
    assert "settings.refused" in machines.path.with_suffix(".log").read_text()

    # Mended, with a second VIP.
    raw = json.loads(whole_text())
    raw["services"].append({"name": "more", "addresses": ["203.0.113.2"], "ports": [{"port": 81}]})
    machines.path.write_text(json.dumps(raw))
    until(lambda: machines.announced() == {VIP: True, "203.0.113.2": True})
    assert machines.status()["settings_error"] == ""

    # An agent that stops flushes nothing; `clean` does.
    machines.edge.terminate()
    assert machines.edge.wait(60) == 0
    with inside("/run/netns/edge"):
        assert "203.0.113.2" in sh("ipvsadm -Sn")
        subprocess.run(machines.lbnode("clean", "edge", "edge1"), cwd=ROOT, check=True, timeout=120)
        assert "203.0.113" not in sh("ipvsadm -Sn") + sh("ip addr show dev lo")
