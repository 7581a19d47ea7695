"""What is written from code is committed as the code writes it, and says what the agents' pages have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from monitoring.__main__ import ROOT, written
from monitoring.dashboard import GRID_COLUMNS, dashboard
from monitoring.panels import expressions
from tests.unit.monitoring.metric_names import on_the_pages, unknown_labels, unknown_names


@pytest.mark.parametrize("path", sorted(written()), ids=lambda p: p.name)
def test_the_committed_file_is_the_one_that_the_code_writes(path: Path) -> None:
    assert path.read_text() == written()[path], "run: python -m monitoring"


def test_the_page_of_metrics_names_each_one_that_an_agent_can_show_and_no_other() -> None:
    listed = re.findall(r"^\| `(samegate_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in on_the_pages() if name.startswith("samegate_")}
    assert sorted(listed) == sorted(shown), "each once"


def test_the_dashboard_asks_only_for_metrics_and_labels_that_exist() -> None:
    for expression in expressions():
        assert unknown_names(expression) == set(), expression
        assert unknown_labels(expression) == set(), expression


def test_a_metric_or_label_that_does_not_exist_would_be_found() -> None:
    assert unknown_names("sum(samegate_vips) + samegate_nothing") == {"samegate_nothing"}
    assert unknown_names("rate(samegate_vip_connections[5m])") == {"samegate_vip_connections"}, "a counter has _total"
    assert unknown_labels('samegate_vips{worker="a", reason=~"b"}') == {("samegate_vips", "worker")}


def test_panels_fill_the_grid_without_covering_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_has_its_own_number_and_says_what_it_answers() -> None:
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    assert all(p["description"] for p in panels if p["type"] != "row")


def test_the_dashboard_names_no_data_source_and_no_host() -> None:
    text = json.dumps(dashboard())
    assert "://" not in text
    assert {p["datasource"]["uid"] for p in dashboard()["panels"] if p["type"] != "row"} == {"${datasource}"}
