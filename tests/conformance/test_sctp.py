"""SCTP with real packets, where the kernel has it: the client's association reaches the worker through IPVS and the
tunnel, over IPv4 and over IPv6.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.model import (
    Destination,
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    Protocol,
    VirtualKey,
    VirtualService,
)
from lbnode.operations import AddDestination, AddService, ReplaceFilter
from lbnode.packet_tables import EdgeFilter
from lbnode.translate.sysctls import ALL_EDGE_SYSCTLS, EDGE_SYSCTLS, SCTP_SYSCTLS
from tests.conformance.node import POOLS, sh, with_port
from tests.conformance.star import at, build_star

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Way:
    """The ends of one IP version, and what the edge node is to be for them."""

    pool: IPNetwork
    names: dict[str, IPAddress]
    tunnel: str

    @property
    def vip(self) -> IPAddress:
        return self.pool[1]

    @property
    def signals(self) -> VirtualKey:
        return VirtualKey(self.vip, Protocol.SCTP, 2905)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.vip.version == 4 else socket.AF_INET6

    @property
    def filter(self) -> EdgeFilter:
        return EdgeFilter((self.pool,), frozenset({self.signals}))

    @property
    def state(self) -> EdgeState:
        return EdgeState(
            sysctls=EDGE_SYSCTLS | SCTP_SYSCTLS,
            timeouts=IpvsTimeouts(),
            filter_digest=self.filter.digest,
            vips=frozenset({self.vip}),
            services=(VirtualService(self.signals, (Destination(self.names["worker"]),)),),
        )


def _way(pool: IPNetwork, tunnel: str, ends: str) -> Way:
    return Way(pool, dict(zip(("client", "edge", "worker"), map(ip_address, ends.split()), strict=True)), tunnel)


WAYS = (
    _way(POOLS[0], "ipip", "198.18.8.2 198.18.1.2 198.18.2.2"),
    _way(POOLS[1], "ip6tnl mode ip6ip6 encaplimit none", "2001:db8:8::2 2001:db8:1::2 2001:db8:f::2"),
)


def missing_sctp() -> str:
    """Why this machine has no SCTP sockets, or nothing: tried, not looked up."""
    subprocess.run(["/run/modprobe", "sctp"], check=False, capture_output=True)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as error:
        return f"no SCTP sockets here: {error}"
    return ""


@pytest.fixture(params=WAYS, ids=["ipv4", "ipv6"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
def edge(way: Way) -> Iterator[KernelEdge]:
    if why := missing_sctp():
        pytest.skip(why)
    with ExitStack() as stack:
        build_star(stack, way.names)
        sh(f"ip -n router -{way.vip.version} route add {way.pool} via {way.names['edge']}")
        # The worker by hand, as an operator without the worker role would have it: a tunnel and the VIP.
        kind, _, mode = way.tunnel.partition(" ")
        sh(f"ip -n worker link add tun type {kind} {mode} local {way.names['worker']} remote {way.names['edge']}")
        sh("ip -n worker link set tun up")
        sh(f"ip -n worker addr add {way.vip}/{way.vip.max_prefixlen} dev lo")
        with at("edge"):
            plane = KernelEdge((way.pool,), sysctls=ALL_EDGE_SYSCTLS)
            stack.callback(plane.close)
            plane.read()
            yield plane


def associated(way: Way) -> bool:
    """Whether an association with the VIP comes about and carries a message to the worker."""
    with at("worker"), socket.socket(way.family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.bind((str(way.vip), way.signals.port))
        listener.listen()
        listener.settimeout(5)
        with at("client"), socket.socket(way.family, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
            client.settimeout(5)
            try:
                client.connect((str(way.vip), way.signals.port))
                server, (seen, *_) = listener.accept()
            except OSError:
                return False
            with server:
                client.sendall(b"hello")
                return (server.recv(5), seen) == (b"hello", str(way.names["client"]))


def test_an_association_reaches_the_worker_and_keeps_the_clients_address(edge: KernelEdge, way: Way) -> None:
    assert edge.missing_protocols() == frozenset()
    edge.apply(diff_edge(way.state, way.filter, edge.read()))
    assert diff_edge(way.state, way.filter, edge.read()) == ()
    assert f"SCTP {with_port(way.vip, 2905)} mh" in " ".join(sh("ipvsadm -Ln").split()).replace("  ", " ")
    assert associated(way)


def test_without_its_port_in_the_filter_or_its_service_it_does_not(edge: KernelEdge, way: Way) -> None:
    """The control for the test above."""
    edge.apply(diff_edge(way.state, way.filter, edge.read()))
    edge.apply([ReplaceFilter(EdgeFilter((way.pool,), frozenset()))])
    assert not associated(way)


def test_a_service_is_read_back_as_it_was_written(edge: KernelEdge, way: Way) -> None:
    edge.apply([AddService(VirtualService(way.signals)), AddDestination(way.signals, way.names["worker"], 2)])
    assert edge.read().services == (VirtualService(way.signals, (Destination(way.names["worker"], 2),)),)


def test_looking_for_sctp_leaves_nothing_behind(edge: KernelEdge) -> None:
    edge.missing_protocols()
    assert "SAMEGATE" not in sh("iptables-legacy-save") + sh("ip6tables-legacy-save")
    assert Path("/proc/kallsyms").read_text().count(" sctp_conn_schedule") == 1
