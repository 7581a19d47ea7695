"""What every speaker must do, whichever it is. A tier subclasses :class:`SpeakerConformance` and brings the speaker."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest

from lbnode.bgp_settings import Bgp, Peer
from lbnode.errors import Bug, Retry
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.pools import Pool
from lbnode.speaker.base import Speaker, SpeakerState

POOLS = (
    Pool.model_validate({"name": "public", "cidrs": ["203.0.113.0/24"]}),
    Pool.model_validate({"name": "beside", "cidrs": ["198.51.100.0/25"], "aggregate": {"length": 28}}),
    Pool.model_validate(
        {"name": "alone", "cidrs": ["198.51.100.128/25"], "aggregate": {"length": 26, "hostRoutes": False}}
    ),
)
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


def routes(*lasts: int) -> dict[IPNetwork, RouteAttributes]:
    """Their host routes, of which nothing is said."""
    return {ip_network(vip): RouteAttributes() for vip in vips(*lasts)}


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
        asyncio.run(speaker.set(routes(1, 2)))
        assert asyncio.run(speaker.read()).announced == vips(1, 2)

    def test_a_set_replaces_the_set_before_as_a_whole(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(routes(1, 2)))
        asyncio.run(speaker.set(routes(2, 3)))
        assert asyncio.run(speaker.read()).announced == vips(2, 3)
        asyncio.run(speaker.set(routes()))
        assert asyncio.run(speaker.read()).announced == frozenset()

    def test_sessions_are_named_after_peers_and_count_what_they_were_sent(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(routes(1, 2, 3)))
        state = read_until_established(speaker, ["tor-1"])
        assert list(state.sessions) == ["tor-1"]
        session = state.sessions["tor-1"]
        assert (session.peer, session.state, session.last_error) == ("tor-1", "Established", "")
        end = time.monotonic() + 3
        while asyncio.run(speaker.read()).sessions["tor-1"].exported != 3:
            assert time.monotonic() < end
            time.sleep(0.05)

    def test_an_address_outside_the_pools_is_a_bug_and_changes_nothing(self, speaker: Speaker) -> None:
        asyncio.run(speaker.set(routes(1)))
        with pytest.raises(Bug, match=r"192\.0\.2\.1 .* no pool"):
            asyncio.run(speaker.set(routes(1) | {ip_network("192.0.2.1"): RouteAttributes()}))
        assert asyncio.run(speaker.read()).announced == vips(1)

    def test_what_is_said_of_each_route_is_read_back(self, speaker: Speaker) -> None:
        said = routes(1) | {
            ip_network("203.0.113.2"): RouteAttributes(
                ("65010:7", "65535:65281", "4200000010:0:4294967295"), 4294967295, 0, 10
            ),
            ip_network("203.0.113.3"): RouteAttributes(med=4294967295),
            ip_network("203.0.113.4"): RouteAttributes(("0:0",), local_preference=0, prepend=1),
        }
        asyncio.run(speaker.set(said))
        assert asyncio.run(speaker.read()).routes == said

    def test_another_attribute_of_the_same_route_replaces_the_one_before(self, speaker: Speaker) -> None:
        route = ip_network("203.0.113.1")
        for attributes in (RouteAttributes(("65010:7",)), RouteAttributes(med=5), RouteAttributes()):
            asyncio.run(speaker.set({route: attributes}))
            assert asyncio.run(speaker.read()).routes == {route: attributes}

    def test_an_aggregate_is_sent_and_a_covered_route_is_only_read_back(self, speaker: Speaker) -> None:
        both = {
            ip_network("198.51.100.1/32"): RouteAttributes(),
            ip_network("198.51.100.0/28"): RouteAttributes(("65010:9",)),
            ip_network("198.51.100.200/32"): RouteAttributes(covered=True),
            ip_network("198.51.100.192/26"): RouteAttributes(),
        }
        asyncio.run(speaker.set(both))
        state = read_until_established(speaker, ["tor-1"])
        assert state.routes == both
        assert state.announced == {ip_address("198.51.100.1"), ip_address("198.51.100.200")}
        end = time.monotonic() + 3
        while asyncio.run(speaker.read()).sessions["tor-1"].exported != 3:
            assert time.monotonic() < end
            time.sleep(0.05)

    @pytest.mark.parametrize("wrong", ["203.0.113.0/28", "198.51.100.0/27", "198.51.100.128/28", "203.0.113.0/24"])
    def test_a_network_that_is_no_aggregate_of_its_pool_is_a_bug(self, speaker: Speaker, wrong: str) -> None:
        with pytest.raises(Bug, match=wrong):
            asyncio.run(speaker.set({ip_network(wrong): RouteAttributes()}))
        assert asyncio.run(speaker.read()).routes == {}

    def test_a_daemon_that_is_gone_means_retry_and_it_comes_back_with_what_it_was_told_last(
        self, speaker: Speaker
    ) -> None:
        asyncio.run(speaker.set(routes(1)))
        self.stop_daemon(speaker)
        with pytest.raises(Retry):
            asyncio.run(speaker.read())
        with pytest.raises(Retry):
            asyncio.run(speaker.set(routes(1, 7)))
        self.start_daemon(speaker)
        assert read_until_established(speaker, ["tor-1"]).announced == vips(1, 7)
        asyncio.run(speaker.set(routes(1, 7)))
        assert asyncio.run(speaker.read()).announced == vips(1, 7)
