"""What the XDP program should do with any frame, said a second time: headers are read and written by scapy, and nothing of lbnode decides."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

DROP, PASS, TX = 1, 2, 3  # enum xdp_action of linux/bpf.h
_TAGS = (0x8100, 0x88A8)
_TCP, _UDP, _ICMP, _ICMP6, _FRAGMENT = 6, 17, 1, 58, 44
_EXTENSIONS = (0, 43, 60)
#: As in lbnode/bpf/balance.h: what the program walks of extension headers.
_MOST_EXTENSIONS, _MOST_EXTENSION_BYTES = 6, 512
_MTU = 1500

SLOTS = 65537
Service = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Said:
    """Verdict, the frame that comes of it, and why it was dropped."""

    verdict: int
    frame: bytes
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """``workers`` has the one worker of each service (VIP, protocol, port), or none; ``limits`` the networks of clients of some."""

    workers: Mapping[Service, str | None]
    limits: Mapping[Service, str]
    us: str
    router: str
    edges: Mapping[int, str]

    def say(self, frame: bytes) -> Said:
        """What becomes of a frame."""
        if len(frame) < 14:
            return Said(PASS, frame)
        kind, at = int.from_bytes(frame[12:14], "big"), 14
        for _ in range(2):
            if kind not in _TAGS:
                break
            if len(frame) < at + 4:
                return Said(PASS, frame)
            kind, at = Dot1Q(frame[at : at + 4]).type, at + 4
        if kind == 0x0800 and len(frame) >= at + 20:
            return self._ipv4(frame, at)
        if kind == 0x86DD and len(frame) >= at + 40:
            return self._ipv6(frame, at)
        return Said(PASS, frame)

    @property
    def _vips(self) -> set[str]:
        return {vip for vip, _, _ in self.workers}

    def _ipv4(self, frame: bytes, at: int) -> Said:
        header = IP(frame[at : at + 20])
        if header.proto not in (_TCP, _UDP, _ICMP) or header.dst not in self._vips:
            return Said(PASS, frame)
        if (header.version, header.ihl) != (4, 5):
            return Said(DROP, frame, "OPTIONS")
        if header.flags.MF or header.frag:
            return Said(DROP, frame, "FRAGMENT")
        rest = frame[at + 20 :]
        if header.proto != _ICMP:
            return self._transport(frame, at, header, header.proto, rest)
        if len(rest) < 8:
            return Said(PASS, frame)
        if rest[0] == 8:
            return self._echo(frame, at, header, rest, -8)
        quoted = rest[8:]
        if rest[0] not in (3, 11, 12) or len(quoted) < 20:
            return Said(PASS, frame)
        inner = IP(quoted[:20])
        ports = quoted[inner.ihl * 4 :][:4]
        if inner.src != header.dst or inner.frag or inner.version != 4 or inner.ihl < 5 or len(ports) < 4:
            return Said(PASS, frame)
        return self._quoted(frame, at, header, inner.proto, ports)

    def _ipv6(self, frame: bytes, at: int) -> Said:
        header = IPv6(frame[at : at + 40])
        if header.dst not in self._vips:
            return Said(PASS, frame)
        following, end = header.nh, at + 40
        for _ in range(_MOST_EXTENSIONS):
            if following == _FRAGMENT:
                return Said(DROP, frame, "FRAGMENT")
            if following not in _EXTENSIONS:
                break
            if len(frame) < end + 2:
                return Said(PASS, frame)
            following, end = frame[end], end + 8 + 8 * frame[end + 1]
            if end > _MOST_EXTENSION_BYTES:
                return Said(DROP, frame, "OPTIONS")
        else:
            return Said(DROP, frame, "OPTIONS")
        rest = frame[end:]
        if following in (_TCP, _UDP):
            return self._transport(frame, at, header, following, rest)
        if following != _ICMP6 or len(rest) < 8:
            return Said(PASS, frame)
        if rest[0] == 128:
            return self._echo(frame, at, header, rest, 1) if header.nh == _ICMP6 else Said(PASS, frame)
        quoted = rest[8:]
        if rest[0] not in (1, 2, 3, 4) or len(quoted) < 44:
            return Said(PASS, frame)
        inner = IPv6(quoted[:40])
        if inner.src != header.dst:
            return Said(PASS, frame)
        return self._quoted(frame, at, header, inner.nh, quoted[40:44])

    def _transport(self, frame: bytes, at: int, header: Packet, protocol: int, rest: bytes) -> Said:
        if len(rest) < (20 if protocol == _TCP else 8):
            return Said(PASS, frame)
        port = (TCP(rest[:20]) if protocol == _TCP else UDP(rest[:8])).dport
        service = (header.dst, protocol, port)
        if service not in self.workers:
            return Said(PASS, frame)
        if service in self.limits and ip_address(header.src) not in ip_network(self.limits[service]):
            return Said(DROP, frame, "SOURCE")
        return self._forwarded(frame, at, header, service, may_answer=True)

    def _quoted(self, frame: bytes, at: int, header: Packet, protocol: int, ports: bytes) -> Said:
        service = (header.dst, protocol, struct.unpack(">HH", ports)[0])
        if protocol not in (_TCP, _UDP) or service not in self.workers:
            return Said(PASS, frame)
        return self._forwarded(frame, at, header, service, may_answer=False)

    def _forwarded(self, frame: bytes, at: int, header: Packet, service: Service, *, may_answer: bool) -> Said:
        worker = self.workers[service]
        if worker is None:
            return Said(DROP, frame, "NO_DESTINATION")
        version = ip_address(worker).version
        room = _MTU - (20 if version == 4 else 40)
        is_ipv4 = isinstance(header, IP)
        size = header.len if is_ipv4 else header.plen + 40
        if size > room:
            return self._too_big(frame, at, header, room) if may_answer else Said(DROP, frame, "TOO_BIG")
        traffic_class, protocol = (header.tos, 4) if is_ipv4 else (header.tc, 41)
        if version == 4:
            outer = IP(
                src=self.edges[4], dst=worker, id=0, flags="DF", tos=traffic_class, proto=protocol, len=size + 20
            )
        else:
            outer = IPv6(src=self.edges[6], dst=worker, hlim=64, tc=traffic_class, nh=protocol, plen=size)
        link = Ether(src=self.us, dst=self.router, type=0x0800 if version == 4 else 0x86DD)
        return Said(TX, bytes(link) + bytes(outer) + frame[at:])

    def _too_big(self, frame: bytes, at: int, header: Packet, room: int) -> Said:
        quote = 576 - 28 if isinstance(header, IP) else 1280 - 48
        source = ip_address(header.src)
        if isinstance(source, IPv4Address):
            nobody = source.packed[0] in (0, 127) or source.packed[0] >= 224
            asked = bool(header.flags.DF)
        else:
            nobody, asked = source.is_multicast or source.packed[:4] == bytes(4), True
        if frame[0] & 1 or nobody or not asked or len(frame) < at + quote:
            return Said(DROP, frame, "TOO_BIG")
        quoted = Raw(frame[at : at + quote])
        if isinstance(source, IPv4Address):
            message = IP(src=header.dst, dst=header.src, tos=0xC0, id=0, flags="DF") / ICMP(
                type=3, code=4, nexthopmtu=room
            )
        else:
            message = IPv6(src=header.dst, dst=header.src) / ICMPv6PacketTooBig(mtu=room)
        return Said(TX, self._link_back(frame, at) + bytes(message / quoted), "TOO_BIG")

    def _echo(self, frame: bytes, at: int, header: Packet, rest: bytes, step: int) -> Said:
        if frame[0] & 1:
            return Said(PASS, frame)
        answer = header.copy()
        answer.src, answer.dst = header.dst, header.src
        if isinstance(header, IP):
            answer.ttl = 64
            del answer.chksum
        else:
            answer.hlim = 64
        # The type goes up by so much, so the checksum goes down by as much, in one's complement (RFC 1071).
        (checksum,) = struct.unpack(">H", rest[2:4])
        checksum = (checksum - (step << 8)) % 0xFFFF or 0xFFFF
        message = bytes([rest[0] + step, rest[1]]) + struct.pack(">H", checksum) + rest[4:]
        length = 20 if isinstance(header, IP) else 40
        return Said(TX, self._link_back(frame, at) + bytes(answer)[:length] + message)

    @staticmethod
    def _link_back(frame: bytes, at: int) -> bytes:
        return frame[6:12] + frame[:6] + frame[12:at]


def maglev(names: Sequence[str], weights: Sequence[int]) -> list[str]:
    """The table of the paper (Eisenbud et al., NSDI 2016, section 3.4, pseudocode 1): in each turn a backend takes as many slots as its weight.

    ADR 20 leaves to us: the backends in the order of their addresses, and offset and skip from the halves of a 16-byte BLAKE2b of the address.
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names]
    offset = [int.from_bytes(d[:8], "little") % SLOTS for d in digests]
    skip = [int.from_bytes(d[8:], "little") % (SLOTS - 1) + 1 for d in digests]
    entry: list[str | None] = [None] * SLOTS
    following, filled = [0] * len(names), 0
    while filled < SLOTS:
        for i, name in enumerate(names):
            for _ in range(min(weights[i], SLOTS - filled)):
                while entry[at := (offset[i] + following[i] * skip[i]) % SLOTS] is not None:
                    following[i] += 1
                entry[at] = name
                filled += 1
    return [name for name in entry if name is not None]


def slot_of(service: str, client: str, port: int) -> int:
    """The slot of a flow to ``service``, written as tcp://203.0.113.1:80. Each word of the client's address, and its port, goes through a mixer (ADR 20)."""
    packed = ip_address(client).packed
    words = [packed[at : at + 8] for at in range(0, len(packed), 8)]
    state = struct.unpack("<Q", hashlib.blake2b(service.encode(), digest_size=8).digest())[0]
    for number, word in enumerate(words, 1):
        state ^= int.from_bytes(word, "little")
        if number == len(words):
            # The port as it is on the wire, above the address of IPv4.
            state ^= int.from_bytes(bytes(4) + struct.pack(">H", port), "little")
        for _ in range(2):
            state = (state ^ state >> 32) * 0xD6E8FEB86659FD93 % 2**64
        state ^= state >> 32
    return (state >> 32) * SLOTS // 2**32
