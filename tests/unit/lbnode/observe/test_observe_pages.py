"""The agent's pages over a real loopback connection, asked by the standard library and by hand."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.errors import Retry
from lbnode.observe import Pages, PageServer
from lbnode.observe.pages import LONGEST_REQUEST_BYTES, MOST_CONNECTIONS
from lbnode.probe import fetch_status

LOOPBACK = ip_address("127.0.0.1")
PAGES = Pages(
    metrics=lambda: b"samegate_up 1\n",
    ready=list,
    healthy=list,
    status=lambda: {"vips": {"203.0.113.1": "Announced"}, "node": ip_address("198.18.0.11")},
)


def serving(pages: Pages, act: Callable[[int], Awaitable[Any]], timeout_seconds: float = 2.0) -> Any:
    """What ``act`` makes of the port that the pages are served on."""

    async def main() -> Any:
        server = PageServer(pages, timeout_seconds)
        port = await server.start(LOOPBACK, 0)
        try:
            return await act(port)
        finally:
            await server.close()
            # Connections that the test left open end with their timeout.
            await asyncio.sleep(0)

    return asyncio.run(main())


def get(pages: Pages, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Ask with the standard library's client."""

    def ask(port: int) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return serving(pages, lambda port: asyncio.to_thread(ask, port))  # type: ignore[no-any-return]


def raw(sent: bytes, *, end: bool = True, timeout_seconds: float = 2.0) -> bytes:
    """Everything that the server answers to these bytes."""

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            if end:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    return serving(PAGES, ask, timeout_seconds)  # type: ignore[no-any-return]


def test_metrics_come_with_prometheus_content_type() -> None:
    status, headers, body = get(PAGES, "/metrics")
    assert (status, body) == (200, b"samegate_up 1\n")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")


def test_status_is_json_that_fetch_status_reads() -> None:
    _, headers, body = get(PAGES, "/v1/status")
    assert headers["content-type"] == "application/json"
    expected = {"vips": {"203.0.113.1": "Announced"}, "node": "198.18.0.11"}
    assert json.loads(body) == expected
    assert serving(PAGES, lambda port: fetch_status(f"http://127.0.0.1:{port}/v1/status", 2)) == expected


def test_the_page_for_people_is_made_beside_the_event_loop() -> None:
    """It may be large, and probes must not wait for it."""
    pages = replace(PAGES, node=lambda: {"thread": threading.current_thread().name})
    status, _, body = get(pages, "/v1/node")
    assert status == 200
    assert json.loads(body)["thread"] != threading.main_thread().name


def test_an_agent_without_such_a_page_says_nothing_there() -> None:
    assert get(PAGES, "/v1/node")[::2] == (200, b"{}\n")


@pytest.mark.parametrize(("path", "field"), [("/readyz", "ready"), ("/healthz", "healthy")])
def test_a_reason_makes_it_503_and_none_makes_it_200(path: str, field: str) -> None:
    assert get(PAGES, path)[::2] == (200, b"ok\n")
    changes: dict[str, Any] = {field: lambda: ["203.0.113.1 NoHealthyWorker", "tor1 Active"]}
    assert get(replace(PAGES, **changes), path)[::2] == (503, b"203.0.113.1 NoHealthyWorker\ntor1 Active\n")


def test_head_is_get_without_the_body() -> None:
    _, with_body, body = get(PAGES, "/metrics")
    status, headers, nothing = get(PAGES, "/metrics", "HEAD")
    assert (status, nothing) == (200, b"")
    assert headers == with_body
    assert headers["content-length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed_through_the_pages(method: str) -> None:
    status, headers, _ = get(PAGES, "/v1/status", method)
    assert status == 405
    assert headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/v1", "/metrics/", "/../etc/passwd", "/v1/status%00"])
def test_other_paths_are_not_found(path: str) -> None:
    assert get(PAGES, path)[0] == 404


def test_the_page_for_people_comes_with_its_policy_and_the_others_without() -> None:
    pages = replace(PAGES, html=lambda reloads: b"live" if reloads else b"still")
    for path, expected in (("/", b"still"), ("/live", b"live")):
        status, headers, body = get(pages, path)
        assert (status, body, headers["content-type"]) == (200, expected, "text/html; charset=utf-8")
        assert headers["content-security-policy"].startswith("default-src 'none';")
        assert headers["x-content-type-options"] == "nosniff"
    assert "content-security-policy" not in get(pages, "/metrics")[1]


def test_the_pages_can_be_had_on_more_addresses_than_one() -> None:
    async def main() -> list[dict[str, Any]]:
        server = PageServer(PAGES)
        port = await server.start(LOOPBACK, 0)
        await server.close()
        await server.start(LOOPBACK, port, ip_address("127.0.0.2"))
        try:
            return [await fetch_status(f"http://127.0.0.{n}:{port}/v1/status", 2) for n in (1, 2)]
        finally:
            await server.close()

    assert [answer["node"] for answer in asyncio.run(main())] == ["198.18.0.11"] * 2


def test_a_query_does_not_change_the_page() -> None:
    assert get(PAGES, "/readyz?verbose")[0] == 200


def test_a_page_that_fails_is_logged_and_its_reason_kept_from_strangers() -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("inside")

    with structlog.testing.capture_logs() as logged:
        status, _, body = get(replace(PAGES, status=broken), "/v1/status")
    assert status == 500
    assert b"inside" not in body
    assert [entry["event"] for entry in logged] == ["page.bug"]


def test_a_request_that_never_ends_is_cut_off_by_time() -> None:
    assert raw(b"GET /metrics HT", end=False, timeout_seconds=0.2) == b""


def test_a_request_that_is_too_long_is_refused() -> None:
    assert raw(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * (LONGEST_REQUEST_BYTES + 10) + b"\r\n\r\n").startswith(
        b"HTTP/1.1 431 "
    )


@pytest.mark.parametrize("sent", [b"hello\r\n\r\n", b"GET /metrics\r\n\r\n", b"GET /metrics HTTP/2\r\n\r\n", b"GET /m"])
def test_what_is_no_request_is_refused(sent: bytes) -> None:
    assert raw(sent).startswith(b"HTTP/1.1 400 ")


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer_of_http_and_leave_the_server_up(sent: bytes) -> None:
    answer = raw(sent)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")


def test_more_connections_than_the_limit_are_turned_away_and_the_pages_come_back() -> None:
    async def crowd(port: int) -> tuple[bytes, bytes]:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
        await asyncio.sleep(0.05)

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            try:
                return (await asyncio.wait_for(reader.read(), 5))[:12]
            finally:
                writer.close()

        crowded = await ask()
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        return crowded, await ask()

    assert serving(PAGES, crowd, timeout_seconds=5) == (b"HTTP/1.1 503", b"HTTP/1.1 200")


def test_a_port_that_is_taken_means_retry_and_is_named() -> None:
    async def twice(port: int) -> None:
        await PageServer(PAGES).start(LOOPBACK, port)

    with pytest.raises(Retry, match=r"127\.0\.0\.1 port \d+"):
        serving(PAGES, twice)
