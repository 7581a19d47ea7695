"""When an edge node looks at the kernel's counters of traffic, and what its metrics are told of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from lbnode import traffic
from lbnode.errors import ConfigError, Retry
from lbnode.model import DestinationTraffic, Drops, EdgeState, VirtualKey
from lbnode.observe import EdgeMetrics

#: Between two looks at the kernel's counters; shorter than scrapes are apart.
TRAFFIC_SECONDS = 5.0
#: Looks take at most this share of the time: those at 100,000 destinations are further apart, or changes would wait for them.
TRAFFIC_SHARE = 0.005

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
        self._seen: traffic.Seen | None = None
        self._drops_seen: Drops | None = None
        self._at = float("-inf")
        self._pause_seconds = TRAFFIC_SECONDS

    async def look(self, observed: EdgeState | None, now: float) -> None:
        """Last in a pass, and not in each: reading the counters of a large table takes as long as reading the table."""
        if observed is None or now - self._at < self._pause_seconds:
            return
        self._at = now
        keys = [s.key for s in observed.services]
        try:
            looks, drops = await self._ask(keys)
        except (ConfigError, Retry) as error:
            # Counters are worth no failed pass; what was missed is counted by the next look.
            log.warning("traffic.unread", error=str(error))
            return
        finally:
            self._pause_seconds = max(TRAFFIC_SECONDS, (self._clock() - now) / TRAFFIC_SHARE)
        now_seen = traffic.seen(looks)
        self._metrics.traffic(looks, traffic.growth(self._seen, now_seen))
        self._metrics.drops(traffic.drops_growth(self._drops_seen, drops))
        self._seen, self._drops_seen = now_seen, drops
