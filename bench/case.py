"""A benchmark as a value: its question, the rows that answer it, the plots, and the function that measures, which runs in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.document import Measured
from bench.figures import Row


@dataclass(frozen=True, slots=True)
class Order:
    """How to measure. `scratch` vanishes with the sandbox; `say` tells whoever waits."""

    rounds: int
    quick: bool
    scratch: Path
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bars:
    """A plot of one bar a contender: the median, with every round as a dot. `bars`: label to series."""

    file: str
    title: str
    unit: str
    bars: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lines:
    """A plot of curves. `lines`: label to curve."""

    file: str
    title: str
    x: str
    y: str
    lines: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """`minutes`: how long the whole of it took on two quiet cores. `question` and `method` are the page's words."""

    name: str
    title: str
    question: str
    method: str
    rows: tuple[Row, ...]
    plots: tuple[Bars | Lines, ...]
    measure: Callable[[Order], Measured]
    minutes: int
