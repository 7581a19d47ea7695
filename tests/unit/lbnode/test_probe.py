"""Probing: sizes, group ranges and status pages without a network but loopback; echoes where the kernel lets us send them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.errors import ConfigError, Retry
from lbnode.model import IPAddress
from lbnode.probe import Prober, ProbeResult, echo_payload_bytes, ensure_ping_allowed, fetch_status, widened_group_range

WORKER = ip_address("198.18.0.21")
LOOPBACK = ip_address("127.0.0.1")


def ping_refused() -> str:
    """Why this process may not send echoes; empty when it may."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError as error:
        return f"no ping sockets here: {error}; net.ipv4.ping_group_range leaves this group out"
    return ""


needs_ping = pytest.mark.skipif(bool(ping_refused()), reason=ping_refused())


def test_a_probe_fills_the_fabric_mtu_once_it_is_encapsulated() -> None:
    # Outer IPv4 20, inner IPv4 20, ICMP 8; outer IPv6 40, inner IPv6 40, ICMPv6 8.
    assert 20 + 20 + 8 + echo_payload_bytes(1500, 4) == 1500
    assert 40 + 40 + 8 + echo_payload_bytes(9000, 6) == 9000


@pytest.mark.parametrize(
    ("text", "group", "wider"),
    [
        ("1\t0", 0, "0 0"),
        ("1 0", 1000, "1000 1000"),
        ("0 2147483647", 0, None),
        ("100 200", 100, None),
        ("100 200", 0, "0 200"),
        ("100 200", 300, "100 300"),
    ],
)
def test_the_group_range_is_widened_as_little_as_it_goes(text: str, group: int, wider: str | None) -> None:
    assert widened_group_range(text, group) == wider


@given(low=st.integers(0, 70000), high=st.integers(0, 70000), group=st.integers(0, 70000))
def test_a_widened_range_holds_the_group_and_all_that_it_held(low: int, high: int, group: int) -> None:
    wider = widened_group_range(f"{low} {high}", group)
    new_low, new_high = (int(w) for w in wider.split()) if wider is not None else (low, high)
    assert new_low <= group <= new_high
    assert low > high or (new_low <= low and high <= new_high)


def sysctl_base(folder: Path, text: str) -> Path:
    (folder / "ipv4").mkdir()
    (folder / "ipv4/ping_group_range").write_text(text)
    return folder


def test_the_range_is_written_once_and_its_former_value_returned(tmp_path: Path) -> None:
    base = sysctl_base(tmp_path, "1\t0\n")
    assert ensure_ping_allowed(base, 0) == "1\t0"
    assert (base / "ipv4/ping_group_range").read_text() == "0 0"
    assert ensure_ping_allowed(base, 0) is None


def test_a_sysctl_that_is_not_mounted_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"ping_group_range: probes need group 7 .*sysctl -w net.ipv4.ping_group_range='7 7'"
    ):
        ensure_ping_allowed(tmp_path, 7)


def probe_once(targets: dict[IPAddress, IPAddress], mtu: int = 1500, timeout_ms: int = 300) -> tuple[ProbeResult, ...]:
    prober = Prober(mtu, timeout_ms)
    try:
        return asyncio.run(prober.probe(targets))
    finally:
        prober.close()


class Wire:
    """Stands in for the kernel's ping sockets: packets sent land in ``sent``, ``answers`` makes what comes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Callable[[bytes], list[bytes]]) -> None:
        self.sent: list[bytes] = []
        self.opened: list[socket.socket] = []
        self._ends: list[socket.socket] = []

        def answer(packet: bytes, end: socket.socket) -> None:
            self.sent.append(packet)
            for back in answers(packet):
                end.send(back)

        class End(socket.socket):
            peer: socket.socket

            def send(self, packet: Any, *_: Any) -> int:
                answer(bytes(packet), self.peer)
                return len(packet)

        def open_socket(_self: Prober, _address: IPAddress) -> socket.socket:
            mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            mine.setblocking(False)
            end = End(fileno=mine.detach())
            end.setblocking(False)
            end.peer = other
            self._ends.append(other)
            self.opened.append(end)
            return end

        monkeypatch.setattr(Prober, "_socket", open_socket)

    def close(self) -> None:
        for one in (*self.opened, *self._ends):
            one.close()


def reply_to(packet: bytes) -> bytes:
    return b"\x00" + packet[1:]


def test_an_answer_with_the_payload_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch, lambda packet: [reply_to(packet)])
    (result,) = probe_once({WORKER: LOOPBACK})
    wire.close()
    assert (result.worker, result.ok, result.reason) == (WORKER, True, "Answered")
    assert result.rtt_ms is not None
    assert 0 <= result.rtt_ms < 300
    assert [len(p) for p in wire.sent] == [1500 - 20 - 20]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: [p],
        lambda p: [reply_to(p)[:-1]],
        lambda p: [reply_to(p)[:-1] + b"!"],
        lambda p: [reply_to(p)[:20] + b"X" + reply_to(p)[21:]],
        lambda p: [b"\x03" + p[1:]],
        lambda p: [b""],
        lambda p: [],
    ],
    ids=[
        "the request itself",
        "cut short",
        "altered at its end",
        "another prober's",
        "an error message",
        "empty",
        "none",
    ],
)
def test_whatever_else_comes_back_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], list[bytes]]
) -> None:
    wire = Wire(monkeypatch, spoil)
    (result,) = probe_once({WORKER: LOOPBACK}, timeout_ms=60)
    wire.close()
    assert (result.ok, result.reason, result.rtt_ms) == (False, "Timeout", None)


def test_an_answer_to_an_earlier_probe_does_not_count_for_a_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier: list[bytes] = []

    def late(packet: bytes) -> list[bytes]:
        earlier.append(packet)
        return [reply_to(earlier[-2])] if len(earlier) > 1 else []

    wire = Wire(monkeypatch, late)
    prober = Prober(1500, 60)
    results = [asyncio.run(prober.probe({WORKER: LOOPBACK}))[0].reason for _ in range(3)]
    wire.close()
    assert results == ["Timeout", "Timeout", "Timeout"]


def test_no_two_probes_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch, lambda packet: [reply_to(packet)])
    for _ in range(2):
        probe_once({WORKER: LOOPBACK, ip_address("198.18.0.22"): LOOPBACK})
    wire.close()
    assert len(set(wire.sent)) == 4


@pytest.mark.parametrize(
    ("number", "reason"),
    [(101, "NoRoute"), (113, "Unreachable"), (90, "TooBig"), (1, "Filtered"), (100, "DeviceDown"), (105, "SendFailed")],
)
def test_errors_of_the_kernel_become_reasons_and_the_next_round_starts_afresh(
    monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    opens = 0

    def refuse(_self: Prober, _address: IPAddress) -> socket.socket:
        nonlocal opens
        opens += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Prober, "_socket", refuse)
    prober = Prober(1500, 60)
    for _ in range(2):
        (result,) = asyncio.run(prober.probe({WORKER: LOOPBACK}))
        assert (result.ok, result.reason) == (False, reason)
    assert opens == 2


def test_one_round_takes_one_timeout_however_many_workers_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch, lambda _: [])
    started = time.monotonic()
    results = probe_once({ip_address(f"198.18.0.{n}"): LOOPBACK for n in range(1, 51)}, timeout_ms=100)
    took = time.monotonic() - started
    wire.close()
    assert [r.reason for r in results] == ["Timeout"] * 50
    assert took < 2.5  # one after the other would be 5 s


def test_rounds_keep_their_interval_and_follow_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(monkeypatch, lambda packet: [reply_to(packet)])
    targets: dict[IPAddress, IPAddress] = {}
    seen: list[int] = []
    prober = Prober(1500, 50)

    async def main() -> float:
        started = asyncio.get_running_loop().time()
        async for results in prober.rounds(lambda: targets, interval_ms=60):
            seen.append(len(results))
            targets[ip_address(int(WORKER) + len(seen))] = LOOPBACK
            if len(seen) == 4:
                break
        return asyncio.get_running_loop().time() - started

    took = asyncio.run(main())
    wire.close()
    assert seen == [0, 1, 2, 3]
    assert took >= 3 * 0.06


@pytest.mark.skipif(not ping_refused(), reason="this process may open ping sockets")
def test_a_process_that_may_not_ping_is_told_the_sysctl() -> None:
    with pytest.raises(ConfigError, match=r"net\.ipv4\.ping_group_range: group \d+ may not open ping sockets"):
        probe_once({WORKER: LOOPBACK})


@needs_ping
def test_loopback_answers() -> None:
    (result,) = probe_once({WORKER: LOOPBACK})
    assert result.ok


# Status pages.


def fetched(answer: bytes, *, hold: bool = False, timeout_seconds: float = 5.0) -> dict[str, Any]:
    """What :func:`fetch_status` makes of a server that answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hold:
                await reader.read()
        finally:
            writer.close()

    return over_loopback(serve, timeout_seconds)


def over_loopback(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], timeout_seconds: float
) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await fetch_status(f"http://127.0.0.1:{port}/v1/status", timeout_seconds)

    return asyncio.run(main())


def ok(body: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=20), st.none()), max_size=5))
def test_an_object_arrives_as_it_was_sent(status: dict[str, Any]) -> None:
    assert fetched(ok(json.dumps(status).encode())) == status


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2_0\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70000 + b"\r\n\r\n{}",
        ok(b"[1]"),
        ok(b'{"cut'),
        ok(b"\xff\xfe"),
        ok(b"[" * 100000),
    ],
    ids=range(13),
)
def test_an_answer_that_is_no_status_means_retry(answer: bytes) -> None:
    with pytest.raises(Retry, match="http://127"):
        fetched(answer)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 300),
    st.binary(max_size=20),
)
def test_an_answer_with_bytes_overwritten_or_cut_is_an_object_or_means_retry(
    changes: list[tuple[int, int]], kept_bytes: int, junk: bytes
) -> None:
    text = bytearray(ok(json.dumps({"healthy_workers": ["198.18.0.21"], "vips": {"203.0.113.7": {}}}).encode()) + junk)
    for position, value in changes:
        text[position % len(text)] = value
    try:
        assert isinstance(fetched(bytes(text[: kept_bytes or None])), dict)
    except Retry as error:
        assert "http://127" in str(error)


def test_a_server_that_says_nothing_means_retry_after_the_timeout() -> None:
    with pytest.raises(Retry, match=r"did not answer within 0\.2 s"):
        fetched(b"HTTP/1.1 200", hold=True, timeout_seconds=0.2)


def test_a_closed_port_means_retry() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(Retry, match="cannot be read"):
        asyncio.run(fetch_status(f"http://127.0.0.1:{port}/", 1))


def test_only_plain_http_is_spoken() -> None:
    with pytest.raises(ConfigError, match="https://x/"):
        asyncio.run(fetch_status("https://x/", 1))
