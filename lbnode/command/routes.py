"""``samegate routes``: the host routes that routers should have, and who tells them. Pure."""

from __future__ import annotations

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Table, listed, row, toned
from lbnode.command.overview import announcing, vips_of
from lbnode.command.pages import of_role
from lbnode.command.view import View


def routes(view: View) -> Answer:
    """One line for each VIP and edge node that announces it; what routers do with them is theirs to tell."""
    edges = {e.node: e for e in of_role(view.agents, "edge")}
    found: list[dict[str, object]] = []
    unrouted: list[str] = []
    for vip in vips_of(view):
        by = announcing(view, vip).by
        if not by:
            unrouted.append(str(vip))
        for name in by:
            edge = edges[name]
            sessions = edge.status.sessions if edge.status is not None else {}
            node = view.snapshot.nodes.get(name)
            found.append(
                {
                    "prefix": f"{vip}/{vip.max_prefixlen}",
                    "edge": name,
                    "next_hop": str((node.address(vip.version) if node is not None else None) or edge.address or "?"),
                    "told": sorted(p for p, s in sessions.items() if s.established),
                    "not_told": sorted(p for p, s in sessions.items() if not s.established),
                }
            )
    rows = tuple(
        row(
            str(r["prefix"]),
            str(r["next_hop"]),
            str(r["edge"]),
            toned(listed(_names(r["told"]), "nobody"), bool(r["told"])),
            toned(listed(_names(r["not_told"])), False) if r["not_told"] else "-",
        )
        for r in found
    )
    tables = [Table("Host routes", ("prefix", "next hop", "edge node", "told to", "session down"), rows)]
    if unrouted:
        tables.append(Table("Without a route", ("vip",), tuple(row(toned(v, False)) for v in unrouted)))
    fine = not unrouted and all(r["told"] for r in found)
    data = {"routes": found, "without_route": unrouted}
    return Answer(data, tuple(tables), view.notes, FINE if fine else FOUND_SOMETHING)


def _names(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []
