"""A fingerprint of our share of a legacy xtables table without starting a program: cheap enough for every read.

The agent looks at its packet filter at least once a second; ``iptables-save`` costs tens of milliseconds of a slow processor each time.
The same bytes that it prints come from two socket options (``linux/netfilter_ipv4/ip_tables.h``, ``linux/netfilter_ipv6/ip6_tables.h``).
Of these only our chains, the built-in chains and the jumps to ours count: kube-proxy writes its own chains of ``nat`` and ``filter`` anew
with every change of an endpoint.
"""

from __future__ import annotations

import ctypes
import hashlib
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; the same for IPv6
_NAME_BYTES = 32  # XT_TABLE_MAXNAMELEN
#: struct ipt_getinfo: name, valid hooks, where each hook's chain begins and where its policy is, number of entries and their size in bytes.
_INFO = struct.Struct("=32sI5I5III")
_HOOKS = 5  # NF_INET_NUMHOOKS
_ENTRIES_HEADER_BYTES = 40  # struct ipt_get_entries: name and size, aligned to 8
_COUNTERS_BYTES = 16  # struct xt_counters
_MARK_BYTES = 4  # comefrom: the kernel's own scratch space
#: struct xt_entry_target: size, name, revision; a verdict or the name of a chain follows (``linux/netfilter/x_tables.h``).
_TARGET = struct.Struct("=H29sB")
_VERDICT = struct.Struct("=i")
_CHAIN_NAME_BYTES = 30  # XT_FUNCTION_MAXNAMELEN


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields of an entry are, in bytes (``struct ipt_entry``, ``struct ip6t_entry``)."""

    family: int
    level: int
    target_offset: int
    next_offset: int
    mark: int
    counters: int


#: By IP version.
LAYOUTS: Mapping[int, Layout] = {
    4: Layout(socket.AF_INET, socket.IPPROTO_IP, 88, 90, 92, 96),
    6: Layout(socket.AF_INET6, socket.IPPROTO_IPV6, 140, 142, 144, 152),
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Outline:
    """What of our share can be told without a program that prints rules: the number of rules of each chain of ours, and the comments of the
    rules that jump there.
    """

    rules: Mapping[str, int]
    comments: tuple[str, ...]


def fingerprint(version: int, table: str, prefix: str) -> str | None:
    """A hash of what concerns the chains of ``table`` whose names begin with ``prefix``, as :func:`share` picks it.

    ``None`` when the kernel does not tell (no such table, no privilege, changed meanwhile).
    """
    read = _read(version, table)
    return _hash_of(share(*read, prefix)) if read is not None else None


def fingerprint_and_outline(version: int, table: str, prefix: str) -> tuple[str, Outline] | None:
    """The :func:`fingerprint` and the outline of the same moment; ``None`` as for :func:`fingerprint`."""
    read = _read(version, table)
    if read is None:
        return None
    entries, layout, _ = read
    return _hash_of(share(*read, prefix)), outline_of(entries, layout, prefix)


def _hash_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4) + part)
    return digest.hexdigest()


def _read(version: int, table: str) -> tuple[bytes, Layout, list[tuple[int, int]]] | None:
    """The entries, their layout, and the first and last offset of each built-in chain."""
    layout = LAYOUTS[version]
    name = table.encode().ljust(_NAME_BYTES, b"\0")
    with socket.socket(layout.family, socket.SOCK_DGRAM) as link:
        information = _ask(link, layout.level, _GET_INFO, name, _INFO.size)
        if information is None:
            return None
        _, hooks, *places, _, size = _INFO.unpack(information)
        entries = _ask(link, layout.level, _GET_ENTRIES, name + struct.pack("=I", size), _ENTRIES_HEADER_BYTES + size)
    if entries is None:
        return None
    chains = [(places[h], places[_HOOKS + h]) for h in range(_HOOKS) if hooks >> h & 1]
    return entries[_ENTRIES_HEADER_BYTES:], layout, chains


def outline_of(entries: bytes, layout: Layout, prefix: str) -> Outline:
    """The :class:`Outline` of these entries, chains and comments in their order."""
    found = list(_walk(entries, layout))
    names = {end: name for _, end, name, _ in found if name is not None}
    ours = prefix.encode()
    rules: dict[str, int] = {}
    comments: list[str] = []
    chain = b""
    for start, end, name, verdict in found:
        if name is not None:
            chain = name
            if chain.startswith(ours):
                # A chain ends with an entry for its return, which is no rule.
                rules[chain.decode()] = -1
        elif chain.startswith(ours):
            rules[chain.decode()] += 1
        elif verdict is not None and names.get(verdict, b"").startswith(ours):
            comments.append(_comment(entries[start:end], layout))
    return Outline(rules, tuple(comments))


def _comment(entry: bytes, layout: Layout) -> str:
    """The text of the entry's comment match (``linux/netfilter/xt_comment.h``), empty if it has none."""
    at, targets = layout.counters + _COUNTERS_BYTES, struct.unpack_from("=H", entry, layout.target_offset)[0]
    while at + _TARGET.size <= targets:
        length, name, _ = _TARGET.unpack_from(entry, at)
        if name.split(b"\0")[0] == b"comment":
            return entry[at + _TARGET.size : at + length].split(b"\0")[0].decode("latin-1")
        if length < _TARGET.size:
            break
        at += length
    return ""


def share(entries: bytes, layout: Layout, chains: list[tuple[int, int]], prefix: str) -> Iterator[bytes]:
    """The entries of the built-in ``chains`` (first and last offset of each), of the chains named ``prefix``..., and those that jump to these.

    Counters and the kernel's marks are 0, and a jump carries the name of its chain instead of an offset, which moves with other chains.
    """
    found = list(_walk(entries, layout))
    names = {end: name for _, end, name, _ in found if name is not None}
    ours = prefix.encode()
    chain = b""
    for start, end, name, verdict in found:
        if name is not None:
            chain = name
        built_in = any(first <= start <= last for first, last in chains)
        goes_on = verdict is not None and verdict >= 0  # to a chain, or to the next rule
        goal = names.get(verdict, b"") if verdict is not None else b""
        if not (built_in or chain.startswith(ours) or goal.startswith(ours)):
            continue
        entry = _without_counters(entries[start:end], layout)
        if goes_on:
            at = struct.unpack_from("=H", entry, layout.target_offset)[0] + _TARGET.size
            entry = entry[:at] + goal + entry[at + _VERDICT.size :]
        yield entry


def _walk(entries: bytes, layout: Layout) -> Iterator[tuple[int, int, bytes | None, int | None]]:
    """Of each entry where it starts and ends, the name of the chain that it opens, and its verdict, which is an offset if it is a jump."""
    start = 0
    while start + layout.counters + _COUNTERS_BYTES <= len(entries):
        target, length = struct.unpack_from("=HH", entries, start + layout.target_offset)
        if start + length > len(entries) or target + _TARGET.size + _VERDICT.size > length:
            return
        _, name, _ = _TARGET.unpack_from(entries, start + target)
        data = start + target + _TARGET.size
        match name.split(b"\0")[0]:
            case b"ERROR":
                yield start, start + length, entries[data : data + _CHAIN_NAME_BYTES].split(b"\0")[0], None
            case b"":
                yield start, start + length, None, int(_VERDICT.unpack_from(entries, data)[0])
            case _:
                yield start, start + length, None, None
        start += length


def _without_counters(entry: bytes, layout: Layout) -> bytes:
    cleared = bytearray(entry)
    cleared[layout.counters : layout.counters + _COUNTERS_BYTES] = bytes(_COUNTERS_BYTES)
    cleared[layout.mark : layout.mark + _MARK_BYTES] = bytes(_MARK_BYTES)
    return bytes(cleared)


def _ask(link: socket.socket, level: int, option: int, request: bytes, size: int) -> bytes | None:
    buffer = ctypes.create_string_buffer(request.ljust(size, b"\0"), size)
    length = ctypes.c_uint32(size)
    if _libc.getsockopt(link.fileno(), level, option, buffer, ctypes.byref(length)) != 0:
        return None
    return buffer.raw
