"""What Prometheus itself says of rules, dashboard, scrape job and metric names: ``promtool`` of Debian's package ``prometheus``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.naming import NAMESPACE, labels
from lbnode.observe import ControllerMetrics, EdgeMetrics, WorkerMetrics
from monitoring.__main__ import ROOT
from monitoring.panels import expressions

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
    ),
]
RULES = ROOT / "monitoring/alerts.yaml"
TESTS = ROOT / "monitoring/alerts_test.yaml"
ALERTS = [r["alert"] for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]]


def promtool(*arguments: str | Path, stdin: bytes | None = None) -> tuple[int, str]:
    """Exit code and everything it said."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=300
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_the_rules_are_rules() -> None:
    code, said = promtool("check", "rules", RULES)
    assert code == 0, said
    assert f"{len(ALERTS)} rules found" in said


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    code, said = promtool("test", "rules", TESTS)
    assert code == 0, said


@pytest.mark.parametrize(
    ("expression", "wrong"), [("vector(0) > 1", r"exp:\[\n"), ("vector(1)", r"exp:\[\]")], ids=["never", "always"]
)
def test_alerts_that_never_or_always_fire_would_be_found(tmp_path: Path, expression: str, wrong: str) -> None:
    """The control of the test above: of each alert a case fails that expects it, and one that expects it not."""
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["rules"] = [r | {"expr": expression} for r in group["rules"]]
    (tmp_path / RULES.name).write_text(yaml.safe_dump(rules))
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    code, said = promtool("test", "rules", tmp_path / TESTS.name)
    assert code != 0
    assert set(re.findall(rf"alertname: (\w+), [^\n]*\n\s*{wrong}", said)) == set(ALERTS)


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    plain = [e.replace("$__rate_interval", "5m").replace("$instance", ".*") for e in expressions()]
    recorded = [{"record": f"panel:{number}", "expr": e} for number, e in enumerate(plain)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    code, said = promtool("check", "rules", file)
    assert code == 0, said
    assert f"{len(plain)} rules found" in said


def discovered(tmp_path: Path, pod: dict[str, str]) -> dict[str, str]:
    """The labels that a pod's container gets; none when it is not scraped.

    Debian builds Prometheus without Kubernetes discovery, so its findings are written down here as static ones.
    """
    config = yaml.safe_load((ROOT / "monitoring/scrape.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": [NAMESPACE]}}]
    meta = {f"__meta_kubernetes_{name}": value for name, value in pod.items()}
    job["static_configs"] = [{"targets": ["198.51.100.11:9474"], "labels": meta}]
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    code, said = promtool("check", "service-discovery", "--timeout=1s", file, "samegate")
    assert code == 0, said
    (target,) = json.loads(said)
    return {k: v for k, v in (target.get("labels") or {}).items() if not k.startswith("__")}


def a_pod(role: str, **changes: str) -> dict[str, str]:
    """What Kubernetes discovery tells of a role's pod, by the labels that the program gives it."""
    (name, port) = (labels(role)["app.kubernetes.io/name"], {"pod_container_port_name": "http"})
    told = {"pod_label_app_kubernetes_io_name": name, "pod_label_app_kubernetes_io_component": role}
    return told | port | {"pod_node_name": "node7", "pod_name": f"samegate-{role}-x2x4p"} | changes


@pytest.mark.parametrize(
    ("role", "instance"), [("edge", "node7"), ("worker", "node7"), ("controller", "samegate-controller-x2x4p")]
)
def test_edge_nodes_and_workers_are_known_by_their_node_and_controllers_by_their_pod(
    tmp_path: Path, role: str, instance: str
) -> None:
    expected = {"job": "samegate", "component": role, "instance": instance}
    assert discovered(tmp_path, a_pod(role)) == expected


@pytest.mark.parametrize(
    "changes", [{"pod_container_port_name": ""}, {"pod_label_app_kubernetes_io_name": "other"}], ids=["bird", "foreign"]
)
def test_containers_without_pages_and_other_peoples_pods_are_not_scraped(
    tmp_path: Path, changes: dict[str, str]
) -> None:
    assert discovered(tmp_path, a_pod("edge", **changes)) == {}


@pytest.mark.parametrize("role", [EdgeMetrics, WorkerMetrics, ControllerMetrics])
def test_names_types_and_help_are_as_prometheus_wants_them(role: type[EdgeMetrics]) -> None:
    assert promtool("check", "metrics", stdin=role().page()) == (0, "")


def test_a_name_that_prometheus_does_not_like_would_be_found() -> None:
    code, said = promtool(
        "check", "metrics", stdin=b"# HELP samegate_time_ms Time.\n# TYPE samegate_time_ms gauge\nsamegate_time_ms 1\n"
    )
    assert code != 0 and "abbreviated units" in said
