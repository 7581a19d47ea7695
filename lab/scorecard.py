"""`python -m lab scorecard REPORT... [--write]`: what several kept reports measured, put into the table of docs/scorecard.md.

The table is the source: its rows name tests (`tests/...py::test_name`) and keys of the report (`report:KEY`). The column *measured* is this command's
own: minimum, median and maximum of each number under those keys over all reports, and in how many of them the key was missed or not measured.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import topology

SCORECARD = topology.ROOT / "docs" / "scorecard.md"
COLUMNS = ("row", "fault", "must hold", "tested by", "control", "measured", "peers")
MEASURED = COLUMNS.index("measured")
NOT_MEASURED = "-"

Report = Mapping[str, Any]
_KEY = re.compile(r"`report:([\w.]+)`")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


class NotAReport(ValueError):
    """A file is no report of `python -m lab report --json`; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: the texts of its cells in the order of :data:`COLUMNS`."""

    cells: tuple[str, ...]

    @property
    def number(self) -> int:
        return int(self.cells[0])

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the report that the row names, each once."""
        return tuple(dict.fromkeys(_KEY.findall(self.cells[3])))

    @property
    def tests(self) -> tuple[tuple[str, str], ...]:
        """File and function of each test that the row names, its controls among them."""
        return tuple(dict.fromkeys(_TEST.findall(self.cells[3] + self.cells[4])))


def rows(text: str) -> list[Row]:
    """The rows of the table.

    Raises ValueError for one with more or fewer cells than the table has columns.
    """
    found = []
    for line in text.splitlines():
        if not re.match(r"\|\s*[0-9]+\s*\|", line):
            continue
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if len(cells) != len(COLUMNS):
            raise ValueError(f"row {cells[0]} has {len(cells)} cells and the table has {len(COLUMNS)} columns")
        found.append(Row(cells))
    return found


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """Every number in a measured value by its name inside it; of a truth value 1 or 0, of a list its length. Text is none."""
    if isinstance(value, bool):
        return {name: float(value)}
    if isinstance(value, int | float):
        return {name: float(value)}
    if isinstance(value, list):
        return {name: float(len(value))}
    if isinstance(value, Mapping):
        return {
            inner: number
            for key, item in value.items()
            for inner, number in numbers(item, f"{name}.{key}" if name else str(key)).items()
        }
    return {}


def measured(reports: Sequence[Report], key: str) -> str:
    """The cell's text for one key: `name minimum / median / maximum (runs)`, and what was missed or not measured."""
    verdicts = [v for report in reports if (v := report["verdicts"].get(key)) is not None]
    if not verdicts:
        return ""
    spread: dict[str, list[float]] = {}
    for report in reports:
        if key in report["verdicts"] and report["verdicts"][key].get("error") is None:
            for name, number in numbers(_value(report, key)).items():
                spread.setdefault(name, []).append(number)
    parts = [
        f"{f'{key} {name}'.strip()} {min(found):g} / {statistics.median(found):g} / {max(found):g} ({len(found)})"
        for name, found in spread.items()
    ]
    errors = sum(v.get("error") is not None for v in verdicts)
    missed = sum(not v["met"] for v in verdicts) - errors
    if errors:
        parts.append(f"{key} not measured in {errors} of {len(verdicts)}")
    if missed:
        parts.append(f"{key} missed in {missed} of {len(verdicts)}")
    return "; ".join(parts)


def _value(report: Report, key: str) -> Any:
    value: Any = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def filled(text: str, reports: Sequence[Report]) -> str:
    """The page with the column *measured* written anew; everything else stays as it is."""
    lines = []
    for line in text.splitlines(keepends=True):
        found = rows(line)
        if found:
            [row] = found
            told = [cell for key in row.keys if (cell := measured(reports, key))]
            cells = list(row.cells)
            cells[MEASURED] = "; ".join(told) or NOT_MEASURED
            lines.append(f"| {' | '.join(cells)} |\n")
        else:
            lines.append(line)
    return "".join(lines)


def read(paths: Iterable[Path]) -> list[Report]:
    """The reports in these files.

    Raises NotAReport.
    """
    found: list[Report] = []
    for path in paths:
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise NotAReport(
                f"{path} cannot be read as JSON: {error}. Keep what `python -m lab report --json` prints"
            ) from None
        verdicts = report.get("verdicts") if isinstance(report, dict) else None
        if not isinstance(verdicts, dict) or not all(isinstance(v, dict) and "met" in v for v in verdicts.values()):
            raise NotAReport(
                f"{path} has no verdicts, so it is no report. Keep what `python -m lab report --json` prints"
            )
        found.append(report)
    return found


def main(arguments: list[str]) -> int:
    """`scorecard REPORT... [--write]`, the command's name first: 0, or 2 when a file is no report."""
    parser = argparse.ArgumentParser(
        prog="python -m lab scorecard", description="minimum, median and maximum over kept reports"
    )
    parser.add_argument(
        "reports",
        nargs="*",
        type=Path,
        default=[topology.STATE / "report.json"],
        metavar="REPORT",
        help="files that `python -m lab report --json` printed (the last run's by default)",
    )
    parser.add_argument("--write", action="store_true", help="write the column into docs/scorecard.md")
    options = parser.parse_args(arguments[1:])
    try:
        reports = read(options.reports)
    except NotAReport as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = filled(SCORECARD.read_text(), reports)
    if options.write:
        SCORECARD.write_text(text)
        return 0
    for row in rows(text):
        print(f"{row.number:3}  {row.cells[1]}: {row.cells[MEASURED]}")
    return 0
