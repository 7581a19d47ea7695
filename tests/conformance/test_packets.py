"""The packet's way with real packets: client, router, edge node, worker and pod as namespaces of one kernel, over IPv4 and over IPv6.

kube-proxy is played by its one rule that matters here, a DNAT of the VIP's port to the pod on the worker.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_edge, diff_worker
from lbnode.model import (
    Destination,
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    Tunnel,
    VirtualKey,
    VirtualService,
    WorkerState,
)
from lbnode.operations import RemoveDelivery, ReplaceDelivery
from lbnode.packet_tables import Delivery, DeliveryTable, EdgeFilter, WorkerFilter
from lbnode.probe import Prober, ensure_ping_allowed
from tests.conformance.node import POOLS, PROBE_NETWORKS, inside, sh, with_port

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True)
class Way:
    """The five ends and what is special about one IP version. Sizes are in bytes; see RFC 2003, 2473, 8200 and 9293 for the headers."""

    version: int
    client: IPAddress
    edge: IPAddress
    worker: IPAddress
    pod: IPAddress
    probe: IPAddress
    pool: IPNetwork
    pods: IPNetwork
    stranger: IPAddress
    prefix_length: int
    #: Fabric MTU less tunnel, IP and TCP header; and less IP and TCP header only.
    clamped: int
    unclamped: int
    #: Fabric MTU less tunnel, IP and ICMP header.
    largest_echo: int
    tunnel_protocol: int

    @property
    def vip(self) -> IPAddress:
        return self.pool[1]

    @property
    def unknown_vip(self) -> IPAddress:
        return self.pool[2]

    @property
    def half_known_vip(self) -> IPAddress:
        return self.pool[3]

    @property
    def web(self) -> VirtualKey:
        return VirtualKey(self.vip, Protocol.TCP, 80)

    @property
    def half_known(self) -> VirtualKey:
        return VirtualKey(self.half_known_vip, Protocol.UDP, 80)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.version == 4 else socket.AF_INET6

    @property
    def anywhere(self) -> str:
        return "0.0.0.0" if self.version == 4 else "::"

    @property
    def tool(self) -> str:
        return "iptables-legacy" if self.version == 4 else "ip6tables-legacy"


def _way(version: int, addresses: str, pool: IPNetwork, pods: str, prefix_length: int, *sizes: int) -> Way:
    client, edge, worker, pod, probe, stranger = map(ip_address, addresses.split())
    return Way(version, client, edge, worker, pod, probe, pool, ip_network(pods), stranger, prefix_length, *sizes)


IPV4 = _way(
    4,
    "198.18.8.2 198.18.1.2 198.18.2.2 198.18.131.10 192.0.2.2 198.51.100.9",
    POOLS[0],
    "198.18.131.0/24",
    24,
    1440,
    1460,
    1452,
    4,
)
IPV6 = _way(
    6,
    "2001:db8:8::2 2001:db8:1::2 2001:db8:f::2 2001:db8:83::10 2001:db8:2::2 2001:db8:51::9",
    POOLS[1],
    "2001:db8:83::/64",
    64,
    1400,
    1440,
    1412,
    41,
)
WAYS = (IPV4, IPV6)

SYSCTLS = {"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.vs.expire_nodest_conn": "1"}
EDGE_FILTER = EdgeFilter(POOLS, frozenset(key for w in WAYS for key in (w.web, w.half_known)))
WORKER_FILTER = WorkerFilter(POOLS, tuple(w.probe for w in WAYS), tuple((w.version, w.clamped) for w in WAYS))
EDGE_STATE = EdgeState(
    sysctls=SYSCTLS,
    timeouts=IpvsTimeouts(),
    filter_digest=EDGE_FILTER.digest,
    vips=frozenset(vip for w in WAYS for vip in (w.vip, w.half_known_vip)),
    services=tuple(
        sorted(
            (VirtualService(k, (Destination(w.worker),)) for w in WAYS for k in (w.web, w.half_known)),
            key=lambda s: s.key.order,
        )
    ),
    probe_devices=frozenset({4, 6}),
    probe_routes=frozenset(ProbeRoute(w.probe, w.worker, w.edge) for w in WAYS),
)
WORKER_STATE = WorkerState(
    {}, WORKER_FILTER.digest, frozenset(Tunnel(w.edge, w.worker) for w in WAYS), frozenset(w.probe for w in WAYS)
)
NAMES = ("client", "router", "edge", "worker", "pod")
_WAIT_SECONDS = 2.0


@contextmanager
def at(name: str) -> Iterator[None]:
    with inside(f"/run/netns/{name}"):
        yield


def _wire(name: str, device: str, addresses: Sequence[IPAddress]) -> None:
    sh(f"ip link add {device} netns {name} type veth peer name to-{name} netns router")
    for namespace, end in ((name, device), ("router", f"to-{name}")):
        sh(f"ip -n {namespace} link set {end} up")
    for way, address in zip(WAYS, addresses, strict=True):
        gateway = ip_network((address, way.prefix_length), strict=False)[1]
        _address(name, device, address, way)
        _address("router", f"to-{name}", gateway, way)
        sh(f"ip -n {name} -{way.version} route add default via {gateway}")


def _address(namespace: str, device: str, address: IPAddress, way: Way) -> None:
    nodad = "nodad" if way.version == 6 else ""
    sh(f"ip -n {namespace} addr add {address}/{way.prefix_length} dev {device} {nodad}")


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
                sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
        _wire("client", "eth0", [w.client for w in WAYS])
        _wire("edge", "eth0", [w.edge for w in WAYS])
        _wire("worker", "eth0", [w.worker for w in WAYS])
        sh("ip link add eth0 netns pod type veth peer name cni0 netns worker")
        sh("ip -n pod link set eth0 up")
        sh("ip -n worker link set cni0 up")
        for way in WAYS:
            _address("pod", "eth0", way.pod, way)
            _address("worker", "cni0", way.pods[1], way)
            sh(f"ip -n pod -{way.version} route add default via {way.pods[1]}")
            sh(f"ip -n router route add {way.pool} via {way.edge}")
            sh(f"ip -n router route add {way.pods} via {way.worker}")
            to_the_vip = f"{way.tool} -t nat -A PREROUTING -d {way.vip} -p tcp --dport 80 -j DNAT --to-destination"
            with at("worker"):
                sh(f"{to_the_vip} {with_port(way.pod, 8080)}")
            # What kube-proxy would do on the edge node to a VIP that it knows: away with it, before IPVS sees it.
            with at("edge"):
                sh(f"{to_the_vip} {with_port(way.pods[99], 8080)}")
        with at("edge"):
            self.edge = KernelEdge(POOLS, sysctls=tuple(SYSCTLS))
            self.edge.read()
        with at("worker"):
            self.worker = KernelWorker(POOLS, PROBE_NETWORKS)
            self.worker.read()
        with at("pod"):
            self.listeners = {
                w.version: stack.enter_context(socket.create_server((str(w.pod), 8080), family=w.family)) for w in WAYS
            }
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


@pytest.fixture(params=WAYS, ids=["ipv4", "ipv6"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def accept(rig: Rig, way: Way) -> tuple[socket.socket, str]:
    listener = rig.listeners[way.version]
    listener.settimeout(_WAIT_SECONDS)
    server, (address, *_) = listener.accept()
    return server, address


def connect(way: Way, port: int = 80) -> socket.socket:
    with at("client"):
        return socket.create_connection((str(way.vip), port), timeout=_WAIT_SECONDS)


@contextmanager
def count(way: Way, destination: IPAddress) -> Iterator[Callable[[], int]]:
    """How many packets for this destination the router has seen since."""
    rule = f"PREROUTING -d {destination} -m comment --comment loops"
    with at("router"):
        sh(f"{way.tool} -t raw -I {rule}")

    def counted() -> int:
        with at("router"):
            rows = [r.split() for r in sh(f"{way.tool} -t raw -L PREROUTING -vnx").splitlines() if "loops" in r]
        return int(rows[0][0])

    try:
        yield counted
    finally:
        with at("router"):
            sh(f"{way.tool} -t raw -D {rule}")


def send_ip(way: Way, packet: bytes, to: IPAddress) -> None:
    """From the client."""
    with at("client"), socket.socket(way.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (str(to), 0))


def packet(way: Way, source: IPAddress, destination: IPAddress, protocol: int, payload: bytes) -> bytes:
    """An IP packet. The kernel fills in length and checksum of an outer IPv4 header, so the inner one has its own."""
    if way.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source.packed + destination.packed + payload
    ends = source.packed + destination.packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def checksum(data: bytes) -> int:
    """RFC 1071, over an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: IPAddress, destination: IPAddress, port: int) -> bytes:
    """An empty datagram; its checksum, which IPv6 demands, is over the pseudo-header of RFC 8200 section 8.1 (of RFC 768 for IPv4)."""
    header = struct.pack("!HHHH", 40000, port, 8, 0)
    pseudo = source.packed + destination.packed + struct.pack("!HBBH", 0, 0, 17, 8)
    return header[:6] + struct.pack("!H", checksum(pseudo + header))


def test_the_client_reaches_the_pod_and_the_pod_sees_the_clients_address(rig: Rig, way: Way) -> None:
    with connect(way) as client:
        server, seen = accept(rig, way)
        assert seen == str(way.client)
        server.sendall(b"hello")
        assert client.recv(5) == b"hello"
        server.close()


@contextmanager
def kube_proxy_without_endpoints(rig: Rig, way: Way, *deliveries: Delivery) -> Iterator[None]:
    """kube-proxy drops the VIP, as it does when the API calls every local endpoint unready; the worker delivers these by itself."""
    dnat = f"PREROUTING -d {way.vip} -p tcp --dport 80 -j DNAT --to-destination {with_port(way.pod, 8080)}"
    drop = f"FORWARD -m conntrack --ctstate NEW -d {way.vip} -p tcp --dport 80 -j DROP"
    with at("worker"):
        sh(f"{way.tool} -t nat -D {dnat}")
        sh(f"{way.tool} -t filter -I {drop}")
        rig.worker.apply([ReplaceDelivery(DeliveryTable(POOLS, deliveries))])
    try:
        yield
    finally:
        with at("worker"):
            rig.worker.apply([RemoveDelivery()])
            sh(f"{way.tool} -t filter -D {drop}")
            sh(f"{way.tool} -t nat -I {dnat}")


def test_what_kube_proxy_drops_for_want_of_endpoints_the_worker_delivers_by_itself(rig: Rig, way: Way) -> None:
    with kube_proxy_without_endpoints(rig, way, Delivery(way.web, ((way.pod, 8080),))), connect(way) as client:
        server, seen = accept(rig, way)
        assert seen == str(way.client)
        server.sendall(b"hello")
        assert client.recv(5) == b"hello"
        server.close()


def test_without_a_delivery_of_its_own_what_kube_proxy_drops_is_lost(rig: Rig, way: Way) -> None:
    """The control for the test above."""
    with kube_proxy_without_endpoints(rig, way), pytest.raises(OSError):
        connect(way)


def test_a_client_outside_the_source_ranges_is_not_delivered_to(rig: Rig, way: Way) -> None:
    strangers_only = Delivery(
        way.web, ((way.pod, 8080),), (ip_network((way.stranger, 120 if way.version == 6 else 24), strict=False),)
    )
    with kube_proxy_without_endpoints(rig, way, strangers_only), pytest.raises(OSError):
        connect(way)


def test_what_kube_proxy_delivers_never_gets_as_far_as_the_workers_own_delivery(rig: Rig, way: Way) -> None:
    nowhere = Delivery(way.web, ((way.pods[99], 8080),))
    with at("worker"):
        rig.worker.apply([ReplaceDelivery(DeliveryTable(POOLS, (nowhere,)))])
    with connect(way):
        accept(rig, way)[0].close()


def test_the_edge_node_tracks_no_connection_of_a_vip(rig: Rig, way: Way) -> None:
    list_connections = f"conntrack -L -f ipv{way.version}"
    with connect(way):
        accept(rig, way)[0].close()
        with at("edge"):
            assert f"dst={way.vip} " not in sh(list_connections)
        with at("worker"):
            assert f"dst={way.vip} " in sh(list_connections)


def test_without_the_filter_kube_proxy_steals_the_vip_from_ipvs(rig: Rig, way: Way) -> None:
    with at("edge"):
        rig.edge.apply(
            diff_edge(
                EdgeState(sysctls=SYSCTLS, vips=EDGE_STATE.vips, services=EDGE_STATE.services), None, rig.edge.read()
            )
        )
    with pytest.raises(OSError):
        connect(way)


def test_segments_are_clamped_by_original_destination_and_not_without_the_filter(rig: Rig, way: Way) -> None:
    def segment_bytes() -> int:
        with connect(way) as client:
            accept(rig, way)[0].close()
            return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)

    timestamps = 12  # RFC 7323, appendix A: the option takes that much of every segment
    assert segment_bytes() == way.clamped - timestamps
    with at("worker"):
        rig.worker.apply(diff_worker(WorkerState(tunnels=WORKER_STATE.tunnels), None, rig.worker.read()))
    assert segment_bytes() == way.unclamped - timestamps


@pytest.mark.parametrize("which", ["vip", "half_known_vip"])
def test_the_nodes_own_ports_do_not_answer_on_a_vip(rig: Rig, way: Way, which: str) -> None:
    address = str(getattr(way, which))
    with (
        at("edge"),
        socket.create_server((way.anywhere, 10250), family=way.family),
        socket.socket(way.family, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind((way.anywhere, 10250))
        datagrams.settimeout(_WAIT_SECONDS)
        with at("client"):
            socket.create_connection((str(way.edge), 10250), timeout=_WAIT_SECONDS).close()
            with pytest.raises(TimeoutError):
                socket.create_connection((address, 10250), timeout=_WAIT_SECONDS)
            with socket.socket(way.family, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"vip", (address, 10250))
                sender.sendto(b"node", (str(way.edge), 10250))
        assert datagrams.recv(10) == b"node"


def send_to(way: Way, address: IPAddress) -> None:
    with at("client"), socket.socket(way.family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"?", (str(address), 80))
    time.sleep(0.5)


@pytest.mark.parametrize("which", ["unknown_vip", "half_known_vip"])
def test_a_packet_for_a_vip_that_only_one_side_knows_crosses_the_router_once(rig: Rig, way: Way, which: str) -> None:
    address = getattr(way, which)
    with count(way, address) as counted:
        send_to(way, address)
        assert counted() == 1


def test_without_the_filters_it_loops(rig: Rig, way: Way) -> None:
    """The control for the test above."""
    with at("edge"):
        rig.edge.apply(diff_edge(EdgeState(sysctls=SYSCTLS), None, rig.edge.read()))
    with count(way, way.unknown_vip) as counted:
        send_to(way, way.unknown_vip)
        assert counted() > 10


@contextmanager
def datagrams_at(way: Way, address: IPAddress, port: int = 5000) -> Iterator[socket.socket]:
    with at("pod" if address == way.pod else "worker"), socket.socket(way.family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(address), port))
        receiver.settimeout(0.5)
        yield receiver


def wrapped(
    way: Way, outer_source: IPAddress, outer_destination: IPAddress, inner_destination: IPAddress, port: int
) -> bytes:
    inner = packet(way, way.stranger, inner_destination, 17, udp(way.stranger, inner_destination, port))
    return packet(way, outer_source, outer_destination, way.tunnel_protocol, inner)


@pytest.mark.parametrize("outer_source", ["edge", "client"])
@pytest.mark.parametrize("inner_destination", ["pod", "worker"])
def test_a_stranger_cannot_tunnel_to_pods_and_nodes(
    rig: Rig, way: Way, outer_source: str, inner_destination: str
) -> None:
    outer, inner = getattr(way, outer_source), getattr(way, inner_destination)
    with datagrams_at(way, inner) as receiver:
        send_ip(way, wrapped(way, outer, way.worker, inner, 5000), way.worker)
        with pytest.raises(TimeoutError):
            receiver.recv(10)
        # The receiver does receive: the same datagram without its wrapping arrives.
        send_ip(way, packet(way, way.stranger, inner, 17, udp(way.stranger, inner, 5000)), inner)
        assert receiver.recv(10) == b""


@pytest.mark.parametrize("inner_destination", ["pod", "worker"])
def test_without_the_filter_a_forged_source_gets_through(rig: Rig, way: Way, inner_destination: str) -> None:
    """The control for the test above."""
    inner = getattr(way, inner_destination)
    with at("worker"):
        rig.worker.apply(diff_worker(WorkerState(tunnels=WORKER_STATE.tunnels), None, rig.worker.read()))
    with datagrams_at(way, inner) as receiver:
        send_ip(way, wrapped(way, way.edge, way.worker, inner, 5000), way.worker)
        assert receiver.recv(10) == b""


def test_ipv4_does_not_come_out_of_a_tunnel_over_ipv6(rig: Rig) -> None:
    """Without the filter, so that it is the device that refuses it: 4 is IPv4 in RFC 2473's tunnels as well."""
    with at("worker"):
        rig.worker.apply(diff_worker(WorkerState(tunnels=WORKER_STATE.tunnels), None, rig.worker.read()))
    inner = packet(IPV4, IPV4.stranger, IPV4.worker, 17, udp(IPV4.stranger, IPV4.worker, 5000))
    with datagrams_at(IPV4, IPV4.worker) as receiver:
        send_ip(IPV6, packet(IPV6, IPV6.edge, IPV6.worker, 4, inner), IPV6.worker)
        with pytest.raises(TimeoutError):
            receiver.recv(10)


def test_what_anybody_wraps_for_the_edge_node_is_dropped(rig: Rig, way: Way) -> None:
    with at("edge"), socket.socket(way.family, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind((str(way.edge), 5001))
        datagrams.settimeout(1.0)
        send_ip(way, wrapped(way, way.client, way.edge, way.edge, 5001), way.edge)
        with pytest.raises(TimeoutError):
            datagrams.recv(10)
        send_ip(way, packet(way, way.client, way.edge, 17, udp(way.client, way.edge, 5001)), way.edge)
        datagrams.recv(10)


@pytest.mark.parametrize(("more_bytes", "comes_back"), [(0, True), (1, False)])
def test_a_probe_of_full_size_comes_back_through_the_tunnel_and_a_larger_one_does_not(
    rig: Rig, way: Way, more_bytes: int, comes_back: bool
) -> None:
    command = ["ping", "-c1", "-W1", "-Mdo", f"-s{way.largest_echo + more_bytes}", str(way.probe)]
    with at("edge"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == comes_back, done.stdout + done.stderr


def test_the_agents_own_probe_takes_the_same_way_and_fails_with_the_tunnel(rig: Rig, way: Way) -> None:
    async def answers() -> bool:
        prober = Prober(1500, 1000)
        try:
            (result,) = await prober.probe({way.worker: way.probe})
        finally:
            prober.close()
        return result.ok

    with at("edge"):
        ensure_ping_allowed(Path("/proc/sys/net"))
        assert asyncio.run(answers())
    with at("worker"):
        rig.worker.apply(
            diff_worker(
                WorkerState({}, WORKER_FILTER.digest, frozenset(), WORKER_STATE.probe_addresses),
                WORKER_FILTER,
                rig.worker.read(),
            )
        )
    with at("edge"):
        assert not asyncio.run(answers())


def test_a_packet_too_big_that_quotes_a_reply_reaches_the_worker(rig: Rig, way: Way) -> None:
    """Path MTU discovery through the edge node: it holds no connection of its own, so it goes by the packet that the error quotes."""
    kinds = {4: ("icmp", "--icmp-type 3/4"), 6: ("icmpv6", "--icmpv6-type 2")}
    protocol, kind = kinds[way.version]
    rule = f"PREROUTING -d {way.vip} -p {protocol} {kind} -m comment --comment toobig"
    with connect(way) as client, at("worker"):
        accept(rig, way)[0].close()
        sh(f"{way.tool} -t raw -I {rule}")
        try:
            reply = packet(
                way,
                way.vip,
                way.client,
                6,
                struct.pack("!HHIIHHHH", 80, client.getsockname()[1], 1, 0, 0x5010, 100, 0, 0),
            )
            send_ip(way, packet(way, way.stranger, way.vip, *too_big(way, way.stranger, reply)), way.vip)
            time.sleep(0.5)
            rows = [r.split() for r in sh(f"{way.tool} -t raw -L PREROUTING -vnx").splitlines() if "toobig" in r]
            assert int(rows[0][0]) == 1
        finally:
            sh(f"{way.tool} -t raw -D {rule}")


def too_big(way: Way, source: IPAddress, quoted: bytes) -> tuple[int, bytes]:
    """Protocol number and message: fragmentation needed (RFC 1191 section 4), or packet too big (RFC 4443 section 3.2), MTU 1,300."""
    quoted = quoted.ljust(len(quoted) + len(quoted) % 2, b"\0")
    if way.version == 4:
        message = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + quoted
        return 1, message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    message = struct.pack("!BBHI", 2, 0, 0, 1300) + quoted
    pseudo = source.packed + way.vip.packed + struct.pack("!II", len(message), 58)
    return 58, message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
