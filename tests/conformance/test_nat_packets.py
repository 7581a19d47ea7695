"""``forwarding: nat`` with real packets: client, router, edge node and two pods behind the router, beside kube-proxy's rules.

kube-proxy is played by what it does on an edge node to a VIP that it knows: away with it before IPVS sees it, and down with what has no
endpoint on the node (``pkg/proxy/iptables/proxier.go``).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.model import (
    Destination,
    EdgeFilter,
    EdgeState,
    IpvsTimeouts,
    Protocol,
    TranslationTable,
    VirtualKey,
    VirtualService,
)
from lbnode.translate import ALL_EDGE_SYSCTLS, EDGE_SYSCTLS, FORWARDING_SYSCTLS, NAT_SYSCTLS
from tests.conformance.node import sh
from tests.conformance.star import at, build_star

pytestmark = pytest.mark.root

POOLS = (ip_network("203.0.113.0/24"),)
CLIENT, EDGE = IPv4Address("198.18.8.2"), IPv4Address("198.18.1.2")
PODS = (IPv4Address("198.18.131.2"), IPv4Address("198.18.132.2"))
VIP = ip_address("203.0.113.1")
WEB, DNS = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(VIP, Protocol.UDP, 53)
FILTER = EdgeFilter(POOLS, frozenset({WEB, DNS}), frozenset({VIP}))
TRANSLATION = TranslationTable(POOLS, frozenset({VIP}))
STATE = EdgeState(
    sysctls=EDGE_SYSCTLS | NAT_SYSCTLS | FORWARDING_SYSCTLS[4],
    timeouts=IpvsTimeouts(),
    filter_digest=FILTER.digest,
    vips=frozenset({VIP}),
    services=(
        VirtualService(WEB, tuple(Destination(p, nat_port=8080) for p in PODS)),
        VirtualService(DNS, (Destination(PODS[0], nat_port=5353),)),
    ),
    translation_digest=TRANSLATION.digest,
)
NAMES = {"client": CLIENT, "edge": EDGE, "pod1": PODS[0], "pod2": PODS[1]}
KUBE_PROXY = f"""\
*nat
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d {VIP} -p tcp --dport 80 -j DNAT --to-destination 198.18.131.99:8080
-A KUBE-SERVICES -d {VIP} -p udp --dport 53 -j DNAT --to-destination 198.18.131.99:5353
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-EXTERNAL-SERVICES -d {VIP} -j DROP
COMMIT
"""
_WAIT_SECONDS = 3.0


class Rig:
    def __init__(self, stack: ExitStack) -> None:
        build_star(stack, NAMES)
        sh(f"ip -n router route add {POOLS[0]} via {EDGE}")
        with at("edge"):
            sh("iptables-legacy-restore --noflush", KUBE_PROXY)
            self.edge = KernelEdge(POOLS, sysctls=ALL_EDGE_SYSCTLS)
            self.edge.read()
        stack.callback(self.edge.close)
        self.listeners: list[socket.socket] = []
        for name in ("pod1", "pod2"):
            with at(name):
                listener = stack.enter_context(socket.create_server(("0.0.0.0", 8080)))
                listener.settimeout(0.2)
                self.listeners.append(listener)

    def set(
        self, state: EdgeState, table: EdgeFilter = FILTER, translation: TranslationTable | None = TRANSLATION
    ) -> None:
        with at("edge"):
            self.edge.apply(diff_edge(state, table, self.edge.read(), translation))

    def accept(self) -> tuple[socket.socket, str, int]:
        """The server's side of a connection, the client's address that it sees, and which pod it is."""
        for _ in range(10):
            for number, listener in enumerate(self.listeners):
                with suppress(TimeoutError):
                    server, (address, _) = listener.accept()
                    return server, address, number
        raise TimeoutError("no pod was connected to")


@pytest.fixture(scope="module")
def built() -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack)


@pytest.fixture
def rig(built: Rig) -> Rig:
    built.set(STATE)
    return built


def connect() -> socket.socket:
    with at("client"):
        return socket.create_connection((str(VIP), 80), timeout=_WAIT_SECONDS)


def test_the_client_reaches_pods_beside_kube_proxy_and_they_see_the_edge_nodes_address(rig: Rig) -> None:
    """That is the loss: the client's address."""
    reached = set()
    for _ in range(20):
        with connect() as client:
            server, seen, pod = rig.accept()
            assert seen == str(EDGE)
            server.sendall(b"hello")
            assert client.recv(5) == b"hello"
            assert client.getpeername() == (str(VIP), 80)
            server.close()
            reached.add(pod)
    assert reached == {0, 1}


def test_datagrams_are_answered_from_the_vip(rig: Rig) -> None:
    with at("pod1"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 5353))
        server.settimeout(_WAIT_SECONDS)
        with at("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(_WAIT_SECONDS)
            client.connect((str(VIP), 53))
            client.send(b"who?")
            question, asker = server.recvfrom(10)
            assert (question, asker[0]) == (b"who?", str(EDGE))
            server.sendto(b"you", asker)
            assert client.recv(10) == b"you"


def test_a_large_answer_arrives_whole(rig: Rig) -> None:
    """There is no tunnel, so segments need no clamp."""
    payload = bytes(range(256)) * 1024
    with connect() as client:
        server, *_ = rig.accept()
        server.settimeout(_WAIT_SECONDS)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        server.sendall(payload)
        server.close()
        received = bytearray()
        while piece := client.recv(65536):
            received += piece
    assert bytes(received) == payload


def test_without_the_translation_kube_proxy_takes_the_vip(rig: Rig) -> None:
    """The control for the tests above."""
    rig.set(replace(STATE, translation_digest=None), translation=None)
    with pytest.raises(OSError):
        connect()


def test_without_connection_tracking_of_ipvs_nothing_comes_back(rig: Rig) -> None:
    """The control for the sysctl: IPVS translates the destination, but nobody the source."""
    with at("edge"):
        sh("sysctl -qw net.ipv4.vs.conntrack=0")
    with pytest.raises(OSError):
        connect()
    rig.set(STATE)
    with connect():
        rig.accept()[0].close()


@pytest.mark.parametrize(("network", "comes_in"), [("198.18.8.0/24", True), ("192.0.2.0/24", False)])
def test_source_ranges_are_enforced_by_the_edge_node(rig: Rig, network: str, comes_in: bool) -> None:
    table = replace(FILTER, limited=frozenset({(WEB, ip_network(network))}))
    rig.set(replace(STATE, filter_digest=table.digest), table)
    if comes_in:
        with connect():
            rig.accept()[0].close()
    else:
        with pytest.raises(OSError):
            connect()
        with pytest.raises(TimeoutError):
            rig.accept()


def test_a_drained_pod_keeps_its_connection_and_gets_no_new_one(rig: Rig) -> None:
    with connect() as client:
        server, _, pod = rig.accept()
        drained = tuple(Destination(p, drained=n == pod, nat_port=8080) for n, p in enumerate(PODS))
        rig.set(replace(STATE, services=(VirtualService(WEB, drained), STATE.services[1])))
        server.sendall(b"still")
        assert client.recv(5) == b"still"
        for _ in range(10):
            with connect():
                other, _, where = rig.accept()
                other.close()
                assert where != pod
        server.close()


def test_the_nodes_own_ports_do_not_answer_on_a_translated_vip(rig: Rig) -> None:
    with at("edge"), socket.create_server(("0.0.0.0", 10250)), at("client"):
        socket.create_connection((str(EDGE), 10250), timeout=_WAIT_SECONDS).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((str(VIP), 10250), timeout=1.0)


def test_kube_proxy_that_puts_itself_first_is_noticed_and_put_behind(rig: Rig) -> None:
    with at("edge"):
        sh("iptables-legacy -t nat -D PREROUTING -j KUBE-SERVICES")
        sh("iptables-legacy -t nat -I PREROUTING 1 -j KUBE-SERVICES")
        assert rig.edge.read().translation_digest is None
    with pytest.raises(OSError):
        connect()
    rig.set(STATE)
    with connect():
        rig.accept()[0].close()


def test_cleaning_leaves_kube_proxys_rules_and_nothing_of_ours(rig: Rig) -> None:
    with at("edge"):
        rig.edge.clean()
        saved = sh("iptables-legacy-save")
    assert "SAMEGATE" not in saved
    assert saved.count("KUBE-SERVICES") == 4
