"""The agent's HTTP pages: ``/metrics``, ``/healthz``, ``/readyz``, ``/v1/status`` and ``/v1/node``, read-only; the controller has ``/`` for people besides.

A few dozen lines of HTTP/1.1 (RFC 9112) in place of a framework: GET and HEAD, one request a connection, everything bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog

from lbnode.errors import Retry
from lbnode.model import IPAddress
from lbnode.observe import status_page

LONGEST_REQUEST_BYTES = 8192
REQUEST_TIMEOUT_SECONDS = 5.0
#: More connections than this at once are turned away.
MOST_CONNECTIONS = 64
NODE_PAGE = "/v1/node"
TEXT = "text/plain; charset=utf-8"
#: Prometheus' text exposition format.
METRICS = "text/plain; version=0.0.4; charset=utf-8"
HTML = "text/html; charset=utf-8"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages say, asked at each request.

    ``ready`` and ``healthy`` return reasons why not; no reason means 200, any reason 503. Other agents poll ``status``; ``node`` is for
    people, may be large, and is made only when somebody looks, in a thread beside the event loop, so that no probe waits for it. ``html``
    makes the page for browsers, where there is one; it is told whether that page is to reload itself.
    """

    metrics: Callable[[], bytes]
    ready: Callable[[], Sequence[str]]
    healthy: Callable[[], Sequence[str]]
    status: Callable[[], Mapping[str, Any]]
    html: Callable[[bool], bytes] | None = None
    node: Callable[[], Mapping[str, Any]] = dict

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        match path:
            case "/metrics":
                return HTTPStatus.OK, METRICS, self.metrics()
            case "/readyz":
                return _verdict(self.ready())
            case "/healthz":
                return _verdict(self.healthy())
            case "/v1/status":
                return _json(self.status())
            case path if path == NODE_PAGE:
                return _json(self.node())
            case "/" | "/live" if self.html is not None:
                return HTTPStatus.OK, HTML, self.html(path == "/live")
            case _:
                return (
                    HTTPStatus.NOT_FOUND,
                    TEXT,
                    b"not found; there are /metrics /healthz /readyz /v1/status /v1/node\n",
                )


def _json(value: Mapping[str, Any]) -> tuple[HTTPStatus, str, bytes]:
    return HTTPStatus.OK, "application/json", json.dumps(value, default=str, sort_keys=True).encode() + b"\n"


def _verdict(reasons: Sequence[str]) -> tuple[HTTPStatus, str, bytes]:
    if not reasons:
        return HTTPStatus.OK, TEXT, b"ok\n"
    return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, "".join(f"{r}\n" for r in reasons).encode()


class PageServer:
    """Serves :class:`Pages` on one address until closed."""

    def __init__(self, pages: Pages, request_timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        self._pages = pages
        self._request_timeout_seconds = request_timeout_seconds
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, address: IPAddress, port: int, *more: IPAddress) -> int:
        """Listen on one address and ``more``; the port of the first, which differs from ``port`` when that is 0.

        Raises:
            Retry: the address is not there or the port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._serve, [str(a) for a in (address, *more)], port, limit=LONGEST_REQUEST_BYTES
            )
        except OSError as error:
            raise Retry(f"cannot serve the agent's pages on {address} port {port}: {error.strerror or error}") from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(self._request_timeout_seconds):
                if self._connections > MOST_CONNECTIONS:
                    response = _response(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"too many connections\n")
                else:
                    response = await self._respond(reader)
                writer.write(response)
                await writer.drain()
                writer.write_eof()
                # Unread bytes at close would make the kernel reset the connection under the answer.
                while await reader.read(LONGEST_REQUEST_BYTES):
                    pass
        except (OSError, TimeoutError):
            pass  # the other side's trouble
        finally:
            self._connections -= 1
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TEXT, b"request too long\n")
        except asyncio.IncompleteReadError:
            return _response(HTTPStatus.BAD_REQUEST, TEXT, b"request cut short\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, TEXT, b"not an HTTP/1.1 request\n")
        method, target, _ = words
        if method not in {b"GET", b"HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"GET and HEAD only\n", allow=True)
        try:
            path = target.partition(b"?")[0].decode("latin-1")
            if path == NODE_PAGE:
                status, kind, body = await asyncio.to_thread(self._pages.answer, path)
            else:
                status, kind, body = self._pages.answer(path)
        except Exception:
            # A page that fails must not end the role, and says nothing of its inside to strangers.
            log.exception("page.bug", path=target.decode("latin-1"))
            status, kind, body = HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"internal error; see the log\n"
        return _response(status, kind, body, with_body=method == b"GET")


def _response(status: HTTPStatus, kind: str, body: bytes, *, with_body: bool = True, allow: bool = False) -> bytes:
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if allow:
        head.append("Allow: GET, HEAD")
    if kind == HTML:
        head += status_page.HEADERS
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (body if with_body else b"")
