"""Debian packages: which are missing, and their installation without starting any service."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tools.progress import Progress

STATUS_FILE = Path("/var/lib/dpkg/status")
#: invoke-rc.d and deb-systemd-invoke ask this program before they start a service; 101 means "forbidden"
#: (https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt).
POLICY_FILE = Path("/usr/sbin/policy-rc.d")
UNIT_FOLDERS = (Path("/lib/systemd/system"), Path("/etc/systemd/system"))
POLICY_MARK = "# samegate: no service starts while its packages are installed"
APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "APT_LISTCHANGES_FRONTEND": "none"}

Run = Callable[[list[str]], None]


class PackageError(RuntimeError):
    """Packages are missing and cannot be installed; the text says what to do."""


def installed(status: str) -> frozenset[str]:
    """The packages that dpkg's status file calls installed."""
    names = set()
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] not in " \t")
        if fields.get("Status", "").endswith(" ok installed"):
            names.add(fields.get("Package", ""))
    return frozenset(names)


def missing(wanted: Iterable[str], status_file: Path = STATUS_FILE) -> tuple[str, ...]:
    """Those of `wanted` that are not installed; PackageError where there is no dpkg."""
    try:
        status = status_file.read_text()
    except OSError as error:
        raise PackageError(
            f"{status_file}: {error.strerror}: samegate's lab needs Debian 12 (or a derivative)"
        ) from error
    have = installed(status)
    return tuple(name for name in wanted if name not in have)


@contextlib.contextmanager
def no_service_starts(policy_file: Path = POLICY_FILE) -> Iterator[None]:
    """While inside, package installation starts no service. A policy that is there already is put back as it was."""
    saved = policy_file.with_suffix(".before-samegate")
    if policy_file.exists() and POLICY_MARK not in policy_file.read_text():
        policy_file.rename(saved)
    policy_file.write_text(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
    policy_file.chmod(0o755)
    try:
        yield
    finally:
        policy_file.unlink()
        if saved.exists():
            saved.rename(policy_file)


def run_apt(command: list[str]) -> None:
    """Run one command of the installation; PackageError with its last words."""
    if shutil.which(command[0]) is None:
        raise PackageError(f"{command[0]} is not on PATH: samegate's lab needs Debian 12 (or a derivative)")
    done = subprocess.run(
        command,
        env={**os.environ, **APT_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        words = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "W:", "Err:"))]
        raise PackageError(f"{' '.join(command[:3])} failed: {'; '.join(words[-4:]) or done.stderr.strip()[-300:]}")


def ensure(
    packages: Mapping[str, str],
    idle_units: Iterable[str],
    progress: Progress,
    *,
    status_file: Path = STATUS_FILE,
    policy_file: Path = POLICY_FILE,
    run: Run = run_apt,
    is_root: bool | None = None,
    has_systemd: bool | None = None,
    unit_folders: Iterable[Path] = UNIT_FOLDERS,
) -> tuple[str, ...]:
    """Install what is missing of `packages` (name -> why), said first; returns what was installed.

    Units in `idle_units` that come with it stay off, now and at the next boot; units that were there before are not
    touched. Raises PackageError without root, naming the command to run.
    """
    lacking = missing(packages, status_file)
    if not lacking:
        return ()
    progress.say("These Debian packages are missing and will be installed:")
    for name in lacking:
        progress.say(f"  {name}: {packages[name]}")
    if not (os.geteuid() == 0 if is_root is None else is_root):
        raise PackageError(f"installing needs root: run `apt-get install {' '.join(lacking)}` as root, then run again")
    if has_systemd is None:
        has_systemd = shutil.which("systemctl") is not None  # without it, nothing starts at boot either
    strangers = tuple(unit for unit in idle_units if not any((folder / unit).exists() for folder in unit_folders))
    with progress.step(f"Debian packages ({len(lacking)})") as step, no_service_starts(policy_file):
        step.detail("apt-get update")
        run(["apt-get", "update", "-q"])
        step.detail(f"apt-get install {' '.join(lacking)}")
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *lacking])
        came = [unit for unit in strangers if any((folder / unit).exists() for folder in unit_folders)]
        if came and has_systemd:
            run(["systemctl", "disable", "--quiet", *came])
        step.result = "installed, their services left off"
    return lacking
