"""The lab's ToR with each of its software: the real daemons with the configuration that the lab gives them, and edge nodes' real BIRD as peers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from lab import processes, routers, topology
from lab.routers import base
from tests.root.router_rig import Rig, rig
from tests.root.speaker_rig import missing, wait_until

SOFTWARE = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason := routers.missing(name)), reason=reason or ""))
    for name in routers.SOFTWARE
]
pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

VIP, OTHER, VIP6, FOREIGN = "203.0.113.7", "203.0.113.8", "2001:db8:203:113::7", "198.51.100.1"
BOTH = tuple(str(node.address) for node in topology.EDGES)
BOTH6 = tuple(str(node.address6) for node in topology.EDGES)
CORE = "198.18.1.0"
UP = ("Established", "up")


@pytest.fixture(scope="class", params=SOFTWARE)
def running(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Core, ToR and both edge nodes' BIRD, for several tests: each makes it serve first."""
    with pytest.MonkeyPatch.context() as patches, rig(request.param, patches) as made:
        for edge in made.edges:
            edge.start()
        yield made


def serving(made: Rig) -> Rig:
    """Both edge nodes announce a VIP of each family, and everything that can be up is."""
    for edge in made.edges:
        edge.announce(VIP, VIP6, FOREIGN)
    wait_until(lambda: made.hops(made.tor, VIP) == BOTH and made.hops(made.tor, VIP6) == BOTH6, 60, "the ToR has both")
    wait_until(lambda: set(made.sessions(made.tor).values()) == {UP}, 60, "all sessions have BFD")
    return made


class TestServing:
    """One rack of routers per software, which goes with the last of these tests: no two stand at once."""

    def test_a_vip_of_two_edge_nodes_has_both_as_next_hops_in_both_families_and_the_core_learns_it(
        self, running: Rig
    ) -> None:
        made = serving(running)
        assert set(made.sessions(made.tor)) == {*BOTH, CORE}
        wait_until(lambda: made.hops(made.core, VIP) == ("198.18.1.1",), 10, "the core has the VIP")
        wait_until(lambda: made.hops(made.core, VIP6) == ("2001:db8:0:11::2",), 10, "the core has the IPv6 VIP")
        wait_until(lambda: made.sessions(made.core)["198.18.1.1"] == UP, 10, "so says the core")
        # What replies go by, and what the clients reach the rack by.
        assert routers.routes("tor1", str(topology.CLIENT_NETWORK)) == (CORE,)
        assert routers.routes("tor1", str(topology.CLIENT_NETWORK6)) == ("2001:db8:0:11::1",)
        assert routers.routes("core", str(topology.RACK_NETWORK)) == ("198.18.1.1",)
        assert routers.routes("core", str(topology.RACK_NETWORK6)) == ("2001:db8:0:11::2",)

    def test_what_is_no_host_route_of_the_pools_is_not_taken_in_and_edge_nodes_are_told_nothing(
        self, running: Rig
    ) -> None:
        made = serving(running)
        assert set(routers.pool_routes("tor1")) == {VIP, VIP6}
        assert made.hops(made.tor, FOREIGN) == ()
        assert made.hops(made.core, FOREIGN) == ()
        # Two edge nodes and the core gave the ToR routes; none came back to an edge node.
        assert [edge.learnt() for edge in made.edges] == [0, 0]

    def test_an_edge_node_that_falls_silent_is_no_next_hop_within_a_second_and_a_half(self, running: Rig) -> None:
        made = serving(running)
        before = len(made.downs())
        made.edges[0].signal(signal.SIGSTOP)
        # 3 x 300 ms of BFD, and what the daemon and the kernel take.
        wait_until(lambda: made.hops(made.tor, VIP) == BOTH[1:], 1.5, "the VIP has one next hop")
        wait_until(lambda: made.hops(made.tor, VIP6) == BOTH6[1:], 0.5, "so has the IPv6 VIP")
        assert made.sessions(made.tor)[BOTH[1]] == UP
        assert made.downs()[before:] == [(BOTH[0], "control-expired")]
        made.edges[0].signal(signal.SIGCONT)
        # Far less than the minute for which BIRD by its defaults keeps a neighbour out.
        wait_until(lambda: made.hops(made.tor, VIP) == BOTH, 30, "the edge node is back")

    def test_a_withdrawn_vip_is_gone_within_a_second_and_a_changed_set_is_followed(self, running: Rig) -> None:
        made = serving(running)
        made.edges[0].announce(OTHER)
        wait_until(
            lambda: (made.hops(made.tor, VIP), made.hops(made.tor, OTHER)) == (BOTH[1:], BOTH[:1]), 1, "it moves"
        )
        assert made.hops(made.tor, VIP6) == BOTH6[1:]
        made.edges[1].announce()
        wait_until(lambda: routers.pool_routes("tor1") == {OTHER: BOTH[:1]}, 1, "the last announcer's VIPs go")
        wait_until(lambda: made.hops(made.core, VIP) == () and made.hops(made.core, OTHER) != (), 5, "the core follows")


@pytest.mark.parametrize("name", SOFTWARE)
def test_with_a_key_only_edge_nodes_that_have_it_get_a_session(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(name, monkeypatch, password="right-key", edge_passwords=("right-key", "wrong-key")) as made:
        for edge in made.edges:
            edge.start()
            edge.announce(VIP)
        wait_until(lambda: made.hops(made.tor, VIP) == BOTH[:1], 60, "the right key's VIP appears")
        # Several of the agent's connects: it tries again after 1 to 4 s.
        time.sleep(10)
        assert made.hops(made.tor, VIP) == BOTH[:1]
        assert [edge.established() for edge in made.edges] == [True, False]
        assert made.sessions(made.tor)[CORE][0] == "Established"


@pytest.mark.parametrize("name", SOFTWARE)
def test_routers_that_run_are_left_alone_and_one_that_was_killed_is_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pids() -> dict[str, int | None]:
        return {daemon.name: processes.pid_of(daemon.name) for daemon in routers.daemons(made.tor)}

    with rig(name, monkeypatch) as made:
        before = pids()
        assert None not in before.values()
        assert routers.trouble() is None
        routers.start()
        assert pids() == before
        last = list(before)[-1]
        processes.stop(last, grace_seconds=0)
        assert routers.trouble() == f"{last}: not running"
        routers.start()
        assert routers.trouble() is None
        assert pids()[last] not in (None, before[last])
        # What the daemon's own parser cannot read is refused, and what runs goes on.
        now = pids()
        for file in made.software.render(made.tor):
            path = base.directory(made.tor) / file
            path.write_text(path.read_text() + "nonsense here\n")
        with pytest.raises(ValueError, match="rejects"):
            made.software.check(made.tor)
        assert pids() == now


def test_other_routers_take_the_place_of_the_old_ones_without_a_trace_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [name for name in routers.SOFTWARE if name != "frr" and routers.missing(name) is None]
    with rig("frr", monkeypatch) as made:
        for edge in made.edges:
            edge.start()
        serving(made)
        for name in [*others, "frr"]:
            former = [daemon.name for daemon in routers.daemons(made.tor)]
            assert routers.trouble(software=name) is not None
            routers.start(software=name)
            made.software = routers.SOFTWARE[name]
            assert routers.trouble(software=name) is None
            now = {daemon.name for daemon in routers.daemons(made.tor)}
            assert [gone for gone in former if gone not in now and processes.pid_of(gone)] == []
            wait_until(
                lambda: made.hops(made.tor, VIP) == BOTH and made.hops(made.tor, VIP6) == BOTH6, 40, "both again"
            )
            wait_until(lambda: made.hops(made.core, VIP) == ("198.18.1.1",), 60, "the core has it again")
