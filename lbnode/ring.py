"""The ring of the XDP data plane as pure functions: who owns each slot, and which slot a flow has.

Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): each destination walks all slots in an order of its own, and in each turn takes as many
free ones as its weight. Nothing depends on history or on the order of what is given, so every edge node has the same ring. The hashes
are those of ``lbnode/bpf/flow.h``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from math import gcd

from lbnode.model import Destination, IPAddress, VirtualKey

#: ``SG_RING_SLOTS`` of lbnode/bpf/record.h, a prime.
SLOTS = 65537
MIX = 0xD6E8FEB86659FD93
_MASK = (1 << 64) - 1


def mix(word: int) -> int:
    """``mix()`` of lbnode/bpf/flow.h: a permutation of 64-bit words."""
    word ^= word >> 32
    word = word * MIX & _MASK
    word ^= word >> 32
    word = word * MIX & _MASK
    return word ^ word >> 32


def halves(address: IPAddress) -> tuple[int, int]:
    """High and low half as a little-endian machine loads them from the wire."""
    if address.version == 4:
        return 0, int.from_bytes(address.packed, "little")
    return int.from_bytes(address.packed[:8], "little"), int.from_bytes(address.packed[8:], "little")


def seed(key: VirtualKey) -> int:
    """What the hash of all flows to ``key`` begins with."""
    return int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8).digest(), "little")


def slot(key: VirtualKey, client: IPAddress, client_port: int = 0) -> int:
    """The slot of a flow; ``client_port`` is 0 for session affinity."""
    high, low = halves(client)
    word = seed(key)
    if client.version == 6:
        word = mix(word ^ high)
    # The port in the order of the wire, read by a little-endian machine.
    swapped = int.from_bytes(client_port.to_bytes(2, "big"), "little")
    return (mix(word ^ low ^ swapped << 32) >> 32) * SLOTS >> 32


def ring(destinations: Iterable[Destination]) -> tuple[Destination, ...]:
    """The owner of each slot: empty when no destination takes new flows.

    A drained destination keeps the slots that it had, but each of them passes its flows on to the owner that the slot has in the ring of those
    that are not drained. So no flow of another destination moves.
    """
    wanted = sorted((d for d in destinations if d.weight), key=lambda d: d.order)
    taking = [d for d in wanted if not d.drained]
    if not taking:
        return ()
    standing = [wanted[n] for n in _owners(tuple((str(d.address), d.weight) for d in wanted))]
    if len(taking) == len(wanted):
        return tuple(standing)
    passed_on = _owners(tuple((str(d.address), d.weight) for d in taking))
    return tuple(taking[n] if d.drained else d for d, n in zip(standing, passed_on, strict=True))


@lru_cache(maxsize=64)
def _owners(shares: tuple[tuple[str, int], ...]) -> Sequence[int]:
    divisor = reduce(gcd, (weight for _, weight in shares))
    turns = [weight // divisor for _, weight in shares]
    digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name, _ in shares]
    place = [int.from_bytes(d[:8], "little") % SLOTS for d in digests]
    skip = [int.from_bytes(d[8:], "little") % (SLOTS - 1) + 1 for d in digests]
    owners = [-1] * SLOTS
    filled = 0
    while True:
        for owner, count in enumerate(turns):
            at, step = place[owner], skip[owner]
            for _ in range(count):
                while owners[at] >= 0:
                    at += step
                    if at >= SLOTS:
                        at -= SLOTS
                owners[at] = owner
                filled += 1
                if filled == SLOTS:
                    return owners
            place[owner] = at
