"""BIRD's control protocol: recorded replies, and any bytes at all."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.errors import Retry
from lbnode.facts import RouteAttributes
from lbnode.speaker.bird_control import (
    Reply,
    ReplyParser,
    ask,
    parse_bfd,
    parse_protocols,
    parse_routes,
)

GOLDEN = Path(__file__).parents[3] / "golden" / "bird"
#: BIRD 2.0.12's own words (``birdc -v``), shortened.
PROTOCOLS = (GOLDEN / "reply_protocols.txt").read_bytes()
BFD = (GOLDEN / "reply_bfd.txt").read_bytes()
ROUTES = (GOLDEN / "reply_routes.txt").read_bytes()
#: As it comes from the socket, whole: one route has 159 communities, which BIRD breaks over lines.
ROUTES_ALL = (GOLDEN / "reply_routes_all.txt").read_bytes()


def reply(text: bytes) -> Reply:
    parser = ReplyParser()
    replies = [r for line in text.splitlines() if (r := parser.feed(line)) is not None]
    (only,) = replies
    return only


def test_sessions_are_read_with_state_routes_of_all_channels_and_last_error() -> None:
    found = parse_protocols(reply(PROTOCOLS))
    up, capped, off = found["peer_tor_1"], found["peer_tor_2"], found["peer_off"]
    assert (up.state, up.exported, up.last_error) == ("Established", 3, "")
    assert (capped.state, capped.exported, capped.last_error) == (
        "Active",
        0,
        "Received: Maximum number of prefixes reached",
    )
    assert (off.state, off.exported, off.last_error) == ("Down", 0, "")


def test_bfd_states_are_read_by_neighbour() -> None:
    assert parse_bfd(reply(BFD)) == {
        ip_address("198.18.0.2"): "Up",
        ip_address("198.18.0.3"): "Down",
        ip_address("fe80::1"): "Init",
    }


def test_routes_of_both_families_are_read() -> None:
    assert {str(n) for n in parse_routes(reply(ROUTES))} == {
        "203.0.113.1/32",
        "203.0.113.2/32",
        "203.0.113.0/24",
        "2001:db8:113::5/128",
    }


def test_routes_are_read_with_their_attributes() -> None:
    found = {str(n): a for n, a in parse_routes(reply(ROUTES_ALL)).items()}
    assert found.pop("203.0.113.6/32").communities == tuple(f"65010:{n}" for n in range(10001, 10160))
    seven = found.pop("203.0.113.7/32").communities
    assert seven == (
        *(f"65010:{n}" for n in range(1, 41)),
        *(f"4200000010:{n}:4294967295" for n in range(1, 13)),
    )
    assert found == {
        "203.0.113.9/32": RouteAttributes(("65010:7", "65535:65281", "65010:1:2"), 200, 50, 2),
        "203.0.113.8/32": RouteAttributes(),
        "203.0.113.0/28": RouteAttributes(med=0),
    }


def test_covered_routes_are_marked() -> None:
    assert all(a.covered for a in parse_routes(reply(ROUTES), covered=True).values())


def test_a_final_line_ends_the_reply_and_says_whether_it_failed() -> None:
    assert reply(b"0002-Reading configuration from bird.conf\n0003 Reconfigured").code == 3
    refused = reply(b"0002-Reading\n8002 bird.conf:3:1 syntax error")
    assert refused.failed
    assert refused.text == "Reading\nbird.conf:3:1 syntax error"


def test_spontaneous_messages_are_no_part_of_a_reply() -> None:
    assert reply(b"1000-BIRD\n+1234-somebody else's log\n0013 up").lines == ((1000, "BIRD"), (13, "up"))


@given(st.lists(st.binary(max_size=60).filter(lambda b: b"\n" not in b), max_size=20))
def test_any_bytes_are_read_without_an_error(lines: list[bytes]) -> None:
    parser = ReplyParser()
    for line in [*lines, b"0000 "]:
        if (whole := parser.feed(line)) is not None:
            parse_protocols(whole), parse_bfd(whole), parse_routes(whole)


@given(st.data())
def test_recorded_replies_with_bytes_overwritten_are_read_without_an_error(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from([PROTOCOLS, BFD, ROUTES, ROUTES_ALL])))
    for position in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=30)):
        text[position] = data.draw(st.integers(0, 255))
    parser = ReplyParser()
    for line in bytes(text).split(b"\n"):
        if (whole := parser.feed(line)) is not None:
            parse_protocols(whole), parse_bfd(whole), parse_routes(whole)


def asked(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *commands: str
) -> tuple[Reply, ...]:
    async def main() -> tuple[Reply, ...]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ctl"
            server = await asyncio.start_unix_server(serve, str(path))
            async with server:
                return await ask(path, commands, timeout_seconds=0.3)

    return asyncio.run(main())


async def echo_daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"0001 BIRD 2.0.12 ready.\n")
    while line := await reader.readline():
        writer.write(b"1000-you said\n " + line + b"0000 \n")
    writer.close()


def test_replies_come_in_the_order_of_the_commands() -> None:
    first, second = asked(echo_daemon, "one", "two")
    assert (first.text, second.text) == ("you said\none", "you said\ntwo")


def test_a_daemon_that_says_nothing_means_retry_after_the_timeout() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    started = time.monotonic()
    with pytest.raises(Retry, match=r"did not answer within 0\.3 s"):
        asked(mute, "show status")
    assert time.monotonic() - started < 2


@settings(max_examples=60)
@given(
    st.binary(max_size=40),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=20),
    st.integers(0, 1 << 14),
)
def test_a_stream_of_anything_gives_replies_or_retry(
    junk: bytes, changes: list[tuple[int, int]], sent_bytes: int
) -> None:
    """What a daemon sends over the socket: recorded replies with bytes overwritten, something in front, and cut anywhere."""
    text = bytearray(b"0001 BIRD 2.0.12 ready.\n" + PROTOCOLS + BFD + ROUTES)
    for position, value in changes:
        text[position % len(text)] = value

    async def corrupt(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((junk + bytes(text))[:sent_bytes])
        writer.close()

    try:
        replies = asked(corrupt, "show protocols all", "show bfd sessions", "show route")
    except Retry as error:
        assert "BIRD" in str(error)
        return
    for one in replies:
        assert all(s.exported >= 0 for s in parse_protocols(one).values())
        parse_bfd(one), parse_routes(one)


def test_a_daemon_that_hangs_up_means_retry() -> None:
    async def rude(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD 2.0.12 re")
        writer.close()

    with pytest.raises(Retry, match="cannot be asked"):
        asked(rude, "show status")


def test_no_daemon_means_retry() -> None:
    with pytest.raises(Retry, match="cannot be asked"):
        asyncio.run(ask(Path("/nonexistent/bird.ctl"), ["show status"], 1))
