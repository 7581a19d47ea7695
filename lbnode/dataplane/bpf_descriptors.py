"""Maps and links of the kernel by their descriptors, through libbpf. What is pinned in a BPF file system outlives this process.

Signatures are those of ``bpf/bpf.h`` of libbpf 1.1, whose ABI later 1.x releases keep.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

#: ``enum bpf_map_type`` of linux/bpf.h.
MAP_TYPE_ARRAY = 2
#: linux/bpf.h: the values of the array begin on a page and can be mapped.
MAPPED = 1 << 10
_ANY = 0  # BPF_ANY


_Sample = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


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
        check(
            self._library.bpf_map_update_elem(self.descriptor, ctypes.byref(key), data, ctypes.c_uint64(_ANY)),
            f"place {place} of a map cannot be written",
        )

    def __getitem__(self, place: int) -> bytes:
        key = ctypes.c_uint32(place)
        value = ctypes.create_string_buffer(self.value_bytes)
        check(
            self._library.bpf_map_lookup_elem(self.descriptor, ctypes.byref(key), value),
            f"place {place} of a map cannot be read",
        )
        return value.raw

    def each_processor(self, place: int) -> list[bytes]:
        """The values of a map that has one for each processor that the kernel can have; each is padded to 8 bytes there."""
        padded = -(-self.value_bytes // 8) * 8
        count = self._library.libbpf_num_possible_cpus()
        check(count, "the number of possible processors cannot be read")
        key = ctypes.c_uint32(place)
        values = ctypes.create_string_buffer(padded * count)
        check(
            self._library.bpf_map_lookup_elem(self.descriptor, ctypes.byref(key), values),
            f"place {place} of a map cannot be read",
        )
        return [values.raw[n * padded : n * padded + self.value_bytes] for n in range(count)]

    def point(self, place: int, inner: Map) -> None:
        """Put a map into a place of this map of maps: programs see the old one or the new one, nothing between."""
        key, value = ctypes.c_uint32(place), ctypes.c_uint32(inner.descriptor)
        check(
            self._library.bpf_map_update_elem(
                self.descriptor, ctypes.byref(key), ctypes.byref(value), ctypes.c_uint64(_ANY)
            ),
            f"place {place} of a map of maps cannot be written",
        )

    def clear_each_processor(self, place: int) -> None:
        """Write zeros into a place of a map that has a value for each processor."""
        count = self._library.libbpf_num_possible_cpus()
        check(count, "the number of possible processors cannot be read")
        key, values = ctypes.c_uint32(place), bytes(-(-self.value_bytes // 8) * 8 * count)
        check(
            self._library.bpf_map_update_elem(self.descriptor, ctypes.byref(key), values, ctypes.c_uint64(_ANY)),
            f"place {place} of a map cannot be written",
        )

    def put(self, key: bytes, value: bytes) -> None:
        check(
            self._library.bpf_map_update_elem(self.descriptor, key, value, ctypes.c_uint64(_ANY)),
            f"key {key.hex()} of a map cannot be written",
        )

    def remove(self, key: bytes) -> None:
        check(self._library.bpf_map_delete_elem(self.descriptor, key), f"key {key.hex()} of a map cannot be removed")

    def keys(self, key_bytes: int) -> list[bytes]:
        """All keys of a map that is no array."""
        found: list[bytes] = []
        following = ctypes.create_string_buffer(key_bytes)
        while True:
            last = found[-1] if found else None
            result = self._library.bpf_map_get_next_key(self.descriptor, last, following)
            if result == -errno.ENOENT:
                return found
            check(result, "the keys of a map cannot be read")
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
        check(result, f"place {place} of a map of maps cannot be read")
        return value.value

    def pin(self, path: Path) -> None:
        """Keep the map under this name in a BPF file system, in place of what was there."""
        path.unlink(missing_ok=True)
        check(self._library.bpf_obj_pin(self.descriptor, str(path).encode()), f"{path} cannot be made")

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
            check(count, "a ring buffer cannot be read")
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
        check(self._library.bpf_link_update(self._descriptor, program, None), "the program cannot be replaced")

    def pin(self, path: Path) -> None:
        check(self._library.bpf_obj_pin(self._descriptor, str(path).encode()), f"{path} cannot be made")

    def close(self) -> None:
        os.close(self._descriptor)


def new_array(library: ctypes.CDLL, name: str, value_bytes: int, entries: int) -> Map:
    """An array whose values can be mapped. Raises OSError."""
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=MAPPED)
    descriptor = library.bpf_map_create(MAP_TYPE_ARRAY, name.encode(), 4, value_bytes, entries, ctypes.byref(options))
    check(descriptor, f"no memory for {entries} x {value_bytes} bytes of {name}")
    return Map(library, descriptor, value_bytes)


def opened(library: ctypes.CDLL, path: Path) -> int:
    """The descriptor of what is pinned there. Raises OSError."""
    descriptor = library.bpf_obj_get(str(path).encode())
    check(descriptor, f"{path} cannot be opened")
    return int(descriptor)


_Info = TypeVar("_Info", bound=ctypes.Structure)


def _info(library: ctypes.CDLL, descriptor: int, kind: type[_Info]) -> _Info:
    info, size = kind(), ctypes.c_uint32(ctypes.sizeof(kind))
    check(
        library.bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(size)),
        "the kernel does not say what a descriptor is",
    )
    return info


def check(result: Any, what: str) -> None:
    """Raises OSError for an answer of libbpf that is a negative error number."""
    if int(result) < 0:
        raise OSError(-int(result), f"{what}: {os.strerror(-int(result))}")
