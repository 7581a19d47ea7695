"""Which endpoints still count as ready though the API says they are not: those that turned unready for reasons of the API's own.

When an API server returns, or a Node that was Unknown heartbeats again, pods stay marked unready until their kubelets have written their
status anew, and the parts of the picture arrive in any order: slices before Nodes, Nodes before pods. None of that says anything about the
app. So an endpoint that counted as ready a moment ago goes on counting

- for :data:`UNREADY_SECONDS` in any case, so that the Node's event may come after the slice's;
- for :data:`RECOVERY_SECONDS` after its Node was last seen anything but Ready, or after the API server returned.

Endpoints that terminate or vanish have no grace. :mod:`lbnode.translate` uses grace only for a Service without any endpoint that is really
ready, and the tunnel probe has to succeed as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lbnode.model import ServiceName
from lbnode.objects import Snapshot

#: A watch event takes milliseconds; withdrawal has three seconds.
UNREADY_SECONDS = 1.0
#: client-go's reflectors come back within 30 s of an outage, kubelets write pod status every 10 s, and the endpoint controller follows.
RECOVERY_SECONDS = 60.0

Place = tuple[ServiceName, str]
"""A Service on a Node, by the Node's name."""


@dataclass(frozen=True, slots=True)
class Memory:
    """``ready_seconds``: when a place last had a ready endpoint, for those that counted as ready at the last step. ``trouble_seconds``: when a
    Node was last seen not Ready. Both by a monotonic clock."""

    ready_seconds: Mapping[Place, float] = field(default_factory=dict)
    trouble_seconds: Mapping[str, float] = field(default_factory=dict)


def step(
    memory: Memory, snapshot: Snapshot, now_seconds: float, api_returned_seconds: float | None
) -> tuple[Memory, frozenset[Place]]:
    """The memory after one look at the cluster, and the places that have grace now."""
    trouble = {name: at for name, at in memory.trouble_seconds.items() if name in snapshot.nodes}
    trouble |= {name: now_seconds for name, node in snapshot.nodes.items() if node.ready != "True"}
    ready: dict[Place, float] = {}
    graced: set[Place] = set()
    unready: set[Place] = set()
    for piece in snapshot.slices:
        if piece.service is None:
            continue
        for endpoint in piece.endpoints:
            place = (piece.service, endpoint.node_name or "")
            if endpoint.ready:
                ready[place] = now_seconds
            elif not endpoint.terminating:
                unready.add(place)
    for place in unready - ready.keys():
        last_ready = memory.ready_seconds.get(place)
        if last_ready is None:
            continue
        troubled = max(
            trouble.get(place[1], float("-inf")),
            api_returned_seconds if api_returned_seconds is not None else float("-inf"),
        )
        if now_seconds - last_ready <= UNREADY_SECONDS or now_seconds - troubled <= RECOVERY_SECONDS:
            graced.add(place)
            ready[place] = last_ready
    return Memory(ready, trouble), frozenset(graced)
