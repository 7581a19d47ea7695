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

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from lbnode.model import ServiceName
from lbnode.objects import EndpointSliceObject, Snapshot

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
    """The Nodes, by name, on which a slice has ready endpoints, and those on which it has unready ones that do not terminate."""

    piece: EndpointSliceObject
    ready: frozenset[str]
    unready: frozenset[str]


@dataclass(frozen=True, slots=True)
class Memory:
    """``looks`` are the slices at the last step, ``looked_seconds`` its time. ``ready_seconds``: when a place that had grace then was last ready.
    ``trouble_seconds``: when a Node was last seen not Ready. All by a monotonic clock."""

    looks: Mapping[tuple[str, str], Look] = field(default_factory=dict)
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
    looks: dict[tuple[str, str], Look] = {}
    for piece in snapshot.slices:
        known = memory.looks.get((piece.namespace, piece.name))
        # Of a thousand slices one has changed.
        looks[piece.namespace, piece.name] = known if known is not None and known.piece is piece else _look(piece)

    # Only of Services with an unready endpoint does anybody ask.
    asked = {look.piece.service for look in looks.values() if look.unready}
    ready, ready_before = _ready_by_service(looks, asked), _ready_by_service(memory.looks, asked)
    graced: dict[Place, float] = {}
    for look in looks.values():
        service = look.piece.service
        if service is None or not look.unready:
            continue
        for node in look.unready:
            if any(node in names for names in ready[service]):
                continue
            if any(node in names for names in ready_before.get(service, ())):
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
    return Memory(looks, now_seconds, graced, trouble), frozenset(graced)


def _look(piece: EndpointSliceObject) -> Look:
    return Look(
        piece,
        frozenset(e.node_name or "" for e in piece.endpoints if e.ready),
        frozenset(e.node_name or "" for e in piece.endpoints if not e.ready and not e.terminating),
    )


def _ready_by_service(
    looks: Mapping[tuple[str, str], Look], asked: Set[ServiceName | None]
) -> dict[ServiceName, list[frozenset[str]]]:
    found: dict[ServiceName, list[frozenset[str]]] = {}
    for look in looks.values():
        if look.piece.service is not None and look.piece.service in asked:
            found.setdefault(look.piece.service, []).append(look.ready)
    return found
