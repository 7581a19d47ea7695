"""The Python environment follows its lock."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tools import python_environment
from tools.cache import Cache
from tools.pins import load
from tools.progress import Progress

UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$1" in
venv) for folder; do :; done; mkdir -p "$folder/bin"; touch "$folder/bin/python" ;;
pip) exit ${UV_FAILS:-0} ;;
esac
"""


def a_checkout(tmp_path: Path) -> tuple[Path, Cache]:
    cache, root = Cache(tmp_path / "cache"), tmp_path / "checkout"
    cache.prepare()
    root.mkdir()
    (root / "requirements.lock").write_text("rich==1 --hash=sha256:0\n")
    with cache.new_file(cache.bin / f"uv-{load().uv_version}" / "uv") as uv:
        uv.write_text(UV)
    return root, cache


def run(root: Path, cache: Cache) -> bool:
    return python_environment.ensure(root, load(), cache, Progress(io.StringIO()))


def calls(cache: Cache) -> list[str]:
    return (cache.bin / f"uv-{load().uv_version}" / "calls").read_text().splitlines()


def test_the_environment_is_made_once_and_hashes_are_required(tmp_path: Path) -> None:
    root, cache = a_checkout(tmp_path)
    assert run(root, cache)
    assert not run(root, cache)
    venv, sync = calls(cache)
    assert venv.startswith("venv")
    assert sync == f"pip sync --quiet --require-hashes {root}/requirements.lock"


def test_a_changed_lock_is_followed_without_a_new_environment(tmp_path: Path) -> None:
    root, cache = a_checkout(tmp_path)
    run(root, cache)
    (root / "requirements.lock").write_text("rich==2 --hash=sha256:0\n")
    assert run(root, cache)
    assert [call.split()[0] for call in calls(cache)] == ["venv", "pip", "pip"]


def test_an_environment_that_failed_half_way_is_not_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = a_checkout(tmp_path)
    run(root, cache)
    (root / "requirements.lock").write_text("rich==3 --hash=sha256:0\n")
    monkeypatch.setenv("UV_FAILS", "2")
    with pytest.raises(python_environment.PythonEnvironmentError, match="uv pip sync"):
        run(root, cache)
    (root / "requirements.lock").write_text("rich==1 --hash=sha256:0\n")
    assert not python_environment.is_current(root)


def test_the_agents_share_is_the_extra_of_that_name() -> None:
    text = (
        '[project]\ndependencies = ["pulumi==1"]\noptional-dependencies = { agent = ["a==1", "b==2"], dev = ["c"] }\n'
    )
    assert python_environment.agent_requirements(text) == "a==1\nb==2\n"


def test_the_audit_has_an_environment_of_its_own_from_its_own_lock(tmp_path: Path) -> None:
    root, cache = a_checkout(tmp_path)
    (root / "tools").mkdir()
    (root / "tools/audit.lock").write_text("pip-audit==2 --hash=sha256:0\n")
    folder = python_environment.audit_environment(root, load(), cache, Progress(io.StringIO()))
    assert folder == cache.root / "audit"
    assert not (root / ".venv").exists()
    assert calls(cache)[-1] == f"pip sync --quiet --require-hashes {root}/tools/audit.lock"
    python_environment.audit_environment(root, load(), cache, Progress(io.StringIO()))
    assert len(calls(cache)) == 2, "the second time does nothing"


def test_the_audits_requirements_are_the_dependency_group_of_that_name() -> None:
    assert python_environment.audit_requirements('[dependency-groups]\ndev = ["a==1"]\naudit = ["b==2"]\n') == "b==2\n"


def test_the_operators_command_starts_from_any_folder_with_the_checkouts_code(tmp_path: Path) -> None:
    root, cache = a_checkout(tmp_path)
    run(root, cache)
    package = root / "lbnode/command"
    package.mkdir(parents=True)
    (package / "app.py").write_text("def main() -> None:\n    print('started')\n")
    (root / ".venv/bin/python").unlink()
    (root / ".venv/bin/python").symlink_to(sys.executable)
    for name in ("samegate", "kubectl-samegate"):
        done = subprocess.run([root / ".venv/bin" / name], cwd="/", capture_output=True, text=True, check=True)
        assert done.stdout == "started\n"


def test_a_missing_launcher_is_made_again(tmp_path: Path) -> None:
    root, cache = a_checkout(tmp_path)
    run(root, cache)
    launcher = root / ".venv/bin/kubectl-samegate"
    launcher.unlink()
    assert run(root, cache)
    assert launcher.stat().st_mode & 0o111
    assert not run(root, cache)
