"""Python environments, made by a pinned uv from hash-pinned locks: the checkout's `.venv`, and the audit's own.

uv.lock is not used: it names the registry's host in every entry. Why and how: docs/adr/0002-lock-without-hosts.md.
Runs on a bare system Python, before any dependency exists.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.cache import Cache
from tools.pins import Pins
from tools.progress import Progress

LOCK = "requirements.lock"
#: The agent's share: what the image installs.
IMAGE_LOCK = "image/requirements.lock"
#: What `python -m tools audit` runs: apart, so that its many dependencies constrain nothing of ours.
AUDIT_LOCK = "tools/audit.lock"
LOCKS = (LOCK, IMAGE_LOCK, AUDIT_LOCK)
MARK = ".samegate-lock"
#: The operator's command; kubectl finds a plugin by its name on PATH.
LAUNCHERS = ("samegate", "kubectl-samegate")
COMPILE = (
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--no-annotate",
    "--quiet",
)


class PythonEnvironmentError(RuntimeError):
    """The Python environment cannot be made; the text is the last words of the program that failed."""


def _run(command: Sequence[str], stdin: str | None = None, folder: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        list(command),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
    )
    if done.returncode != 0:
        raise PythonEnvironmentError(
            f"{Path(command[0]).name} {' '.join(command[1:4])}: {(done.stderr or done.stdout).strip()[-800:]}"
        )
    return done.stdout


def uv(pins: Pins, cache: Cache, progress: Progress) -> Path:
    """The pinned uv, bootstrapped with pip from the package registry when it is not there."""
    target = cache.bin / f"uv-{pins.uv_version}" / "uv"
    if target.exists():
        return target
    with progress.step(f"uv {pins.uv_version}") as step, tempfile.TemporaryDirectory(prefix="samegate-uv-") as scratch:
        folder = Path(scratch)
        _run([sys.executable, "-m", "venv", str(folder / "venv")])
        hashes = " ".join(f"--hash=sha256:{checksum}" for checksum in pins.uv_sha256)
        (folder / "uv.txt").write_text(f"uv=={pins.uv_version} {hashes}\n")
        step.detail("pip install, hashes required")
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        _run([*pip, "--require-hashes", "-r", str(folder / "uv.txt")])
        with cache.new_file(target) as partial:
            shutil.copyfile(folder / "venv/bin/uv", partial)
        step.result = "from the Python registry"
    return target


def is_current(root: Path) -> bool:
    """Whether `.venv` was made from the present lock."""
    return _holds(root / ".venv", root / LOCK) and not _stale_launchers(root)


def launcher(root: Path) -> str:
    """The text of a program that runs the checkout's operator command from any folder: nothing of the checkout is installed."""
    return f"""#!{root}/.venv/bin/python
import sys

sys.path.insert(0, {str(root)!r})

from lbnode.command.app import main

main()
"""


def _stale_launchers(root: Path) -> list[Path]:
    paths = [root / ".venv/bin" / name for name in LAUNCHERS]
    return [path for path in paths if not path.is_file() or path.read_text() != launcher(root)]


def ensure(root: Path, pins: Pins, cache: Cache, progress: Progress) -> bool:
    """Make `.venv` hold exactly what the lock says, and the launchers; False when it did already."""
    changed = _sync(root / ".venv", root / LOCK, "Python environment", pins, cache, progress)
    stale = _stale_launchers(root)
    for path in stale:
        path.write_text(launcher(root))
        path.chmod(0o755)
    return changed or bool(stale)


def audit_environment(root: Path, pins: Pins, cache: Cache, progress: Progress) -> Path:
    """The folder of an environment, in the tool cache, that holds exactly what the audit's lock says."""
    folder = cache.root / "audit"
    _sync(folder, root / AUDIT_LOCK, "environment of the audit", pins, cache, progress)
    return folder


def _holds(folder: Path, lock: Path) -> bool:
    mark = folder / MARK
    return mark.exists() and mark.read_text() == _digest(lock) and (folder / "bin/python").exists()


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _sync(folder: Path, lock: Path, what: str, pins: Pins, cache: Cache, progress: Progress) -> bool:
    if _holds(folder, lock):
        return False
    program = str(uv(pins, cache, progress))
    with progress.step(what) as step:
        if not (folder / "bin/python").exists():
            step.detail("uv venv")
            interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)))
            _run(
                [program, "venv", "--quiet", "--clear", "--python", interpreter, str(folder)],
                UV_PYTHON_DOWNLOADS="never",
            )
        step.detail("uv pip sync")
        (folder / MARK).unlink(missing_ok=True)
        _run([program, "pip", "sync", "--quiet", "--require-hashes", str(lock)], VIRTUAL_ENV=str(folder))
        (folder / MARK).write_text(_digest(lock))
        step.result = f"{folder.name} holds what {lock.name} says"
    return True


def agent_requirements(pyproject: str) -> str:
    """The extra `agent` of pyproject.toml as a requirements file."""
    return "\n".join(tomllib.loads(pyproject)["project"]["optional-dependencies"]["agent"]) + "\n"


def audit_requirements(pyproject: str) -> str:
    """The dependency group `audit` of pyproject.toml as a requirements file."""
    return "\n".join(tomllib.loads(pyproject)["dependency-groups"]["audit"]) + "\n"


def compile_locks(root: Path, program: Path, output: Path, *, upgrade: bool) -> None:
    """Write the locks under `output`; without `upgrade`, versions in the present locks are kept where they still fit."""
    extra = ("--upgrade",) if upgrade else ()
    for name in LOCKS:
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target != root / name:
            shutil.copyfile(root / name, target)
    compile_ = [str(program), "pip", "compile", *COMPILE, *extra]
    # From inside the checkout: the annotations name the files as they are given here.
    _run([*compile_, "pyproject.toml", "--group", "dev", "-o", str(output / LOCK)], folder=root)
    pyproject = (root / "pyproject.toml").read_text()
    _run([*compile_, "-", "-o", str(output / IMAGE_LOCK)], stdin=agent_requirements(pyproject), folder=root)
    _run([*compile_, "-", "-o", str(output / AUDIT_LOCK)], stdin=audit_requirements(pyproject), folder=root)


def stale_locks(root: Path, program: Path) -> tuple[str, ...]:
    """Which locks no longer follow from pyproject.toml; asks the registry only for what uv has not cached."""
    with tempfile.TemporaryDirectory(prefix="samegate-lock-") as scratch:
        compile_locks(root, program, Path(scratch), upgrade=False)
        return tuple(name for name in LOCKS if (root / name).read_text() != (Path(scratch) / name).read_text())
