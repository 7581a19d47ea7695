"""What the XDP program serves, as services: read back from its maps, and written so that each packet meets the old state or the new one."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from lbnode.dataplane.bpf_descriptors import Map
from lbnode.dataplane.libbpf import Object
from lbnode.dataplane.xdp_capture import VIP_TABLE, is_left_over, mark
from lbnode.dataplane.xdp_program import Sizes, pages
from lbnode.dataplane.xdp_records import (
    RING_SLOTS,
    Capture,
    DestinationRecord,
    Drop,
    Drops,
    LinkRecord,
    Source,
    Timeouts,
    Traffic,
    Vip,
    timeouts,
)
from lbnode.dataplane.xdp_table import (
    Limited,
    Served,
    Stored,
    address_vips,
    destination_record,
    made_of,
    place_numbers,
    served,
    source_key,
    source_of_key,
    vip_of,
    vip_table,
)
from lbnode.errors import ConfigError
from lbnode.model import Counters, IPAddress, IpvsTimeouts, Place, VirtualKey, VirtualService
from lbnode.ring import ring

_VIP_BYTES, _DESTINATION_BYTES = ctypes.sizeof(Vip), ctypes.sizeof(DestinationRecord)
_SOURCE_BYTES = ctypes.sizeof(Source)
#: The number of no VIP.
_NOBODY = 0
#: Says that source ranges were set at all: of no VIP, whose numbers begin with 1.
_SET = bytes(Source(bits=32, vip=0))


class XdpState:
    """The maps of a loaded program. ``folder`` is where they are pinned, if they are; ``hertz`` is the kernel's ``CONFIG_HZ``.

    One writer at a time. Broken off anywhere, writing leaves services that are read as not intact, or places that the next write takes back.
    """

    def __init__(self, loaded: Object, sizes: Sizes, hertz: int, folder: Path | None = None) -> None:
        self._object = loaded
        self._sizes = sizes
        self._hertz = hertz
        self._pin = folder / VIP_TABLE if folder is not None else None
        self._destinations = loaded.map("destinations").mapped(pages((sizes.destinations + 1) * _DESTINATION_BYTES))
        self._table = self._table_in_force()

    def _table_in_force(self) -> Map | None:
        identity = self._object.map("vips").pointed(0)
        if self._pin is None or identity is None:
            return None
        following = self._following(self._pin)
        for path in (self._pin, following):
            if path.exists():
                table = self._object.pinned(path, _VIP_BYTES)
                if table.identity == identity:
                    if path is following:
                        path.replace(self._pin)
                    return table
                table.close()
        # The table that is at work cannot be read. What is written next takes its place.
        return None

    @staticmethod
    def _following(pin: Path) -> Path:
        return pin.with_name("vip-table-next")

    def close(self) -> None:
        self._destinations.close()
        if self._table is not None:
            self._table.close()

    def read(self) -> dict[VirtualKey, Served]:
        """What is served now, by key."""
        return served(self._vips(), list(self._used()))

    def _vips(self) -> Iterator[Vip]:
        if self._table is None:
            return
        size = self._sizes.vip_places * _VIP_BYTES
        with self._table.mapped(pages(size)) as memory:
            raw = memory[:size]
        for at in range(0, size, _VIP_BYTES):
            vip = Vip.from_buffer_copy(raw, at)
            if vip.service:
                yield vip

    def _used(self) -> Iterator[Stored]:
        raw = self._destinations[:]
        for number in range(1, self._sizes.destinations + 1):
            at = number * _DESTINATION_BYTES
            if raw[at : at + 4] != bytes(4):
                yield Stored(number, DestinationRecord.from_buffer_copy(raw, at))

    def _record(self, number: int) -> DestinationRecord:
        return DestinationRecord.from_buffer_copy(self._destinations, number * _DESTINATION_BYTES)

    def write(
        self,
        present: Mapping[VirtualKey, Served],
        wanted: Mapping[VirtualKey, VirtualService],
        sources: Mapping[IPAddress, IPAddress],
        limited: Limited | None,
    ) -> None:
        """Serve ``wanted`` instead of ``present``, which is what :meth:`read` said. ``sources`` has our own address for each worker; ``limited``
        is ``None`` as long as nobody has said it.

        Raises:
            ConfigError: it does not fit; nothing is changed.
        """
        taken = {place.number for s in present.values() for place in s.places.values()}
        limbo = [stored for stored in self._used() if stored.number not in taken]
        placed = self._placed(present, wanted)
        gone = [n for n in taken if n not in {p for numbers in placed.values() for p in numbers[1].values()}]
        vips: list[Vip] = []
        for key, service in wanted.items():
            number, numbers = placed[key]
            before = present.get(key)
            if before is None:
                self._object.map("drops").clear_each_processor(number)
            records = self._records(service, number, numbers, before, sources)
            if before is None or not before.intact or before.service.destinations != service.destinations:
                for place, record in records.items():
                    self._object.map("destinations")[place] = record
                self._point_ring(number, service, numbers)
            is_limited = any(k == key for k, _ in limited or ())
            vips.append(vip_of(service, number, made_of(records), limited=is_limited))
        # Who may come from now on is let in before, and who may not any more is kept out after.
        superfluous = self._add_sources(limited, {key: number for key, (number, _) in placed.items()})
        table = vip_table(
            [*vips, *address_vips({key: number for key, (number, _) in placed.items()})], self._sizes.vip_places
        )
        for place in gone:
            # Belongs to no VIP from here on, and still forwards what the old table sends there.
            record = self._record(place)
            record.vip = 0
            self._object.map("destinations")[place] = record
        self._swap(table)
        for raw in superfluous:
            self._object.map("sources").remove(raw)
        for place in (*gone, *(stored.number for stored in limbo)):
            record = self._record(place)
            self._object.map("destinations")[place] = DestinationRecord(retired=record.generation)

    def _placed(
        self, present: Mapping[VirtualKey, Served], wanted: Mapping[VirtualKey, VirtualService]
    ) -> dict[VirtualKey, tuple[int, dict[Place, int]]]:
        used_numbers = {s.number for s in present.values()}
        free_numbers = (n for n in range(1, self._sizes.services + 1) if n not in used_numbers)
        in_use = {stored.number for stored in self._used()}
        free_places = (n for n in range(1, self._sizes.destinations + 1) if n not in in_use)
        return place_numbers(present, wanted, free_numbers, free_places, self._sizes.services, self._sizes.destinations)

    def _records(
        self,
        service: VirtualService,
        number: int,
        numbers: Mapping[Place, int],
        before: Served | None,
        sources: Mapping[IPAddress, IPAddress],
    ) -> dict[int, DestinationRecord]:
        records = {}
        known = {stored.number for stored in before.places.values()} if before is not None else set()
        for rank, destination in enumerate(reversed(service.destinations)):
            place = numbers[destination.place]
            old = self._record(place)
            fresh = place not in known
            generation = max(old.generation, old.retired) + 1 if fresh else old.generation
            if fresh:
                self._object.map("traffic").clear_each_processor(place)
            record = destination_record(generation, destination.address, sources[destination.address])
            record.vip, record.weight, record.drained = number, destination.weight, destination.drained
            record.rank, record.retired = rank, old.retired
            records[place] = record
        return records

    def _point_ring(self, number: int, service: VirtualService, numbers: Mapping[Place, int]) -> None:
        slots = [numbers[d.place] for d in ring(service.destinations)] or [0] * RING_SLOTS
        table = self._object.new_array("rings", 4 * RING_SLOTS, 1)
        table[0] = struct.pack(f"{RING_SLOTS}I", *slots)
        self._object.map("rings").point(number, table)
        table.close()

    def _swap(self, vips: list[Vip | None]) -> None:
        table = self._object.new_array("vips", _VIP_BYTES, self._sizes.vip_places)
        with table.mapped(pages(self._sizes.vip_places * _VIP_BYTES)) as memory:
            for place, vip in enumerate(vips):
                if vip is not None:
                    memory[place * _VIP_BYTES : (place + 1) * _VIP_BYTES] = bytes(vip)
        if self._pin is not None:
            table.pin(self._following(self._pin))
        self._object.map("vips").point(0, table)
        if self._pin is not None:
            self._following(self._pin).replace(self._pin)
        if self._table is not None:
            self._table.close()
        self._table = table

    def limited(self) -> Limited | None:
        """Which clients alone may use some of the services; ``None`` where nobody has said it of these maps."""
        keys = self._object.map("sources").keys(_SOURCE_BYTES)
        if _SET not in keys:
            return None
        by_number = {s.number: key for key, s in self.read().items()}
        found = (source_of_key(raw, by_number) for raw in keys if raw != _SET)
        return frozenset(limit for limit in found if limit is not None)

    def _add_sources(self, limited: Limited | None, numbers: Mapping[VirtualKey, int]) -> set[bytes]:
        if limited is None:
            return set()
        sources = self._object.map("sources")
        wanted = {source_key(numbers[key], network) for key, network in limited if key in numbers} | {_SET}
        there = set(sources.keys(_SOURCE_BYTES))
        for raw in wanted - there:
            sources.put(raw, bytes(4))
        return there - wanted

    def set_links(self, links: Mapping[int, LinkRecord]) -> None:
        """How frames leave by the devices of VLANs."""
        there = self._object.map("links")
        wanted = {index.to_bytes(4, "little"): bytes(record) for index, record in links.items()}
        for raw in set(there.keys(4)) - wanted.keys():
            there.remove(raw)
        for raw, value in wanted.items():
            there.put(raw, value)

    def end_capture(self, now_nanoseconds: int) -> None:
        """Take the marks off that a capture left whose command was killed. A clock of CLOCK_MONOTONIC."""
        capture = self._object.map("capture")
        if is_left_over(Capture.from_buffer_copy(capture[0]), now_nanoseconds):
            if self._table is not None:
                mark(self._table, self._sizes.vip_places, lambda _key: False)
            capture[0] = Capture()

    def timeouts(self) -> IpvsTimeouts:
        """The idle times that were set; zeros where none were."""
        found = Timeouts.from_buffer_copy(self._object.map("timeouts")[0])
        return IpvsTimeouts(found.tcp_seconds, found.tcp_fin_seconds, found.udp_seconds)

    def set_timeouts(self, wanted: IpvsTimeouts) -> None:
        record = timeouts(wanted.tcp_seconds, wanted.tcp_fin_seconds, wanted.udp_seconds, self._hertz)
        self._object.map("timeouts")[0] = record

    def counted(self, place: int) -> Counters:
        """What was counted for the destination in this place, since it has it. A flow of which only the first packet came counts."""
        found = [Traffic.from_buffer_copy(raw) for raw in self._object.map("traffic").each_processor(place)]
        return Counters(
            sum(t.new_flows for t in found),
            sum(t.packets for t in found),
            sum(t.bytes for t in found),
            sum(t.table_hits for t in found),
        )

    def drops(self, services: Mapping[int, VirtualKey]) -> dict[tuple[VirtualKey | None, str], int]:
        """Packets that went nowhere, of these services by their number and of those that are going, by :attr:`lbnode.dataplane.xdp_records.Drop.reason`.

        What has no ports counts for one of the services of its address.
        """
        counted: dict[tuple[VirtualKey | None, str], int] = {}
        for number, key in ((_NOBODY, None), *services.items()):
            found = [Drops.from_buffer_copy(raw) for raw in self._object.map("drops").each_processor(number)]
            counted |= {(key, drop.reason): sum(each.packets[drop] for each in found) for drop in Drop}
        return counted


def no_source(worker: IPAddress) -> ConfigError:
    """The error for a worker that this node has no address of the same family for."""
    return ConfigError(
        f"worker {worker}",
        f"this node has no IPv{worker.version} address and route towards it, which the outer header of its tunnel needs",
        f"Give the node an IPv{worker.version} address, or the worker one of the other family",
    )
