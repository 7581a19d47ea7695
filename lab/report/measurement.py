"""What a measurement hands back, and the list of all measurements in the order they are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.report.catalogue import BY_KEY, Value

if TYPE_CHECKING:
    from lab.report.bench import Bench


@dataclass(frozen=True, slots=True)
class Control:
    """The same measurement with the cause of its good result taken away: proof that it can fail. `shows`: it did."""

    what: str
    value: Value
    shows: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """The value under one key, what it was made from, and its control."""

    value: Value
    samples: Mapping[str, Any] = field(default_factory=dict)
    control: Control | None = None


Function = Callable[["Bench"], Mapping[str, Measured]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A function that yields one or more keys. `loses` names the nodes whose BFD sessions it takes down on purpose."""

    keys: tuple[str, ...]
    function: Function
    loses: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.function.__name__.removeprefix("measure_")


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report: measured, or not because of `error`."""

    key: str
    value: Value
    met: bool
    seconds: float
    control: Control | None = None
    error: str | None = None
    samples: str | None = None

    @property
    def what(self) -> str:
        return BY_KEY[self.key].what

    @property
    def must(self) -> str:
        return BY_KEY[self.key].must


def judge(key: str, measured: Measured, seconds: float, samples: str | None) -> Finding:
    """The row for a measured value. A value of the wrong shape is not met rather than a crash."""
    try:
        met = bool(BY_KEY[key].met(measured.value))
    except (KeyError, TypeError):
        met = False
    if measured.control is not None and not measured.control.shows:
        met = False
    return Finding(key, measured.value, met, seconds, measured.control, samples=samples)


def failed(key: str, error: str, seconds: float) -> Finding:
    """The row for a measurement that could not be made: never met."""
    return Finding(key, None, False, seconds, error=error)
