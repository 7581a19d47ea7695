"""Steps of `up`: what holds is left alone, what fails ends the run and says why."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from lab.steps import Step, run


@dataclass
class Thing:
    """Something that a step looks after; `mends` says whether doing it helps."""

    wrong: bool
    mends: bool = True
    done: int = 0
    looks: list[bool] = field(default_factory=list)

    def trouble(self) -> str | None:
        return "broken" if self.wrong else None

    def do(self) -> None:
        self.done += 1
        self.wrong = not self.mends

    def step(self, name: str) -> Step:
        return Step(name, self.trouble, self.do)


def test_what_holds_is_not_done_again() -> None:
    thing = Thing(wrong=False)
    assert [outcome.result for outcome in run([thing.step("one")])] == ["held"]
    assert thing.done == 0


def test_what_is_wrong_is_done_once_and_says_what_was_wrong() -> None:
    thing = Thing(wrong=True)
    (outcome,) = run([thing.step("one")])
    assert (outcome.result, outcome.reason, thing.done) == ("done", "broken", 1)


def test_a_step_that_stays_wrong_fails_with_what_is_still_wrong() -> None:
    (outcome,) = run([Thing(wrong=True, mends=False).step("one")])
    assert outcome.result == "failed"
    assert "broken" in outcome.reason


def test_an_error_of_a_step_is_its_outcome() -> None:
    def fail() -> None:
        raise OSError("no space left")

    (outcome,) = run([Step("one", lambda: "missing", fail)])
    assert (outcome.result, outcome.reason) == ("failed", "no space left")


def test_a_step_waits_for_what_comes_by_itself() -> None:
    looks = iter(["not yet", "not yet", "not yet", None, None])
    (outcome,) = run([Step("one", lambda: next(looks), lambda: None, wait_seconds=30)])
    assert outcome.result == "done"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8))
def test_steps_run_in_order_up_to_the_first_failure_and_a_second_run_finds_nothing_to_do(
    plan: list[tuple[bool, bool]],
) -> None:
    things = [Thing(wrong, mends) for wrong, mends in plan]
    outcomes = list(run([thing.step(str(index)) for index, thing in enumerate(things)]))
    failing = [index for index, (wrong, mends) in enumerate(plan) if wrong and not mends]
    reached = failing[0] + 1 if failing else len(plan)
    assert [outcome.name for outcome in outcomes] == [str(index) for index in range(reached)]
    assert all(thing.done == 0 for thing in things[reached:])
    if not failing:
        again = run([thing.step(str(index)) for index, thing in enumerate(things)])
        assert all(outcome.result == "held" for outcome in again)
