"""Reads, and spoils on purpose, the maps of an edge node's XDP program. It is run there, in the files of the agent's image, with libbpf and nothing of ours.

The records are taken apart by the layout of lbnode/bpf/record.h, independently of the agent's own code.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import struct
import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

PINS = Path("/sys/fs/bpf/samegate")
RING_SLOTS = 65537
NOBODY = 255
"""In the digest of a ring: a slot without a worker."""
_WHOLE_ADDRESS = 1 << 0  # SG_VIP_ADDRESS
_VIP = struct.Struct("<16sIIQIIQQ")
_MADE_OF_AT = 40
_DESTINATION = struct.Struct("<II16s16sIIIIII")
_TRAFFIC = struct.Struct("<QQQQ")
_TRANSPORTS = {6: "t", 17: "u"}  # IANA protocol numbers, as ipvsadm(8) has its options


class Vip(NamedTuple):
    """`struct sg_vip`. `at`: where it stands in the table, bytes; `name`: `t ADDRESS:PORT`."""

    at: int
    name: str
    address: str
    number: int
    ring: int


class Destination(NamedTuple):
    """`struct sg_destination`. `weight`: 0 for one that gets no new flows."""

    number: int
    vip: int
    worker: str
    weight: int


def vips(raw: bytes) -> Iterator[Vip]:
    """The services in a table of VIPs."""
    for at in range(0, len(raw) - _VIP.size + 1, _VIP.size):
        address_bytes, service, number, _, ring, flags, _, _ = _VIP.unpack_from(raw, at)
        if not service or flags & _WHOLE_ADDRESS:
            continue
        wire = service.to_bytes(4, "little")
        port, version = int.from_bytes(wire[:2], "big"), wire[3]
        address = str(IPv4Address(address_bytes[8:12]) if version == 4 else IPv6Address(address_bytes))
        listed = address if version == 4 else f"[{address}]"
        yield Vip(at, f"{_TRANSPORTS[wire[2]]} {listed}:{port}", address, number, ring)


def destinations(raw: bytes) -> Iterator[Destination]:
    """Those that belong to a VIP."""
    for number in range(len(raw) // _DESTINATION.size):
        generation, version, worker, _, _, vip, weight, drained, _, _ = _DESTINATION.unpack_from(
            raw, number * _DESTINATION.size
        )
        if generation and vip:
            address = IPv4Address(worker[:4]) if version == 4 else IPv6Address(worker)
            yield Destination(number, vip, str(address), 0 if drained else weight)


def digest(slots: Sequence[int], workers: Mapping[int, str]) -> str:
    """A word for which worker has each slot; `workers` by the numbers that stand in the slots, which every edge node gives out by itself."""
    taking = sorted({workers[number] for number in set(slots) if number in workers})
    place = {n: taking.index(workers[n]) if n in workers else NOBODY for n in set(slots)}
    return hashlib.sha256(f"{taking}".encode() + bytes(map(place.__getitem__, slots))).hexdigest()


def turned(slots: Sequence[int]) -> array[int]:
    """The slots with each worker's next one in its place.

    Raises ValueError for a ring of fewer than two workers, where there is no next one.
    """
    numbers = sorted(set(slots))
    if len(numbers) < 2:
        raise ValueError(f"a ring of {len(numbers)} worker cannot be turned")
    following = dict(zip(numbers, [*numbers[1:], numbers[0]], strict=True))
    return array("I", map(following.__getitem__, slots))


class Maps:
    """The maps that the agent has pinned. Raises OSError where the kernel refuses, LookupError where not one program's maps are there."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libbpf.so.1")
        found = sorted(PINS.glob("*/vips"))
        if len(found) != 1:
            raise LookupError(f"{PINS} holds the maps of {len(found)} programs, not of one")
        self._folder = found[0].parent

    def services(self) -> dict[str, list[tuple[str, int, int]]]:
        """By service its workers, each with its weight and the connections that were counted for it."""
        return {
            vip.name: [(d.worker, d.weight, self._connections(d.number)) for d in own] for vip, own in self._served()
        }

    def rings(self) -> dict[str, str]:
        """By service the digest of its ring."""
        return {
            vip.name: digest(self._slots(self._ring(vip)), {d.number: d.worker for d in own})
            for vip, own in self._served()
        }

    def _served(self) -> Iterator[tuple[Vip, list[Destination]]]:
        by_vip: dict[int, list[Destination]] = {}
        for destination in destinations(self._mapped(self._opened("destinations"))[:]):
            by_vip.setdefault(destination.vip, []).append(destination)
        for vip in vips(self._table()[:]):
            yield vip, sorted(by_vip.get(vip.number, []), key=lambda d: d.worker)

    def turn(self, names: Sequence[str]) -> None:
        """The rings of these services turned, and their records no longer as when the rings were made: so the agent finds them not intact.

        Raises LookupError for one that is not served.
        """
        table = self._table()
        served = {vip.name: vip for vip in vips(table[:])}
        if missing := set(names) - served.keys():
            raise LookupError(f"not served: {', '.join(sorted(missing))}")
        for vip in (served[name] for name in names):
            ring = self._ring(vip)
            ring[: 4 * RING_SLOTS] = turned(self._slots(ring)).tobytes()
            table[vip.at + _MADE_OF_AT] ^= 1

    def clear(self) -> None:
        """An empty table of VIPs."""
        table = self._table()
        table[:] = bytes(len(table))

    def seconds_without(self, address: str, limit_seconds: float) -> float | None:
        """How long no service is at the address from now on; None if for longer than the limit."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < limit_seconds:
            # Another table is put in force when the agent mends.
            if any(vip.address == address for vip in vips(self._table()[:])):
                return round(passed, 3)
            time.sleep(0.02)
        return None

    def _table(self) -> mmap.mmap:
        return self._inside("vips", 0)

    def _ring(self, vip: Vip) -> mmap.mmap:
        return self._inside("rings", vip.ring)

    @staticmethod
    def _slots(ring: mmap.mmap) -> array[int]:
        slots = array("I")
        slots.frombytes(ring[: 4 * RING_SLOTS])
        return slots

    def _connections(self, destination: int) -> int:
        """Over all processors: of a map with a value for each, they come one after the other."""
        descriptor = self._opened("traffic")
        size, _ = self._sizes(descriptor)
        values = ctypes.create_string_buffer(size * self._checked(self._library.libbpf_num_possible_cpus()))
        self._look_up(descriptor, destination, values)
        os.close(descriptor)
        return sum(_TRAFFIC.unpack_from(values, at)[2] for at in range(0, len(values), size))

    def _inside(self, name: str, place: int) -> mmap.mmap:
        outer, identity = self._opened(name), ctypes.c_uint32()
        self._look_up(outer, place, ctypes.byref(identity))
        os.close(outer)
        return self._mapped(self._checked(self._library.bpf_map_get_fd_by_id(identity)))

    def _mapped(self, descriptor: int) -> mmap.mmap:
        """The values of an array, to be read and written; closes the descriptor."""
        size, entries = self._sizes(descriptor)
        memory = mmap.mmap(descriptor, -(-size * entries // mmap.PAGESIZE) * mmap.PAGESIZE)
        os.close(descriptor)
        return memory

    def _sizes(self, descriptor: int) -> tuple[int, int]:
        """Bytes from one value to the next, and how many there are: the third to fifth word of `struct bpf_map_info` are key, value, entries."""
        info, length = (ctypes.c_uint32 * 5)(), ctypes.c_uint32(20)
        self._checked(self._library.bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(length)))
        return -(-info[3] // 8) * 8, info[4]

    def _opened(self, name: str) -> int:
        return self._checked(self._library.bpf_obj_get(str(self._folder / name).encode()))

    def _look_up(self, descriptor: int, place: int, value: Any) -> None:
        self._checked(self._library.bpf_map_lookup_elem(descriptor, ctypes.byref(ctypes.c_uint32(place)), value))

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def main(words: Sequence[str]) -> None:
    """`services`, `rings`, `turn SERVICE...`, `clear`, or `clear ADDRESS LIMIT`, which prints for how many seconds it was not served."""
    maps = Maps()
    match list(words):
        case ["services"]:
            print(json.dumps(maps.services()))
        case ["rings"]:
            print(json.dumps(maps.rings()))
        case ["turn", *names]:
            maps.turn(names)
        case ["clear"]:
            maps.clear()
        case ["clear", address, limit_seconds]:
            maps.clear()
            if (seconds := maps.seconds_without(address, float(limit_seconds))) is not None:
                print(seconds)
        case _:
            raise SystemExit(f"not understood: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
