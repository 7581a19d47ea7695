"""The readable page, rendered from the document and the samples; nothing on it is written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import plots
from bench.case import Case
from bench.cases import CASES
from bench.document import DIRECTORY, Measured, is_quick
from bench.figures import Row

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "bench"
QUICK_FOLDER = DIRECTORY / "page"
"""Where the page goes while any of its cases is from a quick run: what the repository shows are measurements."""

_HEAD = """\
# Benchmarks

Written by `make bench` (`python -m bench`) from `.bench/ipvs.json`; do not edit. `python -m bench CASE` measures one case anew, and
`python -m bench --help` names them.

Contenders take turns, round by round, and each round begins with another one. A ratio is the median of the rounds' ratios, so that what slows a
whole round cancels out. Rates of User-Mode Linux machines mean little, so the work of the packets' way is measured as CPU time of the machine's
processes on the host.
"""
_QUICK = """
> **Not a measurement.** Some cases were run with `--quick`: few rounds, small sizes, to see that the benchmark works.
"""


def write(document: Mapping[str, Any], measured: Mapping[str, Measured]) -> Path:
    """Write the page and its plots, and remove plots that no case has any more. Returns the page's file."""
    folder = QUICK_FOLDER if is_quick(measured) else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {plot.file for name in measured for plot in CASES[name].plots}
    for stale in folder.glob("*.svg"):
        if stale.name not in drawn:
            stale.unlink()
    for name, found in measured.items():
        for plot in CASES[name].plots:
            plots.draw(plot, found, folder / plot.file)
    file = folder / "README.md"
    file.write_text(render(document, measured, CASES))
    return file


def render(document: Mapping[str, Any], measured: Mapping[str, Measured], cases: Mapping[str, Case]) -> str:
    """The text of the page. Cases that were never measured are named as such."""
    lines = [_HEAD.rstrip("\n")]
    if is_quick(measured):
        lines.append(_QUICK.rstrip("\n"))
    for name, case in cases.items():
        lines += ["", f"## {case.title}", "", f"`python -m bench {name}`. {case.question}", ""]
        if name not in measured:
            lines.append("Not measured yet.")
            continue
        lines += [*_table(case, document["cases"]), "", case.method]
        lines += _list("Missed, and why:", _misses(case, document["cases"]))
        lines += _list("In this run:", measured[name].notes)
        for plot in case.plots:
            lines += ["", f"![{plot.title}]({plot.file})"]
    lines += ["", "## Conditions", "", *_conditions(document["conditions"])]
    return "\n".join(lines) + "\n"


def _table(case: Case, found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| key | what | min | median | max | ratio | target | met |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in case.rows:
        told = cells(row, found[row.key])
        yield f"| `{row.key}` | {row.what} | {' | '.join(told)} | {_MET[found[row.key]['met']]} |"


_MET = {True: "yes", False: "**no**", None: "-"}


def cells(row: Row, held: Mapping[str, Any]) -> list[str]:
    """Minimum, median and maximum with their unit, the ratio, and the target, as people read them."""
    spread = [f"{number(held[name])} {row.unit}".rstrip() for name in ("min", "median", "max")]
    target = "-" if held["target"] is None else f"{row.direction} {number(held['target'])}"
    if held["target"] is not None and held["ratio"] is None:
        target += f" {row.unit}".rstrip()
    return [*spread, "-" if held["ratio"] is None else number(held["ratio"]), target]


def _misses(case: Case, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"`{row.key}`: {row.why_missed or 'no reason is known; see the samples.'}"
        for row in case.rows
        if found[row.key]["met"] is False
    ]


def _list(head: str, items: Any) -> list[str]:
    return ["", head, "", *(f"- {item}" for item in items)] if items else []


def _conditions(conditions: Mapping[str, Any]) -> Iterator[str]:
    yield "| condition | value |"
    yield "|---|---|"
    for name, value in conditions.items():
        yield f"| {name.replace('_', ' ')} | {_shown(value)} |"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        by_case = value.get("by case")
        return "; ".join(f"{k}: {_shown(v)}" for k, v in (by_case if isinstance(by_case, Mapping) else value).items())
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def number(value: float) -> str:
    """With three digits that count, or whole where it is larger than that."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
