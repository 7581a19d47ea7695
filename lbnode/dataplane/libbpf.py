"""libbpf, as far as the XDP data plane needs it: load an object with maps of given sizes, attach a program, run it on a packet.

Signatures are those of ``bpf/libbpf.h`` and ``bpf/bpf.h`` of libbpf 1.1, whose ABI later 1.x releases keep.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

from lbnode.dataplane.bpf_descriptors import Link, Map, check, new_array, opened
from lbnode.errors import ConfigError

_LIBRARY = "libbpf.so.1"
_CONSTANTS = ".rodata.limits"
_DEBUG = 2  # enum libbpf_print_level
#: The verifier says all in one message, and what matters is at its end.
_LOG_BYTES = 1 << 24
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
        return new_array(self._library, name, value_bytes, entries)

    def pinned(self, path: Path, value_bytes: int) -> Map:
        """A map that was pinned. Raises OSError."""
        return Map(self._library, opened(self._library, path), value_bytes)

    def attach(self, program: str, device: int, mode: int) -> Link:
        """Have a program see each packet that comes in by the device with this index. Raises OSError; EBUSY where another one does already."""
        options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=mode)
        descriptor = self._library.bpf_link_create(self.program(program), device, _ATTACH_XDP, ctypes.byref(options))
        check(descriptor, f"{program} cannot be attached to device {device}")
        return Link(self._library, descriptor)

    def program_at(self, device: int, mode: int) -> int:
        """The kernel's number of the program that is at a device in this mode, 0 for none. Raises OSError."""
        number = ctypes.c_uint32()
        check(
            self._library.bpf_xdp_query_id(device, mode, ctypes.byref(number)),
            f"device {device} cannot be asked for XDP",
        )
        return number.value

    def attached(self, path: Path) -> Link:
        """A link that was pinned. Raises OSError."""
        return Link(self._library, opened(self._library, path))

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
        check(
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
            check(
                library.bpf_map__set_max_entries(_found(library, handle, name), count), f"map {name}: {count} entries"
            )
        for name, (value_bytes, count) in (inner or {}).items():
            # libbpf 1.1 crashes when the size of a declared inner map is set, so another one stands for its shape.
            model = new_array(library, name, value_bytes, count)
            models.append(model)
            check(
                library.bpf_map__set_inner_map_fd(_found(library, handle, name), model.descriptor),
                f"maps in {name}: {count} entries of {value_bytes} bytes",
            )
        for name, pin in (pins or {}).items():
            path_text = str(pin).encode()
            check(
                library.bpf_map__set_pin_path(_found(library, handle, name), path_text), f"{pin} is no place for a map"
            )
        if constants is not None:
            data = _found(library, handle, _CONSTANTS)
            check(
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


def pinned(path: Path, value_bytes: int) -> Map:
    """A map that was pinned, for who has loaded no object. Raises ConfigError where libbpf is missing, and OSError."""
    library, _ = _library_of_process()
    return Map(library, opened(library, path), value_bytes)


@cache
def _library_of_process() -> tuple[ctypes.CDLL, _Log]:
    # libbpf holds on to the log's callback.
    return _library()
