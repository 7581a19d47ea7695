"""The traffic programs against a misbehaving echo server on the loopback device."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from lab.traffic import answer, packets
from lab.traffic.client import Client, TrafficFailed
from lab.traffic.connections import ConnectionsPlan
from lab.traffic.flows import FlowsPlan

HERE = Client(None)


class EchoServer(socketserver.ThreadingTCPServer):
    """The echo app's protocol as its users know it, with switches for each way of breaking a flow."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.pod = "pod-a"
        self.mute = False
        self.end_next: str | None = None
        self.connections = threading.Semaphore(0)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def target(self) -> tuple[str, int]:
        return ("127.0.0.1", self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        pass

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)  # without the FIN of the base class, which would come before a reset


class _Conversation(socketserver.StreamRequestHandler):
    server: EchoServer

    def handle(self) -> None:
        self.server.connections.release()
        self.greet()
        for line in self.rfile:
            if (how := self.server.end_next) is not None:
                self.server.end_next = None
                if how == "reset":
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            match line.split():
                case [b"get", count]:
                    self.wfile.write(b"z" * int(count) + b"\n")
                case [b"put", count]:
                    self.rfile.read(int(count))
                    self.wfile.write(b"ok\n")
                case _ if not self.server.mute:
                    self.greet()

    def greet(self) -> None:
        self.wfile.write(f"{self.server.pod} {self.client_address[0]} node-1\n".encode())


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def udp_echo() -> Iterator[tuple[tuple[str, int], dict[str, object]]]:
    """A UDP echo server, and its behaviour: `pod`, and how many datagrams to lose first."""
    behaviour: dict[str, object] = {"pod": "pod-a", "lose": 0}
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        sock.settimeout(0.1)
        while not ended.is_set():
            try:
                _, sender = sock.recvfrom(2048)
            except TimeoutError:
                continue
            if behaviour["lose"]:
                behaviour["lose"] = int(str(behaviour["lose"])) - 1
                continue
            sock.sendto(f"{behaviour['pod']} {sender[0]} node-1\n".encode(), sender)

    thread = threading.Thread(target=serve)
    thread.start()
    yield sock.getsockname(), behaviour
    ended.set()
    thread.join()
    sock.close()


def test_whole_flows_stay_unbroken_and_keep_exchanging(echo: EchoServer) -> None:
    with HERE.flows(FlowsPlan("tcp", echo.target, 30, ("127.0.0.5", "127.0.0.6"), interval_seconds=0.05)) as flows:
        assert flows.opened.opened == 30
        assert flows.opened.clients == ("127.0.0.5", "127.0.0.6")
        time.sleep(0.3)
        ended = flows.stop()
    assert ended.broken == 0
    assert ended.pods == {"pod-a": 30}
    assert ended.exchanges >= 30 * 3


@pytest.mark.parametrize("reason", ["reset", "eof"])
def test_a_flow_that_the_server_ends_is_broken_with_how(echo: EchoServer, reason: str) -> None:
    with HERE.flows(FlowsPlan("tcp", echo.target, 5, interval_seconds=0)) as flows:
        echo.end_next = reason
        state = flows.check()
    assert (state.broken, state.reasons) == (1, {reason: 1})


def test_a_flow_that_another_pod_answers_is_broken(echo: EchoServer) -> None:
    with HERE.flows(FlowsPlan("tcp", echo.target, 3, interval_seconds=0)) as flows:
        echo.pod = "pod-b"
        assert flows.check().reasons == {"other pod": 3}


def test_a_flow_without_an_answer_is_broken_by_timeout(echo: EchoServer) -> None:
    with HERE.flows(FlowsPlan("tcp", echo.target, 2, interval_seconds=0, exchange_timeout_seconds=0.3)) as flows:
        echo.mute = True
        assert flows.check().reasons == {"timeout": 2}


def test_flows_that_cannot_open_are_not_counted_as_broken() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with HERE.flows(FlowsPlan("tcp", closed.getsockname(), 4)) as flows:
            assert (flows.opened.opened, flows.opened.broken) == (0, 0)
            assert flows.opened.not_opened == {"open: refused": 4}


def test_the_samples_say_when_each_exchange_was(echo: EchoServer) -> None:
    began = time.monotonic()
    with HERE.flows(FlowsPlan("tcp", echo.target, 1, interval_seconds=0)) as flows:
        flows.check()
        (flow,) = flows.stop().samples
    assert len(flow["exchanges"]) == 2
    assert all(began < at < time.monotonic() for at, _ in flow["exchanges"])


def test_a_lost_datagram_does_not_break_a_udp_flow(udp_echo: tuple[tuple[str, int], dict[str, object]]) -> None:
    target, behaviour = udp_echo
    with HERE.flows(FlowsPlan("udp", target, 1, interval_seconds=0, exchange_timeout_seconds=1.5)) as flows:
        behaviour["lose"] = 2
        assert flows.check().broken == 0
        behaviour["lose"] = 3
        assert flows.check().reasons == {"timeout": 1}


def test_a_udp_flow_that_moves_to_another_pod_is_broken(udp_echo: tuple[tuple[str, int], dict[str, object]]) -> None:
    target, behaviour = udp_echo
    with HERE.flows(FlowsPlan("udp", target, 7, interval_seconds=0)) as flows:
        behaviour["pod"] = "pod-b"
        assert flows.check().reasons == {"other pod": 7}


def test_new_connections_keep_their_rate_while_the_server_is_mute(echo: EchoServer) -> None:
    with socket.socket() as silent:  # its backlog fills: further handshakes get no answer
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        plan = ConnectionsPlan("tcp", silent.getsockname(), per_second=50, count=20, timeout_seconds=0.5)
        with HERE.connections(plan) as connections:
            samples = connections.wait()
    assert {sample.error for sample in samples} == {"timeout"}
    assert max(s.at for s in samples) - min(s.at for s in samples) < 0.8


def test_new_connections_go_on_until_stopped(echo: EchoServer) -> None:
    began = time.monotonic()
    with HERE.connections(ConnectionsPlan("tcp", echo.target, per_second=100, sources=("127.0.0.9",))) as connections:
        assert all(echo.connections.acquire(timeout=20) for _ in range(20))
        samples = connections.stop()
    assert 20 <= len(samples) <= 1 + 100 * (time.monotonic() - began)
    assert {(s.ok, s.pod, s.node, s.client) for s in samples} == {(True, "pod-a", "node-1", "127.0.0.9")}


def test_a_transfer_reports_bytes_and_segment_size(echo: EchoServer) -> None:
    for direction in ("get", "put"):
        result = HERE.transfer(echo.target, direction, 1 << 20)
        assert result.complete
        assert result.mss_bytes > 500


def test_a_transfer_that_stalls_is_incomplete() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        ended = threading.Event()

        def greet_and_stall() -> None:
            with server.accept()[0] as sock:
                sock.sendall(b"pod-a 127.0.0.1 node-1\n")
                ended.wait(5)

        thread = threading.Thread(target=greet_and_stall)
        thread.start()
        result = HERE.transfer(server.getsockname(), "get", 100, timeout_seconds=0.4)
        ended.set()
        thread.join()
    assert (result.error, result.complete, result.transferred_bytes) == ("timeout", False, 0)


def test_a_scan_tells_open_from_refused_ports(
    echo: EchoServer, udp_echo: tuple[tuple[str, int], dict[str, object]]
) -> None:
    with socket.socket() as closed, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed_udp:
        closed.bind(("127.0.0.1", 0))
        closed_udp.bind(("127.0.0.1", 0))
        closed_port, closed_udp_port = closed.getsockname()[1], closed_udp.getsockname()[1]
        assert HERE.ports("tcp", "127.0.0.1", [echo.target[1], closed_port]) == {
            echo.target[1]: "open",
            closed_port: "refused",
        }
    answered = HERE.ports("udp", "127.0.0.1", [udp_echo[0][1], closed_udp_port], timeout_seconds=0.3)
    assert answered == {udp_echo[0][1]: "open", closed_udp_port: "refused"}


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(TrafficFailed, match="no answer"):
        HERE.packet(b"\x45" + bytes(40), listen=("203.0.113.1", 1))


def test_another_app_behind_the_address_is_named() -> None:
    with pytest.raises(ValueError, match="not an answer of the echo app"):
        answer.parse(b"HTTP/1.1 400 Bad Request\r\n")


def test_the_checksum_is_that_of_rfc_1071() -> None:
    # RFC 1071 section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2, so the checksum is its complement.
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def test_a_packet_with_its_own_checksum_sums_to_zero() -> None:
    packet = packets.tcp_syn(("198.18.8.9", 1234), ("203.0.113.1", 80))
    assert packets.checksum(packet[:20]) == 0
    assert len(packet) == 40
    pseudo = packet[12:20] + bytes([0, 6, 0, 20])
    assert packets.checksum(pseudo + packet[20:]) == 0


def test_an_ipv6_packet_has_its_lengths_and_a_checksum_over_the_pseudo_header_of_rfc_8200() -> None:
    ends = bytes.fromhex("20010db800000008000000000000000920010db8020301130000000000000001")
    for protocol, packet in (
        (6, packets.tcp_syn(("2001:db8:0:8::9", 1234), ("2001:db8:203:113::1", 80))),
        (17, packets.udp(("2001:db8:0:8::9", 1234), ("2001:db8:203:113::1", 80), b"odd")),
    ):
        assert packet[0] >> 4 == 6
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        assert packet[6] == protocol
        assert packet[8:40] == ends
        pseudo = ends + (len(packet) - 40).to_bytes(4, "big") + bytes([0, 0, 0, protocol])
        assert packets.checksum(pseudo + packet[40:]) == 0


def test_ip_in_ip_carries_the_inner_packet_unchanged() -> None:
    inner = packets.udp(("198.18.8.9", 1234), ("198.18.131.5", 80), b"x\n")
    outer = packets.ipip("198.18.0.11", "198.18.0.21", inner)
    assert outer[9] == 4  # IANA: IP in IP
    assert outer[20:] == inner
    assert struct.unpack("!H", outer[2:4])[0] == len(inner) + 20
