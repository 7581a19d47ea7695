"""Processes that outlive us: found again, never confused with somebody else's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes
from lab.processes import Daemon


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(processes, "RECORDS", tmp_path / "run")
    monkeypatch.setattr(processes, "LOGS", tmp_path / "logs")
    yield tmp_path / "run"
    for name in processes.recorded_names():
        processes.stop(name, grace_seconds=0)


def sleeper(name: str = "sleeper", *words: str) -> Daemon:
    return Daemon(name, None, words or ("sleep", "60"))


def gone(pid: int) -> bool:
    stat = processes.read_stat(pid)
    return stat is None or stat.state in "ZX"


def test_a_started_daemon_is_found_again() -> None:
    pid = processes.start(sleeper())
    assert processes.pid_of("sleeper") == pid
    assert processes.trouble(sleeper()) is None


def test_a_started_daemon_leads_a_session_of_its_own() -> None:
    pid = processes.start(sleeper())
    stat = processes.read_stat(pid)
    assert stat is not None and stat.session == pid


def test_a_daemon_with_another_command_line_counts_as_changed() -> None:
    processes.start(sleeper())
    assert processes.trouble(sleeper("sleeper", "sleep", "61")) == "settings changed"


def test_a_daemon_whose_configuration_changed_counts_as_changed(tmp_path: Path) -> None:
    configuration = tmp_path / "settings"
    configuration.write_text("old")
    daemon = Daemon("reader", None, ("sleep", "60"), reads=(configuration,))
    processes.start(daemon)
    assert processes.trouble(daemon) is None
    configuration.write_text("new")
    assert processes.trouble(daemon) == "settings changed"


def test_a_killed_daemon_counts_as_not_running() -> None:
    pid = processes.start(sleeper())
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes.pid_of("sleeper") is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes.trouble(sleeper()) == "not running"


def test_starting_again_replaces_the_old_process() -> None:
    old = processes.start(sleeper())
    new = processes.start(sleeper())
    assert gone(old)
    assert processes.pid_of("sleeper") == new != old


def test_stop_ends_children_too() -> None:
    pid = processes.start(sleeper("parent", "sh", "-c", "sleep 60 & sleep 60 & wait"))
    deadline = time.monotonic() + 5
    while len(processes._session(pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    members = processes._session(pid)
    assert len(members) == 3
    processes.stop("parent", grace_seconds=0)
    assert all(gone(member) for member in members)


def test_stop_ends_a_daemon_that_ignores_sigterm() -> None:
    pid = processes.start(sleeper("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"))
    processes.stop("deaf", grace_seconds=0.2)
    assert gone(pid)


def test_a_pid_that_now_belongs_to_somebody_else_is_not_touched(records: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        processes.start(sleeper())
        record = json.loads((records / "sleeper.json").read_text())
        processes.stop("sleeper", grace_seconds=0)
        stat = processes.read_stat(stranger.pid)
        assert stat is not None
        record |= {"pid": stranger.pid, "start_ticks": stat.start_ticks - 1}
        (records / "sleeper.json").write_text(json.dumps(record))
        assert processes.pid_of("sleeper") is None
        processes.stop("sleeper", grace_seconds=0)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_record_of_an_earlier_boot_is_stale(records: Path) -> None:
    processes.start(sleeper())
    path = records / "sleeper.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"boot_id": "another boot"}))
    assert processes.pid_of("sleeper") is None
    path.write_text(whole)  # so that the fixture can end it
    assert processes.pid_of("sleeper") is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}'])
def test_a_record_that_cannot_be_read_is_stale(records: Path, text: str) -> None:
    records.mkdir(parents=True)
    (records / "broken.json").write_text(text)
    assert processes.pid_of("broken") is None
    processes.stop("broken")
    assert processes.recorded_names() == []


def test_the_output_of_a_daemon_is_kept() -> None:
    daemon = sleeper("talker", "sh", "-c", "echo said; echo complained >&2; sleep 60")
    processes.start(daemon)
    deadline = time.monotonic() + 5
    while "complained" not in daemon.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.log.read_text().splitlines() == ["said", "complained"]


def test_a_replaced_file_is_never_seen_half_written(tmp_path: Path) -> None:
    target = tmp_path / "file"
    processes.write_text(target, "old")
    processes.write_text(target, "new", mode=0o600)
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]
