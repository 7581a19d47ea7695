"""What a capture marks in a table of VIPs, when it is over, and what it reads."""

from __future__ import annotations

import ctypes
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.xdp_capture import Frame, XdpCapture, frame_of, is_left_over, is_over, marks
from lbnode.dataplane.xdp_program import Sizes, folder_name, sizes_of_folder
from lbnode.dataplane.xdp_records import VIP_CAPTURED, Capture, Captured, Vip
from lbnode.dataplane.xdp_table import address_vips, key_of, made_of, vip_of, vip_table
from lbnode.errors import ConfigError
from lbnode.model import Protocol, VirtualKey, VirtualService

ADDRESSES = [ip_address(f"203.0.113.{n}") for n in range(1, 5)] + [ip_address("2001:db8::1")]
KEYS = [VirtualKey(a, p, port) for a in ADDRESSES for p, port in ((Protocol.TCP, 80), (Protocol.UDP, 53))]
SECOND = 1_000_000_000


def table(marked: frozenset[VirtualKey] = frozenset()) -> bytes:
    vips = [
        vip_of(VirtualService(key), number, made_of({}), limited=number % 2 == 0) for number, key in enumerate(KEYS, 1)
    ]
    for key, vip in zip(KEYS, vips, strict=True):
        vip.flags |= VIP_CAPTURED if key in marked else 0
    return b"".join(
        bytes(v or Vip()) for v in vip_table([*vips, *address_vips({key: n for n, key in enumerate(KEYS, 1)})], 64)
    )


def flags(raw: bytes) -> dict[VirtualKey | str, int]:
    """The flags of every record, those of whole addresses by their text."""
    records = [Vip.from_buffer_copy(raw, at) for at in range(0, len(raw), ctypes.sizeof(Vip))]
    services = {key_of(v): v.flags for v in records if v.service & 0xFFFF}
    whole = {f"{v.address_high:x}-{v.address_low:x}": v.flags for v in records if v.service and not v.service & 0xFFFF}
    return {**services, **whole}


@given(st.frozensets(st.sampled_from(KEYS)), st.frozensets(st.sampled_from(KEYS)))
def test_the_services_that_are_wanted_have_the_mark_and_nothing_else_changes(
    before: frozenset[VirtualKey], wanted: frozenset[VirtualKey]
) -> None:
    raw = bytearray(table(before))
    words, chosen, there = marks(bytes(raw), wanted.__contains__)
    for at, word in words.items():
        raw[at : at + len(word)] = word
    assert set(chosen) == wanted and set(there) == set(KEYS)
    assert flags(bytes(raw)) == flags(table(wanted))
    assert bytes(raw) == table(wanted)
    assert marks(bytes(raw), wanted.__contains__)[0] == {}, "a second time there is nothing to write"


def test_a_capture_is_over_when_it_has_enough_or_when_its_time_is_up_and_one_that_never_began_is_over_too() -> None:
    assert not is_over(Capture(until=9 * SECOND, most=3, taken=2), 9 * SECOND - 1)
    assert is_over(Capture(until=9 * SECOND, most=3, taken=3), 0)
    assert is_over(Capture(until=9 * SECOND, most=3, taken=0), 9 * SECOND)
    assert is_over(Capture(), 0)


def test_marks_belong_to_nobody_some_seconds_after_the_capture_should_have_taken_them_off() -> None:
    assert not is_left_over(Capture(until=9 * SECOND, most=3, taken=3), 12 * SECOND)
    assert is_left_over(Capture(until=9 * SECOND, most=3, taken=0), 14 * SECOND)
    assert not is_left_over(Capture(), 14 * SECOND)


def captured(frame: bytes, length: int, verdict: int) -> bytes:
    record = Captured(nanoseconds=5, verdict=verdict, device=2, bytes=length, cpu=1)
    ctypes.memmove(record.frame, frame, len(frame))
    return bytes(record)


def test_a_record_is_a_frame_of_its_length_or_of_what_was_copied_of_it() -> None:
    assert frame_of(captured(b"short", 5, 3)) == Frame(5, 2, 1, 3, 5, b"short")
    long = frame_of(captured(bytes(range(256)), 1514, 0xFFFFFFFF))
    assert (long.verdict, long.frame_bytes, long.data) == (None, 1514, bytes(range(256)))


def test_the_sizes_of_maps_are_read_back_from_their_folder_and_from_no_other() -> None:
    sizes = Sizes(vip_places=256, services=31, destinations=255, flow_sets=4096)
    name = folder_name(sizes)
    assert sizes_of_folder(name) == sizes
    for other in ("link-eth0", name + "-1", "0" * 8 + name[8:], name[:8], name.replace("256", "many")):
        assert sizes_of_folder(other) is None


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ((), "no XDP program is there"),
        (("00000000-64-15-31-64", "link-eth0"), "of another version is there (00000000-64-15-31-64, link-eth0)"),
    ],
)
def test_where_no_program_of_ours_is_the_error_says_where_to_go(
    tmp_path: Path, there: tuple[str, ...], words: str
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError) as refused:
        XdpCapture(tmp_path, lambda _frame: None)
    assert words in str(refused.value)
    assert "Run this in the container of an edge node's agent with dataplane xdp" in str(refused.value)
