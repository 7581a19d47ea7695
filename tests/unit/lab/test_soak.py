"""The soak's schedule and its judgements; the rack itself is touched only by what is left."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import faults, soak
from lab.faults import Fault
from lab.report.bench import NotReached
from lab.soak import HAZARDS, Hazard, Usage, grown, holds, make_and_undo, schedule, stayed_calm, usage, wrongly_broken

seeds = st.integers(0, 2**32)


@given(seeds, st.floats(1, 120))
def test_the_same_seed_makes_the_same_schedule(seed: int, minutes: float) -> None:
    assert schedule(seed, minutes) == schedule(seed, minutes)


@given(seeds)
def test_a_longer_run_begins_like_a_shorter_one(seed: int) -> None:
    short = schedule(seed, 10)
    assert schedule(seed, 30)[: len(short)] == short


@given(seeds, st.floats(0.01, 240))
def test_a_schedule_is_bounded(seed: int, minutes: float) -> None:
    steps = schedule(seed, minutes)
    assert steps
    assert [s.number for s in steps] == list(range(1, len(steps) + 1))
    reckoned = sum(s.quiet_seconds + s.hold_seconds + 30 for s in steps)
    assert reckoned <= minutes * 60 or len(steps) == 1
    for step, following in itertools.pairwise(steps):
        assert step.hazard != following.hazard
    for step in steps:
        assert 5 <= step.quiet_seconds <= 20
        assert 2 <= step.hold_seconds <= step.hazard.longest_hold_seconds or step.hold_seconds == 0


def test_half_an_hour_meets_most_faults_and_different_seeds_differ() -> None:
    assert len({s.hazard.fault for seed in range(3) for s in schedule(seed, 30)}) >= len(HAZARDS) - 2
    assert len({schedule(seed, 30) for seed in range(20)}) == 20


def test_every_fault_of_the_lab_may_be_chosen_and_only_those_with_an_undo_are_held() -> None:
    assert {h.fault for h in HAZARDS} == set(faults.BY_NAME)
    for hazard in HAZARDS:
        assert (hazard.longest_hold_seconds > 0) == (faults.BY_NAME[hazard.fault].undo is not None), hazard.fault


def test_a_fault_that_promises_that_no_flow_breaks_excuses_none() -> None:
    promised = {f.name for f in faults.FAULTS if "no flow breaks" in f.expect or "its flows go on" in f.expect}
    assert promised == {"kill-edge", "drain-edge", "kill-bird", "drain-worker"}
    assert all(h.may_break == "none" for h in HAZARDS if h.fault in promised)


BROKEN = [{"node": "worker1", "reason": "reset"}, {"node": "worker2", "reason": "timeout"}]


@pytest.mark.parametrize(
    ("may_break", "wrong"), [("none", ["worker1", "worker2"]), ("of its worker", ["worker1"]), ("all", [])]
)
def test_only_flows_that_the_fault_should_spare_count(may_break: str, wrong: list[str]) -> None:
    hazard = Hazard("f", 0, may_break)  # type: ignore[arg-type]
    assert [flow["node"] for flow in wrongly_broken(hazard, BROKEN, "worker2")] == wrong


def life(*points: tuple[float, int, int], pid: int = 7) -> list[Usage]:
    return [Usage(at, "edge1", "agent", pid, kib, descriptors) for at, kib, descriptors in points]


def test_growth_is_from_the_first_minute_on() -> None:
    assert grown(life((0, 1000, 5), (60, 50_000, 20), (600, 54_000, 25))) == []
    assert grown(life((0, 1000, 5), (60, 50_000, 20), (600, 56_000, 25))) == [
        "agent on edge1 (7): 50000 to 56000 KiB in 540 s"
    ]
    assert grown(life((0, 50_000, 20), (60, 50_000, 20), (120, 50_000, 37))) == [
        "agent on edge1 (7): 20 to 37 descriptors in 60 s"
    ]


def test_a_tenth_of_a_small_process_is_no_growth_yet() -> None:
    assert grown(life((0, 6000, 5), (60, 6000, 5), (600, 8000, 5))) == []
    assert grown(life((0, 6000, 5), (60, 6000, 5), (600, 8100, 5))) != []


def test_a_process_that_was_started_anew_begins_anew() -> None:
    first = life((0, 50_000, 20), (100, 50_000, 20), pid=7)
    second = life((200, 90_000, 60), (250, 90_000, 60), pid=8)
    assert grown([*first, *second]) == []


def test_processes_are_read_line_by_line_and_one_that_ended_is_left_out() -> None:
    assert usage(1.0, "edge1", "BIRD", "12 5000 30\n13 \n14 0\n15 6000 31\n") == [
        Usage(1.0, "edge1", "BIRD", 12, 5000, 30),
        Usage(1.0, "edge1", "BIRD", 15, 6000, 31),
    ]


def recorded(done: list[str], undo: bool = True) -> Fault:
    return Fault("f", "w", "e", "w", lambda: done.append("made"), (lambda: done.append("undone")) if undo else None)


def test_a_fault_is_held_and_undone() -> None:
    done: list[str] = []
    make_and_undo(recorded(done), 3, lambda seconds: done.append(f"held {seconds:g}"))
    assert done == ["made", "held 3", "undone"]
    make_and_undo(recorded(done, undo=False), 0, lambda seconds: None)
    assert done[3:] == ["made"]


def test_a_fault_is_undone_though_somebody_interrupts() -> None:
    done: list[str] = []

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_and_undo(recorded(done), 3, interrupt)
    assert done == ["made", "undone"]


def test_an_undo_that_finds_nothing_to_undo_is_no_error() -> None:
    def gone() -> None:
        raise NotReached("no process with 'lbnode run edge' runs on edge2")

    make_and_undo(Fault("f", "w", "e", "w", lambda: None, gone), 0, lambda seconds: None)


def test_a_run_holds_only_if_nothing_broke_stuck_or_grew() -> None:
    good = {"wrongly_broken": [], "trouble": ""}
    run = {"steps": [good], "trouble": "", "grown": []}
    assert holds(run)
    assert not holds(run | {"steps": [good, good | {"wrongly_broken": BROKEN}]})
    assert not holds(run | {"steps": [good | {"trouble": "not settled"}]})
    assert not holds(run | {"steps": []}), "nothing was tried"
    assert not holds(run | {"trouble": "only 3 of 100 flows opened"})
    assert not holds(run | {"grown": ["agent on edge1 (7): ..."]})


@pytest.mark.parametrize(
    "disturbance",
    [
        {"trouble": ["61 s: node edge1 is not Ready"]},
        {"flows_broken": 1},
        {"new_failed": 1},
        {"withdrawals": [{"prefix": "203.0.113.7"}]},
        {"bfd_downs": 1},
        {"restarts": 1},
        {"grown": ["agent on edge1 (7): ..."]},
    ],
    ids=lambda disturbance: next(iter(disturbance)),
)
def test_a_calm_run_holds_only_if_nothing_at_all_happened(disturbance: dict[str, object]) -> None:
    calm: dict[str, object] = {
        "trouble": [],
        "flows_broken": 0,
        "new_failed": 0,
        "withdrawals": [],
        "bfd_downs": 0,
        "restarts": 0,
        "grown": [],
    }
    assert stayed_calm(calm)
    assert not stayed_calm(calm | disturbance)


def test_the_schedule_is_shown_with_its_seed_and_without_a_rack(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["soak", "--minutes", "5", "--seed", "1", "--schedule"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("seed 1: ")
    assert first.endswith("python -m lab soak --minutes 5 --seed 1")
    assert len(lines) == len(schedule(1, 5))


def test_a_run_without_a_seed_prints_one_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["soak", "--minutes", "5", "--schedule"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    seed = first.split()[1].rstrip(":")
    assert soak.main(["soak", "--minutes", "5", "--schedule", "--seed", seed]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == lines


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "1e9"])
def test_a_length_that_makes_no_sense_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main(["soak", "--minutes", minutes])
    assert "more than 0 minutes" in capsys.readouterr().err
