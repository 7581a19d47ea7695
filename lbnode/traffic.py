"""Counters that only grow, from counters of the kernel that come and go with their services and destinations.

Prometheus takes a counter that falls for a restart and counts all of it again. A sum over destinations falls whenever one is taken away, so
what is added up here is what each one grew by.

A round of looks goes from service to service, a few at a time: all 100,000 destinations of a large table at once would hold up what changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lbnode.model import Counters, DestinationTraffic, Drops, IPAddress, VirtualKey, VirtualService

Seen = Mapping[tuple[VirtualKey, IPAddress], Counters]


def seen(traffic: Iterable[DestinationTraffic]) -> dict[tuple[VirtualKey, IPAddress], Counters]:
    """The totals by service and worker, to be remembered until the next look."""
    return {(t.key, t.worker): t.total for t in traffic}


def growth(before: Seen | None, now: Seen) -> dict[tuple[VirtualKey, IPAddress], Counters]:
    """What was counted since the look before.

    Nothing at the first look (``before`` is ``None``): what the kernel counted under a former agent was told by that one. All of what a
    destination has that was not there before, or that has less than before because it was taken away and put back meanwhile.
    """
    if before is None:
        return {at: Counters(table_hits=None if total.table_hits is None else 0) for at, total in now.items()}
    return {at: _since(before.get(at, Counters()), total) for at, total in now.items()}


def _since(before: Counters, now: Counters) -> Counters:
    hits = None if now.table_hits is None else now.table_hits - (before.table_hits or 0)
    grown = Counters(
        now.connections - before.connections,
        now.received_packets - before.received_packets,
        now.received_bytes - before.received_bytes,
        hits,
    )
    restarted = min(grown.connections, grown.received_packets, grown.received_bytes, hits or 0) < 0
    return now if restarted else grown


def add(one: Counters, other: Counters) -> Counters:
    """Both together."""
    told = [c.table_hits for c in (one, other) if c.table_hits is not None]
    return Counters(
        one.connections + other.connections,
        one.received_packets + other.received_packets,
        one.received_bytes + other.received_bytes,
        sum(told) if told else None,
    )


def drops_growth(before: Drops | None, now: Drops) -> dict[tuple[VirtualKey | None, str], int]:
    """Packets dropped since the look before, by service and reason, as :func:`growth`."""
    if before is None:
        return dict.fromkeys(now, 0)
    grown = {at: total - before.get(at, 0) for at, total in now.items()}
    return {at: now[at] if count < 0 else count for at, count in grown.items()}


_NOTHING = Counters()


@dataclass(slots=True)
class Tally:
    """What came for one VIP, or went to one worker, since the round before, and the connections that are open."""

    grown: Counters = _NOTHING
    active_connections: int = 0
    inactive_connections: int = 0

    def take(self, look: DestinationTraffic, grown: Counters) -> None:
        """Add one destination."""
        if grown != _NOTHING:
            self.grown = add(self.grown, grown)
        self.active_connections += look.active_connections
        self.inactive_connections += look.inactive_connections


class Round:
    """One round of looks at these services. ``before`` is what the round before saw; nothing is counted of the first one, as in :func:`growth`."""

    def __init__(self, services: Iterable[VirtualService], before: Seen | None) -> None:
        self._waiting = list(reversed(list(services)))
        self._before = before
        #: Of the destinations that anything was counted of.
        self.seen: dict[tuple[VirtualKey, IPAddress], Counters] = {}
        self.by_vip: dict[IPAddress, Tally] = {}
        self.by_worker: dict[IPAddress, Tally] = {}

    @property
    def is_over(self) -> bool:
        """Whether every service was named."""
        return not self._waiting

    def next(self, destinations: int) -> list[VirtualKey]:
        """The services to look at next: with so many destinations in sum, or a few more."""
        keys: list[VirtualKey] = []
        while self._waiting and destinations > 0:
            service = self._waiting.pop()
            keys.append(service.key)
            destinations -= max(1, len(service.destinations))
        return keys

    def take(self, looks: Sequence[DestinationTraffic]) -> None:
        """What was seen of them."""
        now = seen(looks)
        grown = growth(self._before, now)
        # What is not remembered counted nothing, and of 100,000 destinations most mostly have not.
        self.seen |= {at: total for at, total in now.items() if total != _NOTHING}
        for look in looks:
            own = grown[look.key, look.worker]
            self.by_vip.setdefault(look.key.address, Tally()).take(look, own)
            self.by_worker.setdefault(look.worker, Tally()).take(look, own)
