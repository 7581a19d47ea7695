"""What a run leaves under `.bench/`: the raw samples of each case, and the one document with every figure.

`ipvs.json` has the shape `{"conditions": {...}, "cases": {key: {"min", "median", "max", "ratio", "target", "met"}}}`. A case can be measured
by itself: its samples then replace the former ones, and conditions that were not the same for all cases are told by case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Row, figures

DIRECTORY = Path(__file__).resolve().parent.parent / ".bench"
DOCUMENT = DIRECTORY / "ipvs.json"
SAMPLES = DIRECTORY / "samples"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case measured: one value a round by series, curves for the plots, and what a reader has to know about this very run."""

    samples: Mapping[str, Sequence[float]]
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)


class BadSamples(ValueError):
    """A file of samples that cannot be read; the text names it and the way out."""


def write(path: Path, measured: Measured) -> None:
    """Keep what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = {name: getattr(measured, name) for name in ("samples", "curves", "notes", "conditions")}
    path.write_text(json.dumps(raw, indent=1) + "\n")


def read(path: Path) -> Measured:
    """What :func:`write` kept.

    Raises:
        BadSamples: it is no such file.
    """
    try:
        raw = json.loads(path.read_text())
        curves = {name: [(float(x), float(y)) for x, y in points] for name, points in raw["curves"].items()}
        samples = {name: [float(v) for v in values] for name, values in raw["samples"].items()}
        return Measured(samples, curves, [str(n) for n in raw["notes"]], dict(raw["conditions"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSamples(
            f"{path}: {error!r}: no samples of a benchmark. Remove the file and run its case again"
        ) from error


def document(rows: Mapping[str, Sequence[Row]], measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The document of everything measured, by case.

    Raises:
        NoSamples: a row has nothing to be made of.
    """
    cases = {row.key: asdict(figures(row, found.samples)) for case, found in measured.items() for row in rows[case]}
    return {"conditions": shared_conditions({c: m.conditions for c, m in measured.items()}), "cases": cases}


def is_quick(measured: Mapping[str, Measured]) -> bool:
    """Whether any of it comes from a quick run, which measures nothing that counts."""
    return any(bool(found.conditions.get("quick")) for found in measured.values())


def shared_conditions(by_case: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The conditions: a value that is the same for all cases as such, another as what it was by case."""
    shared: dict[str, Any] = {}
    for name in dict.fromkeys(n for conditions in by_case.values() for n in conditions):
        values = {case: conditions[name] for case, conditions in by_case.items() if name in conditions}
        first, *others = values.values()
        everywhere = len(values) == len(by_case) and all(other == first for other in others)
        shared[name] = first if everywhere else {"by case": values}
    return shared
