"""The lab, brought up and deployed once for all tests that need it; `test_take_down.py` takes it away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.report.bench import Bench

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def lab(*arguments: str, timeout_seconds: float = 1800) -> str:
    """`python -m lab ...`; fails with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(
            f"python -m lab {' '.join(arguments)} ended with {done.returncode}: {(done.stdout + done.stderr)[-4000:]}"
        )
    return done.stdout


@pytest.fixture(scope="session")
def deployed_lab() -> Iterator[None]:
    """A rack with samegate in it. `up` and `deploy` do nothing where nothing is to be done."""
    if os.geteuid() != 0:
        pytest.skip("the lab makes network namespaces and needs root")
    lab("up")
    lab("deploy")
    yield
    if os.environ.get("SAMEGATE_LAB_DOWN"):
        lab("down")


@pytest.fixture
def bench(deployed_lab: None) -> Iterator[Bench]:
    """A settled rack before and after the test."""
    rack = Bench()
    rack.settle(180)
    yield rack
    rack.settle(180)
