"""The benchmarks' sandbox against the kernel: whatever ends it, nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.root.speaker_rig import missing_namespaces, wait_until

pytestmark = pytest.mark.root

_ROOT = Path(__file__).resolve().parents[2]
#: Runs as `module` in the sandbox: a namespace, a mount with a file, and a process that ignores signals; says who it is, and waits.
_INSIDE = """
import json, subprocess, sys, time
from pathlib import Path
from bench import sandbox
from lab import netns
scratch, answer = Path(sys.argv[1]), Path(sys.argv[2])
sandbox.enter(scratch)
netns.create("sgb-left")
(scratch / "file").write_text("left")
stubborn = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)"
netns.popen("sgb-left", [sys.executable, "-c", stubborn, str(answer.parent)])
answer.write_text(json.dumps({"scratch": str(scratch), "names": sorted(netns.existing())}))
time.sleep(float(sys.argv[3]))
"""
_OUTSIDE = "import sys; from bench import sandbox; sandbox.run('sgb_inside', sys.argv[1:])"


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, str]:
    if reason := missing_namespaces():
        pytest.skip(reason)
    (tmp_path / "sgb_inside.py").write_text(_INSIDE)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{_ROOT}"}


def stubborn_processes(answer: Path) -> list[str]:
    """Those of this test, by the name of its directory: others may run beside it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().split(b"\0")[-2:-1] == [str(answer.parent).encode()]:
                    found.append(entry.name)
            except OSError:
                continue
    return found


def start(modules: dict[str, str], answer: Path, seconds: float) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
    # A shell starts what runs in its background with SIGINT ignored, and that is handed on.
    command = ["env", "--default-signal=INT,TERM", sys.executable, "-c", _OUTSIDE, str(answer), str(seconds)]
    process = subprocess.Popen(command, env=modules, start_new_session=True)
    wait_until(answer.exists, 30, "the sandbox says who it is")
    time.sleep(0.1)
    told: dict[str, object] = json.loads(answer.read_text())
    return process, told


def assert_nothing_stays(told: dict[str, object], answer: Path) -> None:
    wait_until(lambda: not stubborn_processes(answer), 10, "its processes are gone")
    scratch = Path(str(told["scratch"]))
    assert str(scratch) not in Path("/proc/mounts").read_text()
    assert not scratch.exists() or list(scratch.iterdir()) == []
    assert not Path("/run/netns/sgb-left").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_benchmark_that_is_killed_leaves_nothing(
    modules: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process, told = start(modules, tmp_path / "answer", 600)
    # Without this the rest would prove nothing.
    assert len(stubborn_processes(tmp_path / "answer")) == 1
    assert told["names"] == ["sgb-left"]
    process.send_signal(number)
    process.wait(20)
    assert_nothing_stays(told, tmp_path / "answer")


def test_a_benchmark_that_ends_leaves_nothing(modules: dict[str, str], tmp_path: Path) -> None:
    process, told = start(modules, tmp_path / "answer", 0.5)
    assert process.wait(20) == 0
    assert_nothing_stays(told, tmp_path / "answer")
    assert not Path(str(told["scratch"])).exists()


def test_the_names_of_other_namespaces_are_not_seen_in_there(modules: dict[str, str], tmp_path: Path) -> None:
    name = f"sgb-t{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        process, told = start(modules, tmp_path / "answer", 0.5)
        process.wait(20)
        assert told["names"] == ["sgb-left"]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
