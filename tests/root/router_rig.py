"""A rack's routers without the rack: core and one ToR of the lab as it configures and starts them, and two edge nodes' BIRD as the agent drives it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab import netns, network, processes, routers, topology
from lab.routers import base, frr
from lab.routers.base import Software
from lab.topology import Node, Router
from lbnode.bgp_settings import Bgp
from lbnode.errors import Retry
from lbnode.facts import RouteAttributes
from lbnode.pools import Pool
from lbnode.routes import routes_of
from lbnode.speaker.bird import Bird
from tests.root.speaker_rig import SUPERVISOR

POOLS = (
    Pool.model_validate({"name": "public", "cidrs": [str(topology.VIP_POOL), str(topology.VIP_POOL6)]}),
    # Of no concern to the lab's routers, which must not take it.
    Pool.model_validate({"name": "foreign", "cidrs": ["198.51.100.0/24"]}),
)


class Edge:
    """BIRD of one edge node, as its container runs it and its agent drives it."""

    def __init__(self, node: Node, namespace: str, base_directory: Path, password: str | None) -> None:
        self.node, self.namespace = node, namespace
        self.directory, keys = base_directory / node.name, base_directory / f"{node.name}-keys"
        self.directory.mkdir()
        keys.mkdir()
        peer = {"name": "tor1", "address": str(topology.TOR1_ROUTER.router_id), "asn": topology.TOR1_ROUTER.asn}
        if password:
            peer["passwordKey"] = "rack"
            (keys / "rack").write_text(password)
        settings = Bgp.model_validate({"localAsn": topology.EDGE_ASN, "communities": ["65010:100"], "peers": [peer]})
        addresses = (node.address, node.address6)
        self._speaker = Bird(settings, POOLS, node.name, addresses, self.directory, keys)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "bird.log").open("ab") as log:
            argv = netns.enter(self.namespace, ["sh", str(SUPERVISOR), str(self.directory)])
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def announce(self, *vips: str) -> None:
        """Announce these VIPs and no other, as the role's loop does: again while BIRD is not there yet."""
        wanted = routes_of({ip_address(vip): RouteAttributes() for vip in vips}, POOLS)
        end = time.monotonic() + 60
        while True:
            try:
                asyncio.run(self._speaker.set(wanted))
                return
            except Retry:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """To BIRD itself."""
        os.kill(int((self.directory / "bird.pid").read_text()), number)

    def established(self) -> bool:
        return asyncio.run(self._speaker.read()).sessions["tor1"].established

    def learnt(self) -> int:
        """How many routes its BIRD imported from routers."""
        said = subprocess.run(
            ["birdc", "-s", str(self.directory / "bird.ctl"), "show", "route", "where", "source", "=", "RTS_BGP", "count"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        total = re.search(r"^Total: (\d+) of", said, re.MULTILINE)
        assert total is not None, said
        return int(total[1])

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclasses.dataclass
class Rig:
    """Core and ToR run; the edges' BIRD not yet."""

    software: Software
    core: Router
    tor: Router
    edges: tuple[Edge, Edge]

    def hops(self, router: Router, vip: str) -> tuple[str, ...]:
        """The next hops of a host route in the router's kernel."""
        return routers.routes(router.name, topology.host_route(vip))

    def sessions(self, router: Router) -> dict[str, tuple[str, str]]:
        """Peer to the state of BGP and BFD."""
        software = frr if router.name == "core" else self.software
        return {session.peer: (session.bgp, session.bfd) for session in software.sessions(router)}

    def downs(self) -> list[tuple[str, str]]:
        """Peer and reason of every BFD session of the ToR that went down."""
        log = self.software.bfd_log(self.tor).read_text(errors="replace")
        return [(down.peer, down.reason) for down in self.software.bfd_downs_in("tor1", log)]


@contextlib.contextmanager
def rig(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    password: str | None = None,
    edge_passwords: tuple[str | None, str | None] = (None, None),
) -> Iterator[Rig]:
    """The routers with a ToR that runs `name`, as `lab up` starts them, in namespaces of their own."""
    prefix = f"sgr-{os.getpid()}-"
    # A UNIX socket's path has at most 107 bytes, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory(prefix="sgr-") as folder:
        place = Path(folder)
        place.chmod(0o755)
        names = {space: f"{prefix}{space.removeprefix(topology.PREFIX)}" for space in topology.NAMESPACES}
        links = tuple(
            topology.Link(
                *(dataclasses.replace(end, namespace=names[end.namespace]) for end in (link.left, link.right))
            )
            for link in topology.LINKS
        )
        # The second ToR is only named: what is done to all ToRs must not reach one of a lab that stands.
        core, tor, other = (
            dataclasses.replace(router, namespace=names[router.namespace]) for router in topology.ROUTERS
        )
        for constant, value in (
            ("LINKS", links),
            ("ROUTERS", (core, tor)),
            ("TORS", (tor, other)),
            ("CORE_ROUTER", core),
            ("TOR1_ROUTER", tor),
            ("CORE", core.namespace),
            ("RACK", names[topology.RACK]),
            ("CLIENT", names[topology.CLIENT]),
            ("CONTROL", names[topology.CONTROL]),
        ):
            monkeypatch.setattr(topology, constant, value)
        for module, constant in ((base, "DIRECTORY"), (routers, "DIRECTORY")):
            monkeypatch.setattr(module, constant, place / "routers")
        monkeypatch.setattr(processes, "RECORDS", place / "run")
        monkeypatch.setattr(processes, "LOGS", place / "logs")
        used = (core.namespace, tor.namespace, topology.RACK, topology.CLIENT)
        edge_spaces = {node.name: f"{prefix}{node.name}" for node in topology.EDGES}
        edges = tuple(
            Edge(node, edge_spaces[node.name], place, key)
            for node, key in zip(topology.EDGES, edge_passwords, strict=True)
        )
        assert len(edges) == 2
        try:
            for space in used:
                netns.create(space)
                network._write_sysctls(space)
            _ip(topology.RACK, f"link add {topology.RACK_BRIDGE} type bridge stp_state 0 mcast_snooping 0")
            _ip(topology.RACK, f"link set {topology.RACK_BRIDGE} up")
            for link in links:
                if {link.left.namespace, link.right.namespace} <= set(used):
                    network._connect(link)
            for edge in edges:
                _attach(edge)
            routers.start(software=name, bgp_password=password)
            yield Rig(routers.SOFTWARE[name], core, tor, (edges[0], edges[1]))
        except BaseException:
            for log in sorted((place / "logs").glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}")
            raise
        finally:
            for edge in edges:
                edge.stop()
            routers.remove()
            for space in (*used, *edge_spaces.values()):
                netns.delete(space)


def _ip(namespace: str, arguments: str) -> None:
    netns.run(namespace, ["ip", *arguments.split()])


def _attach(edge: Edge) -> None:
    """A cable from the rack's bridge to an edge node, with the node's addresses at its end."""
    netns.create(edge.namespace)
    _ip(topology.RACK, f"link add {edge.node.name} type veth peer name eth0 netns {edge.namespace}")
    _ip(topology.RACK, f"link set {edge.node.name} master {topology.RACK_BRIDGE} up")
    _ip(edge.namespace, f"address add {edge.node.address}/24 dev eth0")
    _ip(edge.namespace, f"address add {edge.node.address6}/64 dev eth0 nodad")
    _ip(edge.namespace, "link set eth0 up")
