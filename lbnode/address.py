"""IP addresses that know their hash.

A pass over a thousand Services looks addresses up tens of thousands of times, and the standard library makes the hash of an address anew each
time, by way of its hexadecimal text. These are equal to those of the standard library, hash as they do and can stand wherever they stand.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from lbnode.model import IPAddress


class _Hashed4(IPv4Address):
    __slots__ = ("_hash",)

    def __init__(self, address: object) -> None:
        super().__init__(address)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Hashed6(IPv6Address):
    __slots__ = ("_hash",)

    def __init__(self, address: object) -> None:
        super().__init__(address)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def with_hash(address: IPAddress) -> IPAddress:
    """The same address, of a kind that knows its hash."""
    return _Hashed4(int(address)) if address.version == 4 else _Hashed6(address)
