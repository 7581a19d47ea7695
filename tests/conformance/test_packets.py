"""The packet's way with real packets: client, router, edge node, worker and pod as namespaces of one kernel.

kube-proxy is played by its one rule that matters here, a DNAT of the VIP's port to the pod on the worker.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_edge, diff_worker
from lbnode.model import (
    Delivery,
    DeliveryTable,
    Destination,
    EdgeFilter,
    EdgeState,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    RemoveDelivery,
    ReplaceDelivery,
    Tunnel,
    VirtualKey,
    VirtualService,
    WorkerFilter,
    WorkerState,
)
from tests.conformance.node import POOLS, PROBE_NETWORKS, inside, sh

pytestmark = pytest.mark.root

CLIENT, EDGE, WORKER, POD = (ip_address(a) for a in ("198.18.8.2", "198.18.1.2", "198.18.2.2", "198.18.131.10"))
PROBE = ip_address("192.0.2.2")
VIP, UNKNOWN_VIP, HALF_KNOWN_VIP = (ip_address(f"203.0.113.{n}") for n in (1, 2, 3))
WEB, HALF_KNOWN = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(HALF_KNOWN_VIP, Protocol.UDP, 80)
SEGMENT_BYTES = 1440
SYSCTLS = {"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.vs.expire_nodest_conn": "1"}
EDGE_FILTER = EdgeFilter(POOLS, frozenset({WEB, HALF_KNOWN}))
WORKER_FILTER = WorkerFilter(POOLS, (PROBE,), ((4, SEGMENT_BYTES), (6, 1400)))
EDGE_STATE = EdgeState(
    sysctls=SYSCTLS,
    timeouts=IpvsTimeouts(),
    filter_digest=EDGE_FILTER.digest,
    vips=frozenset({VIP, HALF_KNOWN_VIP}),
    services=tuple(VirtualService(k, (Destination(WORKER),)) for k in (WEB, HALF_KNOWN)),
    probe_device=True,
    probe_routes=frozenset({ProbeRoute(PROBE, WORKER)}),
)
WORKER_STATE = WorkerState({}, WORKER_FILTER.digest, frozenset({Tunnel(EDGE, WORKER)}), frozenset({PROBE}))
NAMES = ("client", "router", "edge", "worker", "pod")
_WAIT_SECONDS = 2.0


@contextmanager
def at(name: str) -> Iterator[None]:
    with inside(f"/run/netns/{name}"):
        yield


def _wire(name: str, device: str, address: str, router_address: str) -> None:
    sh(f"ip link add {device} netns {name} type veth peer name to-{name} netns router")
    sh(f"ip -n {name} addr add {address}/24 dev {device}")
    sh(f"ip -n router addr add {router_address}/24 dev to-{name}")
    for namespace, end in ((name, device), ("router", f"to-{name}")):
        sh(f"ip -n {namespace} link set {end} up")
    sh(f"ip -n {name} route add default via {router_address}")


class Rig:
    """The five namespaces and the two data planes in theirs."""

    def __init__(self, stack: ExitStack) -> None:
        for name in NAMES:
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
            sh(f"ip -n {name} link set lo up")
            with at(name):
                sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0")
                sh("sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0")
        _wire("client", "eth0", str(CLIENT), "198.18.8.1")
        _wire("edge", "eth0", str(EDGE), "198.18.1.1")
        _wire("worker", "eth0", str(WORKER), "198.18.2.1")
        sh("ip link add eth0 netns pod type veth peer name cni0 netns worker")
        sh(f"ip -n pod addr add {POD}/24 dev eth0")
        sh("ip -n worker addr add 198.18.131.1/24 dev cni0")
        sh("ip -n pod link set eth0 up")
        sh("ip -n worker link set cni0 up")
        sh("ip -n pod route add default via 198.18.131.1")
        sh(f"ip -n router route add {POOLS[0]} via {EDGE}")
        sh(f"ip -n router route add 198.18.131.0/24 via {WORKER}")
        with at("worker"):
            sh(f"iptables-legacy -t nat -A PREROUTING -d {VIP} -p tcp --dport 80 -j DNAT --to-destination {POD}:8080")
        # What kube-proxy would do on the edge node to a VIP that it knows: away with it, before IPVS sees it.
        with at("edge"):
            sh(
                f"iptables-legacy -t nat -A PREROUTING -d {VIP} -p tcp --dport 80 -j DNAT --to-destination 198.18.131.99:8080"
            )
        with at("edge"):
            self.edge = KernelEdge(POOLS, EDGE, sysctls=tuple(SYSCTLS))
            self.edge.read()
        with at("worker"):
            self.worker = KernelWorker(POOLS, PROBE_NETWORKS)
            self.worker.read()
        with at("pod"):
            self.listener = stack.enter_context(socket.create_server((str(POD), 8080)))
        stack.callback(self.edge.close)
        stack.callback(self.worker.close)

    def set(self, edge: EdgeState, worker: WorkerState) -> None:
        """Bring both nodes to these states; what a state leaves out is taken away."""
        with at("worker"):
            self.worker.apply(diff_worker(worker, WORKER_FILTER, self.worker.read()))
        with at("edge"):
            self.edge.apply(diff_edge(edge, EDGE_FILTER, self.edge.read()))


@pytest.fixture(scope="module")
def built() -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack)


@pytest.fixture
def rig(built: Rig) -> Rig:
    built.set(EDGE_STATE, WORKER_STATE)
    return built


def accept(rig: Rig) -> tuple[socket.socket, str]:
    rig.listener.settimeout(_WAIT_SECONDS)
    server, (address, _) = rig.listener.accept()
    return server, address


def connect(port: int = 80) -> socket.socket:
    with at("client"):
        return socket.create_connection((str(VIP), port), timeout=_WAIT_SECONDS)


def counted(namespace: str, match: str) -> int:
    """Packets that a counting rule (``count`` below) has seen."""
    with at(namespace):
        rows = [r.split() for r in sh("iptables-legacy -t raw -L PREROUTING -vnx").splitlines() if match in r]
    return int(rows[0][0])


@contextmanager
def count(namespace: str, rule: str, label: str) -> Iterator[None]:
    full = f"PREROUTING {rule} -m comment --comment {label}"
    with at(namespace):
        sh(f"iptables-legacy -t raw -I {full}")
    try:
        yield
    finally:
        with at(namespace):
            sh(f"iptables-legacy -t raw -D {full}")


def send_ip(namespace: str, packet: bytes, to: str) -> None:
    with at(namespace), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (to, 0))


def ipv4(source: object, destination: object, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet; the kernel fills in length and checksum of the outer header, so the inner one has its own."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        1,
        0,
        64,
        protocol,
        0,
        ip_address(str(source)).packed,
        ip_address(str(destination)).packed,
    )
    total = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + payload


def udp(port: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8, 0)


def test_the_client_reaches_the_pod_and_the_pod_sees_the_clients_address(rig: Rig) -> None:
    with connect() as client:
        server, seen = accept(rig)
        assert seen == str(CLIENT)
        server.sendall(b"hello")
        assert client.recv(5) == b"hello"
        server.close()


@contextmanager
def kube_proxy_without_endpoints(rig: Rig, *deliveries: Delivery) -> Iterator[None]:
    """kube-proxy drops the VIP, as it does when the API calls every local endpoint unready; the worker delivers these by itself."""
    dnat = f"PREROUTING -d {VIP} -p tcp --dport 80 -j DNAT --to-destination {POD}:8080"
    drop = f"FORWARD -m conntrack --ctstate NEW -d {VIP} -p tcp --dport 80 -j DROP"
    table = DeliveryTable(POOLS, deliveries)
    with at("worker"):
        sh(f"iptables-legacy -t nat -D {dnat}")
        sh(f"iptables-legacy -t filter -I {drop}")
        rig.worker.apply([ReplaceDelivery(table)])
    try:
        yield
    finally:
        with at("worker"):
            rig.worker.apply([RemoveDelivery()])
            sh(f"iptables-legacy -t filter -D {drop}")
            sh(f"iptables-legacy -t nat -I {dnat}")


def test_what_kube_proxy_drops_for_want_of_endpoints_the_worker_delivers_by_itself(rig: Rig) -> None:
    with kube_proxy_without_endpoints(rig, Delivery(WEB, ((POD, 8080),))), connect() as client:
        server, seen = accept(rig)
        assert seen == str(CLIENT)
        server.sendall(b"hello")
        assert client.recv(5) == b"hello"
        server.close()


def test_without_a_delivery_of_its_own_what_kube_proxy_drops_is_lost(rig: Rig) -> None:
    """The control for the test above."""
    with kube_proxy_without_endpoints(rig), pytest.raises(OSError):
        connect()


def test_a_client_outside_the_source_ranges_is_not_delivered_to(rig: Rig) -> None:
    with (
        kube_proxy_without_endpoints(rig, Delivery(WEB, ((POD, 8080),), (ip_network("198.51.100.0/24"),))),
        pytest.raises(OSError),
    ):
        connect()


def test_what_kube_proxy_delivers_never_gets_as_far_as_the_workers_own_delivery(rig: Rig) -> None:
    nowhere = Delivery(WEB, ((ip_address("198.18.131.99"), 8080),))
    with at("worker"):
        rig.worker.apply([ReplaceDelivery(DeliveryTable(POOLS, (nowhere,)))])
    with connect():
        accept(rig)[0].close()


def test_the_edge_node_tracks_no_connection_of_a_vip(rig: Rig) -> None:
    with connect():
        accept(rig)[0].close()
        with at("edge"):
            assert str(VIP) not in sh("conntrack -L")
        with at("worker"):
            assert str(VIP) in sh("conntrack -L")


def test_without_the_filter_kube_proxy_steals_the_vip_from_ipvs(rig: Rig) -> None:
    with at("edge"):
        rig.edge.apply(
            diff_edge(
                EdgeState(sysctls=SYSCTLS, vips=EDGE_STATE.vips, services=EDGE_STATE.services), None, rig.edge.read()
            )
        )
    with pytest.raises(OSError):
        connect()


def test_segments_are_clamped_by_original_destination_and_not_without_the_filter(rig: Rig) -> None:
    def segment_bytes() -> int:
        with connect() as client:
            accept(rig)[0].close()
            return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    timestamps = 12  # RFC 7323, appendix A: the option takes that much of every segment
    assert segment_bytes() == SEGMENT_BYTES - timestamps
    with at("worker"):
        rig.worker.apply(diff_worker(WorkerState(tunnels=WORKER_STATE.tunnels), None, rig.worker.read()))
    assert segment_bytes() == 1460 - timestamps


@pytest.mark.parametrize("address", [str(VIP), str(HALF_KNOWN_VIP)])
def test_the_nodes_own_ports_do_not_answer_on_a_vip(rig: Rig, address: str) -> None:
    with (
        at("edge"),
        socket.create_server(("0.0.0.0", 10250)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("0.0.0.0", 10250))
        datagrams.settimeout(_WAIT_SECONDS)
        with at("client"):
            socket.create_connection((str(EDGE), 10250), timeout=_WAIT_SECONDS).close()
            with pytest.raises(TimeoutError):
                socket.create_connection((address, 10250), timeout=_WAIT_SECONDS)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"vip", (address, 10250))
                sender.sendto(b"node", (str(EDGE), 10250))
        assert datagrams.recv(10) == b"node"


@pytest.mark.parametrize("address", [UNKNOWN_VIP, HALF_KNOWN_VIP])
def test_a_packet_for_a_vip_that_only_one_side_knows_crosses_the_router_once(rig: Rig, address: object) -> None:
    with count("router", f"-d {address}", "loops"):
        with at("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (str(address), 80))
        time.sleep(0.5)
        assert counted("router", "loops") == 1


def test_without_the_filters_it_loops(rig: Rig) -> None:
    """The control for the test above."""
    with at("edge"):
        rig.edge.apply(diff_edge(EdgeState(sysctls=SYSCTLS), None, rig.edge.read()))
    with count("router", f"-d {UNKNOWN_VIP}", "loops"):
        with at("client"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"?", (str(UNKNOWN_VIP), 80))
        time.sleep(0.5)
        assert counted("router", "loops") > 10


@contextmanager
def datagrams_at(address: object, port: int = 5000) -> Iterator[socket.socket]:
    with at("pod" if address == POD else "worker"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(address), port))
        receiver.settimeout(0.5)
        yield receiver


@pytest.mark.parametrize("outer_source", [EDGE, CLIENT])
@pytest.mark.parametrize("inner_destination", [POD, WORKER])
def test_a_stranger_cannot_tunnel_to_pods_and_nodes(rig: Rig, outer_source: object, inner_destination: object) -> None:
    with datagrams_at(inner_destination) as receiver:
        send_ip(
            "client", ipv4(outer_source, WORKER, 4, ipv4("198.51.100.9", inner_destination, 17, udp(5000))), str(WORKER)
        )
        with pytest.raises(TimeoutError):
            receiver.recv(10)
        # The receiver does receive: the same datagram without its wrapping arrives.
        send_ip("client", ipv4("198.51.100.9", inner_destination, 17, udp(5000)), str(inner_destination))
        assert receiver.recv(10) == b""


@pytest.mark.parametrize("inner_destination", [POD, WORKER])
def test_without_the_filter_a_forged_source_gets_through(rig: Rig, inner_destination: object) -> None:
    """The control for the test above."""
    with at("worker"):
        rig.worker.apply(diff_worker(WorkerState(tunnels=WORKER_STATE.tunnels), None, rig.worker.read()))
    with datagrams_at(inner_destination) as receiver:
        send_ip("client", ipv4(EDGE, WORKER, 4, ipv4("198.51.100.9", inner_destination, 17, udp(5000))), str(WORKER))
        assert receiver.recv(10) == b""


def test_what_anybody_wraps_for_the_edge_node_is_dropped(rig: Rig) -> None:
    with at("edge"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind((str(EDGE), 5001))
        datagrams.settimeout(1.0)
        send_ip("client", ipv4(CLIENT, EDGE, 4, ipv4("198.51.100.9", EDGE, 17, udp(5001))), str(EDGE))
        with pytest.raises(TimeoutError):
            datagrams.recv(10)
        send_ip("client", ipv4(CLIENT, EDGE, 17, udp(5001)), str(EDGE))
        datagrams.recv(10)


@pytest.mark.parametrize(("payload_bytes", "comes_back"), [(1480 - 28, True), (1480 - 27, False)])
def test_a_probe_of_full_size_comes_back_through_the_tunnel_and_a_larger_one_does_not(
    rig: Rig, payload_bytes: int, comes_back: bool
) -> None:
    with at("edge"):
        done = subprocess.run(
            ["ping", "-c1", "-W1", "-Mdo", f"-s{payload_bytes}", str(PROBE)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode == 0) == comes_back, done.stdout + done.stderr
