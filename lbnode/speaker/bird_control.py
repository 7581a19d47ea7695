"""BIRD's control socket: a line protocol of four-digit reply codes (BIRD programmer's documentation, "Command line interface").

``CODE-text`` goes on, ``CODE text`` ends the reply, a leading space repeats the code before, a leading ``+`` is a spontaneous message.
Codes from 8000 are run-time errors, from 9000 syntax errors. Everything that reads text here is a pure function and takes any bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from lbnode.communities import in_order
from lbnode.errors import Retry
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork

FIRST_ERROR_CODE = 8000
#: A table of 65,536 host routes takes about 7 MB, and with a community, MED and path each about 14 MB.
LONGEST_REPLY_BYTES = 32 * 1024 * 1024
#: BIRD starts in a fraction of a second, and until it was asked its routes are unknown.
RETRY_SECONDS = 0.3

_CODED = re.compile(r"([0-9]{4})([- ])(.*)", re.ASCII | re.DOTALL)
_ROUTE = re.compile(r"\s*(\S+/[0-9]{1,3})\s+\S", re.ASCII)
_ATTRIBUTE = re.compile(r"\t(?:BGP\.)?([A-Za-z_]+): (.*)", re.ASCII | re.DOTALL)
_GROUP = re.compile(r"\(([^()]*)\)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_COUNTS = re.compile(r"Routes:\s+.*?([0-9]{1,9}) exported", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: its final code and the lines with their codes, end line included when it has text."""

    code: int
    lines: tuple[tuple[int, str], ...] = ()

    @property
    def failed(self) -> bool:
        return self.code >= FIRST_ERROR_CODE

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)


class ReplyParser:
    """Collects lines until the reply is whole; lines that follow no rule count as text of the code before."""

    def __init__(self) -> None:
        self._code = 0
        self._lines: list[tuple[int, str]] = []

    def feed(self, line: bytes) -> Reply | None:
        """Take one line without its newline; the reply when this line ends it."""
        text = line.decode("utf-8", "replace").rstrip("\r")
        if text.startswith("+"):
            return None
        match = _CODED.fullmatch(text)
        if match is None:
            self._lines.append((self._code, text.removeprefix(" ")))
            return None
        self._code = int(match[1])
        if match[3]:
            self._lines.append((self._code, match[3]))
        if match[2] == "-":
            return None
        reply = Reply(self._code, tuple(self._lines))
        self._code, self._lines = 0, []
        return reply


@dataclass(frozen=True, slots=True)
class ProtocolStatus:
    """One block of ``show protocols all``: BIRD's protocol name, its BGP state, exported routes of all channels, last error."""

    name: str
    state: str
    exported: int
    last_error: str


def parse_protocols(reply: Reply) -> dict[str, ProtocolStatus]:
    """The BGP sessions in the reply to ``show protocols all``, by protocol name."""
    found: dict[str, ProtocolStatus] = {}
    name, state, exported, last_error = "", "", 0, ""

    def close() -> None:
        if name:
            found[name] = ProtocolStatus(name, state, exported, last_error)

    for code, line in reply.lines:
        if code == 1002:
            close()
            words = line.split()
            name, exported, last_error = words[0] if words else "", 0, ""
            # A protocol that is switched off shows no BGP state.
            state = "Down"
            continue
        key, _, value = line.strip().partition(":")
        if key == "BGP state":
            state = value.strip()
        elif key == "Last error":
            last_error = value.strip()
        elif (counts := _COUNTS.match(line.strip())) is not None:
            exported += int(counts[1])
    close()
    return found


def parse_bfd(reply: Reply) -> dict[IPAddress, str]:
    """State words (``Up``, ``Down``, ``Init``, ``AdminDown``) of ``show bfd sessions`` by the neighbour's address."""
    found: dict[IPAddress, str] = {}
    for _, line in reply.lines:
        words = line.split()
        if len(words) >= 3:
            try:
                found[ip_address(words[0].partition("%")[0])] = words[2]
            except ValueError:
                continue  # the table's heading
    return found


def parse_routes(reply: Reply, covered: bool = False) -> dict[IPNetwork, RouteAttributes]:
    """The routes in the reply to ``show route all`` with the attributes that we know; ``covered`` says what their protocol holds."""
    found: dict[IPNetwork, RouteAttributes] = {}
    network: IPNetwork | None = None
    said: dict[str, str] = {}
    key = ""

    def close() -> None:
        if network is not None:
            found[network] = _read_attributes(said, covered)

    for _, line in reply.lines:
        if (match := _ROUTE.match(line)) is not None and not line.startswith("\t"):
            close()
            network, said = _network(match[1]), {}
        elif (attribute := _ATTRIBUTE.match(line)) is not None:
            key = attribute[1]
            said[key] = attribute[2]
        elif line.startswith("\t\t") and key in said:
            # BIRD breaks a long list of communities over lines.
            said[key] += " " + line.strip()
    close()
    return found


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _read_attributes(said: Mapping[str, str], covered: bool) -> RouteAttributes:
    communities = [
        ":".join(numbers)
        for key, count in (("community", 2), ("large_community", 3))
        for group in _GROUP.findall(said.get(key, ""))
        if len(numbers := _NUMBER.findall(group)) == count
    ]

    def number(key: str) -> int | None:
        text = said.get(key, "").strip()
        return int(text) if _NUMBER.fullmatch(text) else None

    return RouteAttributes(
        in_order(communities),
        number("local_pref"),
        number("med"),
        len(_NUMBER.findall(said.get("as_path", ""))),
        covered,
    )


async def ask(socket_path: Path, commands: Sequence[str], timeout_seconds: float) -> tuple[Reply, ...]:
    """The replies to ``commands``, asked over one connection.

    Raises:
        Retry: nobody listens, the daemon hangs up, does not answer in time, or answers without end.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_unix_connection(str(socket_path), limit=LONGEST_REPLY_BYTES)
            try:
                await _reply(reader)  # the greeting
                replies = []
                for command in commands:
                    writer.write(command.encode() + b"\n")
                    await writer.drain()
                    replies.append(await _reply(reader))
                return tuple(replies)
            finally:
                writer.close()
                # What was answered stands, however the connection ends.
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise Retry(f"BIRD did not answer within {timeout_seconds:g} s on {socket_path}") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise Retry(
            f"BIRD cannot be asked on {socket_path}: {error.__class__.__name__}: {error}", RETRY_SECONDS
        ) from None


async def _reply(reader: asyncio.StreamReader) -> Reply:
    parser, size = ReplyParser(), 0
    while True:
        line = await reader.readuntil(b"\n")
        size += len(line)
        if size > LONGEST_REPLY_BYTES:
            raise asyncio.LimitOverrunError("the reply has no end", size)
        if (reply := parser.feed(line[:-1])) is not None:
            return reply
