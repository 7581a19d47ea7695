"""Single packets made by hand: what no honest client sends, or sends exactly once.

Formats: IPv4 RFC 791, IPv6 RFC 8200, TCP RFC 9293, UDP RFC 768, IP in IP RFC 2003, checksum RFC 1071.
"""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address

from lab.traffic.answer import family_of

IPPROTO_IPIP = 4
TCP_SYN = 0x02
_TTL = 64


def checksum(data: bytes) -> int:
    """The Internet checksum of RFC 1071 over `data`, padded to 16 bits with zero."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    source: str, destination: str, protocol: int, payload: bytes, ttl: int = _TTL, identification: int = 0x5347
) -> bytes:
    """An IPv4 packet without options."""
    fields = (
        0x45,
        0,
        20 + len(payload),
        identification,
        0,
        ttl,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    header = struct.pack("!BBHHHBBH4s4s", *fields)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(source: str, destination: str, next_header: int, payload: bytes, hop_limit: int = _TTL) -> bytes:
    """An IPv6 packet without extension headers."""
    header = struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit)
    return header + ip_address(source).packed + ip_address(destination).packed + payload


def _ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    return (ipv4 if ip_address(source).version == 4 else ipv6)(source, destination, protocol, payload)


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    """RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6."""
    ends = ip_address(source).packed + ip_address(destination).packed
    if ip_address(source).version == 4:
        return ends + struct.pack("!BBH", 0, protocol, length)
    return ends + struct.pack("!II", length, protocol)


def tcp_syn(source: tuple[str, int], destination: tuple[str, int], sequence: int = 1) -> bytes:
    """A SYN in its IP packet, of the family of the addresses."""
    segment = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, 0, 5 << 4, TCP_SYN, 65535, 0, 0)
    total = checksum(_pseudo(source[0], destination[0], socket.IPPROTO_TCP, len(segment)) + segment)
    return _ip(source[0], destination[0], socket.IPPROTO_TCP, segment[:16] + struct.pack("!H", total) + segment[18:])


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """A datagram in its IP packet, of the family of the addresses."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", source[1], destination[1], length, 0)
    total = checksum(_pseudo(source[0], destination[0], socket.IPPROTO_UDP, length) + header + payload) or 0xFFFF
    return _ip(source[0], destination[0], socket.IPPROTO_UDP, header[:6] + struct.pack("!H", total) + payload)


def ipip(source: str, destination: str, inner: bytes) -> bytes:
    """`inner` inside an outer IPv4 header."""
    return ipv4(source, destination, IPPROTO_IPIP, inner)


def send(packet: bytes) -> None:
    """Put one whole IP packet on the wire, towards the destination in its header (needs CAP_NET_RAW)."""
    destination = str(ip_address(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]))
    with socket.socket(family_of(destination), socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(packet, (destination, 0))


def send_and_listen(packet: bytes, listen: tuple[str, int], wait_seconds: float) -> list[tuple[str, bytes]]:
    """Send `packet`, then all datagrams (sender's address, payload) that reach `listen` within `wait_seconds`."""
    heard: list[tuple[str, bytes]] = []
    with socket.socket(family_of(listen[0]), socket.SOCK_DGRAM) as sock:
        sock.bind(listen)
        send(packet)
        deadline = time.monotonic() + wait_seconds
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                payload, (sender, *_) = sock.recvfrom(2048)
            except TimeoutError:
                break
            heard.append((sender, payload))
    return heard
