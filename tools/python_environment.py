"""The checkout's Python environment: `.venv`, made by a pinned uv from the hash-pinned `requirements.lock`.

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


def lock_digest(root: Path) -> str:
    return hashlib.sha256((root / LOCK).read_bytes()).hexdigest()


def is_current(root: Path) -> bool:
    """Whether `.venv` was made from the present lock."""
    mark = root / ".venv" / MARK
    made = mark.exists() and mark.read_text() == lock_digest(root) and (root / ".venv/bin/python").exists()
    return made and all(_text(root / ".venv/bin" / name) == launcher(root) for name in LAUNCHERS)


def launcher(root: Path) -> str:
    """The text of a program that runs the checkout's operator command from any folder: nothing of the checkout is installed."""
    return f"""#!{root}/.venv/bin/python
import sys

sys.path.insert(0, {str(root)!r})

from lbnode.command.app import main

main()
"""


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def ensure(root: Path, pins: Pins, cache: Cache, progress: Progress) -> bool:
    """Make `.venv` hold exactly what the lock says; False when it did already."""
    if is_current(root):
        return False
    program = str(uv(pins, cache, progress))
    with progress.step("Python environment") as step:
        if not (root / ".venv/bin/python").exists():
            step.detail("uv venv")
            interpreter = str(Path(getattr(sys, "_base_executable", sys.executable)))
            _run(
                [program, "venv", "--quiet", "--clear", "--python", interpreter, str(root / ".venv")],
                UV_PYTHON_DOWNLOADS="never",
            )
        step.detail("uv pip sync")
        (root / ".venv" / MARK).unlink(missing_ok=True)
        _run([program, "pip", "sync", "--quiet", "--require-hashes", str(root / LOCK)], VIRTUAL_ENV=str(root / ".venv"))
        for name in LAUNCHERS:
            (root / ".venv/bin" / name).write_text(launcher(root))
            (root / ".venv/bin" / name).chmod(0o755)
        (root / ".venv" / MARK).write_text(lock_digest(root))
        step.result = f".venv holds what {LOCK} says"
    return True


def agent_requirements(pyproject: str) -> str:
    """The extra `agent` of pyproject.toml as a requirements file."""
    return "\n".join(tomllib.loads(pyproject)["project"]["optional-dependencies"]["agent"]) + "\n"


def compile_locks(root: Path, program: Path, output: Path, *, upgrade: bool) -> None:
    """Write both locks under `output`; without `upgrade`, versions in the present locks are kept where they still fit."""
    extra = ("--upgrade",) if upgrade else ()
    for name in (LOCK, IMAGE_LOCK):
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target != root / name:
            shutil.copyfile(root / name, target)
    compile_ = [str(program), "pip", "compile", *COMPILE, *extra]
    # From inside the checkout: the annotations name the files as they are given here.
    _run([*compile_, "pyproject.toml", "--group", "dev", "-o", str(output / LOCK)], folder=root)
    requirements = agent_requirements((root / "pyproject.toml").read_text())
    _run([*compile_, "-", "-o", str(output / IMAGE_LOCK)], stdin=requirements, folder=root)


def stale_locks(root: Path, program: Path) -> tuple[str, ...]:
    """Which locks no longer follow from pyproject.toml; asks the registry only for what uv has not cached."""
    with tempfile.TemporaryDirectory(prefix="samegate-lock-") as scratch:
        compile_locks(root, program, Path(scratch), upgrade=False)
        return tuple(
            name for name in (LOCK, IMAGE_LOCK) if (root / name).read_text() != (Path(scratch) / name).read_text()
        )
