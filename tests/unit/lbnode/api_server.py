"""An API server over the loopback, as far as a watcher asks: LIST, WATCH, one GET; and it can fall silent, be gone, end watches at once, or cut them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

PLURALS = {"Service": "services", "EndpointSlice": "endpointslices", "Node": "nodes"}


class ApiServer:
    """Keeps what is put into it through every outage, as etcd does. ``lists`` has the second of each LIST that it was sent, ``watches`` of each WATCH
    by what it was of. Of the next ``ends_watches`` each ends at once as it should; while ``cuts_watches``, each breaks off."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self._objects: dict[str, dict[str, dict[str, Any]]] = {plural: {} for plural in PLURALS.values()}
        self._version = 1
        self._watching: dict[str, set[asyncio.StreamWriter]] = {plural: set() for plural in PLURALS.values()}
        self._connections: set[asyncio.StreamWriter] = set()
        self._talks = asyncio.Event()
        self._talks.set()
        self._server: asyncio.Server | None = None
        self.ends_watches = 0
        self.cuts_watches = False
        self.port = 0
        self.lists: list[float] = []
        self.watches: dict[str, list[float]] = {plural: [] for plural in PLURALS.values()}
        for raw in objects:
            self.put(raw)

    async def start(self) -> None:
        """Listen, after :meth:`stop` where it listened before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def fall_silent(self) -> None:
        """As a stopped process: connections open and stay, nothing is answered."""
        self._talks.clear()

    async def stop(self) -> None:
        """As a killed one: connections are reset and refused."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        self._talks.set()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Reset every connection, and answer the next."""
        for writer in list(self._connections):
            writer.transport.abort()

    def put(self, raw: dict[str, Any]) -> None:
        """Create or replace an object."""
        self._change(raw, "MODIFIED" if self._key(raw) in self._objects[PLURALS[raw["kind"]]] else "ADDED")

    def remove(self, raw: dict[str, Any]) -> None:
        self._change(raw, "DELETED")

    @staticmethod
    def _key(raw: dict[str, Any]) -> str:
        return f"{raw['metadata'].get('namespace', '')}/{raw['metadata']['name']}"

    def _change(self, raw: dict[str, Any], kind: str) -> None:
        plural = PLURALS[raw["kind"]]
        self._version += 1
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self._version)}}
        if kind == "DELETED":
            del self._objects[plural][self._key(raw)]
        else:
            self._objects[plural][self._key(raw)] = raw
        for writer in self._watching[plural]:
            self._chunk(writer, {"type": kind, "object": raw})

    @staticmethod
    def _chunk(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        text = json.dumps(event).encode() + b"\n"
        writer.write(b"%x\r\n%s\r\n" % (len(text), text))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._open(writer), contextlib.suppress(OSError, EOFError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = urlsplit(head.split()[1].decode())
                plural = target.path.rsplit("/", 1)[-1]
                if plural in self._objects and "watch" not in parse_qs(target.query):
                    self.lists.append(asyncio.get_running_loop().time())
                await self._talks.wait()
                if plural not in self._objects:
                    self._answer(writer, {"kind": "Service", "metadata": {"name": plural}})
                elif "watch" not in parse_qs(target.query):
                    items, version = list(self._objects[plural].values()), str(self._version)
                    self._answer(writer, {"metadata": {"resourceVersion": version}, "items": items})
                else:
                    self.watches[plural].append(asyncio.get_running_loop().time())
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
                    )
                    since = int(parse_qs(target.query)["resourceVersion"][0])
                    for raw in self._objects[plural].values():
                        if int(raw["metadata"]["resourceVersion"]) > since:
                            self._chunk(writer, {"type": "MODIFIED", "object": raw})
                    if self.cuts_watches:
                        await writer.drain()
                        return
                    if self.ends_watches:
                        self.ends_watches -= 1
                        writer.write(b"0\r\n\r\n")
                        continue
                    self._watching[plural].add(writer)
                    await reader.read()
                    return

    @contextlib.contextmanager
    def _open(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._connections.add(writer)
        try:
            yield
        finally:
            self._connections.discard(writer)
            for writers in self._watching.values():
                writers.discard(writer)
            writer.transport.abort()

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(text), text)
        )
