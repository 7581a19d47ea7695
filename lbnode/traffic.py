"""Counters that only grow, from counters of the kernel that come and go with their services and destinations.

Prometheus takes a counter that falls for a restart and counts all of it again. A sum over destinations falls whenever one is taken away, so
what is added up here is what each one grew by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbnode.model import Counters, DestinationTraffic, IPAddress, VirtualKey

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
        return dict.fromkeys(now, Counters())
    return {at: _since(before.get(at, Counters()), total) for at, total in now.items()}


def _since(before: Counters, now: Counters) -> Counters:
    grown = Counters(
        now.connections - before.connections,
        now.received_packets - before.received_packets,
        now.received_bytes - before.received_bytes,
    )
    restarted = min(grown.connections, grown.received_packets, grown.received_bytes) < 0
    return now if restarted else grown


def add(one: Counters, other: Counters) -> Counters:
    """Both together."""
    return Counters(
        one.connections + other.connections,
        one.received_packets + other.received_packets,
        one.received_bytes + other.received_bytes,
    )
