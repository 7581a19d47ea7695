"""What a case came to: samples of the subject and of its rival from the same rounds, and the ratio that is held against a target. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a bench.

    ``samples`` and ``rival_samples`` are in ``unit`` and stand pairwise for rounds: both were measured in the same minute. A case without
    rival is reported and held against nothing, unless ``limit`` says how large its median may be.
    """

    name: str
    what: str
    unit: str
    samples: tuple[float, ...]
    rival: str = ""
    rival_samples: tuple[float, ...] = ()
    target: float | None = None
    """The largest ratio to the rival that meets the target."""
    limit: float | None = None
    """The largest median, in ``unit``, of a case without rival."""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"case {self.name}: no sample")
        if self.rival and len(self.samples) != len(self.rival_samples):
            raise ValueError(
                f"case {self.name}: {len(self.samples)} samples against {len(self.rival_samples)} of {self.rival}; each round has both"
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """Subject to rival, round by round."""
        return tuple(ours / theirs for ours, theirs in zip(self.samples, self.rival_samples, strict=False))

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios: what slows the whole machine for a round down slows both."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` where there is none."""
        if self.target is not None and self.ratio is not None:
            return self.ratio <= self.target
        return None if self.limit is None else statistics.median(self.samples) <= self.limit


def figures(case: Case) -> dict[str, Any]:
    """As ``.bench/*.json`` has it: ``min``, ``median``, ``max`` of the subject in ``unit``, then ratio, target and whether it is met."""
    return {
        "min": min(case.samples),
        "median": statistics.median(case.samples),
        "max": max(case.samples),
        "ratio": case.ratio,
        "target": case.target if case.target is not None else case.limit,
        "met": case.met,
        "unit": case.unit,
        "what": case.what,
        "against": case.rival,
        "note": case.note,
    }


def document(conditions: Mapping[str, Any], cases: Sequence[Case]) -> dict[str, Any]:
    """The whole of ``.bench/*.json``."""
    return {"conditions": dict(conditions), "cases": {case.name: figures(case) for case in cases}}


def raw(cases: Sequence[Case]) -> dict[str, Any]:
    """Every sample, by case."""
    return {case.name: {"samples": list(case.samples), case.rival or "-": list(case.rival_samples)} for case in cases}


def orders(rounds: int, parties: Sequence[str]) -> list[tuple[str, ...]]:
    """Who is measured after whom, round by round: forth and back in turn, so that nobody is always first."""
    return [tuple(parties) if n % 2 == 0 else tuple(reversed(parties)) for n in range(rounds)]
