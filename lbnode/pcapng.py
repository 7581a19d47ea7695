"""Captured frames as pcapng, which Wireshark, tshark and tcpdump read. Pure: values in, bytes out.

Block types and options are those of draft-ietf-opsawg-pcapng: sections 4.1 (section header), 4.2 (interface description), 4.3 (enhanced packet)
and 4.6 (interface statistics). Numbers are little-endian, as the section header says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Literal

_SECTION, _INTERFACE, _PACKET, _STATISTICS = 0x0A0D0D0A, 1, 6, 5
_MAGIC, _VERSION, _LENGTH_UNKNOWN = 0x1A2B3C4D, (1, 0), -1
_ETHERNET = 1  # LINKTYPE_ETHERNET
_APPLICATION = 4  # shb_userappl
_NAME, _RESOLUTION = 2, 9  # if_name, if_tsresol
_NANOSECONDS = 9  # 10 to the power of -9 s
_FLAGS, _PACKET_ID, _QUEUE, _VERDICT = 2, 5, 6, 7  # epb_*
_DIRECTIONS = {"in": 1, "out": 2}  # the lowest two bits of epb_flags
_OF_XDP = 2  # epb_verdict: Linux_eBPF_XDP, with enum xdp_action in 64 bits
_DROPPED = 5  # isb_ifdrop

Direction = Literal["in", "out"]
_Option = tuple[int, bytes]


def section(application: str) -> bytes:
    """What a file begins with."""
    body = struct.pack("<IHHq", _MAGIC, *_VERSION, _LENGTH_UNKNOWN)
    return _block(_SECTION, body, [(_APPLICATION, application.encode())])


def interface(name: str, snap_bytes: int) -> bytes:
    """A device with frames of Ethernet, of which at most ``snap_bytes`` are there. Devices have numbers from 0 on, in the order of these blocks."""
    body = struct.pack("<HHI", _ETHERNET, 0, snap_bytes)
    return _block(_INTERFACE, body, [(_NAME, name.encode()), (_RESOLUTION, bytes([_NANOSECONDS]))])


def packet(
    device: int,
    unix_nanoseconds: int,
    frame: bytes,
    frame_bytes: int,
    *,
    direction: Direction,
    number: int,
    queue: int,
    verdict: int | None,
) -> bytes:
    """A frame that had ``frame_bytes``. Frames with one ``number`` are one packet, before and after; ``verdict`` is of ``enum xdp_action``."""
    body = struct.pack("<IIIII", device, *_time(unix_nanoseconds), len(frame), frame_bytes) + _padded(frame)
    options = [
        (_FLAGS, struct.pack("<I", _DIRECTIONS[direction])),
        (_PACKET_ID, struct.pack("<Q", number)),
        (_QUEUE, struct.pack("<I", queue)),
    ]
    if verdict is not None:
        options.append((_VERDICT, struct.pack("<BQ", _OF_XDP, verdict)))
    return _block(_PACKET, body, options)


def statistics(device: int, unix_nanoseconds: int, dropped: int) -> bytes:
    """How many frames of a device are missing, for want of room."""
    body = struct.pack("<III", device, *_time(unix_nanoseconds))
    return _block(_STATISTICS, body, [(_DROPPED, struct.pack("<Q", dropped))])


def _time(unix_nanoseconds: int) -> tuple[int, int]:
    return unix_nanoseconds >> 32, unix_nanoseconds & 0xFFFFFFFF


def _block(kind: int, body: bytes, options: Iterable[_Option]) -> bytes:
    told = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in (*options, (0, b"")))
    length = struct.pack("<I", 12 + len(body) + len(told))
    return struct.pack("<I", kind) + length + body + told + length


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
