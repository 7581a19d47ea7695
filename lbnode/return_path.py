"""Which edge nodes take a worker's replies (``return: via-edge``). Pure.

Any live edge node will do, since each forwards them without a state of its own. So a connection outlives its edge node, also an idle one into
which the server pushes: what matters is only that nobody is asked who is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbnode.model import IPAddress, ReturnPath
from lbnode.objects import NodeObject
from lbnode.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether an edge node takes replies, and why. ``reason`` is one CamelCase word."""

    takes: bool
    reason: str


def standings(edges: Mapping[IPAddress, NodeObject], silent: Iterable[IPAddress]) -> dict[IPAddress, Standing]:
    """A verdict for each address of an edge node, all of one family.

    ``silent`` are those that do not answer this worker's probes. Who was not probed to a decision counts as live, for a worker that starts must
    not send everything to the first that answers. When none is left, the prober or the fabric is the suspect, not all edge nodes: then all stay.
    """
    silent = frozenset(silent)
    answering = {address for address in edges if address not in silent}
    staying = {address for address in answering if not edges[address].draining}
    found = {}
    for address in edges:
        if not answering:
            found[address] = Standing(True, "AllSilent")
        elif address in silent:
            found[address] = Standing(False, "Silent")
        elif address not in staying and staying:
            found[address] = Standing(False, "Draining")
        else:
            found[address] = Standing(True, "Live")
    return found


def return_paths(
    edges: Iterable[NodeObject], node: NodeObject | None, settings: AgentSettings, silent: frozenset[IPAddress]
) -> dict[ReturnPath, dict[IPAddress, Standing]]:
    """The way back of each family that the worker has tunnels of, with the verdicts that it comes from. None with ``return: direct``."""
    if settings.return_path != "via-edge" or node is None:
        return {}
    found = {}
    edges = tuple(edges)
    for version in sorted({n.version for n in settings.pool_networks}):
        by_address = {a: edge for edge in edges if (a := edge.address(version)) is not None}
        own = node.address(version)
        if not by_address or own is None:
            continue
        verdicts = standings(by_address, silent)
        path = ReturnPath(
            version=version,
            node_address=own,
            mark_mask=settings.via_edge.mark_mask,
            rule_priority=settings.via_edge.rule_priority,
            route_table=settings.via_edge.route_table,
            edges=frozenset(by_address),
            group=frozenset(address for address, verdict in verdicts.items() if verdict.takes),
        )
        found[path] = verdicts
    return found
