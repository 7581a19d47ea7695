"""From samples to the figures of a row, and whether they meet its target. Pure.

Two contenders are compared round by round: the ratio of a row is the median of the rounds' ratios, so that what slows a whole round down
cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Samples = Mapping[str, Sequence[float]]
"""By series, one value a round, in the order of the rounds."""

Direction = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Row:
    """One key of the result: which samples it is made of and what is asked of them."""

    key: str
    what: str
    unit: str
    series: str
    against: str | None = None
    """The series that the ratio is to; ``None``: there is nothing to compare with, and the target is for the value itself."""
    target: float | None = None
    """Of the ratio, or without `against` of every single round. ``None``: only reported."""
    direction: Direction = "at most"
    per: float = 1.0
    """The ratio is divided by it: as many times the other series is the whole."""
    why_missed: str = ""
    """What the page says where the target is missed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a row came to: its series in the row's unit, and the ratio where there is something to compare with."""

    min: float
    median: float
    max: float
    ratio: float | None
    target: float | None
    met: bool | None
    """``None``: nothing is asked."""


class NoSamples(ValueError):
    """A row without a sample, or with rounds that one of its two series lacks: there is nothing to say about it."""


def figures(row: Row, samples: Samples) -> Figures:
    """The row's figures.

    Raises:
        NoSamples: nothing was measured, the two series differ in length, or what is compared with came to nothing.
    """
    values = samples.get(row.series, ())
    if not values:
        raise NoSamples(f"{row.key}: the series {row.series!r} has no samples; run its case again")
    ratio = None
    if row.against is not None:
        others = samples.get(row.against, ())
        if len(others) != len(values) or not all(others):
            raise NoSamples(
                f"{row.key}: {len(values)} rounds of {row.series!r} cannot be compared with {list(others)} of {row.against!r}; "
                "run its case again"
            )
        ratio = median(a / b for a, b in zip(values, others, strict=True)) / row.per
    return Figures(min(values), median(values), max(values), ratio, row.target, _met(row, values, ratio))


def _met(row: Row, values: Sequence[float], ratio: float | None) -> bool | None:
    if row.target is None:
        return None
    judged = values if ratio is None else (ratio,)
    if row.direction == "at most":
        return max(judged) <= row.target
    return min(judged) >= row.target


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of the values do not exceed (nearest rank).

    Raises:
        NoSamples: there is no value.
    """
    if not values:
        raise NoSamples("a percentile of nothing was asked for")
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def growth_per_minute(times_seconds: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line of least squares through the values, a minute; 0 for fewer than two moments."""
    count = len(times_seconds)
    if count < 2:
        return 0.0
    mean_time, mean_value = sum(times_seconds) / count, sum(values) / count
    spread = sum((t - mean_time) ** 2 for t in times_seconds)
    if spread == 0:
        return 0.0
    together = sum((t - mean_time) * (v - mean_value) for t, v in zip(times_seconds, values, strict=True))
    return 60.0 * together / spread
