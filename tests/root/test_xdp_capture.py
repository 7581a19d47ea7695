"""Captures of what the XDP program takes, with the program run by the kernel itself; nothing leaves the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.packet import Packet
from scapy.utils import RawPcapNgReader

from lbnode.dataplane.xdp_capture import Frame, XdpCapture
from lbnode.dataplane.xdp_records import CAPTURE_BYTES, Drop
from lbnode.errors import ConfigError
from lbnode.model import Protocol, VirtualKey, VirtualService
from lbnode.operations import AddService, RemoveService
from lbnode.roles.capture import capture
from tests.conformance.xdp import bpf_file_system
from tests.root.test_xdp_fixtures import DROP, TX, Edge, expected, serving, tunnelled
from tests.root.xdp_fixtures import (
    FIXTURES,
    VIP,
    WEB_WORKER,
    Answered,
    Dropped,
    Outcome,
    Passes,
    Tunnelled,
    came,
    to_web,
)

pytestmark = pytest.mark.root

SECOND = 1_000_000_000
WEB = VirtualKey(ip_address(VIP), Protocol.TCP, 80)


@dataclass
class Watched:
    """An edge node, and where its maps are pinned."""

    edge: Edge
    pins: Path


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("capture") / "bpf"
    with bpf_file_system(folder) as pins, serving(pins / "samegate") as edge:
        yield Watched(edge, pins / "samegate")


@dataclass
class Taking:
    """A capture that is going on, and what it has taken."""

    capture: XdpCapture
    frames: list[Frame] = field(default_factory=list)

    def seen(self) -> list[tuple[int | None, bytes]]:
        """Verdicts and frames, as far as the program has put them into the ring."""
        self.capture.poll(0)
        return [(f.verdict, f.data) for f in self.frames]


@contextmanager
def taking(
    watched: Watched,
    *,
    most: int = 10_000,
    seconds: float = 60,
    one_in: int = 1,
    wanted: Callable[[VirtualKey], bool] = lambda _key: True,
) -> Iterator[Taking]:
    frames: list[Frame] = []
    taken = XdpCapture(watched.pins, frames.append)
    now = time.monotonic_ns()
    taken.begin(most, now + int(seconds * SECOND), one_in, now)
    taken.mark(wanted)
    try:
        yield Taking(taken, frames)
    finally:
        taken.end()
        taken.close()


def frames_of(packet: Packet, outcome: Outcome) -> list[tuple[int | None, bytes]]:
    """What a capture has to show of a packet."""
    verdict, sent, reason = expected(packet, outcome)
    match outcome:
        case Passes() | Dropped(Drop.FRAGMENT) | Dropped(Drop.OPTIONS) | Answered(_, None):
            # The program is done with these before it asks for the service.
            return []
        case Dropped():
            assert reason is not None
            return [(None, bytes(packet)[:CAPTURE_BYTES]), (DROP, bytes(packet)[:CAPTURE_BYTES])]
        case Tunnelled() | Answered():
            return [(None, bytes(packet)[:CAPTURE_BYTES]), (verdict, sent[:CAPTURE_BYTES])]


@pytest.mark.parametrize(("packet", "outcome"), FIXTURES.values(), ids=FIXTURES.keys())
def test_a_packet_comes_to_the_same_whether_or_not_somebody_looks_and_both_ends_of_it_are_seen(
    watched: Watched, packet: Packet, outcome: Outcome
) -> None:
    verdict, sent, reason = expected(packet, outcome)
    with taking(watched) as taken:
        before = watched.edge.drops()
        run = watched.edge.run(bytes(packet))
        counted = {d: n - before[d] for d, n in watched.edge.drops().items() if n != before[d]}
        assert (run.verdict, run.packet) == (verdict, sent)
        assert counted == ({} if reason is None else {reason: 1})
        assert taken.seen() == frames_of(packet, outcome)


def test_nothing_is_seen_of_a_vip_that_nobody_asked_for_nor_after_the_end(watched: Watched) -> None:
    packet = bytes(came(to_web()))
    with taking(watched, wanted=lambda key: key != WEB) as taken:
        watched.edge.run(packet)
        assert taken.seen() == []
    frames = taken.frames
    watched.edge.run(packet)
    with taking(watched, wanted=lambda _key: False) as later:
        watched.edge.run(packet)
        assert (later.seen(), frames) == ([], [])


def test_a_capture_ends_by_itself_with_its_last_packet(watched: Watched) -> None:
    with taking(watched, most=5) as taken:
        for _ in range(20):
            watched.edge.run(bytes(came(to_web())))
        verdicts = [verdict for verdict, _ in taken.seen()]
    assert verdicts == [None, TX] * 5


def test_a_capture_ends_by_itself_when_its_time_is_up(watched: Watched) -> None:
    with taking(watched, seconds=1) as taken:
        watched.edge.run(bytes(came(to_web())))
        time.sleep(1.1)
        watched.edge.run(bytes(came(to_web())))
        assert len(taken.seen()) == 2


def test_one_of_ten_packets_is_taken_where_that_is_asked_for(watched: Watched) -> None:
    """Of 2,000 packets 200, with a standard deviation of 13; both frames of each."""
    with taking(watched, one_in=10) as taken:
        for _ in range(2000):
            watched.edge.run(bytes(came(to_web())))
            taken.capture.poll(0)
        assert 100 <= len([f for f in taken.frames if f.verdict is None]) <= 300
        assert len(taken.frames) % 2 == 0


def test_frames_that_find_no_room_are_counted_and_their_packets_go_on(watched: Watched) -> None:
    with taking(watched) as taken:
        for _ in range(2000):
            run = watched.edge.run(bytes(came(to_web())))
            assert run.packet == tunnelled(came(to_web()), WEB_WORKER)
        kept = len(taken.seen())
        assert taken.capture.state().lost == 4000 - kept > 0


def test_a_change_of_what_is_served_loses_the_mark_until_it_is_set_again(watched: Watched) -> None:
    other = VirtualKey(ip_address(VIP), Protocol.TCP, 8080)
    with taking(watched) as taken:
        watched.edge.balancer.apply([AddService(VirtualService(other))])
        watched.edge.run(bytes(came(to_web())))
        assert taken.seen() == []
        chosen, _ = taken.capture.mark(lambda key: key == WEB)
        assert chosen == [WEB]
        watched.edge.run(bytes(came(to_web())))
        assert len(taken.seen()) == 2
        watched.edge.balancer.apply([RemoveService(other)])


def test_the_agent_takes_the_marks_off_that_a_killed_capture_left(watched: Watched) -> None:
    killed = XdpCapture(watched.pins, lambda _frame: None)
    now = time.monotonic_ns()
    killed.begin(10, now + SECOND, 1, now)
    killed.mark(lambda _key: True)
    killed.close()
    watched.edge.state.end_capture(now + 3 * SECOND)
    later = XdpCapture(watched.pins, lambda _frame: None)
    try:
        assert later.state().until == now + SECOND, "it may still be about to do so itself"
        watched.edge.state.end_capture(now + 7 * SECOND)
        assert later.state().until == 0
    finally:
        later.close()
    frames: list[Frame] = []
    looking = XdpCapture(watched.pins, frames.append)
    now = time.monotonic_ns()
    looking.begin(10, now + 60 * SECOND, 1, now)
    watched.edge.run(bytes(came(to_web())))
    looking.end()
    looking.close()
    assert frames == []


def test_a_second_capture_is_refused_while_the_first_goes_on(watched: Watched) -> None:
    with taking(watched):
        second = XdpCapture(watched.pins, lambda _frame: None)
        now = time.monotonic_ns()
        with pytest.raises(ConfigError, match="another one is going on here, for 60 s more at most"):
            second.begin(10, now + SECOND, 1, now)
        second.close()


def test_the_command_writes_what_came_and_ends_with_the_number_that_it_was_given(
    watched: Watched, tmp_path: Path
) -> None:
    file = tmp_path / "web.pcapng"
    codes: list[int] = []
    asked = threading.Thread(target=lambda: codes.append(capture(WEB.address, 80, 3, 30, 1, file, pins=watched.pins)))
    asked.start()
    packet = bytes(came(to_web()))
    while asked.is_alive():
        watched.edge.run(packet)
        time.sleep(0.02)
    asked.join()
    with RawPcapNgReader(str(file)) as read:
        frames = [(raw, told.direction) for raw, told in read]
    assert codes == [0]
    assert frames == [(packet, 1), (tunnelled(came(to_web()), WEB_WORKER), 2)] * 3


def test_a_vip_that_is_not_served_is_refused_with_those_that_are(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        capture(ip_address("203.0.113.99"), None, 3, 1, 1, tmp_path / "none.pcapng", pins=watched.pins)
    assert f"tcp://{VIP}:80" in str(refused.value)
    later = XdpCapture(watched.pins, lambda _frame: None)
    assert later.state().until == 0, "the next one is not kept waiting"
    later.close()
