"""``docs/metrics.md``, from the declarations in the code. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lbnode.observe import ControllerMetrics, Description, EdgeMetrics, WorkerMetrics

_HEAD = """\
# Metrics

Written by `python -m monitoring` from `lbnode/observe/`; a test holds page and code together. How to scrape, what to alert on: [monitoring.md](monitoring.md).

Every agent serves its metrics on `/metrics` of its own port: edge nodes 9474, workers 9475, controllers 9476 (`ports` in the settings). They come in
Prometheus' text format. All names begin with `samegate_`; beside them are the client library's `process_*` (processor seconds, memory and descriptors of
the agent).

**How many series there can be** is in the last column, for one agent. No metric has both a VIP and a worker as labels, and none has a client's address,
a pod or a port, so an agent's page grows with the sum of VIPs, workers, peers and Services with an active probe, never with a product of them. `reason` is
one of the words in the [runbook](runbook.md), that of drops [there](runbook.md#packets-that-xdp-drops).
"""
_COLUMNS = ("metric", "type", "labels", "unit", "meaning", "series")


def everywhere() -> tuple[Description, ...]:
    """The metrics that all roles have."""
    roles = [ControllerMetrics(), EdgeMetrics(), WorkerMetrics()]
    return tuple(d for d in roles[0].descriptions if all(d in role.descriptions for role in roles))


def page() -> str:
    """The page as Markdown."""
    common = everywhere()
    tables = [("Every agent", common)]
    for title, role in (
        ("Edge nodes", EdgeMetrics()),
        ("Workers", WorkerMetrics()),
        ("Controllers", ControllerMetrics()),
    ):
        tables.append((title, tuple(d for d in role.descriptions if d not in common)))
    return "\n".join([_HEAD, *(_table(title, descriptions) for title, descriptions in tables)])


def _table(title: str, descriptions: Iterable[Description]) -> str:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(d) for d in descriptions)]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(row) + " |" for row in rows), ""])


def _row(description: Description) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in description.labels) or "–"
    return (
        f"`{description.name}`",
        description.kind,
        labels,
        description.unit,
        description.meaning.replace("|", "\\|"),
        description.series,
    )
