"""IP addresses that know their hash.

A pass over a thousand Services looks addresses up tens of thousands of times, and the standard library makes the hash of an address anew each
time, by way of its hexadecimal text. These are equal to those of the standard library, hash as they do and can stand wherever they stand.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from lbnode.model import IPAddress


class _KnowsItsHash:
    __slots__ = ()
    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", super().__hash__())
            return self._hash


class _Hashed4(_KnowsItsHash, IPv4Address):
    __slots__ = ("_hash",)


class _Hashed6(_KnowsItsHash, IPv6Address):
    __slots__ = ("_hash",)


@lru_cache(maxsize=65536)
def with_hash(address: IPAddress) -> IPAddress:
    """The same address, of a kind that knows its hash; for equal addresses mostly the same object, which sets and dicts tell sooner than an equal one."""
    return _Hashed4(int(address)) if address.version == 4 else _Hashed6(address)
