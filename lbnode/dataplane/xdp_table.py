"""What is served, as the records that the XDP program reads. Pure: services in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence

from lbnode.dataplane.xdp_records import DestinationRecord, Vip
from lbnode.errors import ConfigError
from lbnode.model import IPAddress
from lbnode.ring import MIX

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
