"""The readable page of a bench: what its JSON document says, as a table, with a plot of each case's raw samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

PLOT_INCHES = (7.0, 2.4)
_SUBJECT, _RIVAL = "#1f6f8b", "#c46a1b"
_VERDICTS = {True: "met", False: "**missed**", None: "reported"}


def page(title: str, command: str, document: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """Markdown: conditions, a row a case, and the plots; ``plots`` are file names beside the page, by case."""
    conditions, cases = document["conditions"], document["cases"]
    lines = [
        f"# {title}",
        "",
        f"Written by `{command}`; what stands here was measured in one run, and nothing was changed by hand.",
        "",
    ]
    if conditions.get("quick"):
        lines += ["**A quick run**: fewer rounds than a figure to rely on needs.", ""]
    lines += [
        "A ratio is the median over the rounds of one round's time against the rival's of the same round; the two take turns in who goes first.",
        "",
        "| case | against | minimum | median | maximum | ratio | target | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, case) for name, case in cases.items()]
    lines += ["", "## Conditions", "", "| | |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {value} |" for key, value in conditions.items()]
    for name, file in plots.items():
        case = cases[name]
        lines += ["", f"## {name}", "", f"{case['what']}.{_note(case)}", "", f"![{case['what']}]({file})"]
    return "\n".join([*lines, ""])


def _note(case: Mapping[str, Any]) -> str:
    return f" {case['note']}." if case["note"] else ""


def _row(name: str, case: Mapping[str, Any]) -> str:
    spread = " | ".join(number(case[key], case["unit"]) for key in ("min", "median", "max"))
    ratio = "-" if case["ratio"] is None else f"{case['ratio']:.2f}"
    target = "-"
    if case["target"] is not None:
        target = f"at most {case['target']:g}" + ("" if case["ratio"] is not None else f" {case['unit']}")
    return f"| `{name}`: {case['what']} | {case['against'] or '-'} | {spread} | {ratio} | {target} | {_VERDICTS[case['met']]} |"


def number(value: float, unit: str) -> str:
    """Three digits that matter, with the unit; seconds below one as milliseconds."""
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} {unit}"


def plot(case: Mapping[str, Any], raw: Mapping[str, list[float]], file: Path) -> None:
    """Every sample of both sides, round by round, as SVG. The same figures make the same bytes."""
    figure = Figure(figsize=PLOT_INCHES, layout="constrained")
    axes = figure.subplots()
    sides = {("agent" if name == "samples" else name): values for name, values in raw.items() if values}
    for (name, values), colour, marker in zip(sides.items(), (_SUBJECT, _RIVAL), ("o", "s"), strict=False):
        axes.plot(range(1, len(values) + 1), values, marker=marker, color=colour, label=name)
    axes.set_xlabel("round")
    axes.set_ylabel(case["unit"])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "samegate"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
