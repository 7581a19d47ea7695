"""``python -m lbnode capture``: the packets of a VIP that the XDP program takes, as pcapng; bounded in number and time."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from lbnode import __version__, pcapng
from lbnode.dataplane.bpf_pins import BPF_DIRECTORY
from lbnode.dataplane.xdp_capture import Frame, XdpCapture, is_over
from lbnode.dataplane.xdp_records import CAPTURE_BYTES
from lbnode.errors import ConfigError
from lbnode.model import IPAddress, VirtualKey

_SENT_ON = (3, 4)  # XDP_TX and XDP_REDIRECT of linux/bpf.h
_POLL_SECONDS = 0.2
_NAMED = 10


class Recording:
    """Frames as a pcapng file, written bit by bit. ``device_name`` knows devices by their index; ``unix_nanoseconds`` is the time at 0 of the
    frames' clock. Packets after the first ``most`` are left out.
    """

    def __init__(self, device_name: Callable[[int], str], unix_nanoseconds: int, most: int) -> None:
        self._device_name = device_name
        self._unix_nanoseconds = unix_nanoseconds
        self._most = most
        self._devices: dict[int, int] = {}
        self._came: dict[int, int] = {}
        self._numbered = 0
        self.frames = 0

    @property
    def packets(self) -> int:
        """How many packets are in it."""
        return min(self._numbered, self._most)

    def head(self) -> bytes:
        """What the file begins with."""
        return pcapng.section(f"lbnode {__version__}")

    def frame(self, frame: Frame) -> bytes:
        """One frame, behind the description of its device where that is new."""
        number = self._number(frame)
        if number > self._most:
            return b""
        self.frames += 1
        written = b""
        if frame.device not in self._devices:
            self._devices[frame.device] = len(self._devices)
            written = pcapng.interface(self._device_name(frame.device), CAPTURE_BYTES)
        return written + pcapng.packet(
            self._devices[frame.device],
            frame.monotonic_nanoseconds + self._unix_nanoseconds,
            frame.data,
            frame.frame_bytes,
            direction="out" if frame.verdict in _SENT_ON else "in",
            number=number,
            queue=frame.cpu,
            verdict=frame.verdict,
        )

    def _number(self, frame: Frame) -> int:
        # Where the first of a packet's two frames was lost, the second one stands alone.
        known = self._came.pop(frame.cpu, None) if frame.verdict is not None else None
        if known is not None:
            return known
        self._numbered += 1
        if frame.verdict is None:
            self._came[frame.cpu] = self._numbered
        return self._numbered

    def tail(self, monotonic_nanoseconds: int, lost: int) -> bytes:
        """What the file ends with: how many frames are missing, told of the first device."""
        at = monotonic_nanoseconds + self._unix_nanoseconds
        return pcapng.statistics(0, at, lost) if self._devices else b""


def capture(
    vip: IPAddress,
    port: int | None,
    most: int,
    seconds: int,
    one_in: int,
    output: Path | None,
    pins: Path = BPF_DIRECTORY,
) -> int:
    """Write what comes for ``vip``, and what becomes of it, to a file or else standard output; the exit code: 1 when nothing came.

    Raises:
        ConfigError: no XDP program is at work here, it does not serve the VIP, or the output is no place for a file.
    """
    if output is None and sys.stdout.isatty():
        raise ConfigError(
            "standard output", "it is a terminal, and pcapng is binary", "Redirect it, or name a file with --output"
        )
    try:
        with output.open("wb") if output is not None else os.fdopen(os.dup(1), "wb") as file:
            return _capture(vip, port, most, seconds, one_in, file, pins)
    except BrokenPipeError:
        return 0  # the reader has had enough
    except OSError as error:
        raise ConfigError(
            str(error.filename or "a capture"),
            f"the kernel refuses: {error.strerror}",
            "Run as root with CAP_BPF and CAP_NET_ADMIN, as the agent's container has them, and name a file that can be written",
        ) from None


def _capture(vip: IPAddress, port: int | None, most: int, seconds: int, one_in: int, file: BinaryIO, pins: Path) -> int:
    recording = Recording(_device_name, time.time_ns() - time.monotonic_ns(), most)

    def wanted(key: VirtualKey) -> bool:
        return key.address == vip and port in (None, key.port)

    def take(frame: Frame) -> None:
        file.write(recording.frame(frame))

    taken = XdpCapture(pins, take)
    try:
        now = time.monotonic_ns()
        taken.begin(most, now + seconds * 1_000_000_000, one_in, now)
        reached = taken.state()
        try:
            chosen, there = taken.mark(wanted)
            if not chosen:
                raise _not_served(vip, port, there)
            file.write(recording.head())
            # The reader may have had enough, or who started it.
            with suppress(KeyboardInterrupt, BrokenPipeError):
                while not is_over(taken.state(), time.monotonic_ns()):
                    file.flush()
                    taken.poll(_POLL_SECONDS)
                    # Each change of what is served makes a new table of VIPs, without marks.
                    taken.mark(wanted)
        finally:
            reached = taken.end()
    finally:
        taken.close()
    print(
        f"{recording.packets} packets, {recording.frames} frames; {reached.lost} frames found no room", file=sys.stderr
    )
    file.write(recording.tail(time.monotonic_ns(), reached.lost))
    return 0 if recording.packets else 1


def _device_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"device {index}"


def _not_served(vip: IPAddress, port: int | None, there: list[VirtualKey]) -> ConfigError:
    what = f"{vip}" if port is None else f"{vip} port {port}"
    served = [str(key) for key in sorted(there, key=lambda key: key.order)]
    more = f" and {len(served) - _NAMED} more" if len(served) > _NAMED else ""
    return ConfigError(
        f"--vip {what}",
        "the XDP program here does not serve it",
        f"Name one of: {', '.join(served[:_NAMED])}{more}" if served else "Look at what is announced: samegate status",
    )
