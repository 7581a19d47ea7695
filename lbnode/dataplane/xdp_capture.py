"""Frames of chosen VIPs, as the XDP program met them and as it sent them on: tcpdump sees neither, for it asks the kernel behind the program.

The program copies frames of those VIPs alone that carry a mark in their record, and ends by itself when it has copied so many packets or at a
given time. The agent beside knows nothing of it, but that it takes marks off whose time is over.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lbnode.dataplane.bpf_descriptors import Map
from lbnode.dataplane.libbpf import pinned
from lbnode.dataplane.xdp_program import pages, sizes_of_folder
from lbnode.dataplane.xdp_records import CAME, VIP_ADDRESS, VIP_CAPTURED, Capture, Captured, Vip
from lbnode.dataplane.xdp_table import key_of
from lbnode.errors import ConfigError
from lbnode.model import VirtualKey

_VIP_BYTES = ctypes.sizeof(Vip)
_FLAGS_AT: int = vars(Vip)["flags"].offset
#: So long after its time the mark of a capture belongs to nobody any more.
_GRACE_NANOSECONDS = 5_000_000_000
VIP_TABLE = "vip-table"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame. ``verdict`` is of ``enum xdp_action``, ``None`` for one as it came; ``data`` are its first bytes, ``frame_bytes`` is how many it had.

    The two frames of a packet have one ``cpu``, with none of another packet's of there in between. ``device`` is the index of where it came in.
    """

    monotonic_nanoseconds: int
    device: int
    cpu: int
    verdict: int | None
    frame_bytes: int
    data: bytes


def frame_of(raw: bytes) -> Frame:
    """A record of the ring."""
    record = Captured.from_buffer_copy(raw)
    verdict = None if record.verdict == CAME else record.verdict
    data = bytes(record.frame)[: record.bytes]
    return Frame(record.nanoseconds, record.device, record.cpu, verdict, record.bytes, data)


def marks(
    table: bytes, wanted: Callable[[VirtualKey], bool]
) -> tuple[dict[int, bytes], list[VirtualKey], list[VirtualKey]]:
    """The words of a table of VIPs that have to be written, by their place in bytes, so that the VIPs that are wanted have the mark and no others;
    those VIPs, and all that are there.
    """
    words, chosen, there = {}, [], []
    for at in range(0, len(table) - _VIP_BYTES + 1, _VIP_BYTES):
        vip = Vip.from_buffer_copy(table, at)
        if not vip.service or vip.flags & VIP_ADDRESS:
            continue
        key = key_of(vip)
        there.append(key)
        flags = vip.flags & ~VIP_CAPTURED
        if wanted(key):
            chosen.append(key)
            flags |= VIP_CAPTURED
        if flags != vip.flags:
            words[at + _FLAGS_AT] = struct.pack("=I", flags)
    return words, chosen, there


def mark(
    table: Map, vip_places: int, wanted: Callable[[VirtualKey], bool]
) -> tuple[list[VirtualKey], list[VirtualKey]]:
    """Have the program copy the frames of the VIPs in this table that are wanted, and of no others; these, and all that are there. Raises OSError."""
    size = vip_places * _VIP_BYTES
    with table.mapped(pages(size)) as memory:
        words, chosen, there = marks(memory[:size], wanted)
        for at, word in words.items():
            memory[at : at + len(word)] = word
    return chosen, there


def is_over(capture: Capture, now_nanoseconds: int) -> bool:
    """Whether the program copies nothing any more. A clock of CLOCK_MONOTONIC."""
    return bool(capture.taken >= capture.most or now_nanoseconds >= capture.until)


def is_left_over(capture: Capture, now_nanoseconds: int) -> bool:
    """Whether who asked for this capture has gone without taking its marks off."""
    return bool(capture.until and now_nanoseconds >= capture.until + _GRACE_NANOSECONDS)


class XdpCapture:
    """A capture on this node. ``take`` gets each frame; ``pins`` is where an agent has pinned the program's maps.

    Raises:
        ConfigError: there is none, or it is another agent's with another layout.
    """

    def __init__(self, pins: Path, take: Callable[[Frame], None]) -> None:
        found = {f: sizes for f in pins.iterdir() if (sizes := sizes_of_folder(f.name))} if pins.is_dir() else {}
        if not found:
            there = sorted(f.name for f in pins.iterdir()) if pins.is_dir() else []
            raise ConfigError(
                str(pins),
                f"an XDP program of another version is there ({', '.join(there)})"
                if there
                else "no XDP program is there",
                "Run this in the container of an edge node's agent with dataplane xdp",
            )
        # While one agent follows another there may be two; the newer one is at work.
        self._folder = max(found, key=lambda f: f.stat().st_mtime)
        self._sizes = found[self._folder]
        self._table = self._folder / VIP_TABLE
        self._capture = pinned(self._folder / "capture", ctypes.sizeof(Capture))
        self._ring = pinned(self._folder / "captured", 0)
        self._is_on = False
        self._take = take
        self._reader = self._ring.read_ring(self._took)

    def _took(self, raw: bytes) -> None:
        if self._is_on:
            self._take(frame_of(raw))

    def state(self) -> Capture:
        """How far it is."""
        return Capture.from_buffer_copy(self._capture[0])

    def begin(self, most: int, until_nanoseconds: int, one_in: int, now_nanoseconds: int) -> None:
        """Let the program copy ``most`` packets of marked VIPs, one of ``one_in``, until this time of CLOCK_MONOTONIC.

        Raises:
            ConfigError: somebody else's capture is going on.
        """
        other = self.state()
        if not is_over(other, now_nanoseconds):
            left = (other.until - now_nanoseconds) / 1e9
            raise ConfigError(
                "a capture",
                f"another one is going on here, for {left:.0f} s more at most",
                "Wait for it, or end it with Ctrl-C where it runs",
            )
        # What a capture that was killed left in the ring.
        while self._reader.poll(0):
            pass
        self._is_on = True
        self._capture[0] = Capture(until=until_nanoseconds, most=most, one_in=one_in)

    def mark(self, wanted: Callable[[VirtualKey], bool]) -> tuple[list[VirtualKey], list[VirtualKey]]:
        """As :func:`mark`, in the table that is in force now. To be called again and again, for each change of what is served makes a new table."""
        if not self._table.exists():
            return [], []
        table = pinned(self._table, _VIP_BYTES)
        try:
            return mark(table, self._sizes.vip_places, wanted)
        finally:
            table.close()

    def poll(self, seconds: float) -> None:
        """Take what is there, or comes within this time."""
        self._reader.poll(seconds)

    def end(self) -> Capture:
        """Take all marks off, and what is still in the ring; how far the capture came."""
        reached = self.state()
        self._capture[0] = Capture()
        self.mark(lambda _key: False)
        self._reader.poll(0)
        self._is_on = False
        return reached

    def close(self) -> None:
        self._reader.close()
        self._ring.close()
        self._capture.close()
