"""What the XDP program does with single packets, each with what comes of it: readable by itself, put together by scapy.

The edge node has four workers. Each service has one of them, so that it is plain where a packet has to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from lbnode.dataplane.xdp_records import Drop
from lbnode.model import Destination, Protocol, VirtualKey, VirtualService

US, ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:fe"
EDGE, EDGE6 = "198.18.0.1", "2001:db8::1"
CLIENT, CLIENT6 = "10.1.2.3", "2001:db8:c::3"
STRANGER, STRANGER6 = "192.0.2.9", "2001:db8:bad::9"
HOP, HOP6 = "198.51.100.77", "2001:db8:77::77"
VIP, VIP6 = "203.0.113.1", "2001:db8:113::1"
MIXED, MIXED6 = "203.0.113.5", "2001:db8:113::5"
EMPTY, EMPTY6 = "203.0.113.6", "2001:db8:113::6"
LIMITED, LIMITED6 = "203.0.113.7", "2001:db8:113::7"
NOBODY, NOBODY6 = "203.0.113.9", "2001:db8:113::9"
WEB_WORKER, DNS_WORKER = "198.19.0.1", "198.19.0.2"
WEB6_WORKER, DNS6_WORKER = "2001:db8:1::1", "2001:db8:1::2"
#: Bytes of an outer packet, and so of an inner one by the family of the tunnel (RFC 2003, RFC 2473).
MTU = 1500
FITS = {4: MTU - 20, 6: MTU - 40}


def _service(vip: str, protocol: Protocol, port: int, *workers: str, one_packet: bool = False) -> VirtualService:
    destinations = tuple(Destination(ip_address(w)) for w in workers)
    return VirtualService(VirtualKey(ip_address(vip), protocol, port), destinations, one_packet=one_packet)


SERVICES = (
    _service(VIP, Protocol.TCP, 80, WEB_WORKER),
    _service(VIP, Protocol.UDP, 53, DNS_WORKER),
    _service(VIP, Protocol.UDP, 123, DNS_WORKER, one_packet=True),
    _service(VIP6, Protocol.TCP, 80, WEB6_WORKER),
    _service(VIP6, Protocol.UDP, 53, DNS6_WORKER),
    _service(MIXED, Protocol.TCP, 80, WEB6_WORKER),
    _service(MIXED6, Protocol.TCP, 80, WEB_WORKER),
    _service(EMPTY, Protocol.TCP, 80),
    _service(EMPTY6, Protocol.TCP, 80),
    _service(LIMITED, Protocol.TCP, 80, WEB_WORKER),
    _service(LIMITED6, Protocol.TCP, 80, WEB6_WORKER),
)
LIMITS = frozenset(
    {
        (VirtualKey(ip_address(LIMITED), Protocol.TCP, 80), ip_network("10.0.0.0/8")),
        (VirtualKey(ip_address(LIMITED6), Protocol.TCP, 80), ip_network("2001:db8:c::/48")),
    }
)


@dataclass(frozen=True, slots=True)
class Passes:
    """The kernel gets it as it came."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nobody gets it, and it is counted."""

    reason: Drop


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """It leaves for the router, unchanged in a tunnel to this worker, without tags."""

    worker: str


@dataclass(frozen=True, slots=True)
class Answered:
    """This leaves for the router instead; ``dropped`` is what is counted beside."""

    sent: Packet
    dropped: Drop | None = None


Outcome = Passes | Dropped | Tunnelled | Answered


def came(packet: Packet) -> Packet:
    """From the router."""
    return Ether(src=ROUTER, dst=US) / packet


def left(packet: Packet) -> Packet:
    """To the router."""
    return Ether(src=US, dst=ROUTER) / packet


def to_web(**fields: object) -> Packet:
    return IP(src=CLIENT, dst=VIP, **fields) / TCP(sport=1024, dport=80, flags="A")


def to_web6(**fields: object) -> Packet:
    return IPv6(src=CLIENT6, dst=VIP6, **fields) / TCP(sport=1024, dport=80, flags="A")


def to_dns() -> Packet:
    return IP(src=CLIENT, dst=VIP) / UDP(sport=1024, dport=53) / b"question"


def to_dns6() -> Packet:
    return IPv6(src=CLIENT6, dst=VIP6) / UDP(sport=1024, dport=53) / b"question"


def of_size(packet: Packet, size_bytes: int) -> Packet:
    return packet / Raw(b"x" * (size_bytes - len(packet)))


def reply(size_bytes: int = 1500, protocol: object = None, **fields: object) -> bytes:
    """What a worker sent to the client, as it is quoted."""
    said = TCP(sport=80, dport=1024, flags="A") if protocol is None else protocol
    return bytes(of_size(IP(src=VIP, dst=CLIENT, flags="DF", **fields) / said, size_bytes))


def reply6(protocol: object = None) -> bytes:
    said = TCP(sport=80, dport=1024, flags="A") if protocol is None else protocol
    return bytes(of_size(IPv6(src=VIP6, dst=CLIENT6) / said, 1500))


#: An IPv4 header and the 8 bytes after it (RFC 792).
LEAST = 20 + 8


def error(quoted: bytes, kind: int = 3, code: int = 4, to: str = VIP, mtu: int = 1300) -> Packet:
    return IP(src=HOP, dst=to) / ICMP(type=kind, code=code, nexthopmtu=mtu) / Raw(quoted)


def error6(quoted: bytes, message: Packet | None = None) -> Packet:
    return IPv6(src=HOP6, dst=VIP6) / (message or ICMPv6PacketTooBig(mtu=1300)) / Raw(quoted)


def too_big(packet: Packet, mtu: int) -> Packet:
    """Of RFC 1812: 576 bytes at most."""
    return (
        IP(src=packet[IP].dst, dst=packet[IP].src, tos=0xC0, id=0, flags="DF")
        / ICMP(type=3, code=4, nexthopmtu=mtu)
        / Raw(bytes(packet)[: 576 - 28])
    )


def too_big6(packet: Packet, mtu: int) -> Packet:
    """Of RFC 4443: 1,280 bytes at most."""
    return (
        IPv6(src=packet[IPv6].dst, dst=packet[IPv6].src) / ICMPv6PacketTooBig(mtu=mtu) / Raw(bytes(packet)[: 1280 - 48])
    )


_LARGE = of_size(to_web(flags="DF"), FITS[4] + 1)
_LARGE6 = of_size(to_web6(), FITS[6] + 1)
_MIXED = IP(src=CLIENT, dst=MIXED, flags="DF") / TCP(sport=1024, dport=80, flags="A")
_MIXED6 = IPv6(src=CLIENT6, dst=MIXED6) / TCP(sport=1024, dport=80, flags="A")
_ECHO = IP(src=CLIENT, dst=VIP, ttl=3) / ICMP(type=8, id=7, seq=1) / b"Are you there?"
_ECHO_REPLY = IP(src=VIP, dst=CLIENT, ttl=64) / ICMP(type=0, id=7, seq=1) / b"Are you there?"
_ECHO6 = IPv6(src=CLIENT6, dst=VIP6, hlim=3) / ICMPv6EchoRequest(id=7, seq=1, data=b"Are you there?")
_ECHO6_REPLY = IPv6(src=VIP6, dst=CLIENT6, hlim=64) / ICMPv6EchoReply(id=7, seq=1, data=b"Are you there?")

FORWARDED: dict[str, tuple[Packet, Outcome]] = {
    "a connection opens": (came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80)), Tunnelled(WEB_WORKER)),
    "a segment without data": (came(to_web()), Tunnelled(WEB_WORKER)),
    "a segment with data": (came(to_web() / b"GET / HTTP/1.0"), Tunnelled(WEB_WORKER)),
    "a connection is closed": (
        came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80, flags="FA")),
        Tunnelled(WEB_WORKER),
    ),
    "a connection is reset": (
        came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80, flags="R")),
        Tunnelled(WEB_WORKER),
    ),
    "all flags of TCP at once": (
        came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80, flags="FSRPAUEC")),
        Tunnelled(WEB_WORKER),
    ),
    "TCP with options": (
        came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80, options=[("MSS", 1460), ("WScale", 7)])),
        Tunnelled(WEB_WORKER),
    ),
    "source port 0": (came(IP(src=CLIENT, dst=VIP) / TCP(sport=0, dport=80)), Tunnelled(WEB_WORKER)),
    "a checksum of TCP that is wrong is the worker's affair": (
        came(IP(src=CLIENT, dst=VIP) / TCP(sport=1024, dport=80, chksum=0xBAD)),
        Tunnelled(WEB_WORKER),
    ),
    "a datagram": (came(to_dns()), Tunnelled(DNS_WORKER)),
    "an empty datagram": (came(IP(src=CLIENT, dst=VIP) / UDP(sport=1024, dport=53)), Tunnelled(DNS_WORKER)),
    "a datagram without checksum": (
        came(IP(src=CLIENT, dst=VIP) / UDP(sport=1024, dport=53, chksum=0) / b"question"),
        Tunnelled(DNS_WORKER),
    ),
    "a datagram to a service of single packets": (
        came(IP(src=CLIENT, dst=VIP) / UDP(sport=1024, dport=123)),
        Tunnelled(DNS_WORKER),
    ),
    "the last hop of its time to live": (came(to_web(ttl=1)), Tunnelled(WEB_WORKER)),
    "the longest time to live": (came(to_web(ttl=255)), Tunnelled(WEB_WORKER)),
    "a traffic class": (came(to_web(tos=0xB8)), Tunnelled(WEB_WORKER)),
    "congestion experienced": (came(to_web(tos=0x03)), Tunnelled(WEB_WORKER)),
    "not to be fragmented": (came(to_web(flags="DF")), Tunnelled(WEB_WORKER)),
    "the largest packet that fits": (came(of_size(to_web(flags="DF"), FITS[4])), Tunnelled(WEB_WORKER)),
    "IPv6": (came(to_web6()), Tunnelled(WEB6_WORKER)),
    "a connection opens by IPv6": (
        came(IPv6(src=CLIENT6, dst=VIP6) / TCP(sport=1024, dport=80)),
        Tunnelled(WEB6_WORKER),
    ),
    "a datagram by IPv6": (came(to_dns6()), Tunnelled(DNS6_WORKER)),
    "a traffic class of IPv6": (came(to_web6(tc=0xB8)), Tunnelled(WEB6_WORKER)),
    "a flow label stays inside": (came(to_web6(fl=0x12345)), Tunnelled(WEB6_WORKER)),
    "the last hop by IPv6": (came(to_web6(hlim=1)), Tunnelled(WEB6_WORKER)),
    "the largest packet that fits by IPv6": (came(of_size(to_web6(), FITS[6])), Tunnelled(WEB6_WORKER)),
    "IPv4 to a worker of IPv6": (came(_MIXED), Tunnelled(WEB6_WORKER)),
    "IPv6 to a worker of IPv4": (came(_MIXED6), Tunnelled(WEB_WORKER)),
    "a client in the source ranges": (
        came(IP(src=CLIENT, dst=LIMITED) / TCP(sport=1024, dport=80)),
        Tunnelled(WEB_WORKER),
    ),
    "a client in the source ranges of IPv6": (
        came(IPv6(src=CLIENT6, dst=LIMITED6) / TCP(sport=1024, dport=80)),
        Tunnelled(WEB6_WORKER),
    ),
}

TAGGED: dict[str, tuple[Packet, Outcome]] = {
    "a tag": (came(Dot1Q(vlan=100) / to_web()), Tunnelled(WEB_WORKER)),
    "a tag before IPv6": (came(Dot1Q(vlan=100) / to_dns6()), Tunnelled(DNS6_WORKER)),
    "a tag that only has a priority": (came(Dot1Q(vlan=0, prio=5) / to_web()), Tunnelled(WEB_WORKER)),
    "two tags": (came(Dot1AD(vlan=7) / Dot1Q(vlan=100) / to_web()), Tunnelled(WEB_WORKER)),
    "three tags": (came(Dot1AD(vlan=7) / Dot1Q(vlan=8) / Dot1Q(vlan=9) / to_web()), Passes()),
    "a tag, to no VIP": (came(Dot1Q(vlan=100) / IP(src=CLIENT, dst=NOBODY) / TCP(dport=80)), Passes()),
    "a tag before an echo request": (came(Dot1Q(vlan=100) / _ECHO), Answered(left(Dot1Q(vlan=100) / _ECHO_REPLY))),
    "a tag before an echo request of IPv6": (
        came(Dot1Q(vlan=100) / _ECHO6),
        Answered(left(Dot1Q(vlan=100) / _ECHO6_REPLY)),
    ),
    "a tag before a packet that is too big": (
        came(Dot1Q(vlan=100) / _LARGE),
        Answered(left(Dot1Q(vlan=100) / too_big(_LARGE, FITS[4])), Drop.TOO_BIG),
    ),
    "two tags before a packet of IPv6 that is too big": (
        came(Dot1AD(vlan=7) / Dot1Q(vlan=100) / _LARGE6),
        Answered(left(Dot1AD(vlan=7) / Dot1Q(vlan=100) / too_big6(_LARGE6, FITS[6])), Drop.TOO_BIG),
    ),
    "a tag before an ICMP error": (came(Dot1Q(vlan=100) / error(reply()[:LEAST])), Tunnelled(WEB_WORKER)),
    "a tag before a fragment": (came(Dot1Q(vlan=100) / to_web(flags="MF")), Dropped(Drop.FRAGMENT)),
}

_WEB6 = IPv6(src=CLIENT6, dst=VIP6)
_TCP = TCP(sport=1024, dport=80, flags="A")
CUT_OR_EXTENDED: dict[str, tuple[Packet, Outcome]] = {
    "a hop-by-hop header": (came(_WEB6 / IPv6ExtHdrHopByHop() / _TCP), Tunnelled(WEB6_WORKER)),
    "options for the destination": (came(_WEB6 / IPv6ExtHdrDestOpt() / _TCP), Tunnelled(WEB6_WORKER)),
    "a routing header": (came(_WEB6 / IPv6ExtHdrRouting(segleft=0) / _TCP), Tunnelled(WEB6_WORKER)),
    "two extension headers before a datagram": (
        came(_WEB6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1024, dport=53)),
        Tunnelled(DNS6_WORKER),
    ),
    "more extension headers than anybody needs": (
        came(
            _WEB6
            / IPv6ExtHdrHopByHop()
            / (IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt())
            / IPv6ExtHdrDestOpt()
            / IPv6ExtHdrDestOpt()
            / IPv6ExtHdrDestOpt()
            / _TCP
        ),
        Dropped(Drop.OPTIONS),
    ),
    "extension headers to no VIP": (
        came(IPv6(src=CLIENT6, dst=NOBODY6) / IPv6ExtHdrHopByHop() / _TCP),
        Passes(),
    ),
    "a fragment of IPv6": (came(_WEB6 / IPv6ExtHdrFragment(m=1, id=5) / _TCP), Dropped(Drop.FRAGMENT)),
    "a later fragment of IPv6": (
        came(_WEB6 / IPv6ExtHdrFragment(offset=100, id=5, nh=6) / b"rest"),
        Dropped(Drop.FRAGMENT),
    ),
    "a fragment of IPv6 behind options": (
        came(_WEB6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1, id=5) / _TCP),
        Dropped(Drop.FRAGMENT),
    ),
    "a fragment of IPv6 to no VIP": (
        came(IPv6(src=CLIENT6, dst=NOBODY6) / IPv6ExtHdrFragment(m=1, id=5) / _TCP),
        Passes(),
    ),
    "a first fragment": (came(to_web(flags="MF")), Dropped(Drop.FRAGMENT)),
    "a later fragment": (
        came(IP(src=CLIENT, dst=VIP, frag=100, proto=6) / b"rest of a segment.."),
        Dropped(Drop.FRAGMENT),
    ),
    "a fragment of a datagram": (
        came(IP(src=CLIENT, dst=VIP, flags="MF") / UDP(sport=1024, dport=53) / b"question"),
        Dropped(Drop.FRAGMENT),
    ),
    "a fragment of an echo request": (
        came(IP(src=CLIENT, dst=VIP, flags="MF") / ICMP() / b"12345678"),
        Dropped(Drop.FRAGMENT),
    ),
    "a fragment to no VIP": (came(IP(src=CLIENT, dst=NOBODY, flags="MF") / _TCP), Passes()),
    "options of IPv4": (came(to_web(options=[IPOption_Router_Alert()])), Dropped(Drop.OPTIONS)),
    "options of IPv4 before an echo request": (
        came(IP(src=CLIENT, dst=VIP, options=[IPOption_Router_Alert()]) / ICMP()),
        Dropped(Drop.OPTIONS),
    ),
    "options of IPv4 to no VIP": (came(IP(src=CLIENT, dst=NOBODY, options=[IPOption_Router_Alert()]) / _TCP), Passes()),
}

MESSAGES: dict[str, tuple[Packet, Outcome]] = {
    "an echo request": (came(_ECHO), Answered(left(_ECHO_REPLY))),
    "an echo request of IPv6": (came(_ECHO6), Answered(left(_ECHO6_REPLY))),
    "an echo request whose checksum needs the end-around carry": (
        came(IP(src=CLIENT, dst=VIP) / ICMP(type=8, id=0, seq=0) / b"\xf7\xff"),
        Answered(left(IP(src=VIP, dst=CLIENT) / ICMP(type=0, id=0, seq=0) / b"\xf7\xff")),
    ),
    "an echo request with an odd number of bytes": (
        came(IP(src=CLIENT, dst=VIP) / ICMP(type=8, id=9, seq=9) / b"odd"),
        Answered(left(IP(src=VIP, dst=CLIENT) / ICMP(type=0, id=9, seq=9) / b"odd")),
    ),
    "an echo request to a VIP with source ranges": (
        came(IP(src=STRANGER, dst=LIMITED) / ICMP()),
        Answered(left(IP(src=LIMITED, dst=STRANGER) / ICMP(type=0))),
    ),
    "an echo request to no VIP": (came(IP(src=CLIENT, dst=NOBODY) / ICMP()), Passes()),
    "an echo request of IPv6 to no VIP": (came(IPv6(src=CLIENT6, dst=NOBODY6) / ICMPv6EchoRequest()), Passes()),
    "an echo request to everybody on the link": (
        Ether(src=ROUTER, dst="ff:ff:ff:ff:ff:ff") / IP(src=CLIENT, dst=VIP) / ICMP(),
        Passes(),
    ),
    "an echo reply": (came(IP(src=CLIENT, dst=VIP) / ICMP(type=0)), Passes()),
    "an echo request of IPv6 behind options": (
        came(IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest()),
        Passes(),
    ),
    "fragmentation needed, with 8 bytes inside": (came(error(reply()[:LEAST])), Tunnelled(WEB_WORKER)),
    "fragmentation needed, with 548 bytes inside": (came(error(reply()[:548])), Tunnelled(WEB_WORKER)),
    "port unreachable": (came(error(reply()[:LEAST], code=3)), Tunnelled(WEB_WORKER)),
    "host unreachable, about a datagram": (
        came(error(reply(protocol=UDP(sport=53, dport=1024))[:LEAST], code=1)),
        Tunnelled(DNS_WORKER),
    ),
    "time exceeded": (came(error(reply()[:LEAST], kind=11, code=0)), Tunnelled(WEB_WORKER)),
    "an ICMP error about a packet with options": (
        came(error(reply(options=[IPOption_NOP()] * 4)[: LEAST + 4])),
        Tunnelled(WEB_WORKER),
    ),
    "an ICMP error about the first fragment of a reply": (
        came(error(bytes(IP(src=VIP, dst=CLIENT, flags="MF") / TCP(sport=80, dport=1024))[:LEAST], kind=11, code=1)),
        Tunnelled(WEB_WORKER),
    ),
    "an ICMP error about a later fragment, which has no ports": (
        came(error(bytes(IP(src=VIP, dst=CLIENT, frag=100, proto=6) / b"12345678"))),
        Passes(),
    ),
    "an ICMP error about a packet of somebody else": (
        came(error(bytes(IP(src=NOBODY, dst=CLIENT) / TCP(sport=80, dport=1024))[:LEAST])),
        Passes(),
    ),
    "an ICMP error about a port that nobody serves": (
        came(error(bytes(IP(src=VIP, dst=CLIENT) / TCP(sport=81, dport=1024))[:LEAST])),
        Passes(),
    ),
    "an ICMP error with 3 bytes inside": (came(error(reply()[:23])), Passes()),
    "an ICMP error about an echo reply": (
        came(error(bytes(IP(src=VIP, dst=CLIENT) / ICMP(type=0))[:LEAST])),
        Passes(),
    ),
    "an ICMP error to no VIP": (came(error(reply()[:LEAST], to=NOBODY)), Passes()),
    "a redirect": (came(error(reply()[:LEAST], kind=5, code=1)), Passes()),
    "packet too big": (came(error6(reply6()[: 40 + 8])), Tunnelled(WEB6_WORKER)),
    "packet too big, about a datagram": (
        came(error6(reply6(UDP(sport=53, dport=1024))[:1232])),
        Tunnelled(DNS6_WORKER),
    ),
    "unreachable by IPv6": (came(error6(reply6()[: 40 + 8], ICMPv6DestUnreach(code=4))), Tunnelled(WEB6_WORKER)),
    "time exceeded by IPv6": (came(error6(reply6()[: 40 + 8], ICMPv6TimeExceeded())), Tunnelled(WEB6_WORKER)),
    "an ICMP error of IPv6 about a packet of somebody else": (
        came(error6(bytes(IPv6(src=NOBODY6, dst=CLIENT6) / TCP(sport=80, dport=1024)))),
        Passes(),
    ),
    "a question for a neighbour": (came(IPv6(src=HOP6, dst=VIP6, hlim=255) / ICMPv6ND_NS(tgt=VIP6)), Passes()),
    "a packet that is too big": (came(_LARGE), Answered(left(too_big(_LARGE, FITS[4])), Drop.TOO_BIG)),
    "a packet that is too big and may be fragmented": (
        came(of_size(to_web(), FITS[4] + 1)),
        Dropped(Drop.TOO_BIG),
    ),
    "a packet of IPv6 that is too big": (came(_LARGE6), Answered(left(too_big6(_LARGE6, FITS[6])), Drop.TOO_BIG)),
    "a packet of IPv4 that is too big for a tunnel of IPv6": (
        came(of_size(_MIXED, FITS[6] + 1)),
        Answered(left(too_big(of_size(_MIXED, FITS[6] + 1), FITS[6])), Drop.TOO_BIG),
    ),
    "a packet of IPv6 that is too big for a tunnel of IPv4": (
        came(of_size(_MIXED6, FITS[4] + 1)),
        Answered(left(too_big6(of_size(_MIXED6, FITS[4] + 1), FITS[4])), Drop.TOO_BIG),
    ),
    "a packet that is too big and comes from nobody": (
        came(of_size(IP(src="0.0.0.0", dst=VIP, flags="DF") / _TCP, FITS[4] + 1)),
        Dropped(Drop.TOO_BIG),
    ),
    "a packet that is too big and comes from a group": (
        came(of_size(IP(src="224.0.0.5", dst=VIP, flags="DF") / _TCP, FITS[4] + 1)),
        Dropped(Drop.TOO_BIG),
    ),
}

NOT_SERVED: dict[str, tuple[Packet, Outcome]] = {
    "to another address": (came(IP(src=CLIENT, dst=NOBODY) / _TCP), Passes()),
    "to another address of IPv6": (came(IPv6(src=CLIENT6, dst=NOBODY6) / _TCP), Passes()),
    "to another port": (came(IP(src=CLIENT, dst=VIP) / TCP(dport=81)), Passes()),
    "to the TCP port of a UDP service": (came(IP(src=CLIENT, dst=VIP) / TCP(dport=53)), Passes()),
    "to the UDP port of a TCP service": (came(IP(src=CLIENT, dst=VIP) / UDP(dport=80)), Passes()),
    "too big and to another address": (came(of_size(IP(src=CLIENT, dst=NOBODY, flags="DF") / _TCP, 1500)), Passes()),
    "SCTP": (came(IP(src=CLIENT, dst=VIP, proto=132) / (b"\x04\x00\x00\x50" + bytes(20))), Passes()),
    "GRE": (came(IP(src=CLIENT, dst=VIP) / GRE() / to_web()), Passes()),
    "a tunnel packet to a VIP": (came(IP(src=CLIENT, dst=VIP) / to_web()), Passes()),
    "ESP by IPv6": (came(IPv6(src=CLIENT6, dst=VIP6, nh=50) / bytes(40)), Passes()),
    "no next header": (came(IPv6(src=CLIENT6, dst=VIP6, nh=59)), Passes()),
    "ARP": (came(ARP(pdst=VIP)), Passes()),
    "LLDP": (Ether(src=ROUTER, dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(46), Passes()),
    "IPv4 that is called IPv6": (Ether(src=ROUTER, dst=US, type=0x86DD) / to_web(), Passes()),
    "a service without destinations": (came(IP(src=CLIENT, dst=EMPTY) / _TCP), Dropped(Drop.NO_DESTINATION)),
    "a service of IPv6 without destinations": (
        came(IPv6(src=CLIENT6, dst=EMPTY6) / _TCP),
        Dropped(Drop.NO_DESTINATION),
    ),
    "a client outside the source ranges": (came(IP(src=STRANGER, dst=LIMITED) / _TCP), Dropped(Drop.SOURCE)),
    "a client outside the source ranges of IPv6": (
        came(IPv6(src=STRANGER6, dst=LIMITED6) / _TCP),
        Dropped(Drop.SOURCE),
    ),
}

FIXTURES = FORWARDED | TAGGED | CUT_OR_EXTENDED | MESSAGES | NOT_SERVED
#: Frames that end too early, by what is left of them.
CUT_OFF: dict[str, bytes] = {
    "a frame without anything": bytes(came(to_web()))[:14],
    "half an IPv4 header": bytes(came(to_web()))[:24],
    "half a TCP header": bytes(came(to_web()))[:44],
    "half a UDP header": bytes(came(to_dns()))[:38],
    "half an IPv6 header": bytes(came(to_web6()))[:34],
    "half a TCP header by IPv6": bytes(came(to_web6()))[:64],
    "half an ICMP header": bytes(came(_ECHO))[:38],
    "half a tag": bytes(came(Dot1Q() / to_web()))[:16],
    "half a second tag": bytes(came(Dot1AD() / Dot1Q() / to_web()))[:20],
    "half an extension header": bytes(came(_WEB6 / IPv6ExtHdrHopByHop() / _TCP))[:55],
}
