"""What scanners of manifests ask of the rendered objects, beyond the privileges in test_loadbalancer_manifests.py.

The rules are those of checkov 3.3.30 that concern a workload; docs/adr/0013-static-checks.md tells why they are kept here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "components" / "loadbalancer.yaml"


def _objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(GOLDEN.read_text()))


def _pods() -> dict[str, dict[str, Any]]:
    workloads = [each for each in _objects() if each["kind"] in ("DaemonSet", "Deployment")]
    assert len(workloads) == 3
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in workloads}


def _containers() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}/{container['name']}", container)
        for name, pod in _pods().items()
        for container in (*pod.get("initContainers", []), *pod["containers"])
    ]


def test_no_pod_sees_the_hosts_processes_or_its_shared_memory() -> None:
    assert [name for name, pod in _pods().items() if pod.get("hostPID") or pod.get("hostIPC")] == []


def test_every_container_says_what_it_needs_and_how_much_memory_it_may_take() -> None:
    for name, container in _containers():
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
        # No limit of CPU: a throttled agent would miss its probes and withdraw what is healthy.
        assert set(container["resources"]["limits"]) == {"memory"}, name


def test_every_agent_is_asked_whether_it_is_ready_and_alive() -> None:
    for name, container in _containers():
        if name.endswith("/agent"):
            assert "readinessProbe" in container, name
            assert "livenessProbe" in container, name


def test_no_secret_is_in_an_environment() -> None:
    for name, container in _containers():
        sources = [each.get("valueFrom", {}) for each in container.get("env", [])]
        assert not container.get("envFrom"), name
        assert [each for each in sources if "secretKeyRef" in each] == [], name


def test_every_image_is_named_by_its_digest() -> None:
    for name, container in _containers():
        assert "@sha256:" in container["image"], name


def test_every_pod_has_an_account_of_its_own_and_every_object_a_namespace_of_ours() -> None:
    accounts = [pod["serviceAccountName"] for pod in _pods().values()]
    assert len(set(accounts)) == 3
    assert "default" not in accounts
    assert {each["metadata"].get("namespace", "samegate-system") for each in _objects()} == {"samegate-system"}
