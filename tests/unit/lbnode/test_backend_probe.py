"""The prober against real sockets on loopback: servers that are slow, refuse, lie, or say nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.active_probe import ActiveProbe, Backend, HttpGet, Question, TcpConnect, UdpExchange
from lbnode.backend_probe import BackendProber, BackendResult, ask, due, status_of
from lbnode.model import Protocol, ServiceName
from lbnode.settings import ActiveProbes

WEB = ServiceName("shop", "web")
LOOPBACK = ip_address("127.0.0.1")
QUICK = ActiveProbes(interval_ms=300, timeout_ms=300)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def probe_for(question: Question, pace: ActiveProbes = QUICK) -> ActiveProbe:
    protocol = Protocol.UDP if isinstance(question, UdpExchange) else Protocol.TCP
    return ActiveProbe(question, "http", protocol, pace)


@contextmanager
def ending(writer: asyncio.StreamWriter) -> Iterator[None]:
    """The connection ends with the block, and probes that hang up are no error of the server."""
    try:
        with suppress(OSError, EOFError):
            yield
    finally:
        writer.close()


def answering(*parts: bytes, hold: bool = False, requests: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ending(writer):
            request = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(request)
            for part in parts:
                writer.write(part)
            if hold:
                await reader.read()

    return serve


async def against(serve: Serve, question: Question) -> BackendResult:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await ask(LOOPBACK, server.sockets[0].getsockname()[1], probe_for(question))


@contextmanager
def closed_port(kind: socket.SocketKind) -> Iterator[int]:
    """A port that nobody listens on. A TCP socket that is bound keeps it so; a UDP one would take datagrams, so its port is free."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        if kind is socket.SOCK_DGRAM:
            taken.close()
        yield port


def test_a_listener_passes_a_tcp_probe_though_it_never_says_a_word() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with ending(writer):
            await reader.read()

    assert asyncio.run(against(silent, TcpConnect())).ok


@pytest.mark.parametrize("question", [TcpConnect(), HttpGet()])
def test_a_port_that_refuses_fails(question: Question) -> None:
    with closed_port(socket.SOCK_STREAM) as port:
        result = asyncio.run(ask(LOOPBACK, port, probe_for(question)))
    assert (result.ok, result.reason) == (False, "Refused")


def test_a_full_backlog_times_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
            waiting.append(one)
        result = asyncio.run(ask(LOOPBACK, listener.getsockname()[1], probe_for(TcpConnect())))
        for one in waiting:
            one.close()
    assert (result.ok, result.reason, result.detail) == (False, "Timeout", "no answer in 300 ms")


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_an_http_probe_asks_for_its_path_like_a_client() -> None:
    requests: list[bytes] = []
    result = asyncio.run(against(answering(OK, requests=requests), HttpGet("/healthz?deep=1")))
    assert result.ok
    first, *headers = requests[0].decode().split("\r\n")
    assert first == "GET /healthz?deep=1 HTTP/1.1"
    assert any(h.startswith("Host: 127.0.0.1:") for h in headers)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "WrongStatus"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "WrongStatus"),
        (b"HTTP/1.1 200 OK", "NotHttp"),
        (b"HTTP/2 200\r\n\r\n", "NotHttp"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "NotHttp"),
        (b"\x15\x03\x01\x00\x02\x02\x46\n", "NotHttp"),
        (b"x" * 5000, "NotHttp"),
        (b"", "Closed"),
    ],
)
def test_an_answer_that_is_not_the_expected_one_fails_with_a_word(answer: bytes, reason: str) -> None:
    result = asyncio.run(against(answering(answer), HttpGet()))
    assert (result.ok, result.reason) == (False, reason)
    assert result.detail


def test_other_statuses_may_be_expected() -> None:
    expecting = HttpGet(statuses=((200, 200), (401, 403)))
    assert asyncio.run(against(answering(b"HTTP/1.0 403 Forbidden\r\n\r\n"), expecting)).ok
    assert not asyncio.run(against(answering(b"HTTP/1.0 404 Not Found\r\n\r\n"), expecting)).ok


def test_a_slow_server_fails_when_the_time_is_up_and_one_that_never_ends_passes_by_its_first_line() -> None:
    assert asyncio.run(against(answering(hold=True), HttpGet())).reason == "Timeout"
    assert asyncio.run(against(answering(b"HTTP/1.1 200 OK\r\n", b"x" * 100000, hold=True), HttpGet())).ok


async def answer_datagrams(server: socket.socket, answer: bytes | None) -> None:
    """Send ``answer`` and what came behind it, or stay silent."""
    loop = asyncio.get_running_loop()
    while True:
        data, address = await loop.sock_recvfrom(server, 2048)
        if answer is not None:
            await loop.sock_sendto(server, answer + data, address)


@pytest.mark.parametrize(
    ("answer", "expect", "reason"),
    [
        (b"", b"ping", "Passed"),
        (b"pong ", b"pong", "Passed"),
        (b"anything", b"", "Passed"),
        (b"error ", b"pong", "WrongAnswer"),
        (None, b"", "Timeout"),
    ],
)
def test_a_datagram_is_judged_by_how_its_answer_begins(answer: bytes | None, expect: bytes, reason: str) -> None:
    async def main() -> BackendResult:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
            server.bind(("127.0.0.1", 0))
            serving = asyncio.create_task(answer_datagrams(server, answer))
            result = await ask(LOOPBACK, server.getsockname()[1], probe_for(UdpExchange(b"ping", expect)))
            serving.cancel()
        return result

    result = asyncio.run(main())
    assert (result.ok, result.reason) == (reason == "Passed", reason)


def test_a_udp_port_that_nobody_listens_on_is_refused_at_once() -> None:
    with closed_port(socket.SOCK_DGRAM) as port:
        assert asyncio.run(ask(LOOPBACK, port, probe_for(UdpExchange(b"ping")))).reason == "Refused"


@given(st.binary(max_size=60))
def test_a_status_is_three_digits_after_the_version_and_nothing_else(line: bytes) -> None:
    assert status_of(line) is None or (line[:7] == b"HTTP/1." and line[9:12].isdigit())


def test_a_status_line_is_read_with_and_without_a_reason() -> None:
    # RFC 9112 section 4: the reason phrase may be empty.
    assert status_of(b"HTTP/1.1 204 \r\n") == 204
    assert status_of(b"HTTP/1.1 204\r\n") == 204
    assert status_of(b"HTTP/1.1 2040 OK\r\n") is None


PODS = [Backend(WEB, ip_address(f"127.0.0.{n}"), 1) for n in range(1, 6)]


def test_the_longest_waiting_are_due_first_and_new_ones_before_all() -> None:
    wanted = dict.fromkeys(PODS[:4], probe_for(TcpConnect(), ActiveProbes(interval_ms=2000)))
    begun = {PODS[0]: 9.0, PODS[1]: 7.0, PODS[2]: 8.0}
    assert due(wanted, begun, 10.0) == [PODS[3], PODS[1], PODS[2]]
    assert due(wanted, begun, 8.9) == [PODS[3]]


def test_no_more_probes_are_under_way_than_allowed_and_none_is_left_out() -> None:
    under_way = most = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        with ending(writer):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            under_way -= 1
            writer.write(OK)

    async def main() -> set[Backend]:
        server = await asyncio.start_server(slow, "0.0.0.0", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            pods = [Backend(WEB, ip_address(f"127.0.0.{n}"), port) for n in range(1, 9)]
            wanted = dict.fromkeys(pods, probe_for(HttpGet(), ActiveProbes(interval_ms=60000, timeout_ms=5000)))
            passed: set[Backend] = set()
            prober = BackendProber(lambda: wanted, lambda b, _, r: passed.add(b) if r.ok else None, lambda: 3)
            for tick in range(200):
                prober.tick(float(tick))
                await asyncio.sleep(0.01)
                if len(passed) == len(pods):
                    break
            return passed

    assert len(asyncio.run(main())) == 8
    assert most <= 3


def test_the_result_of_a_pod_that_is_gone_is_not_told_and_its_probe_asked_anew() -> None:
    async def main() -> list[Backend]:
        server = await asyncio.start_server(answering(hold=True), "127.0.0.1", 0)
        async with server:
            pod = Backend(WEB, LOOPBACK, server.sockets[0].getsockname()[1])
            wanted = {pod: probe_for(HttpGet(), ActiveProbes(interval_ms=100, timeout_ms=50))}
            told: list[Backend] = []
            prober = BackendProber(lambda: wanted, lambda b, _p, _r: told.append(b), lambda: 8)
            prober.tick(0.0)
            wanted = {}
            await asyncio.sleep(0.15)
            return told

    assert asyncio.run(main()) == []


def test_a_prober_asks_until_it_is_cancelled_and_leaves_no_probe_behind() -> None:
    async def main() -> tuple[int, int]:
        server = await asyncio.start_server(answering(OK), "127.0.0.1", 0)
        async with server:
            pod = Backend(WEB, LOOPBACK, server.sockets[0].getsockname()[1])
            told: list[bool] = []
            wanted = {pod: probe_for(HttpGet(), ActiveProbes(interval_ms=100, timeout_ms=100))}
            prober = BackendProber(lambda: wanted, lambda _b, _p, r: told.append(r.ok), lambda: 8)
            running = asyncio.create_task(prober.run())
            while len(told) < 3:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.sleep(0)
            return len(told), len(asyncio.all_tasks()) - 1

    asked, left = asyncio.run(main())
    assert asked >= 3
    assert left <= 1, "but the server's own"
