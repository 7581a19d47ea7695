"""The workflow that users copy: it previews with the policy pack, never skips one, and its guard works."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import tools
from tools.pins import load

ROOT = Path(tools.__file__).resolve().parents[1]
TEXT = (ROOT / "docs/ci/github-actions.yaml").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(TEXT)
STEPS = [(job, step) for job, content in WORKFLOW["jobs"].items() for step in content["steps"]]
SCRIPTS = {(job, step.get("name", "")): step["run"] for job, step in STEPS if "run" in step}
GUARD = SCRIPTS["rules-of-this-file", "Nobody skips the preview"]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda s: s.split("\n")[0][:40])
def test_every_step_is_a_shell_script(script: str) -> None:
    plain = re.sub(r"\$\{\{.*?\}\}", "value", script)
    subprocess.run(["bash", "-n", "-c", plain], check=True)


def _guarded(folder: Path, workflow: str) -> subprocess.CompletedProcess[str]:
    path = folder / ".github/workflows/samegate.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(workflow)
    return subprocess.run(["bash", "-e", "-c", GUARD], cwd=folder, capture_output=True, text=True, check=False)


def test_the_guard_passes_the_workflow_itself(tmp_path: Path) -> None:
    done = _guarded(tmp_path, TEXT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("switch", ["--skip-preview", "skip-preview: true"])
def test_the_guard_refuses_a_workflow_that_skips_a_preview(switch: str, tmp_path: Path) -> None:
    done = _guarded(tmp_path, f"{TEXT}\n      - run: pulumi up {switch}\n")
    assert done.returncode != 0
    assert "Take the switch out" in done.stderr


def test_every_update_runs_with_the_policy_pack_after_a_preview_and_an_approval() -> None:
    ups = [(job, script) for (job, _), script in SCRIPTS.items() if "pulumi up" in script]
    assert [job for job, _ in ups] == ["up"]
    assert "--policy-pack policy" in ups[0][1]
    up = WORKFLOW["jobs"]["up"]
    assert up["needs"] == "preview"
    assert up["environment"] == "${{ matrix.stack }}"
    assert any("policy.check" in script for (job, _), script in SCRIPTS.items() if job == "preview")


def test_the_engine_is_the_pinned_one() -> None:
    versions = {step["with"]["pulumi-version"] for _, step in STEPS if "pulumi-version" in step.get("with", {})}
    assert versions == {load().tools["pulumi"].version}


def test_no_job_may_write_more_than_the_comment() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    granted = {job: content.get("permissions", {}) for job, content in WORKFLOW["jobs"].items()}
    assert granted == {"rules-of-this-file": {}, "preview": {"contents": "read", "pull-requests": "write"}, "up": {}}
