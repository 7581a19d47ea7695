"""PID 1 of the BIRD container, with the real BIRD and a configuration that speaks to nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
SUPERVISOR = Path(__file__).resolve().parents[2] / "image" / "bird-supervisor.sh"
CONFIGURATION = "router id 192.0.2.1;\nlog stderr all;\nprotocol device {}\n"


def _within(seconds: float, holds: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    if shutil.which("bird", path="/usr/sbin:/sbin:" + os.environ.get("PATH", "")) is None:
        pytest.skip("bird is not installed: apt-get install bird2")
    return tmp_path


@pytest.fixture
def supervisor(run_directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PATH": "/usr/sbin:/sbin:" + os.environ["PATH"]}
    process = subprocess.Popen(["sh", str(SUPERVISOR), str(run_directory)], env=environment)
    yield process
    process.terminate()
    process.wait(10)


def _answers(directory: Path) -> bool:
    command = ["/usr/sbin/birdcl", "-s", str(directory / "bird.ctl"), "show", "status"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _pid(directory: Path) -> int:
    return int((directory / "bird.pid").read_text())


def test_bird_starts_when_the_agent_has_written_a_configuration(
    supervisor: subprocess.Popen[bytes], run_directory: Path
) -> None:
    time.sleep(0.7)
    assert supervisor.poll() is None
    assert not (run_directory / "bird.ctl").exists()
    (run_directory / "bird.conf").write_text(CONFIGURATION)
    _within(10, lambda: _answers(run_directory))


def test_a_killed_bird_is_back_with_the_same_configuration_in_two_seconds(
    supervisor: subprocess.Popen[bytes], run_directory: Path
) -> None:
    (run_directory / "bird.conf").write_text(CONFIGURATION)
    for _ in range(3):
        _within(10, lambda: _answers(run_directory))
        killed = _pid(run_directory)
        os.kill(killed, signal.SIGKILL)
        _within(2, lambda: _answers(run_directory) and _pid(run_directory) != killed)  # noqa: B023 - called in this round


def test_sigterm_ends_bird_and_supervisor_at_once(supervisor: subprocess.Popen[bytes], run_directory: Path) -> None:
    (run_directory / "bird.conf").write_text(CONFIGURATION)
    _within(10, lambda: _answers(run_directory))
    bird = _pid(run_directory)
    supervisor.terminate()
    assert supervisor.wait(5) == 0
    assert not Path(f"/proc/{bird}").exists()


def test_sigterm_ends_a_supervisor_that_still_waits(supervisor: subprocess.Popen[bytes]) -> None:
    time.sleep(0.3)
    supervisor.terminate()
    assert supervisor.wait(5) == 0
