"""libbpf, as far as the XDP data plane needs it: load an object with maps of given sizes, read and write maps, attach a program, run it on a packet.

What is pinned in a BPF file system outlives this process.

Signatures are those of ``bpf/libbpf.h`` and ``bpf/bpf.h`` of libbpf 1.1, whose ABI later 1.x releases keep.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from lbnode.errors import ConfigError

_LIBRARY = "libbpf.so.1"
#: ``enum bpf_map_type`` of linux/bpf.h.
MAP_TYPE_ARRAY = 2
#: linux/bpf.h: the values of the array begin on a page and can be mapped.
MAPPED = 1 << 10
_CONSTANTS = ".rodata.limits"
_DEBUG = 2  # enum libbpf_print_level
#: The verifier says all in one message, and what matters is at its end.
_LOG_BYTES = 1 << 24
_ANY = 0  # BPF_ANY
#: linux/bpf.h, BPF_F_ANY_ALIGNMENT. Intel and ARM read words anywhere; a kernel that is built without saying so (User-Mode Linux) refuses it otherwise.
_ANY_ALIGNMENT = 1 << 1
_ATTACH_XDP = 37  # BPF_XDP of enum bpf_attach_type
#: linux/if_link.h.
GENERIC_MODE, NATIVE_MODE = 1 << 1, 1 << 2

_Sample = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Print = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class XdpContext(ctypes.Structure):
    """``struct xdp_md`` of linux/bpf.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint32)
        for name in ("data", "data_end", "data_meta", "ingress_ifindex", "rx_queue_index", "egress_ifindex")
    )


class _RunOptions(ctypes.Structure):
    """``struct bpf_test_run_opts`` of bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class _MapOptions(ctypes.Structure):
    """``struct bpf_map_create_opts`` of bpf/bpf.h, up to the flags."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


class _MapInfo(ctypes.Structure):
    """The beginning of ``struct bpf_map_info`` of linux/bpf.h."""

    _fields_ = (("type", ctypes.c_uint32), ("id", ctypes.c_uint32))


class _LinkInfo(ctypes.Structure):
    """The beginning of ``struct bpf_link_info`` of linux/bpf.h, for a link of type XDP."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("program", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
    )


class _LinkOptions(ctypes.Structure):
    """The beginning of ``struct bpf_link_create_opts`` of bpf/bpf.h."""

    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did with one packet. ``nanoseconds`` is the kernel's mean over all repeats."""

    verdict: int
    packet: bytes
    nanoseconds: int


class _Log:
    """The last lines that libbpf and the verifier said."""

    def __init__(self, c_library: ctypes.CDLL) -> None:
        self.lines: list[str] = []
        self._format = c_library.vsnprintf
        self._format.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)
        self.callback = _Print(self._say)

    def _say(self, level: int, template: bytes, arguments: int) -> int:
        if level < _DEBUG:
            buffer = ctypes.create_string_buffer(_LOG_BYTES)
            self._format(buffer, _LOG_BYTES, template, arguments)
            self.lines += buffer.value.decode(errors="replace").rstrip().splitlines()
            del self.lines[:-200]
        return 0


def _library() -> tuple[ctypes.CDLL, _Log]:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise ConfigError(
            _LIBRARY, f"it cannot be loaded, and the XDP data plane needs it: {error}", "Install the package libbpf1"
        ) from None
    for name in (
        "bpf_object__open_file",
        "bpf_object__find_map_by_name",
        "bpf_object__find_program_by_name",
        "bpf_object__next_program",
        "ring_buffer__new",
    ):
        getattr(library, name).restype = ctypes.c_void_p
    log = _Log(ctypes.CDLL(None))
    library.libbpf_set_print(log.callback)
    return library, log


class Map:
    """One map of the kernel, by its descriptor, which it owns. Keys are numbers, but for :meth:`put`, :meth:`remove` and :meth:`keys`."""

    def __init__(self, library: ctypes.CDLL, descriptor: int, value_bytes: int) -> None:
        self._library = library
        self.descriptor = descriptor
        self.value_bytes = value_bytes

    def __setitem__(self, place: int, value: bytes | ctypes.Structure) -> None:
        data = bytes(value)
        if len(data) != self.value_bytes:
            raise ValueError(f"{len(data)} bytes for a value of {self.value_bytes}")
        key = ctypes.c_uint32(place)
        _check(
            self._library.bpf_map_update_elem(self.descriptor, ctypes.byref(key), data, ctypes.c_uint64(_ANY)),
            f"place {place} of a map cannot be written",
        )

    def __getitem__(self, place: int) -> bytes:
        key = ctypes.c_uint32(place)
        value = ctypes.create_string_buffer(self.value_bytes)
        _check(
            self._library.bpf_map_lookup_elem(self.descriptor, ctypes.byref(key), value),
            f"place {place} of a map cannot be read",
        )
        return value.raw

    def each_processor(self, place: int) -> list[bytes]:
        """The values of a map that has one for each processor that the kernel can have; each is padded to 8 bytes there."""
        padded = -(-self.value_bytes // 8) * 8
        count = self._library.libbpf_num_possible_cpus()
        _check(count, "the number of possible processors cannot be read")
        key = ctypes.c_uint32(place)
        values = ctypes.create_string_buffer(padded * count)
        _check(
            self._library.bpf_map_lookup_elem(self.descriptor, ctypes.byref(key), values),
            f"place {place} of a map cannot be read",
        )
        return [values.raw[n * padded : n * padded + self.value_bytes] for n in range(count)]

    def point(self, place: int, inner: Map) -> None:
        """Put a map into a place of this map of maps: programs see the old one or the new one, nothing between."""
        key, value = ctypes.c_uint32(place), ctypes.c_uint32(inner.descriptor)
        _check(
            self._library.bpf_map_update_elem(
                self.descriptor, ctypes.byref(key), ctypes.byref(value), ctypes.c_uint64(_ANY)
            ),
            f"place {place} of a map of maps cannot be written",
        )

    def clear_each_processor(self, place: int) -> None:
        """Write zeros into a place of a map that has a value for each processor."""
        count = self._library.libbpf_num_possible_cpus()
        _check(count, "the number of possible processors cannot be read")
        key, values = ctypes.c_uint32(place), bytes(-(-self.value_bytes // 8) * 8 * count)
        _check(
            self._library.bpf_map_update_elem(self.descriptor, ctypes.byref(key), values, ctypes.c_uint64(_ANY)),
            f"place {place} of a map cannot be written",
        )

    def put(self, key: bytes, value: bytes) -> None:
        _check(
            self._library.bpf_map_update_elem(self.descriptor, key, value, ctypes.c_uint64(_ANY)),
            f"key {key.hex()} of a map cannot be written",
        )

    def remove(self, key: bytes) -> None:
        _check(self._library.bpf_map_delete_elem(self.descriptor, key), f"key {key.hex()} of a map cannot be removed")

    def keys(self, key_bytes: int) -> list[bytes]:
        """All keys of a map that is no array."""
        found: list[bytes] = []
        following = ctypes.create_string_buffer(key_bytes)
        while True:
            last = found[-1] if found else None
            result = self._library.bpf_map_get_next_key(self.descriptor, last, following)
            if result == -errno.ENOENT:
                return found
            _check(result, "the keys of a map cannot be read")
            found.append(following.raw)

    @property
    def identity(self) -> int:
        """The kernel's number of this map."""
        return int(_info(self._library, self.descriptor, _MapInfo).id)

    def pointed(self, place: int) -> int | None:
        """The identity of the map in a place of this map of maps, if there is one."""
        key, value = ctypes.c_uint32(place), ctypes.c_uint32()
        result = self._library.bpf_map_lookup_elem(self.descriptor, ctypes.byref(key), ctypes.byref(value))
        if result == -errno.ENOENT:
            return None
        _check(result, f"place {place} of a map of maps cannot be read")
        return value.value

    def pin(self, path: Path) -> None:
        """Keep the map under this name in a BPF file system, in place of what was there."""
        path.unlink(missing_ok=True)
        _check(self._library.bpf_obj_pin(self.descriptor, str(path).encode()), f"{path} cannot be made")

    def mapped(self, size_bytes: int) -> mmap.mmap:
        """The values of an array made with :data:`MAPPED`, to be read and written as memory."""
        return mmap.mmap(self.descriptor, size_bytes)

    def read_ring(self, take: Callable[[bytes], None]) -> Ring:
        """A reader of this ring buffer, which gives each record to ``take``. Raises OSError."""
        return Ring(self._library, self.descriptor, take)

    def close(self) -> None:
        os.close(self.descriptor)


class Ring:
    """A reader of a ring buffer. What was read is gone from the ring, whoever reads."""

    def __init__(self, library: ctypes.CDLL, descriptor: int, take: Callable[[bytes], None]) -> None:
        self._library = library
        self._failure: BaseException | None = None

        def sample(_context: int, data: int, size: int) -> int:
            try:
                take(ctypes.string_at(data, size))
            except BaseException as error:  # ctypes would print it, and go on.
                self._failure = error
                return -errno.ECANCELED
            return 0

        self._sample = _Sample(sample)
        self._handle = ctypes.c_void_p(library.ring_buffer__new(descriptor, self._sample, None, None))
        if not self._handle:
            raise OSError(ctypes.get_errno(), f"a ring buffer cannot be read: {os.strerror(ctypes.get_errno())}")

    def poll(self, seconds: float) -> int:
        """Wait at most so long for records, and take all that are there; how many. Raises OSError, and what ``take`` raised."""
        if seconds:
            count = int(self._library.ring_buffer__poll(self._handle, int(seconds * 1000)))
        else:
            # Without asking whether the kernel has woken somebody yet.
            count = int(self._library.ring_buffer__consume(self._handle))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if count != -errno.EINTR:
            _check(count, "a ring buffer cannot be read")
        return max(count, 0)

    def close(self) -> None:
        self._library.ring_buffer__free(self._handle)


class Link:
    """A program at a device, by a descriptor, which it owns: without a pin it ends with that."""

    def __init__(self, library: ctypes.CDLL, descriptor: int) -> None:
        self._library = library
        self._descriptor = descriptor

    @property
    def device(self) -> int:
        """Index of the device, 0 when that is gone."""
        return int(_info(self._library, self._descriptor, _LinkInfo).device)

    def replace(self, program: int) -> None:
        """Put the program of this descriptor in place of the present one: each packet sees either."""
        _check(self._library.bpf_link_update(self._descriptor, program, None), "the program cannot be replaced")

    def pin(self, path: Path) -> None:
        _check(self._library.bpf_obj_pin(self._descriptor, str(path).encode()), f"{path} cannot be made")

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass
class Object:
    """A loaded object file: its maps and programs by name. Leaving the ``with`` block unloads what is neither pinned nor attached."""

    _library: ctypes.CDLL
    _handle: ctypes.c_void_p
    _log: _Log
    _maps: dict[str, Map] = field(default_factory=dict)

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._library.bpf_object__close(self._handle)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            found = ctypes.c_void_p(self._library.bpf_object__find_map_by_name(self._handle, name.encode()))
            if not found:
                raise KeyError(name)
            descriptor = self._library.bpf_map__fd(found)
            self._maps[name] = Map(self._library, descriptor, self._library.bpf_map__value_size(found))
        return self._maps[name]

    def program(self, name: str) -> int:
        """The descriptor of a program, which the object owns."""
        found = ctypes.c_void_p(self._library.bpf_object__find_program_by_name(self._handle, name.encode()))
        if not found:
            raise KeyError(name)
        return int(self._library.bpf_program__fd(found))

    def new_array(self, name: str, value_bytes: int, entries: int) -> Map:
        """An array of its own, to be put into a map of maps. Raises ConfigError when the kernel has no memory for it."""
        return _new_array(self._library, name, value_bytes, entries)

    def pinned(self, path: Path, value_bytes: int) -> Map:
        """A map that was pinned. Raises OSError."""
        return Map(self._library, _opened(self._library, path), value_bytes)

    def attach(self, program: str, device: int, mode: int) -> Link:
        """Have a program see each packet that comes in by the device with this index. Raises OSError; EBUSY where another one does already."""
        options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=mode)
        descriptor = self._library.bpf_link_create(self.program(program), device, _ATTACH_XDP, ctypes.byref(options))
        _check(descriptor, f"{program} cannot be attached to device {device}")
        return Link(self._library, descriptor)

    def program_at(self, device: int, mode: int) -> int:
        """The kernel's number of the program that is at a device in this mode, 0 for none. Raises OSError."""
        number = ctypes.c_uint32()
        _check(
            self._library.bpf_xdp_query_id(device, mode, ctypes.byref(number)),
            f"device {device} cannot be asked for XDP",
        )
        return number.value

    def attached(self, path: Path) -> Link:
        """A link that was pinned. Raises OSError."""
        return Link(self._library, _opened(self._library, path))

    def run(self, program: str, packet: bytes, *, device: int = 0, repeat: int = 1) -> Run:
        """Run a program on a packet that came in by the device with this index; nothing leaves the machine.

        With ``repeat`` the kernel does not restore the packet in between: only programs that restore it themselves can be measured.
        """
        output = ctypes.create_string_buffer(len(packet) + 512)
        context = XdpContext(data_end=len(packet), ingress_ifindex=device)
        options = _RunOptions(
            sz=ctypes.sizeof(_RunOptions),
            data_in=packet,
            data_out=ctypes.cast(output, ctypes.c_void_p),
            data_size_in=len(packet),
            data_size_out=len(output),
            repeat=repeat,
        )
        if device:
            options.ctx_in = ctypes.addressof(context)
            options.ctx_size_in = ctypes.sizeof(context)
        _check(
            self._library.bpf_prog_test_run_opts(self.program(program), ctypes.byref(options)),
            f"{program} cannot be run on a packet",
        )
        return Run(options.retval, output.raw[: options.data_size_out], options.duration)


def load(
    path: Path,
    *,
    entries: Mapping[str, int] | None = None,
    inner: Mapping[str, tuple[int, int]] | None = None,
    constants: ctypes.Structure | None = None,
    pins: Mapping[str, Path] | None = None,
) -> Object:
    """Load an object file. ``entries`` are sizes of maps, ``inner`` bytes of a value and size of the arrays in maps of maps; ``constants`` fill the section ``.rodata.limits``.

    ``pins`` are paths by the names of maps: a map that is there is used as it is, another one is pinned there.

    Raises:
        ConfigError: no libbpf, no such file, or the kernel refuses the program; the message ends with the verifier's last lines.
        OSError: a map cannot have the size that is asked for.
    """
    library, log = _library()
    handle = ctypes.c_void_p(library.bpf_object__open_file(str(path).encode(), None))
    if not handle:
        raise ConfigError(
            str(path),
            f"it cannot be opened: {os.strerror(ctypes.get_errno())}. {_last(log)}",
            "Build it with tools.bpf",
        )
    models: list[Map] = []
    try:
        for name, count in (entries or {}).items():
            _check(
                library.bpf_map__set_max_entries(_found(library, handle, name), count), f"map {name}: {count} entries"
            )
        for name, (value_bytes, count) in (inner or {}).items():
            # libbpf 1.1 crashes when the size of a declared inner map is set, so another one stands for its shape.
            model = _new_array(library, name, value_bytes, count)
            models.append(model)
            _check(
                library.bpf_map__set_inner_map_fd(_found(library, handle, name), model.descriptor),
                f"maps in {name}: {count} entries of {value_bytes} bytes",
            )
        for name, pin in (pins or {}).items():
            path_text = str(pin).encode()
            _check(
                library.bpf_map__set_pin_path(_found(library, handle, name), path_text), f"{pin} is no place for a map"
            )
        if constants is not None:
            data = _found(library, handle, _CONSTANTS)
            _check(
                library.bpf_map__set_initial_value(data, bytes(constants), ctypes.c_size_t(ctypes.sizeof(constants))),
                f"{_CONSTANTS} is not of {ctypes.sizeof(constants)} bytes",
            )
        program = None
        while program := library.bpf_object__next_program(handle, ctypes.c_void_p(program)):
            library.bpf_program__set_flags(ctypes.c_void_p(program), _ANY_ALIGNMENT)
        code = library.bpf_object__load(handle)
        if code != 0:
            raise _refused(path, -code, log)
    except BaseException:
        library.bpf_object__close(handle)
        raise
    finally:
        for model in models:
            model.close()
    return Object(library, handle, log)


def pinned(path: Path, value_bytes: int) -> Map:
    """A map that was pinned, for who has loaded no object. Raises ConfigError where libbpf is missing, and OSError."""
    library, _ = _library_of_process()
    return Map(library, _opened(library, path), value_bytes)


@cache
def _library_of_process() -> tuple[ctypes.CDLL, _Log]:
    # libbpf holds on to the log's callback.
    return _library()


def _new_array(library: ctypes.CDLL, name: str, value_bytes: int, entries: int) -> Map:
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=MAPPED)
    descriptor = library.bpf_map_create(MAP_TYPE_ARRAY, name.encode(), 4, value_bytes, entries, ctypes.byref(options))
    _check(descriptor, f"no memory for {entries} x {value_bytes} bytes of {name}")
    return Map(library, descriptor, value_bytes)


def _opened(library: ctypes.CDLL, path: Path) -> int:
    descriptor = library.bpf_obj_get(str(path).encode())
    _check(descriptor, f"{path} cannot be opened")
    return int(descriptor)


_Info = TypeVar("_Info", bound=ctypes.Structure)


def _info(library: ctypes.CDLL, descriptor: int, kind: type[_Info]) -> _Info:
    info, size = kind(), ctypes.c_uint32(ctypes.sizeof(kind))
    _check(
        library.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size)),
        "the kernel does not say what a descriptor is",
    )
    return info


def _found(library: ctypes.CDLL, handle: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
    # The constants' map is named after the file too; libbpf finds it by the section's name.
    found = ctypes.c_void_p(library.bpf_object__find_map_by_name(handle, name.encode()))
    if not found:
        raise KeyError(name)
    return found


def _refused(path: Path, number: int, log: _Log) -> ConfigError:
    way_out = "Take a newer kernel, or IPVS"
    if number == errno.EPERM:
        way_out = "Run with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    return ConfigError(path.name, f"the kernel refuses it: {os.strerror(number)}. {_last(log)}", way_out)


def _last(log: _Log) -> str:
    return "libbpf said: " + " | ".join(log.lines[-20:]) if log.lines else "libbpf said nothing"


def _check(result: Any, what: str) -> None:
    if int(result) < 0:
        raise OSError(-int(result), f"{what}: {os.strerror(-int(result))}")
