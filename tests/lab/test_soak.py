"""The soak in short on the rack, by a fixed seed; and that it would see what it looks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import soak, topology
from lab.faults import WORKER
from lab.report.bench import Bench

pytestmark = pytest.mark.lab

MINUTES = 3.0
#: Kills an agent and a BIRD, deletes tunnels, drains an edge node.
SEED = 855
#: Not the edge node that faults are made on: the process has to live through all of them.
LEAKY = topology.EDGES[0].name


@contextmanager
def leaking(bench: Bench) -> Iterator[int]:
    """The pid of a process that looks like an agent, and each second keeps a descriptor and 200 kB more."""
    script = 'while sleep 1; do exec {kept}</dev/null; memory+=("$(printf %200000s)"); done'
    detached = f"nohup bash -c '{script}' 'lbnode run leak' </dev/null >/dev/null 2>&1 & echo $!"
    pid = int(bench.machine(LEAKY).run(detached).stdout)
    try:
        yield pid
    finally:
        bench.machine(LEAKY).run(f"kill -KILL {pid}", check=False)


def test_random_faults_break_no_flow_that_should_live_and_nothing_grows_but_what_leaks(bench: Bench) -> None:
    steps = soak.schedule(SEED, MINUTES)
    with leaking(bench) as leak:
        found = soak.soak(bench, steps, MINUTES)
    print(json.dumps(found["steps"]))
    assert found["trouble"] == ""
    assert [step["trouble"] for step in found["steps"]] == [""] * len(found["steps"])
    assert len(found["steps"]) >= 3
    assert [step["wrongly_broken"] for step in found["steps"]] == [[]] * len(found["steps"])
    leaked = [sentence for sentence in found["grown"] if f"({leak})" in sentence]
    assert len(leaked) == 2, "the control: memory and descriptors of a process that does leak"
    assert [sentence for sentence in found["grown"] if sentence not in leaked] == []


def test_flows_that_break_are_seen_and_none_of_a_killed_pod_hangs(bench: Bench) -> None:
    """The control for the flows above: a fault that breaks some, said to break none."""
    found = soak.soak(bench, [soak.Step(1, 0.0, soak.Hazard("kill-pods", 0, "none"), 0.0)], 1)
    (step,) = found["steps"]
    assert step["trouble"] == ""
    assert step["wrongly_broken"]
    assert not soak.holds(found)
    assert {flow["node"] for flow in step["wrongly_broken"]} == {WORKER}
    # One that hangs is given up after six seconds, and its reason is "timeout".
    assert {flow["reason"] for flow in step["wrongly_broken"]} <= {"eof", "reset"}
