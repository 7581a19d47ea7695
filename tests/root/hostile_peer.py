"""BGP peers that say anything: `python -m tests.root.hostile_peer SEED SECONDS PORT ADDRESS...` inside a network namespace.

They wait for a speaker at each address. For so many seconds every connection gets a conversation of its own: nonsense from the first byte, a session
that comes up and then sends messages with bytes overwritten, cut or too long, or routes that nobody may learn. Afterwards they are sound peers and
tell, on standard output as one JSON object, what they did and how long each waited for its first route. The same seed says the same things.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address

MARKER = b"\xff" * 16
#: RFC 4271 section 4: message types; RFC 2918: ROUTE-REFRESH.
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
LONGEST_MESSAGE_BYTES = 4096
WAIT_SECONDS = 1.0
FIRST_ASN = 65100


def message(kind: int, body: bytes = b"") -> bytes:
    """A whole message with its header (RFC 4271 section 4.1)."""
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def open_message(asn: int, router_id: IPv4Address) -> bytes:
    """An OPEN with a hold time of 9 s and the capabilities of IPv4 unicast and 4-byte AS numbers (RFC 5492, 4760, 6793)."""
    capabilities = b"\x01\x04\x00\x01\x00\x01" + b"\x41\x04" + struct.pack("!I", asn)
    optional = struct.pack("!BB", 2, len(capabilities)) + capabilities
    return message(OPEN, struct.pack("!BHH4sB", 4, asn, 9, router_id.packed, len(optional)) + optional)


def attribute(flags: int, kind: int, value: bytes) -> bytes:
    """A path attribute, with the extended length where it needs one (RFC 4271 section 4.3)."""
    if len(value) > 255 or flags & 0x10:
        return struct.pack("!BBH", flags | 0x10, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def update(attributes: bytes, reachable: bytes = b"", withdrawn: bytes = b"") -> bytes:
    """An UPDATE; routes are length in bits and address (RFC 4271 section 4.3)."""
    return message(
        UPDATE,
        struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes + reachable,
    )


def updates(asn: int, next_hop: IPv4Address) -> list[bytes]:
    """What a peer may do wrong, case by case; the first ones are well formed and still nothing to learn from."""
    origin = attribute(0x40, 1, b"\x00")
    path = attribute(0x40, 2, struct.pack("!BBI", 2, 1, asn))
    hop = attribute(0x40, 3, next_hop.packed)
    sound = origin + path + hop
    default, vip, loopback = b"\x00", b"\x20\xcb\x00\x71\x01", b"\x08\x7f"
    looped = attribute(0x40, 2, struct.pack("!BBII", 2, 2, asn, 65010))
    return [
        update(sound, default),
        update(sound, vip),
        update(sound, loopback),
        update(b"", b"", vip),
        update(sound + attribute(0xC0, 99, b"unknown"), vip),
        update(origin + looped + hop, vip),
        update(origin + attribute(0x40, 2, struct.pack("!BB", 2, 255) + struct.pack("!I", asn) * 255) + hop, vip),
        # RFC 7606: missing, doubled, too short, flagged wrongly, and lengths that lie.
        update(origin + path, vip),
        update(sound + origin, vip),
        update(attribute(0x40, 1, b"") + path + hop, vip),
        update(attribute(0x40, 1, b"\x07") + path + hop, vip),
        update(attribute(0x80, 1, b"\x00") + path + hop, vip),
        update(origin + path + attribute(0x40, 3, b"\x00\x00\x00"), vip),
        update(origin + path + attribute(0x40, 3, b"\xff\xff\xff\xff"), vip),
        update(sound + attribute(0xC0, 8, b"\x00\x01\x02"), vip),
        update(sound + attribute(0xC0, 32, b"\x00" * 11), vip),
        update(sound + attribute(0x80, 14, b"\x00\x01\x01\x04" + b"\x00" * 3), vip),
        update(sound + attribute(0x80, 15, b""), b""),
        update(sound, b"\x21\xcb\x00\x71\x01\x00"),
        update(sound, b"\xff"),
        update(sound[:-1], vip),
        message(UPDATE, b"\xff\xff"),
        message(UPDATE, struct.pack("!HH", 0, 4000) + sound),
        message(UPDATE),
        # Anything else that has a header.
        message(KEEPALIVE, b"text"),
        message(ROUTE_REFRESH, b"\x00\x01\x00\x01"),
        message(ROUTE_REFRESH, b"\xff" * 40),
        message(NOTIFICATION, b""),
        message(77, b"what"),
        MARKER + struct.pack("!HB", 18, UPDATE),
        MARKER + struct.pack("!HB", 0, UPDATE),
        MARKER + struct.pack("!HB", 65535, UPDATE) + b"\x00" * 8000,
        b"\x00" * 19,
    ]


def mutated(text: bytes, chance: random.Random) -> bytes:
    """The text with some bytes overwritten, and now and then cut short, grown or said twice."""
    changed = bytearray(text)
    for _ in range(chance.randint(1, 6)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    match chance.randrange(6):
        case 0:
            del changed[chance.randrange(len(changed)) :]
        case 1:
            at = chance.randrange(len(changed))
            changed[at:at] = chance.randbytes(chance.randint(1, 300))
        case 2:
            changed.extend(bytes(changed))
    return bytes(changed)


def routes(body: bytes) -> list[str]:
    """The IPv4 routes that an UPDATE of a sound speaker makes reachable."""
    (withdrawn,) = struct.unpack_from("!H", body)
    (attributes,) = struct.unpack_from("!H", body, 2 + withdrawn)
    at, found = 4 + withdrawn + attributes, []
    while at < len(body):
        size = (body[at] + 7) // 8
        found.append(f"{IPv4Address(body[at + 1 : at + 1 + size].ljust(4, bytes(1)))}/{body[at]}")
        at += 1 + size
    return found


@dataclass
class Told:
    """What happened: connections, sessions that came up, what the speaker complained of, and who has its routes since when."""

    connections: int = 0
    established: int = 0
    complaints: Counter[str] = field(default_factory=Counter)
    back_seconds: dict[str, float] = field(default_factory=dict)
    learnt: set[str] = field(default_factory=set)


class Peer:
    """The peer at one address."""

    def __init__(self, address: str, asn: int, chance: random.Random, told: Told) -> None:
        self.address = IPv4Address(address)
        self.asn = asn
        self.chance = chance
        self.told = told
        self.sound_since: float | None = None
        self.open: asyncio.StreamWriter | None = None

    def be_sound(self) -> None:
        """From now on; what is under way ends."""
        self.sound_since = time.monotonic()
        if self.open is not None:
            self.open.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open = writer
        self.told.connections += 1
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            if self.sound_since is None:
                await self._hostile(reader, writer)
            else:
                await self._sound(reader, writer, self.sound_since)
        writer.transport.abort()

    async def _hostile(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chance = self.chance
        hello = open_message(self.asn, self.address)
        match chance.randrange(5):
            case 0:
                writer.write(chance.randbytes(chance.randint(1, 5000)))
            case 1:
                writer.write(mutated(hello, chance))
            case _:
                writer.write(hello + message(KEEPALIVE))
                if await self._until_established(reader):
                    for said in chance.choices(updates(self.asn, self.address), k=chance.randint(1, 12)):
                        writer.write(said if chance.random() < 0.5 else mutated(said, chance))
                        await writer.drain()
        await self._listen(reader)

    async def _until_established(self, reader: asyncio.StreamReader) -> bool:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                kind, body = await receive(reader)
                if kind == KEEPALIVE:
                    self.told.established += 1
                    return True
                if kind == NOTIFICATION:
                    self._complaint(body)
                    return False

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                kind, body = await receive(reader)
                if kind == NOTIFICATION:
                    self._complaint(body)

    def _complaint(self, body: bytes) -> None:
        self.told.complaints[f"{body[0]}.{body[1]}"] += 1

    async def _sound(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, since: float) -> None:
        writer.write(open_message(self.asn, self.address) + message(KEEPALIVE))
        while True:
            kind, body = await receive(reader)
            if kind == KEEPALIVE:
                writer.write(message(KEEPALIVE))
            elif kind == UPDATE and (found := routes(body)):
                self.told.learnt |= set(found)
                self.told.back_seconds.setdefault(str(self.address), time.monotonic() - since)


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Type and body of the next message of a sound speaker."""
    length, kind = struct.unpack("!HB", (await reader.readexactly(19))[16:])
    return kind, await reader.readexactly(length - 19)


async def main(seed: int, seconds: float, port: int, addresses: list[str]) -> Told:
    """Be hostile for so long, then sound until each peer has its routes or 30 s are over."""
    told = Told()
    peers = [Peer(a, FIRST_ASN + n, random.Random(seed + n), told) for n, a in enumerate(addresses)]
    servers = [await asyncio.start_server(p.serve, str(p.address), port) for p in peers]
    await asyncio.sleep(seconds)
    for peer in peers:
        peer.be_sound()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while len(told.back_seconds) < len(peers):
                await asyncio.sleep(0.05)
    for server, peer in zip(servers, peers, strict=True):
        server.close()
        if peer.open is not None:
            peer.open.transport.abort()
    await asyncio.sleep(0.1)
    return told


if __name__ == "__main__":
    found = asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
    print(
        json.dumps(
            {
                "connections": found.connections,
                "established": found.established,
                "complaints": found.complaints,
                "back_seconds": found.back_seconds,
                "learnt": sorted(found.learnt),
            }
        )
    )
