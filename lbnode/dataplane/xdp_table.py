"""What is served, as the records that the XDP program reads. Pure: services in, bytes out."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from lbnode.dataplane.xdp_records import (
    VIP_ADDRESS,
    VIP_AFFINITY,
    VIP_LIMITED,
    VIP_STATELESS,
    DestinationRecord,
    Source,
    Vip,
)
from lbnode.errors import ConfigError
from lbnode.model import Destination, IPAddress, IPNetwork, Place, Protocol, VirtualKey, VirtualService
from lbnode.ring import MIX, halves, seed

#: Clients that alone may use a service, as in :class:`lbnode.packet_tables.EdgeFilter`.
Limited = frozenset[tuple[VirtualKey, IPNetwork]]
_PROTOCOLS = {p.number: p for p in Protocol}
_VIP_BITS = 32

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MOVES = 500


def wire_service(version: int, protocol: int = 0, port: int = 0) -> int:
    """``sg_vip.service``: protocol and port 0 for the address as a whole."""
    return int.from_bytes(port.to_bytes(2, "big"), "little") | protocol << 16 | version << 24


def places(vip: Vip, mask: int) -> tuple[int, int]:
    """The two places of the table where the program looks for ``vip``; ``find_vip()`` of lbnode/bpf/flow.h."""
    word = (vip.address_high * MIX ^ vip.address_low ^ vip.service << 32) & _MASK
    hashed = (word ^ word >> 32) * _GOLDEN & _MASK
    return hashed >> 48 & mask, hashed >> 32 & mask


def vip_table(vips: Sequence[Vip], size: int) -> list[Vip | None]:
    """A table with each VIP in one of its two places (cuckoo hashing); ``size`` is a power of two.

    Raises:
        ConfigError: they do not fit.
    """
    table: list[Vip | None] = [None] * size
    for vip in vips:
        moving, at = vip, places(vip, size - 1)[0]
        for _ in range(_MOVES):
            moved_out, table[at] = table[at], moving
            if moved_out is None:
                break
            moving = moved_out
            one, other = places(moving, size - 1)
            at = other if at == one else one
        else:
            raise ConfigError(
                f"{len(vips)} addresses and ports",
                f"they do not fit into the XDP program's table of {size}",
                f"Set it to {2 * size}",
            )
    return table


def destination_record(generation: int, worker: IPAddress, edge: IPAddress) -> DestinationRecord:
    """The record of a tunnel from ``edge`` to ``worker``, both of one family."""
    record = DestinationRecord(generation=generation, version=worker.version)
    for field, address in ((record.worker, worker), (record.edge, edge)):
        for n in range(len(address.packed) // 4):
            field[n] = int.from_bytes(address.packed[4 * n : 4 * n + 4], "little")
    if worker.version == 4:
        # Of RFC 1071: version 4, 5 words, no fragments, 64 hops, protocol 4, and both addresses; in the order of the wire.
        fixed = bytes.fromhex("4500 0000 0000 4000 4004 0000") + edge.packed + worker.packed
        record.header_sum = sum(int.from_bytes(fixed[n : n + 2], "little") for n in range(0, len(fixed), 2))
    return record


@dataclass(frozen=True, slots=True)
class Stored:
    """A record in its place."""

    number: int
    record: DestinationRecord


@dataclass(frozen=True, slots=True)
class Served:
    """A service in the maps: its number, and where its destinations stand."""

    number: int
    service: VirtualService
    places: Mapping[Place, Stored]

    @property
    def intact(self) -> bool:
        return self.service.intact


def served(vips: Iterable[Vip], destinations: Iterable[Stored]) -> dict[VirtualKey, Served]:
    """The services that these records hold. One is not intact whose ring was made of other destinations than are there now."""
    by_vip: dict[int, list[Stored]] = {}
    for stored in destinations:
        by_vip.setdefault(stored.record.vip, []).append(stored)
    found = {}
    for vip in vips:
        if vip.flags & VIP_ADDRESS:
            continue
        # The newest stands at the head.
        own = sorted(by_vip.get(vip.id, []), key=lambda s: s.record.rank, reverse=True)
        places: dict[Place, Stored] = {(worker_of(s.record), None): s for s in own}
        key = key_of(vip)
        found[key] = Served(
            vip.id,
            VirtualService(
                key,
                tuple(Destination(worker_of(s.record), s.record.weight, bool(s.record.drained)) for s in own),
                hash_source_port=not vip.flags & VIP_AFFINITY,
                one_packet=bool(vip.flags & VIP_STATELESS),
                intact=vip.made_of == made_of({s.number: s.record for s in own}),
            ),
            places,
        )
    return found


def key_of(vip: Vip) -> VirtualKey:
    """What a client connects to, from the record."""
    version = vip.service >> 24
    port = int.from_bytes((vip.service & 0xFFFF).to_bytes(2, "little"), "big")
    raw = vip.address_high.to_bytes(8, "little") + vip.address_low.to_bytes(8, "little")
    address: IPAddress = IPv4Address(raw[8:12]) if version == 4 else IPv6Address(raw)
    return VirtualKey(address, _PROTOCOLS[vip.service >> 16 & 0xFF], port)


def worker_of(record: DestinationRecord) -> IPAddress:
    """Where the tunnel of this record ends."""
    raw = b"".join(word.to_bytes(4, "little") for word in record.worker)
    return ip_address(raw[:4] if record.version == 4 else raw)


def made_of(records: Mapping[int, DestinationRecord]) -> int:
    """A word for the destinations that a ring is made of."""
    text = sorted((n, r.generation, str(worker_of(r)), r.weight, bool(r.drained)) for n, r in records.items())
    return int.from_bytes(hashlib.blake2b(repr(text).encode(), digest_size=8).digest(), "little")


def vip_of(service: VirtualService, number: int, made_of_word: int, *, limited: bool) -> Vip:
    """The record of a service, whose ring has the same number."""
    high, low = halves(service.key.address)
    flags = 0 if service.hash_source_port else VIP_AFFINITY
    flags |= VIP_STATELESS if service.one_packet else 0
    flags |= VIP_LIMITED if limited else 0
    wire = wire_service(service.key.address.version, service.key.protocol.number, service.key.port)
    return Vip(high, low, wire, number, seed(service.key), number, flags, made_of_word)


def address_vips(numbers: Mapping[VirtualKey, int]) -> Iterator[Vip]:
    """Records that stand for the addresses of services as a whole. They count for the first of these services."""
    first: dict[IPAddress, int] = {}
    for key, number in numbers.items():
        first.setdefault(key.address, number)
    for address, number in first.items():
        high, low = halves(address)
        yield Vip(high, low, wire_service(address.version), number, flags=VIP_ADDRESS)


def place_numbers(
    present: Mapping[VirtualKey, Served],
    wanted: Mapping[VirtualKey, VirtualService],
    free_numbers: Iterator[int],
    free_places: Iterator[int],
    services: int,
    destinations: int,
) -> dict[VirtualKey, tuple[int, dict[Place, int]]]:
    """The number of each wanted service and the places of its destinations: those that they have, else free ones.

    Raises:
        ConfigError: there are not as many; ``services`` and ``destinations`` say how many there are.
    """
    found = {}
    for key, service in wanted.items():
        before = present.get(key)
        number = before.number if before is not None else next(free_numbers, None)
        if number is None:
            raise _full(len(wanted), "services", services)
        numbers = {}
        for destination in service.destinations:
            old = before.places.get(destination.place) if before is not None else None
            place = old.number if old is not None else next(free_places, None)
            if place is None:
                raise _full(sum(len(s.destinations) for s in wanted.values()), "destinations", destinations)
            numbers[destination.place] = place
        found[key] = (number, numbers)
    return found


def _full(wanted: int, what: str, limit: int) -> ConfigError:
    return ConfigError(
        f"{wanted} {what}",
        f"the XDP program's maps hold {limit}, one that changes counting twice",
        f"Have a larger number of {what} in the settings of xdp",
    )


def source_key(number: int, network: IPNetwork) -> bytes:
    """The key of a network whose clients may use the service with this number."""
    address = network.network_address.packed.ljust(16, b"\0")
    return bytes(Source(_VIP_BITS + network.prefixlen, number, (ctypes.c_uint8 * 16)(*address)))


def source_of_key(raw: bytes, by_number: Mapping[int, VirtualKey]) -> tuple[VirtualKey, IPNetwork] | None:
    """The service and the network of such a key; ``None`` for a service that is gone."""
    source = Source.from_buffer_copy(raw)
    key = by_number.get(source.vip)
    if key is None:
        return None
    packed = bytes(source.address)[: key.address.max_prefixlen // 8]
    return key, ip_network((packed, source.bits - _VIP_BITS))
