"""What `lbnode capture` writes of the frames that it gets, read by somebody else's reader (scapy's), and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from lbnode.__main__ import main
from lbnode.dataplane.xdp_capture import Frame
from lbnode.roles.capture import Recording

DROP, TX, REDIRECT = 1, 3, 4
UNIX = 1_795_900_000_000_000_000
NAMES = {2: "eth0", 5: "eth1"}


def frame(data: bytes, verdict: int | None = None, *, device: int = 2, cpu: int = 0, at: int = 0) -> Frame:
    return Frame(at, device, cpu, verdict, len(data), data)


def written(*frames: Frame, most: int = 100) -> tuple[Recording, list[tuple[bytes, str, int, int]]]:
    """Each frame with its device, its direction and its time."""
    recording = Recording(NAMES.__getitem__, UNIX, most)
    data = recording.head() + b"".join(map(recording.frame, frames)) + recording.tail(9, 3)
    read: Any = RawPcapNgReader(io.BytesIO(data))
    return recording, [
        (raw, told.ifname.decode(), told.direction, (told.tshigh << 32) + told.tslow) for raw, told in read
    ]


def numbers(*frames: Frame) -> list[int]:
    """The packet that each frame is of: option 5 of 8 bytes, the second one of its block."""
    recording = Recording(NAMES.__getitem__, UNIX, 100)
    recording.frame(frame(b""))
    found = []
    for one in frames:
        block = recording.frame(one)
        found.append(int.from_bytes(block[block.rindex(bytes.fromhex("05000800")) + 4 :][:8], "little") - 1)
    return found


def test_what_came_is_inbound_and_what_was_sent_on_outbound_and_what_was_dropped_never_left() -> None:
    _, frames = written(
        frame(b"a", at=5), frame(b"out a", TX, at=7), frame(b"b"), frame(b"b", DROP), frame(b"c"), frame(b"d", REDIRECT)
    )
    assert [(raw, direction) for raw, _, direction, _ in frames] == [
        (b"a", 1),
        (b"out a", 2),
        (b"b", 1),
        (b"b", 1),
        (b"c", 1),
        (b"d", 2),
    ]
    assert [at for *_, at in frames[:2]] == [UNIX + 5, UNIX + 7]


def test_each_device_is_described_once_and_before_its_first_frame() -> None:
    _, frames = written(frame(b"a"), frame(b"b", device=5), frame(b"c"))
    assert [name for _, name, _, _ in frames] == ["eth0", "eth1", "eth0"]


def test_both_frames_of_a_packet_have_its_number_also_where_other_processors_come_in_between() -> None:
    assert numbers(frame(b""), frame(b"", cpu=1), frame(b"", TX, cpu=1), frame(b"", TX)) == [1, 2, 2, 1]


def test_a_frame_whose_other_one_was_lost_is_a_packet_of_its_own() -> None:
    assert numbers(frame(b"", TX, cpu=1), frame(b""), frame(b""), frame(b"", TX)) == [1, 2, 3, 3]


def test_packets_beyond_the_wanted_number_are_left_out_and_those_before_are_whole() -> None:
    recording, frames = written(
        frame(b"a"), frame(b"b", cpu=1), frame(b"c", cpu=2), frame(b"C", TX, cpu=2), frame(b"B", TX, cpu=1), most=2
    )
    assert [raw for raw, *_ in frames] == [b"a", b"b", b"B"]
    assert (recording.packets, recording.frames) == (2, 3)


def test_a_capture_without_frames_is_a_file_that_can_be_read() -> None:
    recording, frames = written()
    assert frames == [] and recording.packets == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vip", "203.0.113.300"], "203.0.113.300"),
        (["--vip", "203.0.113.1", "--count", "0"], "0 is not a whole number from 1 to 100000"),
        (["--vip", "203.0.113.1", "--seconds", "1e9"], "1e9 is not a whole number from 1 to 600"),
        (["--vip", "203.0.113.1", "--port", "65536"], "65536 is not a whole number from 1 to 65535"),
        ([], "--vip"),
    ],
)
def test_a_capture_without_bounds_or_an_address_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["capture", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nowhere" / "web.pcapng"
    assert main(["capture", "--vip", "203.0.113.1", "--output", str(missing)]) == 2
    assert str(missing) in capsys.readouterr().err
