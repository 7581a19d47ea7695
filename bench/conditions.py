"""What a result was measured on: facts about this machine that matter to it, and none that names it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import throwaway

_ROOT = Path(__file__).resolve().parent.parent


def conditions(*, rounds: int, quick: bool) -> dict[str, Any]:
    """The conditions of a run that begins now. `load`: processes that were running or waiting, over the last minute (proc_loadavg(5))."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _said("git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "quick": quick,
        "rounds": rounds,
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "kernel": platform.release(),
        "machines_kernel": _said(throwaway.KERNEL, "--version"),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "programs": _programs(),
    }


def _programs() -> Mapping[str, str]:
    packages = ("bird2", "frr", "ipvsadm", "iptables", "nginx-light", "apache2-utils", "user-mode-linux")
    listed = _said("dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *packages)
    return dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except OSError:
        return ""
