"""Rise and fall of workers as pure steps: the state and one probe result in, the next state out. Time is passed in, and monotonic.

The watermarks of a VIP, which need no memory but what is announced, are in lbnode.announce.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lbnode.model import IPAddress, ServiceName, WorkerHealth
from lbnode.objects import NodeObject
from lbnode.settings import Health


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as its probes show it. ``healthy`` is ``None`` until the first decision.

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


def summary(
    states: Mapping[IPAddress, WorkerState], without_endpoints: Iterable[tuple[ServiceName, IPAddress]] = ()
) -> WorkerHealth:
    """The decided workers as the sets that translate and announce take."""
    return WorkerHealth(
        healthy=frozenset(a for a, s in states.items() if s.healthy is True),
        unhealthy=frozenset(a for a, s in states.items() if s.healthy is False),
        without_endpoints=frozenset(without_endpoints),
    )


#: How long the readiness of a node's pods may lag behind its own: the kubelet posts the node's status first, then each pod's, and the
#: endpoints follow those. Ten seconds are kubelet's interval of node status reports (``nodeStatusUpdateFrequency``); twice that.
RETURN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """A Node's readiness as last seen; ``changed_seconds`` is when it was first seen so, ``None`` if never otherwise."""

    ready: str
    since: str
    changed_seconds: float | None = None


def mark_returned(
    memory: Mapping[str, NodeMemory], nodes: Mapping[str, NodeObject], now_seconds: float
) -> tuple[dict[str, NodeMemory], dict[str, NodeObject]]:
    """What to remember for the next time, and the nodes with ``returned`` set where readiness came back a moment ago.

    The time of transition tells of an absence even if the API server was away for all of it and showed only the end.
    """
    remembered: dict[str, NodeMemory] = {}
    marked: dict[str, NodeObject] = {}
    for name, node in nodes.items():
        before = memory.get(name)
        if before is None:
            after = NodeMemory(node.ready, node.ready_since)
        elif (before.ready, before.since) == (node.ready, node.ready_since):
            after = before
        else:
            after = NodeMemory(node.ready, node.ready_since, now_seconds)
        remembered[name] = after
        lately = after.changed_seconds is not None and now_seconds - after.changed_seconds < RETURN_SECONDS
        marked[name] = replace(node, returned=node.ready == "True" and lately)
    return remembered, marked
