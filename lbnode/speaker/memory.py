"""A speaker without a daemon: for tests of the roles, and under the same conformance suite as the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lbnode.bgp_settings import Bgp
from lbnode.errors import Retry
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.pools import Pool
from lbnode.speaker.base import Session, SpeakerState
from lbnode.speaker.bird_config import Renderer, spoken_peers


class MemorySpeaker:
    """Keeps the set; sessions are ``Established`` unless named in ``silent_peers``.

    ``running = False`` is a daemon that does not answer: it keeps what it was told last and starts with it.
    ``history`` lists the VIPs at every change of the set, so that a test sees what the routers saw.
    """

    def __init__(self, bgp: Bgp, pools: Sequence[Pool], node_name: str, node_addresses: Sequence[IPAddress]) -> None:
        self._bgp = bgp
        self._node_name = node_name
        self._node_addresses = tuple(node_addresses)
        self._renderer = Renderer(bgp, pools, node_name, node_addresses)
        self._state = SpeakerState()
        self.running = True
        self.silent_peers: set[str] = set()
        self.history: list[frozenset[IPAddress]] = []

    async def set(self, routes: Mapping[IPNetwork, RouteAttributes]) -> None:
        """As :meth:`lbnode.speaker.base.Speaker.set`; refuses what the real one refuses."""
        self._renderer.text(routes)
        if routes != self._state.routes:
            self._state = SpeakerState(dict(routes))
            self.history.append(self._state.announced)
        if not self.running:
            raise Retry("the speaker in memory is stopped")

    async def read(self) -> SpeakerState:
        """As :meth:`lbnode.speaker.base.Speaker.read`."""
        if not self.running:
            raise Retry("the speaker in memory is stopped")
        sessions = {}
        exported = sum(not attributes.covered for attributes in self._state.routes.values())
        for peer in spoken_peers(self._bgp, self._node_name, self._node_addresses):
            bfd = peer.bfd is not None
            if peer.name in self.silent_peers:
                sessions[peer.name] = Session(peer.name, "Connect", "Down" if bfd else "", last_error="no answer")
            else:
                sessions[peer.name] = Session(peer.name, "Established", "Up" if bfd else "", exported)
        return SpeakerState(self._state.routes, sessions)
