"""CPU time of a session, from a made-up /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.processor import busy_share, host_seconds, session_seconds

TICKS = os.sysconf("SC_CLK_TCK")


def process(proc: Path, pid: int, session: int, *times: int, name: str = "linux.uml") -> None:
    """Fields 3 to 17 of proc(5): state, ppid, pgrp, session, tty, tpgid, flags, faults of four kinds, then the four times."""
    (proc / str(pid)).mkdir()
    numbers = " ".join(map(str, (1, session, session, 0, -1, 0, 0, 0, 0, 0, *times, 20, 0)))
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {numbers}\n")


def test_all_processes_of_the_session_count_with_their_ended_children(tmp_path: Path) -> None:
    process(tmp_path, 10, 10, 1 * TICKS, 2 * TICKS, 4 * TICKS, 8 * TICKS)
    process(tmp_path, 11, 10, 16 * TICKS, 0, 0, 0, name="a) S 1 (b")
    process(tmp_path, 12, 99, 32 * TICKS, 0, 0, 0)
    (tmp_path / "13").mkdir()
    (tmp_path / "uptime").write_text("1 1")
    assert session_seconds(10, tmp_path) == 1 + 2 + 4 + 8 + 16


def test_nobody_in_the_session_took_nothing(tmp_path: Path) -> None:
    assert session_seconds(10, tmp_path) == 0.0


def test_a_process_that_works_is_seen_to_work() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) as busy:
        deadline = time.monotonic() + 20
        while session_seconds(busy.pid) == 0.0 and time.monotonic() < deadline:
            time.sleep(0.02)
        seen = session_seconds(busy.pid)
        busy.kill()
    assert seen > 0.0


def test_stolen_time_is_busy_and_waiting_for_a_disk_is_idle(tmp_path: Path) -> None:
    user, nice, system, idle, wait, irq, softirq, steal = (TICKS << n for n in range(8))
    line = f"cpu  {user} {nice} {system} {idle} {wait} {irq} {softirq} {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    (tmp_path / "stat").write_text(line)
    assert host_seconds(tmp_path) == (1 + 2 + 4 + 32 + 64 + 128, 8 + 16)


@pytest.mark.parametrize(("after", "share"), [((11.0, 103.0), 0.25), ((10.0, 104.0), 0.0), ((10.0, 100.0), 0.0)])
def test_the_busy_share_is_that_of_the_time_between(after: tuple[float, float], share: float) -> None:
    assert busy_share((10.0, 100.0), after) == share
