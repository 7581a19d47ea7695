"""When an edge node looks at the kernel's counters of traffic, and what its metrics are told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from lbnode import traffic
from lbnode.errors import ConfigError, Retry
from lbnode.model import DestinationTraffic, Drops, EdgeState, VirtualKey
from lbnode.observe import EdgeMetrics

#: From the begin of one round of looks at the kernel's counters to that of the next; shorter than scrapes are apart.
TRAFFIC_SECONDS = 5.0
#: At so many destinations one look goes, which takes a few milliseconds: what changes meanwhile waits for it.
LOOK_DESTINATIONS = 500
#: Looks take at most this share of the time: a round over 100,000 destinations takes minutes.
TRAFFIC_SHARE = 0.02

log = structlog.get_logger()


class EdgeTraffic:
    """``ask`` reads the counters of these services, and what was dropped; ``clock`` is the one that ``now`` is of."""

    def __init__(
        self,
        ask: Callable[[Sequence[VirtualKey]], Awaitable[tuple[Sequence[DestinationTraffic], Drops]]],
        metrics: EdgeMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._metrics = metrics
        self._clock = clock
        self._round: traffic.Round | None = None
        self._seen: traffic.Seen | None = None
        self._drops_seen: Drops | None = None
        self._began = self._next = float("-inf")

    async def look(self, observed: EdgeState | None, now: float) -> None:
        """Last in a pass, and not in each: the next few services of this round, or the begin of the next one."""
        if observed is None or now < self._next:
            return
        if self._round is None:
            self._round, self._began = traffic.Round(observed.services, self._seen), now
        try:
            looks, drops = await self._ask(self._round.next(LOOK_DESTINATIONS))
        except (ConfigError, Retry) as error:
            # Counters are worth no failed pass; what was missed is counted by the next round.
            log.warning("traffic.unread", error=str(error))
            self._round, self._next = None, self._began + TRAFFIC_SECONDS
            return
        self._round.take(looks)
        self._next = now + (self._clock() - now) / TRAFFIC_SHARE
        if not self._round.is_over:
            return
        self._metrics.traffic(self._round.by_vip, self._round.by_worker)
        self._metrics.drops(traffic.drops_growth(self._drops_seen, drops))
        self._seen, self._drops_seen = self._round.seen, drops
        self._round, self._next = None, max(self._next, self._began + TRAFFIC_SECONDS)
