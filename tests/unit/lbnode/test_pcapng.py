"""Captured frames as pcapng, read by somebody else's reader (scapy's), and block by block against the draft."""

from __future__ import annotations

import io
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from lbnode import pcapng

AT = 1_795_900_000_123_456_789


def read(data: bytes) -> list[tuple[bytes, Any]]:
    """Frames with what the file says of each."""
    return list(RawPcapNgReader(io.BytesIO(data)))


def one(data: bytes, length: int, **told: Any) -> bytes:
    said: dict[str, Any] = {"direction": "in", "number": 1, "queue": 0, "verdict": None, **told}
    return pcapng.packet(0, AT, data, length, **said)


HEAD = pcapng.section("lbnode 1") + pcapng.interface("eth0", 256)


def test_a_frame_is_read_back_with_its_device_its_direction_and_its_time_to_the_nanosecond() -> None:
    (came, told), (sent, told_of_sent) = read(
        HEAD + one(b"abcde", 5) + one(b"abcdefgh", 900, direction="out", verdict=3)
    )
    assert (came, sent) == (b"abcde", b"abcdefgh")
    assert (told.ifname, told.direction, told.wirelen, told.linktype) == (b"eth0", 1, 5, 1)
    assert (told_of_sent.direction, told_of_sent.wirelen) == (2, 900)
    assert told.tsresol == 10**9
    assert told.tshigh << 32 | told.tslow == AT


@given(st.lists(st.binary(max_size=70), max_size=5))
def test_frames_of_any_length_are_read_back_in_order(frames: list[bytes]) -> None:
    data = HEAD + b"".join(one(f, len(f)) for f in frames)
    assert [frame for frame, _ in read(data)] == frames


def test_a_packet_says_its_number_its_queue_and_the_verdict_of_xdp() -> None:
    """By hand from draft-ietf-opsawg-pcapng, sections 3.5 and 4.3: code, length, value padded to 32 bits; the verdict's first byte 2 is XDP."""
    block = one(b"", 0, direction="out", number=7, queue=3, verdict=4)
    options = (
        "0200 0400 020000000500 0800 07000000000000000600 0400 030000000700 0900 02 0400000000000000 0000000000 0000"
    )
    assert block[28:-4] == bytes.fromhex(options)


def test_a_block_says_its_length_at_both_ends() -> None:
    for block in (one(b"abc", 3), pcapng.statistics(0, AT, 9), pcapng.section("x"), pcapng.interface("eth0", 256)):
        assert len(block) % 4 == 0
        assert struct.unpack("<I", block[4:8]) == struct.unpack("<I", block[-4:]) == (len(block),)


def test_frames_that_are_missing_are_told() -> None:
    """Section 4.6: type 5, then the device, the time in two halves, and option 5 (isb_ifdrop) with 64 bits."""
    block = pcapng.statistics(2, AT, 9)
    assert struct.unpack("<IIIII", block[:20]) == (5, len(block), 2, AT >> 32, AT & 0xFFFFFFFF)
    assert block[20:32] == bytes.fromhex("0500 0800 0900000000000000")
