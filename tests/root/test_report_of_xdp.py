"""What the lab's report reads from the maps of a node with XDP, and spoils there for its controls, against what the node does with packets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.report import xdp_maps
from lbnode.diff import diff_edge
from lbnode.model import Destination, EdgeState, VirtualService
from lbnode.operations import AddDestination, AddService, SetWeight
from lbnode.ring import ring
from tests.conformance.xdp import XdpNode
from tests.root.test_xdp_pins import (  # noqa: F401 - built and machine are fixtures
    DNS,
    ONE,
    THREE,
    TWO,
    TWO_WORKERS,
    WEB,
    Machine,
    built,
    machine,
    send,
    worker,
)

pytestmark = pytest.mark.root

NAME = f"t {WEB.address}:{WEB.port}"
PORTS = range(1000, 1100)


@pytest.fixture
def node(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[XdpNode]:  # noqa: F811
    monkeypatch.setattr(xdp_maps, "PINS", machine.pins)
    with ExitStack() as stack:
        found = machine.agent(stack)
        found.plane.apply(TWO_WORKERS)
        yield found


def opened(node: XdpNode) -> dict[int, str]:
    """The worker that each of a hundred connections opens with; what opens is not stored, so each time the ring chooses."""
    return {port: worker(send(node, port, "S")) for port in PORTS}


def mend(node: XdpNode) -> None:
    """As an agent's next pass does."""
    found = node.plane.read()
    wanted = VirtualService(WEB, tuple(sorted([Destination(ONE), Destination(TWO)], key=lambda d: d.order)))
    node.plane.apply(diff_edge(EdgeState(timeouts=found.timeouts, services=(wanted,)), None, found))


def test_services_have_their_workers_and_what_was_sent_to_each(node: XdpNode) -> None:
    node.plane.apply([AddDestination(WEB, THREE, 1), SetWeight(WEB, THREE, 0), AddService(VirtualService(DNS))])
    sent = Counter(opened(node).values())
    assert xdp_maps.Maps().services() == {
        NAME: [(str(ONE), 1, sent[str(ONE)]), (str(TWO), 1, sent[str(TWO)]), (str(THREE), 0, 0)],
        f"u {DNS.address}:{DNS.port}": [],
    }
    assert min(sent[str(ONE)], sent[str(TWO)]) > 0


def test_the_digest_is_that_of_the_ring_of_the_model(node: XdpNode) -> None:
    numbers = {ONE: 77, TWO: 5}
    model = [numbers[d.address] for d in ring(node.plane.read().services[0].destinations)]
    names = {number: str(address) for address, number in numbers.items()}
    assert xdp_maps.Maps().rings() == {NAME: xdp_maps.digest(model, names)}


def test_a_turned_ring_sends_every_new_flow_elsewhere_until_the_agent_mends_it(node: XdpNode) -> None:
    before, rings = opened(node), xdp_maps.Maps().rings()
    xdp_maps.Maps().turn([NAME])
    assert all(found != before[port] for port, found in opened(node).items())
    assert xdp_maps.Maps().rings() != rings
    assert not node.plane.read().services[0].intact
    mend(node)
    assert opened(node) == before
    assert xdp_maps.Maps().rings() == rings


def test_an_emptied_table_serves_nothing_until_the_agent_mends_it(node: XdpNode) -> None:
    before = opened(node)
    maps = xdp_maps.Maps()
    maps.clear()
    assert maps.services() == {}
    assert node.plane.read().services == ()
    mending = threading.Timer(0.3, mend, [node])
    mending.start()
    began = time.monotonic()
    seconds = maps.seconds_without(str(WEB.address), 10)
    mending.join()
    assert seconds is not None
    assert 0.2 < seconds <= time.monotonic() - began
    assert opened(node) == before


def test_a_table_that_stays_empty_is_told_from_one_that_is_mended(node: XdpNode) -> None:
    maps = xdp_maps.Maps()
    maps.clear()
    assert maps.seconds_without(str(WEB.address), 0.2) is None


def test_what_is_not_served_cannot_be_turned(node: XdpNode) -> None:
    with pytest.raises(LookupError, match=r"not served: t 192\.0\.2\.1:80"):
        xdp_maps.Maps().turn([NAME, "t 192.0.2.1:80"])


def test_a_node_without_a_program_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xdp_maps, "PINS", tmp_path)
    with pytest.raises(LookupError, match="the maps of 0 programs"):
        xdp_maps.Maps()
