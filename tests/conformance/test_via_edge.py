"""``return: via-edge`` with real packets, over IPv4 and IPv6, on a fabric that drops what a worker sends from addresses that are not its own.

Client, router, two edge nodes, worker and pod are namespaces of one kernel; kube-proxy is played by its one rule that matters here.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.worker import KernelWorker
from lbnode.diff import diff_edge, diff_worker
from lbnode.model import (
    Destination,
    EdgeState,
    IPAddress,
    IpvsTimeouts,
    ProbeRoute,
    Protocol,
    ReturnPath,
    ReturnTunnel,
    Tunnel,
    VirtualKey,
    VirtualService,
    WorkerState,
)
from lbnode.operations import RemoveReturnTunnel
from lbnode.packet_tables import EdgeFilter, WorkerFilter
from lbnode.probe import Prober, ensure_ping_allowed
from lbnode.translate.sysctls import EDGE_SYSCTLS, FORWARDING_SYSCTLS, RETURN_SYSCTLS
from tests.conformance.node import POOLS, PROBE_NETWORKS, sh, with_port
from tests.conformance.star import at
from tests.conformance.test_packets import WAYS, Way, count, packet, udp

pytestmark = pytest.mark.root

MASK, PRIORITY, TABLE = 0x2000, 100, 7310
SECOND_EDGE = {4: ip_address("198.18.3.2"), 6: ip_address("2001:db8:3::2")}
EDGES = ("edge1", "edge2")
HOST_PORT = 81
_WAIT_SECONDS = 4.0
_CONNECTIONS = 12
_MEBIBYTE = 1 << 20


def edge_address(way: Way, name: str) -> IPAddress:
    return way.edge if name == "edge1" else SECOND_EDGE[way.version]


def keys(way: Way) -> list[VirtualKey]:
    return [VirtualKey(way.vip, Protocol.TCP, port) for port in (80, HOST_PORT)]


def edge_filter(name: str) -> EdgeFilter:
    returning = frozenset((n, edge_address(w, name)) for n, w in zip(PROBE_NETWORKS, WAYS, strict=True))
    return EdgeFilter(POOLS, frozenset(k for w in WAYS for k in keys(w)), returning=returning)


def edge_state(name: str) -> EdgeState:
    services = [VirtualService(k, (Destination(w.worker),)) for w in WAYS for k in keys(w)]
    return EdgeState(
        sysctls=EDGE_SYSCTLS | FORWARDING_SYSCTLS[4] | FORWARDING_SYSCTLS[6],
        timeouts=IpvsTimeouts(),
        filter_digest=edge_filter(name).digest,
        vips=frozenset(w.vip for w in WAYS),
        services=tuple(sorted(services, key=lambda s: s.key.order)),
        probe_devices=frozenset({4, 6}),
        probe_routes=frozenset(ProbeRoute(w.probe, w.worker, edge_address(w, name)) for w in WAYS),
        return_tunnels=frozenset(ReturnTunnel(w.worker, edge_address(w, name)) for w in WAYS),
    )


def paths(*group: str) -> frozenset[ReturnPath]:
    return frozenset(
        ReturnPath(
            version=w.version,
            node_address=w.worker,
            mark_mask=MASK,
            rule_priority=PRIORITY,
            route_table=TABLE,
            edges=frozenset(edge_address(w, name) for name in EDGES),
            group=frozenset(edge_address(w, name) for name in group),
        )
        for w in WAYS
    )


WORKER_FILTER = WorkerFilter(POOLS, tuple(w.probe for w in WAYS), tuple((w.version, w.clamped) for w in WAYS), MASK)
DIRECT_FILTER = replace(WORKER_FILTER, return_mask=None)
WORKER_STATE = WorkerState(
    sysctls=RETURN_SYSCTLS[4] | RETURN_SYSCTLS[6],
    filter_digest=WORKER_FILTER.digest,
    tunnels=frozenset(Tunnel(edge_address(w, name), w.worker) for w in WAYS for name in EDGES),
    probe_addresses=frozenset(w.probe for w in WAYS),
    return_paths=paths(*EDGES),
)


@dataclass
class Rig:
    """The data planes in their namespaces, and what listens behind the VIPs."""

    edges: dict[str, KernelEdge]
    worker: KernelWorker
    pods: dict[int, socket.socket]
    hosts: dict[int, socket.socket]

    def set_worker(self, state: WorkerState, table: WorkerFilter = WORKER_FILTER) -> None:
        with at("worker"):
            self.worker.apply(diff_worker(state, table, self.worker.read()))
            assert self.worker.read() == state

    def set_edge(self, name: str) -> None:
        with at(name):
            plane, state = self.edges[name], edge_state(name)
            plane.apply(diff_edge(state, edge_filter(name), plane.read()))
            assert plane.read() == state


def _address(namespace: str, device: str, address: IPAddress, length: int) -> None:
    sh(f"ip -n {namespace} addr add {address}/{length} dev {device} {'nodad' if address.version == 6 else ''}")


def _wire(name: str, addresses: list[IPAddress]) -> None:
    sh(f"ip link add eth0 netns {name} type veth peer name to-{name} netns router")
    sh(f"ip -n {name} link set eth0 up")
    sh(f"ip -n router link set to-{name} up")
    for way, address in zip(WAYS, addresses, strict=True):
        _address(name, "eth0", address, way.prefix_length)
        _address("router", f"to-{name}", address - 1, way.prefix_length)
        sh(f"ip -n {name} -{way.version} route add default via {address - 1}")


def route_by(way: Way, *names: str) -> None:
    hops = " ".join(f"nexthop via {edge_address(way, name)}" for name in names)
    sh(f"ip -n router -{way.version} route replace {way.pool} {hops}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with ExitStack() as stack:
        for name in ("client", "router", *EDGES, "worker", "pod"):
            sh(f"ip netns add {name}")
            stack.callback(sh, f"ip netns del {name}")
            sh(f"ip -n {name} link set lo up")
            with at(name):
                sh("sysctl -qw net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.all.send_redirects=0")
        for name in ("router", "worker"):
            with at(name):
                sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        _wire("client", [w.client for w in WAYS])
        for name in EDGES:
            _wire(name, [edge_address(w, name) for w in WAYS])
        _wire("worker", [w.worker for w in WAYS])
        sh("ip link add eth0 netns pod type veth peer name cni0 netns worker")
        sh("ip -n pod link set eth0 up")
        sh("ip -n worker link set cni0 up")
        for way, probes in zip(WAYS, PROBE_NETWORKS, strict=True):
            _address("pod", "eth0", way.pod, way.prefix_length)
            _address("worker", "cni0", way.pods[1], way.prefix_length)
            sh(f"ip -n pod -{way.version} route add default via {way.pods[1]}")
            # The fabric of a cloud. A router of its own stands for it; who owns which address it knows by the wire.
            with at("router"):
                for network in (way.pool, probes):
                    sh(f"{way.tool} -t raw -A PREROUTING -i to-worker -s {network} -j DROP")
            with at("worker"):
                for port, place in ((80, with_port(way.pod, 8080)), (HOST_PORT, with_port(way.worker, 8081))):
                    rule = f"PREROUTING -d {way.vip} -p tcp --dport {port} -j DNAT --to-destination {place}"
                    sh(f"{way.tool} -t nat -A {rule}")
        edges = {}
        for name in EDGES:
            with at(name):
                edges[name] = KernelEdge(
                    POOLS, sysctls=tuple(edge_state(name).sysctls), record_directory=tmp_path_factory.mktemp(name)
                )
        with at("worker"):
            worker = KernelWorker(
                POOLS,
                PROBE_NETWORKS,
                sysctls=tuple(WORKER_STATE.sysctls),
                record_directory=tmp_path_factory.mktemp("worker"),
            )
        pods, hosts = {}, {}
        for way in WAYS:
            with at("pod"):
                pods[way.version] = stack.enter_context(_listen(way, way.pod, 8080))
            with at("worker"):
                hosts[way.version] = stack.enter_context(_listen(way, way.worker, 8081))
        yield Rig(edges, worker, pods, hosts)
        for plane in (*edges.values(), worker):
            plane.close()


def _listen(way: Way, address: IPAddress, port: int) -> socket.socket:
    listener = socket.create_server((str(address), port), family=way.family)
    listener.settimeout(_WAIT_SECONDS)
    return listener


@pytest.fixture
def rig(built: Rig) -> Rig:
    for way in WAYS:
        route_by(way, *EDGES)
    for name in EDGES:
        built.set_edge(name)
    built.set_worker(WORKER_STATE)
    return built


@pytest.fixture(params=WAYS, ids=["ipv4", "ipv6"])
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@contextmanager
def connection(rig: Rig, way: Way, port: int = 80) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Client and server; the server has seen the client's address."""
    with at("client"):
        client = socket.create_connection((str(way.vip), port), timeout=_WAIT_SECONDS)
    with client:
        server, (seen, *_) = (rig.pods if port == 80 else rig.hosts)[way.version].accept()
        with server:
            server.settimeout(_WAIT_SECONDS)
            assert seen == str(way.client)
            yield client, server


def answered(name: str, prober: Prober, targets: dict[IPAddress, IPAddress]) -> dict[IPAddress, str]:
    """What a round of probes from a namespace comes to, and the end of the prober."""
    with at(name), closing(prober):
        return {r.worker: r.reason for r in asyncio.run(prober.probe(targets))}


def test_it_comes_and_goes_and_is_what_ip_shows(rig: Rig, way: Way) -> None:
    version = way.version
    rules, routes = (
        " ".join(sh(f"ip -n worker -{version} {what}").split()) for what in ("rule", f"route show table {TABLE}")
    )
    assert f"{PRIORITY}: from all fwmark {MASK:#x}/{MASK:#x} lookup {TABLE}" in rules
    devices = {name: Tunnel(edge_address(way, name), way.worker).device for name in EDGES}
    for name, device in devices.items():
        assert f"{edge_address(way, name)} dev {device} " in routes
    assert "default nhid" in routes
    with at("worker"):
        rig.worker.clean()
    assert f"lookup {TABLE}" not in sh(f"ip -n worker -{version} rule")
    assert sh(f"ip -n worker -{version} route show table all proto 115") == ""
    assert sh("ip -n worker nexthop show") == ""


def test_a_reply_goes_through_an_edge_node_and_the_clients_address_is_kept(rig: Rig, way: Way) -> None:
    for _ in range(8):
        with connection(rig, way) as (client, server):
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"
            server.sendall(b"world")
            assert client.recv(5) == b"world"


def test_a_backend_in_the_hosts_network_answers_too(rig: Rig, way: Way) -> None:
    for _ in range(4):
        with connection(rig, way, HOST_PORT) as (client, server):
            server.sendall(b"world")
            assert client.recv(5) == b"world"


def test_with_direct_return_this_fabric_lets_nothing_back(rig: Rig, way: Way) -> None:
    """The control: neither connections nor probes."""
    direct = replace(WORKER_STATE, filter_digest=DIRECT_FILTER.digest, return_paths=frozenset())
    rig.set_worker(direct, DIRECT_FILTER)
    with at("client"), pytest.raises(TimeoutError):
        socket.create_connection((str(way.vip), 80), timeout=_WAIT_SECONDS)
    with at("edge1"):
        ensure_ping_allowed(Path("/proc/sys/net"))
    assert answered("edge1", Prober(1500, 450), {way.worker: way.probe}) == {way.worker: "Timeout"}


def test_each_probes_the_other_at_full_size_through_the_very_tunnels_that_replies_take(rig: Rig, way: Way) -> None:
    sources = {w.version: w.probe for w in WAYS}
    targets = {edge_address(way, name): edge_address(way, name) for name in EDGES}
    for name in (*EDGES, "worker"):
        with at(name):
            ensure_ping_allowed(Path("/proc/sys/net"))
    for name in EDGES:
        assert answered(name, Prober(1500, 450), {way.worker: way.probe}) == {way.worker: "Answered"}
    assert answered("worker", Prober(1500, 450, lambda: sources, MASK), targets) == dict.fromkeys(targets, "Answered")
    # Without what takes replies in, that edge node is silent, though its node answers as ever.
    with at("edge2"):
        rig.edges["edge2"].apply([RemoveReturnTunnel(ReturnTunnel(way.worker, way.edge).device)])
    assert answered("worker", Prober(1500, 450, lambda: sources, MASK), targets) == {
        way.edge: "Answered",
        edge_address(way, "edge2"): "Timeout",
    }
    assert answered("worker", Prober(1500, 450), targets) == dict.fromkeys(targets, "Answered")


def test_an_idle_connection_into_which_the_server_pushes_outlives_each_edge_node(rig: Rig, way: Way) -> None:
    with ExitStack() as stack:
        open_ = [stack.enter_context(connection(rig, way)) for _ in range(_CONNECTIONS)]
        for gone, left in (EDGES, reversed(EDGES)):
            rig.set_worker(replace(WORKER_STATE, return_paths=paths(left)))
            route_by(way, left)
            sh(f"ip -n router link set to-{gone} down")
            try:
                for client, server in open_:
                    server.sendall(b"pushed")
                    assert client.recv(6) == b"pushed"
                    client.sendall(b"asked")
                    assert server.recv(5) == b"asked"
            finally:
                sh(f"ip -n router link set to-{gone} up")
                for each in WAYS:
                    if each.version == 6:
                        # Taken with the link, and put back.
                        sh(f"ip -n router addr replace {edge_address(each, gone) - 1}/64 dev to-{gone} nodad")
            rig.set_worker(WORKER_STATE)
            route_by(way, *EDGES)


def test_without_leaving_the_group_a_dead_edge_node_swallows_what_is_pushed(rig: Rig, way: Way) -> None:
    """The control: of a dozen connections some have their replies by each edge node."""
    with ExitStack() as stack:
        open_ = [stack.enter_context(connection(rig, way)) for _ in range(_CONNECTIONS)]
        with at("edge2"):
            rig.edges["edge2"].apply([RemoveReturnTunnel(ReturnTunnel(way.worker, way.edge).device)])
        for _, server in open_:
            server.sendall(b"pushed")
        arrived = 0
        for client, _ in open_:
            client.settimeout(0.3)
            try:
                arrived += client.recv(6) == b"pushed"
            except TimeoutError:
                continue
        assert 0 < arrived < len(open_)


@contextmanager
def without_size_errors(way: Way) -> Iterator[None]:
    """No node but the pod's says that a packet is too big."""
    too_big = "icmp --icmp-type fragmentation-needed" if way.version == 4 else "ipv6-icmp --icmpv6-type packet-too-big"
    rules = [(name, f"OUTPUT -p {too_big} -j DROP") for name in ("router", *EDGES, "worker")]
    for name, rule in rules:
        with at(name):
            sh(f"{way.tool} -t filter -A {rule}")
    try:
        yield
    finally:
        for name, rule in rules:
            with at(name):
                sh(f"{way.tool} -t filter -D {rule}")


def test_a_mebibyte_passes_in_both_directions_with_all_errors_about_size_filtered(rig: Rig, way: Way) -> None:
    data = bytes(range(256)) * (_MEBIBYTE // 256)
    timestamps = 12  # RFC 7323, appendix A
    with without_size_errors(way), connection(rig, way) as (client, server):
        for sender, receiver in ((client, server), (server, client)):
            sending = threading.Thread(target=sender.sendall, args=(data,))
            sending.start()
            received = b""
            while len(received) < len(data) and (piece := receiver.recv(1 << 16)):
                received += piece
            sending.join()
            assert received == data
            assert sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= way.clamped - timestamps


def test_a_server_whose_client_offers_more_than_a_tunnel_takes_hangs_without_the_clamp(rig: Rig, way: Way) -> None:
    """The control for downloads."""
    bit = f"{MASK:#x}"
    rule = f"-i sgt-+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {way.clamped}"
    with at("worker"):
        sh(f"{way.tool} -t mangle -D SAMEGATE-PREROUTING {rule}")
        assert bit in sh(f"{way.tool} -t mangle -S SAMEGATE-PREROUTING")
    with without_size_errors(way), connection(rig, way) as (client, server):
        server.sendall(bytes(20_000))
        client.settimeout(1.0)
        received = 0
        with pytest.raises(TimeoutError):
            while True:
                received += len(client.recv(1 << 16))
        assert received < 20_000


@pytest.mark.parametrize("source", ["stranger", "worker", "probe"])
def test_who_forges_a_workers_address_speaks_for_nobody_but_a_vip(rig: Rig, way: Way, source: str) -> None:
    def send(inner: bytes) -> None:
        outer = packet(way, way.worker, way.edge, way.tunnel_protocol, inner)
        with at("worker"), socket.socket(way.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(outer, (str(way.edge), 0))

    def datagram(sender: IPAddress) -> bytes:
        return packet(way, sender, way.client, 17, udp(sender, way.client, 9))

    with count(way, way.client) as passed:
        send(datagram(getattr(way, source)))
        assert passed() == 0
        send(datagram(way.vip))
        assert passed() == 1


@pytest.mark.parametrize(
    "harm",
    [
        "ip rule del fwmark 0x2000/0x2000 lookup 7310",
        "ip rule add fwmark 0x4/0x4 lookup 7310 pref 90 proto 115",
        "ip route del default table 7310",
        "ip route del EDGE table 7310",
        "ip route replace EDGE dev eth0 table 7310 proto 115",
        "ip route add 198.51.100.0/24 dev eth0 table 7310 proto 115",
        "ip route replace default dev eth0 table 7310 proto 115",
        "ip nexthop flush",
        "ip link set TUNNEL down",
        "ip link del TUNNEL",
    ],
)
def test_a_way_back_that_was_harmed_is_noticed_and_mended(rig: Rig, harm: str) -> None:
    way = WAYS[0]
    harm = harm.replace("EDGE", str(way.edge)).replace("TUNNEL", Tunnel(way.edge, way.worker).device)
    with at("worker"):
        sh(harm)
        assert rig.worker.read() != WORKER_STATE
    rig.set_worker(WORKER_STATE)
    with connection(rig, way) as (client, server):
        server.sendall(b"world")
        assert client.recv(5) == b"world"


def test_rules_and_next_hops_of_others_stay(rig: Rig) -> None:
    with at("worker"):
        sh("ip rule add fwmark 0x80/0x80 lookup main pref 1024")
        sh("ip nexthop add id 7 dev eth0")
    try:
        rig.set_worker(replace(WORKER_STATE, return_paths=frozenset()))
        with at("worker"):
            assert "1024: from all fwmark 0x80/0x80 lookup main" in " ".join(sh("ip rule").split())
            assert sh("ip nexthop show").split()[:4] == ["id", "7", "dev", "eth0"]
    finally:
        with at("worker"):
            sh("ip rule del fwmark 0x80/0x80 lookup main pref 1024")
            sh("ip nexthop del id 7")
