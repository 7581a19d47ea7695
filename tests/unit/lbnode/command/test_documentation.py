"""The page about the command says what is so: the rights suffice, the checks are those, the runbook's reasons are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from typer.testing import CliRunner

from lbnode.command.api import Api, Right
from lbnode.command.app import app
from lbnode.command.doctor import CHECKS
from lbnode.command.why import GUARDS
from tests.unit.lbnode.command.rack import VIP, Cluster, Server, kubeconfig

DOCS = Path(__file__).resolve().parents[4] / "docs"
PAGE = (DOCS / "command.md").read_text()


def granted(right: Right) -> bool:
    """Whether the documented Role or ClusterRole allows it, read as the API server reads rules (rbac.authorization.k8s.io/v1)."""
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    for role in yaml.safe_load_all(block[1]):
        if (role["kind"] == "Role") != bool(right.namespace):
            continue
        for rule in role["rules"]:
            named = rule.get("resourceNames", ["samegate-settings"]) == ["samegate-settings"]
            if (
                right.group in rule["apiGroups"]
                and right.resource in rule["resources"]
                and right.verb in rule["verbs"]
                and named
            ):
                return True
    return False


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[Right]:
    """The rights that a run of every verb needed: each answer of the API server passes with its right."""
    found: set[Right] = set()
    real = Api._refuse

    def noted(self: Api, answer: httpx2.Response, path: str, right: Right) -> None:
        found.add(right)
        real(self, answer, path, right)

    monkeypatch.setattr(Api, "_refuse", noted)
    server = Server()
    try:
        config = str(kubeconfig(tmp_path, server.serve(Cluster())))
        verbs: list[list[str]] = [["drain", "edge1"], ["bundle", "--output", str(tmp_path / "b")], ["why", VIP]]
        for verb in verbs:
            done = CliRunner().invoke(app, [*verb, "--kubeconfig", config])
            assert done.exit_code == 0, done.output
    finally:
        server.close()
    return found


def test_the_documented_rights_allow_every_verb(asked: set[Right]) -> None:
    asked.add(Right("get", "pods/proxy", namespace="samegate-system"))
    assert len(asked) >= 10
    assert [str(right) for right in asked if not granted(right)] == []


def test_the_documented_rights_are_no_more_than_that() -> None:
    refused: list[dict[str, Any]] = [
        {"verb": "get", "resource": "secrets", "namespace": "samegate-system"},
        {"verb": "list", "resource": "secrets"},
        {"verb": "create", "resource": "pods/proxy", "namespace": "samegate-system"},
        {"verb": "get", "resource": "nodes/proxy"},
        {"verb": "patch", "resource": "services"},
    ]
    assert [right for right in refused if granted(Right(**right))] == []


def test_the_checks_are_those_of_the_page_in_their_order() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$",
        PAGE.split("## What is wrong underneath")[1].split("## Drain")[0],
        re.MULTILINE,
    )
    assert rows[1:] == [name for name, _ in CHECKS]


def test_every_reason_of_the_runbook_has_its_place_in_the_chain() -> None:
    table = (DOCS / "runbook.md").read_text().split("| reason | means | do |")[1].split("\n\n")[0]
    # A worker's own reason is on its page, not in a VIP's verdict.
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `") and "(worker)" not in line]
    reasons = {reason for cell in first for reason in re.findall(r"`([A-Z][A-Za-z]+)`", cell)}
    known = {reason for _, some in GUARDS for reason in some}
    assert len(reasons) > 10
    # Held is no reason against: it announces.
    assert reasons - known == {"Held"}


def test_every_verb_is_in_the_page_and_in_the_help() -> None:
    told = CliRunner().invoke(app, ["--help"]).stdout
    for verb in ("status", "why", "explain", "routes", "doctor", "drain", "undrain", "bundle"):
        assert f"samegate {verb}" in PAGE
        assert f"\n  {verb} " in told
