"""What every speaker must do, whichever it is. A tier subclasses :class:`SpeakerConformance` and brings the speaker."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest

from lbnode.errors import Bug, Retry
from lbnode.model import IPAddress
from lbnode.settings import Bgp, Peer
from lbnode.speaker.base import Speaker, SpeakerState

POOLS = (ip_network("203.0.113.0/24"),)
NODE = "edge1"
NODE_ADDRESS = ip_address("198.18.0.11")
ROUTER_ADDRESS = ip_address("198.18.0.2")
BGP = Bgp(
    local_asn=65010,
    communities=("65010:100", "65010:1:2"),
    peers=(Peer(name="tor-1", address=ROUTER_ADDRESS, asn=65001, ttl_security=True),),
)


def vips(*lasts: int) -> frozenset[IPAddress]:
    """VIPs of the pool by their last number."""
    return frozenset(ip_address(f"203.0.113.{last}") for last in lasts)


def read_until_established(speaker: Speaker, names: Iterable[str], deadline_seconds: float = 10.0) -> SpeakerState:
    """The first state in which these sessions are established; the last one seen when the time is over."""
    end = time.monotonic() + deadline_seconds
    while True:
        try:
            state = asyncio.run(speaker.read())
        except Retry:
            if time.monotonic() > end:
                raise
        else:
            if all(state.sessions[n].established for n in names) or time.monotonic() > end:
                return state
        time.sleep(0.1)


class SpeakerConformance:
    """The suite. ``speaker`` announces nothing yet and has the one peer of :data:`BGP`, which answers."""

    @abstractmethod
    @pytest.fixture
    def speaker(self) -> Speaker: ...

    @abstractmethod
    def stop_daemon(self, speaker: Speaker) -> None: ...

    @abstractmethod
    def start_daemon(self, speaker: Speaker) -> None: ...

    def test_what_is_set_is_read_back(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(vips(1, 2)))
        assert asyncio.run(speaker.read()).announced == vips(1, 2)

    def test_a_set_replaces_the_set_before_as_a_whole(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(vips(1, 2)))
        asyncio.run(speaker.set(vips(2, 3)))
        assert asyncio.run(speaker.read()).announced == vips(2, 3)
        asyncio.run(speaker.set(frozenset()))
        assert asyncio.run(speaker.read()).announced == frozenset()

    def test_sessions_are_named_after_peers_and_count_what_they_were_sent(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(vips(1, 2, 3)))
        state = read_until_established(speaker, ["tor-1"])
        assert list(state.sessions) == ["tor-1"]
        session = state.sessions["tor-1"]
        assert (session.peer, session.state, session.last_error) == ("tor-1", "Established", "")
        end = time.monotonic() + 3
        while asyncio.run(speaker.read()).sessions["tor-1"].exported != 3:
            assert time.monotonic() < end
            time.sleep(0.05)

    def test_an_address_outside_the_pools_is_a_bug_and_changes_nothing(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(vips(1)))
        with pytest.raises(Bug, match=r"192\.0\.2\.1 .* no pool"):
            asyncio.run(speaker.set(vips(1) | {ip_address("192.0.2.1")}))
        assert asyncio.run(speaker.read()).announced == vips(1)

    def test_a_daemon_that_is_gone_means_retry_and_it_comes_back_with_what_it_was_told_last(
        self, speaker: Speaker
    ) -> None:
        asyncio.run(speaker.set(vips(1)))
        self.stop_daemon(speaker)
        with pytest.raises(Retry):
            asyncio.run(speaker.read())
        with pytest.raises(Retry):
            asyncio.run(speaker.set(vips(1, 7)))
        self.start_daemon(speaker)
        assert read_until_established(speaker, ["tor-1"]).announced == vips(1, 7)
        asyncio.run(speaker.set(vips(1, 7)))
        assert asyncio.run(speaker.read()).announced == vips(1, 7)
