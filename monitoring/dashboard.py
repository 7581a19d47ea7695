"""The rows of panels (:mod:`monitoring.panels`) as a Grafana dashboard. Pure.

``monitoring/dashboard.json`` is written from here (``python -m monitoring``); import that file into Grafana, or mount it where Grafana looks for
dashboards. Nothing in it names a data source: it asks which one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monitoring.panels import ROWS, Panel, Row

#: Grafana's grid is so many columns wide; a panel that shows a course over time is so many high.
GRID_COLUMNS = 24
GRAPH_ROWS, NUMBER_ROWS = 8, 4
#: Of Grafana 11, which migrates older ones by itself; newer ones read it.
SCHEMA_VERSION = 39
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Object = dict[str, Any]


def dashboard(rows: Iterable[Row] = ROWS) -> Object:
    """The dashboard as Grafana's JSON model."""
    panels: list[Object] = []
    top = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": GRID_COLUMNS, "x": 0, "y": top},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in row.panels:
            height = NUMBER_ROWS if panel.kind == "stat" else GRAPH_ROWS
            if left + panel.columns > GRID_COLUMNS:
                left, top = 0, top + height
            place = {"h": height, "w": panel.columns, "x": left, "y": top}
            panels.append(_panel(panel, len(panels) + 1, place))
            left += panel.columns
        top += height
    return {
        "uid": "samegate",
        "title": "samegate",
        "description": "Written by `python -m monitoring`: change monitoring/panels.py. Metrics: docs/metrics.md.",
        "tags": ["samegate"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def _variables() -> list[Object]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    instance = {
        "name": "instance",
        "label": "Agent",
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": {"query": "label_values(samegate_build_info, instance)", "refId": "instance"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return [source, instance]


def _panel(panel: Panel, number: int, place: Object) -> Object:
    options: Object = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.question,
        "datasource": DATA_SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATA_SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(panel.queries)
        ],
        "options": options,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": _steps(panel)}},
            "overrides": [],
        },
    }


def _steps(panel: Panel) -> list[Object]:
    steps: list[Object] = [{"color": "red" if panel.bad_below is not None else "green", "value": None}]
    if panel.bad_below is not None:
        steps.append({"color": "green", "value": panel.bad_below})
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    return steps
