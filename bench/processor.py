"""CPU time of machines, as this kernel accounts it to their processes."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def session_seconds(leader: int, proc: Path = Path("/proc")) -> float:
    """User and system seconds of every process of the session, and of their children that have ended (proc(5), `stat`).

    A User-Mode Linux machine is such a session: its kernel is one process, each of its programs another.
    """
    ticks = 0
    for entry in proc.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) is not None and int(fields[3]) == leader:
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_SECOND


def busy_share(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Which share of all processors' time between two readings of :func:`host_seconds` went to anything."""
    busy, idle = (b - a for a, b in zip(before, after, strict=True))
    return busy / (busy + idle) if busy + idle > 0 else 0.0


def host_seconds(proc: Path = Path("/proc")) -> tuple[float, float]:
    """Busy and idle seconds of all processors since boot (proc(5), `stat`; waiting for a disk is idle, stolen time is busy)."""
    user, nice, system, idle, iowait, irq, softirq, steal, *_ = map(
        int, (proc / "stat").read_text().partition("\n")[0].split()[1:]
    )
    busy = user + nice + system + irq + softirq + steal
    return busy / _TICKS_PER_SECOND, (idle + iowait) / _TICKS_PER_SECOND


def _stat(entry: Path) -> list[str] | None:
    try:
        text = (entry / "stat").read_text()
    except OSError:
        return None
    # The second field is the name in parentheses and may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()
