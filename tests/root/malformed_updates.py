"""A BGP peer for each malformed message: `python -m tests.root.malformed_updates PORT ADDRESS...` inside a network namespace.

Each waits for a speaker at its address, lets the session come up, says its one message, and listens. On standard output comes one JSON object: of each
case the code and subcode of the NOTIFICATION that answered it, or "kept" when none came.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from ipaddress import IPv4Address

from tests.root.hostile_peer import (
    FIRST_ASN,
    KEEPALIVE,
    MARKER,
    NOTIFICATION,
    UPDATE,
    attribute,
    message,
    open_message,
    receive,
    update,
)

#: Longer than the time between two KEEPALIVEs at a hold time of 9 s: one that comes shows that the session lives.
LISTEN_SECONDS = 6.0
GIVE_UP_SECONDS = 40.0
ROUTE = b"\x18\xc6\x33\x64"

#: Cases by what RFC 7606 says of them; the number is the section.
TREATED_AS_WITHDRAW = (
    "7.1 origin of no known value",
    "7.1 origin of two bytes",
    "3d no next hop",
    "3c well-known attribute with the flag of an optional one",
    "7.2 AS path whose segment is longer than the attribute",
    "7.3 next hop of three bytes",
    "7.4 multi-exit discriminator of three bytes",
    "7.8 community of three bytes",
)
ATTRIBUTE_DISCARDED = ("3g origin twice", "7.6 atomic aggregate with a value", "7.7 aggregator of three bytes")
SESSION_RESET = (
    "3 attributes longer than the message",
    "5.3 prefix of 33 bits",
    "3g reachable routes of another family twice",
)
#: And what RFC 4271 says of the header, section 6.1.
HEADER_RESET = ("unknown type", "length below a header's")
CASES = (*TREATED_AS_WITHDRAW, *ATTRIBUTE_DISCARDED, *SESSION_RESET, *HEADER_RESET)


def messages(asn: int, next_hop: IPv4Address) -> dict[str, bytes]:
    """The bytes of each case."""
    origin = attribute(0x40, 1, b"\x00")
    path = attribute(0x40, 2, struct.pack("!BBI", 2, 1, asn))
    hop = attribute(0x40, 3, next_hop.packed)
    sound = origin + path + hop
    # IPv6 unicast, a global next hop, one route (RFC 4760).
    reachable = attribute(
        0x80, 14, b"\x00\x02\x01\x10" + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x02\x00\x20\x20\x01\x0d\xb8"
    )
    said = (
        update(attribute(0x40, 1, b"\x07") + path + hop, ROUTE),
        update(attribute(0x40, 1, b"\x00\x00") + path + hop, ROUTE),
        update(origin + path, ROUTE),
        update(attribute(0xC0, 1, b"\x00") + path + hop, ROUTE),
        update(origin + attribute(0x40, 2, struct.pack("!BBI", 2, 9, asn)) + hop, ROUTE),
        update(origin + path + attribute(0x40, 3, b"\x01\x02\x03"), ROUTE),
        update(sound + attribute(0x80, 4, b"\x00\x00\x01"), ROUTE),
        update(sound + attribute(0xC0, 8, b"\x00\x01\x02"), ROUTE),
        update(sound + origin, ROUTE),
        update(sound + attribute(0x40, 6, b"\x01"), ROUTE),
        update(sound + attribute(0xC0, 7, b"\x01\x02\x03"), ROUTE),
        message(UPDATE, struct.pack("!HH", 0, 4000) + sound),
        update(sound, b"\x21\xc6\x33\x64\x01\x80"),
        update(origin + path + reachable + reachable),
        message(77, b"what"),
        MARKER + struct.pack("!HB", 18, UPDATE),
    )
    return dict(zip(CASES, said, strict=True))


class Peer:
    """One case at one address; a second conversation of it is refused."""

    def __init__(self, case: str, address: str, asn: int) -> None:
        self.case = case
        self.address = IPv4Address(address)
        self.asn = asn
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(open_message(self.asn, self.address) + message(KEEPALIVE))
            while (await receive(reader))[0] != KEEPALIVE:
                pass
            writer.write(messages(self.asn, self.address)[self.case])
            if not self.answer.done():
                self.answer.set_result(await self._heard(reader))
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    @staticmethod
    async def _heard(reader: asyncio.StreamReader) -> str:
        kept = "silent"
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                while True:
                    kind, body = await receive(reader)
                    if kind == NOTIFICATION:
                        return f"{body[0]}.{body[1]}"
                    kept = "kept" if kind == KEEPALIVE else kept
        except TimeoutError:
            return kept
        except (OSError, EOFError):
            return "closed"


async def main(port: int, addresses: list[str]) -> dict[str, str]:
    """The answer to each case; a case whose session never came up is not among them."""
    peers = [Peer(case, a, FIRST_ASN + n) for n, (case, a) in enumerate(zip(CASES, addresses, strict=True))]
    servers = [await asyncio.start_server(p.serve, str(p.address), port) for p in peers]
    await asyncio.wait([p.answer for p in peers], timeout=GIVE_UP_SECONDS)
    for server in servers:
        server.close()
    return {p.case: p.answer.result() for p in peers if p.answer.done()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))))
