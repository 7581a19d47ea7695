"""A fingerprint of a legacy xtables table without starting a program: cheap enough for every read.

The agent looks at its packet filter at least once a second; ``iptables-save`` costs tens of milliseconds of a slow processor each time.
The same bytes that it prints come from two socket options (``linux/netfilter_ipv4/ip_tables.h``, ``linux/netfilter_ipv6/ip6_tables.h``);
without counters they change only when a rule changes.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same for IPv6
_NAME_BYTES = 32  # XT_TABLE_MAXNAMELEN
_INFO = struct.Struct(
    "=32sI5I5III"
)  # struct ipt_getinfo; the last two are the number of entries and their size in bytes
_ENTRIES_HEADER_BYTES = 40  # struct ipt_get_entries: name and size, aligned to 8
_COUNTERS_BYTES = 16  # struct xt_counters
_MARK_BYTES = 4  # comefrom: the kernel's own scratch space
#: By IP version: address family, option level, and offsets of next_offset, comefrom and counters in an entry.
_LAYOUT = {4: (socket.AF_INET, socket.IPPROTO_IP, 90, 92, 96), 6: (socket.AF_INET6, socket.IPPROTO_IPV6, 142, 144, 152)}

_libc = ctypes.CDLL(None, use_errno=True)


def fingerprint(version: int, table: str) -> str | None:
    """A hash of all rules of ``table``; ``None`` when the kernel does not tell (no such table, no privilege, changed meanwhile)."""
    family, level, *offsets = _LAYOUT[version]
    name = table.encode().ljust(_NAME_BYTES, b"\0")
    with socket.socket(family, socket.SOCK_DGRAM) as link:
        information = _ask(link, level, _GET_INFO, name, _INFO.size)
        if information is None:
            return None
        size = int(_INFO.unpack(information)[-1])
        entries = _ask(link, level, _GET_ENTRIES, name + struct.pack("=I", size), _ENTRIES_HEADER_BYTES + size)
    if entries is None:
        return None
    return hashlib.sha256(without_counters(entries[_ENTRIES_HEADER_BYTES:], *offsets)).hexdigest()


def without_counters(entries: bytes, next_offset: int, mark: int, counters: int) -> bytes:
    """The entries with counters and the kernel's marks set to 0. The offsets are those within an entry."""
    cleared = bytearray(entries)
    start = 0
    while start + counters + _COUNTERS_BYTES <= len(entries):
        cleared[start + counters : start + counters + _COUNTERS_BYTES] = bytes(_COUNTERS_BYTES)
        cleared[start + mark : start + mark + _MARK_BYTES] = bytes(_MARK_BYTES)
        length = int(struct.unpack_from("=H", entries, start + next_offset)[0])
        if length == 0:
            break
        start += length
    return bytes(cleared)


def _ask(link: socket.socket, level: int, option: int, request: bytes, size: int) -> bytes | None:
    buffer = ctypes.create_string_buffer(request.ljust(size, b"\0"), size)
    length = ctypes.c_uint32(size)
    if _libc.getsockopt(link.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        return None
    return buffer.raw
