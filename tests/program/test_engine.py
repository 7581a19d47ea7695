"""The program on the real engine with the real provider, in a network namespace of its own from which no cluster is reached."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from stack_values import raw

import tools

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "sgp-preview"
KEY = "correct-horse-battery-staple"
KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://198.51.100.10:6443"}}]
users: [{name: u, user: {token: token-of-the-admin}}]
"""


@dataclass
class Stack:
    """A stack in a folder of its own, with a backend of its own."""

    folder: Path

    def pulumi(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = tools.pulumi_environment(ROOT) | {
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DEBUG_COMMANDS": "true",
        }
        environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        command = [
            "ip",
            "netns",
            "exec",
            NAMESPACE,
            str(tools.locate("pulumi")),
            *arguments,
            "--non-interactive",
            "--color",
            "never",
        ]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
            timeout=180,
            check=False,
        )

    def preview(self) -> subprocess.CompletedProcess[str]:
        return self.pulumi("preview", "--stack", "test", "--event-log", str(self.folder / "events.json"))

    def planned(self) -> dict[str, int]:
        for line in reversed((self.folder / "events.json").read_text().splitlines()):
            if summary := json.loads(line).get("summaryEvent"):
                return dict(summary["resourceChanges"])
        return {}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    if os.geteuid() != 0:
        pytest.skip("makes a network namespace, which needs root")
    try:
        tools.locate("pulumi")
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    project = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())
    del project["stackConfigDir"]
    project["main"] = os.path.relpath(ROOT, tmp_path)
    project["runtime"]["options"]["virtualenv"] = os.path.relpath(ROOT / ".venv", tmp_path)
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump(project))
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        # The engine, its plugins and the program talk over the loopback.
        subprocess.run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"], check=True)
        yield Stack(tmp_path)
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)


def _configure(stack: Stack, **changes: object) -> None:
    values = raw(**{"platform": {"kind": "onprem", "edgeNodes": ["edge1", "edge2"]}, **changes})
    (stack.folder / "Pulumi.test.yaml").write_text(
        yaml.safe_dump({"config": {f"samegate:{k}": v for k, v in values.items()}})
    )
    assert stack.pulumi("stack", "init", "test", "--secrets-provider", "passphrase").returncode == 0
    for arguments, value in ((["samegate:kubeconfig"], KUBECONFIG), (["--path", "samegate:bgpKeys.tor"], KEY)):
        done = stack.pulumi("config", "set", "--secret", "--stack", "test", *arguments, stdin=value)
        assert done.returncode == 0, done.stderr


def test_a_first_preview_works_with_no_cluster_reachable_and_shows_no_secret(stack: Stack) -> None:
    _configure(stack)
    done = stack.preview()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    # Stack, provider, two components, and what tests/golden/components/resources.txt lists beside these.
    listed = len((ROOT / "tests/golden/components/resources.txt").read_text().splitlines())
    assert stack.planned() == {"create": listed + 1}
    assert "198.51.100.10:6443 does not answer" in said
    for secret in (KEY, "token-of-the-admin"):
        assert secret not in said
        for path in (p for p in stack.folder.rglob("*") if p.is_file()):
            assert secret.encode() not in path.read_bytes(), path


def test_a_mistake_is_told_with_value_rule_and_way_out_and_plans_nothing(stack: Stack) -> None:
    _configure(stack, image="registry.example.com/samegate:latest")
    done = stack.preview()
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "samegate.image = 'registry.example.com/samegate:latest'" in said
    assert "named by digest" in said
    assert "python -m image build" in said
    assert "Traceback" not in said
    assert not [word for word in said.split() if word.startswith("kubernetes:")]
