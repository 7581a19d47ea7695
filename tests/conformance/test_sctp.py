"""SCTP with real packets, where the kernel has it: the client's association reaches the worker through IPVS and the tunnel."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.model import (
    AddDestination,
    AddService,
    Destination,
    EdgeFilter,
    EdgeState,
    IpvsTimeouts,
    Protocol,
    ReplaceFilter,
    VirtualKey,
    VirtualService,
)
from lbnode.translate import ALL_EDGE_SYSCTLS, EDGE_SYSCTLS, SCTP_SYSCTLS
from tests.conformance.node import sh
from tests.conformance.star import at, build_star

pytestmark = pytest.mark.root

POOLS = (ip_network("203.0.113.0/24"),)
VIP = ip_address("203.0.113.1")
SIGNALS = VirtualKey(VIP, Protocol.SCTP, 2905)
NAMES = {n: IPv4Address(a) for n, a in (("client", "198.18.8.2"), ("edge", "198.18.1.2"), ("worker", "198.18.2.2"))}
FILTER = EdgeFilter(POOLS, frozenset({SIGNALS}))
STATE = EdgeState(
    sysctls=EDGE_SYSCTLS | SCTP_SYSCTLS,
    timeouts=IpvsTimeouts(),
    filter_digest=FILTER.digest,
    vips=frozenset({VIP}),
    services=(VirtualService(SIGNALS, (Destination(NAMES["worker"]),)),),
)


def missing_sctp() -> str:
    """Why this machine has no SCTP sockets, or nothing: tried, not looked up."""
    subprocess.run(["/run/modprobe", "sctp"], check=False, capture_output=True)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError as error:
        return f"no SCTP sockets here: {error}"
    return ""


@pytest.fixture
def edge() -> Iterator[KernelEdge]:
    if why := missing_sctp():
        pytest.skip(why)
    with ExitStack() as stack:
        build_star(stack, NAMES)
        sh(f"ip -n router route add {POOLS[0]} via {NAMES['edge']}")
        # The worker by hand, as an operator without the worker role would have it: a tunnel and the VIP.
        sh(f"ip -n worker link add tun type ipip local {NAMES['worker']} remote {NAMES['edge']}")
        sh("ip -n worker link set tun up")
        sh(f"ip -n worker addr add {VIP}/32 dev lo")
        with at("edge"):
            plane = KernelEdge(POOLS, sysctls=ALL_EDGE_SYSCTLS)
            stack.callback(plane.close)
            plane.read()
            yield plane


def associated() -> bool:
    """Whether an association with the VIP comes about and carries a message to the worker."""
    with at("worker"), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as listener:
        listener.bind((str(VIP), SIGNALS.port))
        listener.listen()
        listener.settimeout(5)
        with at("client"), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
            client.settimeout(5)
            try:
                client.connect((str(VIP), SIGNALS.port))
                server, (seen, _) = listener.accept()
            except OSError:
                return False
            with server:
                client.sendall(b"hello")
                return (server.recv(5), seen) == (b"hello", str(NAMES["client"]))


def test_an_association_reaches_the_worker_and_keeps_the_clients_address(edge: KernelEdge) -> None:
    assert edge.missing_protocols() == frozenset()
    edge.apply(diff_edge(STATE, FILTER, edge.read()))
    assert diff_edge(STATE, FILTER, edge.read()) == ()
    assert f"SCTP {VIP}:2905 mh" in " ".join(sh("ipvsadm -Ln").split()).replace("  ", " ")
    assert associated()


def test_without_its_port_in_the_filter_or_its_service_it_does_not(edge: KernelEdge) -> None:
    """The control for the test above."""
    edge.apply(diff_edge(STATE, FILTER, edge.read()))
    edge.apply([ReplaceFilter(EdgeFilter(POOLS, frozenset()))])
    assert not associated()


def test_a_service_is_read_back_as_it_was_written(edge: KernelEdge) -> None:
    edge.apply([AddService(VirtualService(SIGNALS)), AddDestination(SIGNALS, NAMES["worker"], 2)])
    assert edge.read().services == (VirtualService(SIGNALS, (Destination(NAMES["worker"], 2),)),)


def test_looking_for_sctp_leaves_nothing_behind(edge: KernelEdge) -> None:
    edge.missing_protocols()
    assert "SAMEGATE" not in sh("iptables-legacy-save")
    assert Path("/proc/kallsyms").read_text().count(" sctp_conn_schedule") == 1
