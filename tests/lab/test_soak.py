"""The soak's short form: a few minutes of faults by a seed that stands in the output."""

from __future__ import annotations

import json
import os

import pytest

from lab import topology
from lab.report.bench import Bench
from tests.lab.conftest import lab

pytestmark = pytest.mark.lab

MINUTES = "5"


def test_random_faults_break_no_flow_that_should_live_and_nothing_grows(bench: Bench) -> None:
    seed = os.environ.get("SAMEGATE_SEED", "")
    print(lab("soak", "--minutes", MINUTES, *(["--seed", seed] if seed else [])))
    told = json.loads((topology.STATE / "soak.json").read_text())
    assert told["steps"]
    assert [flow for step in told["steps"] for flow in step["wrongly_broken"]] == []
    assert told["grown"] == []
