"""The kernel's ``mh`` hash table as a pure function, to say offline where a flow goes and what a change moves.

Source of every number and step: Linux ``net/netfilter/ipvs/ip_vs_mh.c`` and ``lib/siphash.c`` (``hsiphash`` of a 64-bit machine, which is
SipHash-1-3 cut to 32 bits). The table depends on the order of the destinations, as the kernel's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from math import gcd

from lbnode.model import Destination, IPAddress

#: ``primes[]`` of ip_vs_mh.c: the table size for ``CONFIG_IP_VS_MH_TAB_INDEX`` from 8 to 17.
TABLE_SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
#: ``CONFIG_IP_VS_MH_TAB_INDEX``: its default, and Debian's choice.
DEFAULT_TABLE_INDEX = 12
DEFAULT_TABLE_SIZE = TABLE_SIZES[DEFAULT_TABLE_INDEX - 8]

#: ``generate_hash_secret()``: both halves of each key are the same.
_KEY_OFFSET = 2654435761
_KEY_SKIP = 2654446892
_MASK = (1 << 64) - 1


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


@lru_cache(maxsize=65536)
def hsiphash(word: int, key: int) -> int:
    """``hsiphash()`` of one 32-bit little-endian word with both key halves equal to ``key``."""
    v0, v1 = 0x736F6D6570736575 ^ key, 0x646F72616E646F6D ^ key
    v2, v3 = 0x6C7967656E657261 ^ key, 0x7465646279746573 ^ key
    block = (4 << 56) | (word & 0xFFFFFFFF)
    v3 ^= block
    for number in range(4):
        if number == 1:
            v0 ^= block
            v2 ^= 0xFF
        v0 = (v0 + v1) & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = (v2 + v3) & _MASK
        v3 = _rotate(v3, 16) ^ v2
        v0 = (v0 + v3) & _MASK
        v3 = _rotate(v3, 21) ^ v0
        v2 = (v2 + v1) & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)
    return (v0 ^ v1 ^ v2 ^ v3) & 0xFFFFFFFF


def _hash_key(address: IPAddress, port: int, key: int, offset: int = 0) -> int:
    """``ip_vs_mh_hashkey()``. An IPv6 address is folded into 32 bits by exclusive or of its four words."""
    number = int(address)
    folded = 0
    while number:
        folded ^= number & 0xFFFFFFFF
        number >>= 32
    return hsiphash((offset + port + folded) & 0xFFFFFFFF, key)


def table(destinations: Sequence[Destination], port: int, size: int = DEFAULT_TABLE_SIZE) -> list[int]:
    """The owner of each slot as an index into ``destinations``, which are in the order of the kernel's list, from its head.

    ``port`` is the Service's, which is the destination port too where there is no translation. Drained destinations keep their slots by their weight.
    Empty when no destination has a weight.

    Raises:
        ValueError: more destinations than slots, as the kernel refuses them, or a size that no kernel has.
    """
    if size not in TABLE_SIZES:
        raise ValueError(
            f"table size {size}: a kernel has one of {TABLE_SIZES}. Take the one of CONFIG_IP_VS_MH_TAB_INDEX"
        )
    if len(destinations) > size:
        raise ValueError(
            f"{len(destinations)} destinations: a table of {size} slots has no place for more than {size}. Use a larger index"
        )
    weights = [d.weight for d in destinations]
    divisor = reduce(gcd, weights, 0)
    if not divisor:
        return []
    index = TABLE_SIZES.index(size) + 8
    shift = max(0, (max(weights) // divisor).bit_length() - index // 2)
    turns = [(w // divisor) >> shift or int(w != 0) for w in weights]
    place = [_hash_key(d.address, d.nat_port or port, _KEY_OFFSET) % size for d in destinations]
    skip = [_hash_key(d.address, d.nat_port or port, _KEY_SKIP) % (size - 1) + 1 for d in destinations]

    slots = [-1] * size
    filled = 0
    while True:
        for owner, count in enumerate(turns):
            for _ in range(count):
                slot = place[owner]
                while slots[slot] >= 0:
                    slot += skip[owner]
                    if slot >= size:
                        slot -= size
                place[owner] = slot
                slots[slot] = owner
                filled += 1
                if filled == size:
                    return slots


def choose(
    slots: Sequence[int], destinations: Sequence[Destination], client: IPAddress, client_port: int = 0
) -> Destination | None:
    """The destination of a flow, with ``mh-fallback``: a drained one passes its flows on to others and keeps its slots.

    ``client_port`` is 0 without ``mh-port``. ``None`` when no destination takes new flows.
    """
    size = len(slots)
    if not size:
        return None
    home = _hash_key(client, client_port, _KEY_OFFSET) % size
    if not destinations[slots[home]].drained:
        return destinations[slots[home]]
    for offset in range(size):
        slot = _hash_key(client, client_port, _KEY_OFFSET, (offset + home) % size) % size
        if not destinations[slots[slot]].drained:
            return destinations[slots[slot]]
    return None
