"""``forwarding: nat`` with real packets, over IPv4 and over IPv6: client, router, edge node and two pods behind the router, beside
kube-proxy's rules.

kube-proxy is played by what it does on an edge node to a VIP that it knows: away with it before IPVS sees it, and down with what has no
endpoint on the node (``pkg/proxy/iptables/proxier.go``).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

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
from lbnode.packet_tables import EdgeFilter, TranslationTable
from lbnode.translate.sysctls import ALL_EDGE_SYSCTLS, EDGE_SYSCTLS, FORWARDING_SYSCTLS, NAT_SYSCTLS
from tests.conformance.node import POOLS, sh, with_port
from tests.conformance.star import at, build_star

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Way:
    """The ends of one IP version, and what the edge node is to be for them."""

    pool: IPNetwork
    client: IPAddress
    edge: IPAddress
    pods: tuple[IPAddress, IPAddress]
    #: Where kube-proxy would send everything; nobody is there.
    elsewhere: IPAddress
    #: Source ranges with the client in it, and without.
    clients: IPNetwork
    strangers: IPNetwork

    @property
    def vip(self) -> IPAddress:
        return self.pool[1]

    @property
    def web(self) -> VirtualKey:
        return VirtualKey(self.vip, Protocol.TCP, 80)

    @property
    def dns(self) -> VirtualKey:
        return VirtualKey(self.vip, Protocol.UDP, 53)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.vip.version == 4 else socket.AF_INET6

    @property
    def anywhere(self) -> str:
        return "0.0.0.0" if self.vip.version == 4 else "::"

    @property
    def tools(self) -> str:
        return "iptables-legacy" if self.vip.version == 4 else "ip6tables-legacy"

    @property
    def names(self) -> dict[str, IPAddress]:
        return {"client": self.client, "edge": self.edge, "pod1": self.pods[0], "pod2": self.pods[1]}

    @property
    def filter(self) -> EdgeFilter:
        return EdgeFilter((self.pool,), frozenset({self.web, self.dns}), frozenset({self.vip}))

    @property
    def translation(self) -> TranslationTable:
        return TranslationTable((self.pool,), frozenset({self.vip}))

    @property
    def state(self) -> EdgeState:
        return EdgeState(
            sysctls=EDGE_SYSCTLS | NAT_SYSCTLS | FORWARDING_SYSCTLS[self.vip.version],
            timeouts=IpvsTimeouts(),
            filter_digest=self.filter.digest,
            vips=frozenset({self.vip}),
            services=(
                VirtualService(self.web, tuple(Destination(p, nat_port=8080) for p in self.pods)),
                VirtualService(self.dns, (Destination(self.pods[0], nat_port=5353),)),
            ),
            translation_digest=self.translation.digest,
        )

    @property
    def kube_proxy(self) -> str:
        return f"""\
*nat
:KUBE-SERVICES - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d {self.vip} -p tcp --dport 80 -j DNAT --to-destination {with_port(self.elsewhere, 8080)}
-A KUBE-SERVICES -d {self.vip} -p udp --dport 53 -j DNAT --to-destination {with_port(self.elsewhere, 5353)}
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A KUBE-EXTERNAL-SERVICES -d {self.vip} -j DROP
COMMIT
"""


def _way(pool: IPNetwork, ends: str, clients: str, strangers: str) -> Way:
    client, edge, pod1, pod2, elsewhere = map(ip_address, ends.split())
    return Way(pool, client, edge, (pod1, pod2), elsewhere, ip_network(clients), ip_network(strangers))


WAYS = (
    _way(
        POOLS[0],
        "198.18.8.2 198.18.1.2 198.18.131.2 198.18.132.2 198.18.131.99",
        "198.18.8.0/24",
        "192.0.2.0/24",
    ),
    _way(
        POOLS[1],
        "2001:db8:8::2 2001:db8:1::2 2001:db8:83::2 2001:db8:84::2 2001:db8:83::99",
        "2001:db8:8::/64",
        "2001:db8:2::/64",
    ),
)
_WAIT_SECONDS = 3.0


class Rig:
    def __init__(self, way: Way, stack: ExitStack) -> None:
        self.way = way
        build_star(stack, way.names)
        sh(f"ip -n router -{way.vip.version} route add {way.pool} via {way.edge}")
        with at("edge"):
            sh(f"{way.tools}-restore --noflush", way.kube_proxy)
            self.edge = KernelEdge((way.pool,), sysctls=ALL_EDGE_SYSCTLS)
            self.edge.read()
        stack.callback(self.edge.close)
        self.listeners: list[socket.socket] = []
        for name in ("pod1", "pod2"):
            with at(name):
                listener = stack.enter_context(socket.create_server((way.anywhere, 8080), family=way.family))
                listener.settimeout(0.2)
                self.listeners.append(listener)

    def set(self, state: EdgeState, table: EdgeFilter | None = None, translated: bool = True) -> None:
        translation = self.way.translation if translated else None
        with at("edge"):
            self.edge.apply(diff_edge(state, table or self.way.filter, self.edge.read(), translation))

    def connect(self) -> socket.socket:
        with at("client"):
            return socket.create_connection((str(self.way.vip), 80), timeout=_WAIT_SECONDS)

    def accept(self) -> tuple[socket.socket, str, int]:
        """The server's side of a connection, the client's address that it sees, and which pod it is."""
        for _ in range(10):
            for number, listener in enumerate(self.listeners):
                with suppress(TimeoutError):
                    server, peer = listener.accept()
                    return server, peer[0], number
        raise TimeoutError("no pod was connected to")


@pytest.fixture(scope="module", params=WAYS, ids=["ipv4", "ipv6"])
def built(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(request.param, stack)


@pytest.fixture
def rig(built: Rig) -> Rig:
    built.set(built.way.state)
    return built


def test_the_client_reaches_pods_beside_kube_proxy_and_they_see_the_edge_nodes_address(rig: Rig) -> None:
    """That is the loss: the client's address."""
    reached = set()
    for _ in range(20):
        with rig.connect() as client:
            server, seen, pod = rig.accept()
            assert seen == str(rig.way.edge)
            server.sendall(b"hello")
            assert client.recv(5) == b"hello"
            assert client.getpeername()[:2] == (str(rig.way.vip), 80)
            server.close()
            reached.add(pod)
    assert reached == {0, 1}


def test_datagrams_are_answered_from_the_vip(rig: Rig) -> None:
    with at("pod1"), socket.socket(rig.way.family, socket.SOCK_DGRAM) as server:
        server.bind((rig.way.anywhere, 5353))
        server.settimeout(_WAIT_SECONDS)
        with at("client"), socket.socket(rig.way.family, socket.SOCK_DGRAM) as client:
            client.settimeout(_WAIT_SECONDS)
            client.connect((str(rig.way.vip), 53))
            client.send(b"who?")
            question, asker = server.recvfrom(10)
            assert (question, asker[0]) == (b"who?", str(rig.way.edge))
            server.sendto(b"you", asker)
            assert client.recv(10) == b"you"


def test_a_large_answer_arrives_whole(rig: Rig) -> None:
    """There is no tunnel, so segments need no clamp."""
    payload = bytes(range(256)) * 1024
    with rig.connect() as client:
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
    rig.set(replace(rig.way.state, translation_digest=None), translated=False)
    with pytest.raises(OSError):
        rig.connect()


def test_without_connection_tracking_of_ipvs_nothing_comes_back(rig: Rig) -> None:
    """The control for the sysctl: IPVS translates the destination, but nobody the source."""
    with at("edge"):
        sh("sysctl -qw net.ipv4.vs.conntrack=0")
    with pytest.raises(OSError):
        rig.connect()
    rig.set(rig.way.state)
    with rig.connect():
        rig.accept()[0].close()


@pytest.mark.parametrize("comes_in", [True, False])
def test_source_ranges_are_enforced_by_the_edge_node(rig: Rig, comes_in: bool) -> None:
    way = rig.way
    table = replace(way.filter, limited=frozenset({(way.web, way.clients if comes_in else way.strangers)}))
    rig.set(replace(way.state, filter_digest=table.digest), table)
    if comes_in:
        with rig.connect():
            rig.accept()[0].close()
    else:
        with pytest.raises(OSError):
            rig.connect()
        with pytest.raises(TimeoutError):
            rig.accept()


def test_a_drained_pod_keeps_its_connection_and_gets_no_new_one(rig: Rig) -> None:
    with rig.connect() as client:
        server, _, pod = rig.accept()
        drained = tuple(Destination(p, drained=n == pod, nat_port=8080) for n, p in enumerate(rig.way.pods))
        state = rig.way.state
        rig.set(replace(state, services=(VirtualService(rig.way.web, drained), state.services[1])))
        server.sendall(b"still")
        assert client.recv(5) == b"still"
        for _ in range(10):
            with rig.connect():
                other, _, where = rig.accept()
                other.close()
                assert where != pod
        server.close()


def test_the_nodes_own_ports_do_not_answer_on_a_translated_vip(rig: Rig) -> None:
    way = rig.way
    with at("edge"), socket.create_server((way.anywhere, 10250), family=way.family), at("client"):
        socket.create_connection((str(way.edge), 10250), timeout=_WAIT_SECONDS).close()
        with pytest.raises(TimeoutError):
            socket.create_connection((str(way.vip), 10250), timeout=1.0)


def test_kube_proxy_that_puts_itself_first_is_noticed_and_put_behind(rig: Rig) -> None:
    with at("edge"):
        sh(f"{rig.way.tools} -t nat -D PREROUTING -j KUBE-SERVICES")
        sh(f"{rig.way.tools} -t nat -I PREROUTING 1 -j KUBE-SERVICES")
        assert rig.edge.read().translation_digest is None
    with pytest.raises(OSError):
        rig.connect()
    rig.set(rig.way.state)
    with rig.connect():
        rig.accept()[0].close()


def test_cleaning_leaves_kube_proxys_rules_and_nothing_of_ours(rig: Rig) -> None:
    with at("edge"):
        rig.edge.clean()
        saved = sh(f"{rig.way.tools}-save")
    assert "SAMEGATE" not in saved
    assert saved.count("KUBE-SERVICES") == 4
