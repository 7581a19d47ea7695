"""A step of `up` as a value: what has to hold, and what makes it hold. Running them is one loop, here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Step:
    """`trouble` says why there is something to do, or None; `do` does it, and must leave no trouble."""

    name: str
    trouble: Callable[[], str | None]
    do: Callable[[], None]
    wait_seconds: float = 0.0
    """How long the trouble may take to go away after `do` has returned."""


@dataclass(frozen=True)
class Outcome:
    """What became of a step. `reason`: why it was done, or, when it failed, what is still wrong."""

    name: str
    result: Literal["held", "done", "failed"]
    reason: str
    seconds: float


def run(steps: Sequence[Step], *, begin: Callable[[str], None] = lambda name: None) -> Iterator[Outcome]:
    """Run the steps in order, yielding each outcome as it is known; ends after the first that fails.

    `begin` is called with the name of each step before it is looked at. Errors that a step may meet (commands that
    fail, files that cannot be had) become its outcome; anything else is a bug and passes through.
    """
    for step in steps:
        begin(step.name)
        started = time.monotonic()
        outcome = _run_one(step, started)
        yield outcome
        if outcome.result == "failed":
            return


def _run_one(step: Step, started: float) -> Outcome:
    def outcome(result: Literal["held", "done", "failed"], reason: str) -> Outcome:
        return Outcome(step.name, result, reason, time.monotonic() - started)

    try:
        before = step.trouble()
        if before is None:
            return outcome("held", "")
        step.do()
        after = step.trouble()
        deadline = time.monotonic() + step.wait_seconds
        while after is not None and time.monotonic() < deadline:
            time.sleep(0.2)
            after = step.trouble()
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        return outcome("failed", f"{error}")
    if after is not None:
        waited = f" after {step.wait_seconds:.0f} s" if step.wait_seconds else ""
        return outcome("failed", f"still so{waited}: {after}")
    return outcome("done", before)
