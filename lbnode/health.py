"""Rise and fall of workers and of pods as pure steps: the state and one probe result in, the next state out. Time is passed in, and
monotonic. Beside it the watermarks of what stands on several of them, which need no memory but whether it is up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lbnode.facts import WorkerHealth
from lbnode.model import IPAddress, ServiceName
from lbnode.settings import Health


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker, or a pod behind it, as its probes show it. ``healthy`` is ``None`` until the first decision.

    ``successes`` and ``failures`` count in a row; ``since_seconds`` is when ``healthy`` last changed, ``probed_seconds`` when the last
    result came.
    """

    healthy: bool | None = None
    successes: int = 0
    failures: int = 0
    since_seconds: float = 0.0
    probed_seconds: float = 0.0


def step(state: WorkerState, ok: bool, now_seconds: float, settings: Health) -> WorkerState:
    """The state after one probe result. Healthy after ``rise`` successes in a row, unhealthy after ``fall`` failures in a row.

    The same counts make the first decision, so that a restarted agent neither trusts nor condemns a worker on one packet.
    """
    successes = min(state.successes + 1, settings.rise) if ok else 0
    failures = 0 if ok else min(state.failures + 1, settings.fall)
    healthy = state.healthy
    if successes >= settings.rise:
        healthy = True
    elif failures >= settings.fall:
        healthy = False
    since = state.since_seconds if healthy == state.healthy else now_seconds
    return WorkerState(healthy, successes, failures, since, now_seconds)


def expire(state: WorkerState, now_seconds: float, settings: Health) -> WorkerState:
    """Undecided again when no result came for ``fall + 1`` intervals: then the prober is stuck, which says nothing about the worker."""
    limit_seconds = (settings.fall + 1) * settings.interval_ms / 1000 + settings.timeout_ms / 1000
    if state.healthy is None or now_seconds - state.probed_seconds <= limit_seconds:
        return state
    return replace(state, healthy=None, successes=0, failures=0, since_seconds=now_seconds)


def lost_since(states: Mapping[IPAddress, WorkerState], version: int) -> float | None:
    """The second at which the last worker of an IP version turned unhealthy; ``None`` while there is none, or one that is not known to be."""
    family = [s for address, s in states.items() if address.version == version]
    if not family or any(s.healthy is not False for s in family):
        return None
    return max(s.since_seconds for s in family)


def summary(
    states: Mapping[IPAddress, WorkerState],
    without_endpoints: Iterable[tuple[ServiceName, IPAddress]] = (),
    failing_probes: Iterable[tuple[ServiceName, IPAddress]] = (),
) -> WorkerHealth:
    """The decided workers as the sets that translate and announce take."""
    return WorkerHealth(
        healthy=frozenset(a for a, s in states.items() if s.healthy is True),
        unhealthy=frozenset(a for a, s in states.items() if s.healthy is False),
        without_endpoints=frozenset(without_endpoints),
        failing_probes=frozenset(failing_probes),
    )


def watermark(is_up: bool, healthy: int, total: int, settings: Health) -> bool:
    """Whether what stands on ``healthy`` of ``total`` is up, given whether it was: up at the high, down below the low watermark.

    None healthy is never up, whatever the watermarks.
    """
    if healthy <= 0 or total <= 0:
        return False
    fraction = healthy / total
    return fraction >= (settings.low_watermark if is_up else settings.high_watermark)
