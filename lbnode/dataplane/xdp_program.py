"""The XDP program in the kernel: loaded with maps of given sizes, pinned so that it outlives the agent, and attached to devices."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from lbnode.dataplane import xdp_records
from lbnode.dataplane.bpf_descriptors import Link
from lbnode.dataplane.bpf_pins import remove_pin, remove_pins
from lbnode.dataplane.libbpf import GENERIC_MODE, NATIVE_MODE, Object, load
from lbnode.dataplane.xdp_records import Limits, LinkRecord, Tag
from lbnode.errors import Bug, ConfigError

PROGRAM = "samegate"
_LINK_PREFIX = "link-"
_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h
_VLAN_PROTOCOL = 0x8100  # IEEE 802.1Q; the kernel's list does not say where it is another
MAPS = (
    "vips",
    "rings",
    "destinations",
    "traffic",
    "flows",
    "drops",
    "timeouts",
    "links",
    "sources",
    "pace",
    "capture",
    "captured",
)
_SET_BYTES = xdp_records.FLOWS_PER_SET * ctypes.sizeof(xdp_records.Flow)


class Mode(StrEnum):
    """Where a packet meets the program: in the driver, or after the kernel has made a buffer for it."""

    NATIVE = "native"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much the maps hold. ``vip_places`` and ``flow_sets`` are powers of two; a set is four flows, and each processor has so many sets."""

    vip_places: int = 4096
    services: int = 1023
    destinations: int = 8191
    flow_sets: int = 1 << 16

    def memory_bytes(self, processors: int) -> int:
        """What the maps take when all of it is in use, but for the networks of source ranges."""
        ring = 4 * xdp_records.RING_SLOTS
        each_destination = ctypes.sizeof(xdp_records.DestinationRecord) + processors * ctypes.sizeof(
            xdp_records.Traffic
        )
        # For a moment there are two tables of VIPs.
        return (
            2 * self.vip_places * ctypes.sizeof(xdp_records.Vip)
            + self.services * ring
            + (self.services + 1) * processors * ctypes.sizeof(xdp_records.Drops)
            + (self.destinations + 1) * each_destination
            + processors * self.flow_sets * _SET_BYTES
            + xdp_records.CAPTURE_RING_BYTES
        )


def layout() -> str:
    """A word for the layout of all records: maps of another program with the same word can be used as they are."""
    kinds = (xdp_records.Vip, xdp_records.DestinationRecord, xdp_records.Flow, xdp_records.Traffic, xdp_records.Drops)
    kinds_too = (xdp_records.Source, xdp_records.Timeouts, LinkRecord, Tag, xdp_records.Capture, xdp_records.Captured)
    shown = repr([(k.__name__, [(f[0], f[1].__name__) for f in k._fields_]) for k in (*kinds, *kinds_too)])
    return hashlib.sha256(shown.encode()).hexdigest()[:8]


def folder_name(sizes: Sizes) -> str:
    """Where maps of these sizes are pinned. Those of another layout or size are in another folder."""
    return f"{layout()}-{sizes.vip_places}-{sizes.services}-{sizes.destinations}-{sizes.flow_sets}"


def sizes_of_folder(name: str) -> Sizes | None:
    """The sizes that :func:`folder_name` wrote; ``None`` for the name of something else, or of another layout."""
    word, *numbers = name.split("-")
    if word != layout() or len(numbers) != 4 or not all(n.isdecimal() for n in numbers):
        return None
    return Sizes(*map(int, numbers))


def load_program(path: Path, sizes: Sizes, constants: Limits, pins: Path | None) -> tuple[Object, Path | None]:
    """The program of an object file with its maps, and the folder where these are pinned; without ``pins`` they end with this process.

    Maps that an agent with the same layout and sizes left in ``pins``, a folder of a BPF file system, are used as they are.

    Raises:
        ConfigError: as :func:`lbnode.dataplane.libbpf.load`; ``pins`` is in no BPF file system; or the kernel has no memory for the maps.
    """
    folder = None
    if pins is not None:
        folder = pins / folder_name(sizes)
        if (kind := _file_system(pins)) != "bpf":
            raise _no_place(pins, f"its file system is {kind}, not bpf")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_place(pins, os.strerror(error.errno or 0)) from None
    processors = _possible_processors()
    try:
        loaded = load(
            path,
            entries={
                "flows": processors,
                "rings": sizes.services + 1,
                "drops": sizes.services + 1,
                "destinations": sizes.destinations + 1,
                "traffic": sizes.destinations + 1,
            },
            inner={"flows": (_SET_BYTES, sizes.flow_sets), "vips": (ctypes.sizeof(xdp_records.Vip), sizes.vip_places)},
            constants=constants,
            pins={name: folder / name for name in MAPS} if folder is not None else None,
        )
        flows = loaded.map("flows")
        for number in range(processors):
            if flows.pointed(number) is None:
                table = loaded.new_array("flows", _SET_BYTES, sizes.flow_sets)
                flows.point(number, table)
                table.close()
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.E2BIG, errno.EAGAIN):
            raise ConfigError(
                f"{sizes.memory_bytes(processors) >> 20} MiB of maps",
                f"the kernel does not give so much memory: {error.strerror}",
                "Have fewer flows, services or destinations in the settings of xdp, or give the container more memory",
            ) from None
        raise
    return loaded, folder


def pages(size_bytes: int) -> int:
    """The bytes of the whole pages that so many bytes take."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _file_system(path: Path) -> str:
    """The kind of file system that a path is in, or would be (proc_pid_mountinfo(5))."""
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        # Of mounts over each other the last one counts.
        kinds[Path(before.split()[4])] = after.split()[0]
    absolute = path.absolute()
    return next(kinds[p] for p in (absolute, *absolute.parents) if p in kinds)


def _no_place(pins: Path, why: str) -> ConfigError:
    return ConfigError(
        str(pins),
        f"no maps can be pinned there: {why}",
        "Mount a BPF file system (mount -t bpf bpf /sys/fs/bpf), and mount it writable into the pod",
    )


def _possible_processors() -> int:
    """Processors that the kernel may ever have, as the program counts them: cpulist format, ``0-3``."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace(",", "-").split("-")[-1]) + 1


@dataclass(frozen=True, slots=True)
class Attached:
    """How the program is at a device. ``reason`` says why not natively, where it is not; ``number`` is the kernel's of the program."""

    device: str
    mode: Mode
    reason: str = ""
    number: int = field(default=0, compare=False)


class Attachment:
    """The program at its devices, with what is pinned of it. ``pins`` as in :func:`load_program`, whose answer is ``folder``."""

    def __init__(self, pins: Path | None, folder: Path | None) -> None:
        self._pins = pins
        self._folder = folder
        self._links: dict[str, Link] = {}
        self._loaded: Object | None = None
        self._wanted: Mode | None = None
        self.devices: tuple[Attached, ...] = ()

    def attach(self, loaded: Object, devices: Iterable[str], wanted: Mode | None) -> None:
        """Have the program see what comes in by these devices; natively where ``wanted`` is ``None`` and the driver can.

        Where a program of ours is at work already, this one takes its place in one step. Then it is taken from devices that are not named any
        more, and maps of other layouts and sizes go.

        Raises:
            ConfigError: no such device, another program is at it, or it cannot be had in the wanted mode. All devices are as they were.
        """
        self._loaded, self._wanted = loaded, wanted
        indices = {name: _index(name) for name in dict.fromkeys(devices)}
        # Programs of ours are replaced when nothing can fail any more: an agent that ends here leaves those that its record tells of.
        with ExitStack() as undone:
            former: dict[str, Link] = {}
            found: dict[str, Attached] = {}
            for name, index in indices.items():
                if (link := self._former(loaded, name, index)) is not None:
                    former[name] = link
                    undone.callback(self._links.pop, name)
                    undone.callback(link.close)
                else:
                    found[name], link = self._anew(loaded, name, index, wanted)
                    undone.callback(self._take_back, name, link)
                self._links[name] = link
            undone.pop_all()
        for name, link in former.items():
            link.replace(loaded.program(PROGRAM))
            generic = loaded.program_at(indices[name], GENERIC_MODE)
            found[name] = Attached(name, Mode.GENERIC if generic else Mode.NATIVE)
        self.devices = tuple(_numbered(loaded, found[name], index) for name, index in indices.items())
        self._forget_former(indices)

    def attach_again(self, devices: Iterable[str]) -> None:
        """Have the program at those of its devices that lost it: made anew, or somebody took it off. Raises as :meth:`attach`."""
        if self._loaded is None:
            raise Bug("a program is attached again that never was")
        for name in devices:
            index = _index(name)
            if (lost := self._links.pop(name, None)) is not None:
                self._take_back(name, lost)
            attached, self._links[name] = self._anew(self._loaded, name, index, self._wanted)
            again = _numbered(self._loaded, attached, index)
            self.devices = tuple(again if d.device == name else d for d in self.devices)

    def close(self) -> None:
        """The program stays at its devices if it is pinned, and leaves them otherwise."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def remove(self) -> None:
        """Take the program away from its devices, and all that is pinned."""
        self.close()
        if self._pins is not None:
            remove_pins(self._pins)

    def _forget_former(self, names: Iterable[str]) -> None:
        if self._pins is None:
            return
        wanted = {_LINK_PREFIX + name for name in names}
        for entry in self._pins.iterdir():
            if entry != self._folder and entry.name not in wanted:
                remove_pin(entry)

    def _pin(self, name: str) -> Path | None:
        return self._pins / f"{_LINK_PREFIX}{name}" if self._pins is not None else None

    def _take_back(self, name: str, link: Link) -> None:
        link.close()
        self._links.pop(name, None)
        if (pin := self._pin(name)) is not None:
            pin.unlink(missing_ok=True)

    def _former(self, loaded: Object, name: str, index: int) -> Link | None:
        pin = self._pin(name)
        if pin is None or not pin.exists():
            return None
        link = loaded.attached(pin)
        if link.device != index:
            # The device that it was made for is gone.
            link.close()
            pin.unlink()
            return None
        return link

    def _anew(self, loaded: Object, name: str, index: int, wanted: Mode | None) -> tuple[Attached, Link]:
        reason = ""
        for mode in (Mode.NATIVE, Mode.GENERIC) if wanted is None else (wanted,):
            try:
                link = loaded.attach(PROGRAM, index, NATIVE_MODE if mode is Mode.NATIVE else GENERIC_MODE)
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.EEXIST):
                    raise _occupied(loaded, name, index) from None
                reason = os.strerror(error.errno or 0)
                continue
            if (pin := self._pin(name)) is not None:
                link.pin(pin)
            return Attached(name, mode, reason), link
        mtu = Path(f"/sys/class/net/{name}/mtu").read_text().strip()
        raise ConfigError(
            f"network device {name}",
            f"it does not take the program in {wanted or 'any'} mode: {reason} (its MTU is {mtu}, and for XDP most drivers want a packet to fit into a page)",
            "Lower its MTU, or allow generic mode",
        )


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        there = ", ".join(sorted(n for _, n in socket.if_nameindex()))
        raise ConfigError(f"network device {name}", "there is none here", f"Name one of: {there}") from None


def _numbered(loaded: Object, attached: Attached, index: int) -> Attached:
    mode = GENERIC_MODE if attached.mode is Mode.GENERIC else NATIVE_MODE
    return replace(attached, number=loaded.program_at(index, mode))


def _occupied(loaded: Object, name: str, index: int) -> ConfigError:
    number = loaded.program_at(index, NATIVE_MODE) or loaded.program_at(index, GENERIC_MODE)
    return ConfigError(
        f"network device {name}",
        f"another XDP program is at it (number {number}), and a device has room for one",
        f"See it with `ip link show {name}`, and take it away (`ip link set {name} xdp off`), or name another device",
    )


def kernel_hertz() -> int:
    """Jiffies in a second: a coarse clock has the resolution of one (``CONFIG_HZ``; clock_getres(2))."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def vlan_links(text: str, index_of: Callable[[str], int]) -> dict[int, LinkRecord]:
    """By the index of a VLAN's device, how frames leave by the device under it, from the text of ``/proc/net/vlan/config``."""
    found = {}
    for line in text.splitlines()[2:]:
        name, number, under = (word.strip() for word in line.split("|"))
        tag = Tag(_wire(_VLAN_PROTOCOL), _wire(int(number)))
        found[index_of(name)] = LinkRecord(index_of(under), tag)
    return found


def _wire(word: int) -> int:
    return int.from_bytes(word.to_bytes(2, "big"), "little")
