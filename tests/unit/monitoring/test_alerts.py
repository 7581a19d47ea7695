"""Alert rules: each says something that exists, leads to a page that exists, and is tried in both directions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import yaml

from monitoring.__main__ import ROOT
from tests.unit.monitoring.links import anchors, headings
from tests.unit.monitoring.metric_names import unknown_labels, unknown_names

RULES = [r for g in yaml.safe_load((ROOT / "monitoring/alerts.yaml").read_text())["groups"] for r in g["rules"]]
TESTS = yaml.safe_load((ROOT / "monitoring/alerts_test.yaml").read_text())["tests"]
RUNBOOK = ROOT / "docs/runbook.md"
by_name = pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])


@by_name
def test_a_rule_asks_only_for_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"]) == set()
    assert unknown_labels(rule["expr"]) == set()


@by_name
def test_a_rule_leads_to_its_own_section_of_the_runbook(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / file == RUNBOOK
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(RUNBOOK.read_text())


def test_the_runbook_has_no_section_for_an_alert_that_is_gone() -> None:
    sections = [h for h in headings(RUNBOOK.read_text()) if h.startswith("Samegate")]
    assert sorted(sections) == sorted(r["alert"] for r in RULES)


@by_name
def test_a_rule_says_how_bad_it_is_and_what_it_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")


@by_name
def test_a_rule_is_seen_to_fire_and_seen_not_to(rule: dict[str, Any]) -> None:
    tried = Counter(
        bool(case["exp_alerts"]) for t in TESTS for case in t["alert_rule_test"] if case["alertname"] == rule["alert"]
    )
    assert tried[True] >= 1 and tried[False] >= 1


def test_every_test_has_a_name_of_its_own() -> None:
    names = Counter(t["name"] for t in TESTS)
    assert [n for n, count in names.items() if count > 1] == []
