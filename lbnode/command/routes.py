"""``samegate routes``: the routes that routers should have, and who tells them. Pure."""

from __future__ import annotations

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Table, listed, row, toned
from lbnode.command.overview import announcing, vips_of
from lbnode.command.pages import of_role
from lbnode.command.view import View
from lbnode.facts import RouteAttributes
from lbnode.model import IPNetwork
from lbnode.routes import routes_of


def routes(view: View) -> Answer:
    """One line for each route and edge node that announces it, aggregates in the place that the settings give them; what routers do with them is
    theirs to tell."""
    edges = {e.node: e for e in of_role(view.agents, "edge")}
    found: dict[tuple[IPNetwork, str], dict[str, object]] = {}
    unrouted: list[str] = []
    for vip in vips_of(view):
        by = announcing(view, vip).by
        if not by:
            unrouted.append(str(vip))
        for name in by:
            edge = edges[name]
            sessions = edge.status.sessions if edge.status is not None else {}
            node = view.snapshot.nodes.get(name)
            for prefix, attributes in routes_of({vip: RouteAttributes()}, view.settings.pools).items():
                if attributes.covered:
                    continue
                found[(prefix, name)] = {
                    "prefix": str(prefix),
                    "edge": name,
                    "next_hop": str((node.address(vip.version) if node is not None else None) or edge.address or "?"),
                    "told": sorted(p for p, s in sessions.items() if s.established),
                    "not_told": sorted(p for p, s in sessions.items() if not s.established),
                }
    rows = tuple(
        row(
            str(r["prefix"]),
            str(r["next_hop"]),
            str(r["edge"]),
            toned(listed(_names(r["told"]), "nobody"), bool(r["told"])),
            toned(listed(_names(r["not_told"])), False) if r["not_told"] else "-",
        )
        for r in found.values()
    )
    tables = [Table("Routes", ("prefix", "next hop", "edge node", "told to", "session down"), rows)]
    if unrouted:
        tables.append(Table("Without a route", ("vip",), tuple(row(toned(v, False)) for v in unrouted)))
    fine = not unrouted and all(r["told"] for r in found.values())
    data = {"routes": list(found.values()), "without_route": unrouted}
    return Answer(data, tuple(tables), view.notes, FINE if fine else FOUND_SOMETHING)


def _names(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []
