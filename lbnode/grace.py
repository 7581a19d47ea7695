"""Which endpoints still count as ready though the API says they are not: those that turned unready for reasons of the API's own.

When an API server returns, or a Node that was Unknown heartbeats again, pods stay marked unready until their kubelets have written their
status anew, and the parts of the picture arrive in any order: slices before Nodes, Nodes before pods. None of that says anything about the
app. So an endpoint that counted as ready a moment ago goes on counting

- for :data:`UNREADY_SECONDS` in any case, so that the Node's event may come after the slice's;
- for :data:`RECOVERY_SECONDS` after its Node was last seen anything but Ready;
- while the API server does not answer, and for :data:`API_RECOVERY_SECONDS` after it returned.

Endpoints that terminate or vanish have no grace. :mod:`lbnode.translate` uses grace only for a Service without any endpoint that is really
ready, and the tunnel probe has to succeed as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lbnode.model import ServiceName
from lbnode.objects import EndpointSliceObject, Snapshot, services_touched, slices_of

#: A watch event takes milliseconds; withdrawal has three seconds.
UNREADY_SECONDS = 1.0
#: Kubelets write pod status every 10 s, and the endpoint controller follows.
RECOVERY_SECONDS = 60.0
#: Three watches have to be back one after the other, for each lets the next one write something: a kubelet's and the endpoint controller's of pods, and
#: that controller's of slices, which until then it cannot mend. client-go waits up to 30 s between tries, doubled by jitter (``NewReflector``). In a rack
#: slices were as they should be 137 s after the API server had returned.
API_RECOVERY_SECONDS = 180.0

Place = tuple[ServiceName, str]
"""A Service on a Node, by the Node's name."""


@dataclass(frozen=True, slots=True)
class Look:
    """The Nodes, by name, on which a Service has ready endpoints, and those on which it has unready ones that do not terminate."""

    ready: frozenset[str] = frozenset()
    unready: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Memory:
    """``looks`` are the Services by their ``slices`` at the last step, ``looked_seconds`` its time. ``ready_seconds``: when a place that had grace then
    was last ready. ``trouble_seconds``: when a Node was last seen not Ready. All by a monotonic clock."""

    slices: tuple[EndpointSliceObject, ...] = ()
    looks: Mapping[ServiceName, Look] = field(default_factory=dict)
    looked_seconds: float = 0.0
    ready_seconds: Mapping[Place, float] = field(default_factory=dict)
    trouble_seconds: Mapping[str, float] = field(default_factory=dict)


def step(
    memory: Memory, snapshot: Snapshot, now_seconds: float, api_away_seconds: float | None
) -> tuple[Memory, frozenset[Place]]:
    """The memory after one look at the cluster, and the places that have grace now.

    ``api_away_seconds`` is when the API server was last known to be away: now, while it is; ``None`` when it never was.
    """
    trouble = {name: at for name, at in memory.trouble_seconds.items() if name in snapshot.nodes}
    trouble |= {name: now_seconds for name, node in snapshot.nodes.items() if node.ready != "True"}
    # Of a thousand Services one has changed. Of the others only a place that has grace can have it on: what was unready stays so.
    touched = services_touched(memory.slices, snapshot.slices)
    looks = dict(memory.looks)
    for service, pieces in slices_of(snapshot.slices, touched).items():
        if pieces:
            looks[service] = _look(pieces)
        else:
            looks.pop(service, None)

    graced: dict[Place, float] = {}
    for service in touched | {service for service, _ in memory.ready_seconds}:
        look, before = looks.get(service, _NONE), memory.looks.get(service, _NONE)
        for node in look.unready - look.ready:
            if node in before.ready:
                last_ready = memory.looked_seconds
            elif (service, node) in memory.ready_seconds:
                last_ready = memory.ready_seconds[service, node]
            else:
                continue
            excused = (
                now_seconds - last_ready <= UNREADY_SECONDS
                or now_seconds - trouble.get(node, float("-inf")) <= RECOVERY_SECONDS
                or (api_away_seconds is not None and now_seconds - api_away_seconds <= API_RECOVERY_SECONDS)
            )
            if excused:
                graced[service, node] = last_ready
    return Memory(snapshot.slices, looks, now_seconds, graced, trouble), frozenset(graced)


_NONE = Look()


def _look(pieces: Iterable[EndpointSliceObject]) -> Look:
    endpoints = [endpoint for piece in pieces for endpoint in piece.endpoints]
    return Look(
        frozenset(e.node_name or "" for e in endpoints if e.ready),
        frozenset(e.node_name or "" for e in endpoints if not e.ready and not e.terminating),
    )
