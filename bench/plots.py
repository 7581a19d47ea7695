"""The page's plots as SVG. Equal samples give an equal file, so that a new run shows what is new."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.case import Bars, Lines
from bench.document import Measured

_STYLE: Any = {
    # Ids of elements are random without a salt, and the date would be of today.
    "svg.hashsalt": "samegate",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
}
_INCHES = (6.4, 3.2)


def draw(plot: Bars | Lines, measured: Measured, file: Path) -> None:
    """Draw it into the file. What was not measured is left out."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.set_title(plot.title)
        if isinstance(plot, Bars):
            _bars(axes, plot, measured)
        else:
            _lines(axes, plot, measured)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _bars(axes: Axes, plot: Bars, measured: Measured) -> None:
    found = {label: measured.samples[series] for label, series in plot.bars.items() if measured.samples.get(series)}
    positions = range(len(found))
    axes.bar(positions, [median(values) for values in found.values()], width=0.6, color="#4c78a8", alpha=0.6)
    for position, values in zip(positions, found.values(), strict=True):
        axes.plot([position] * len(values), values, "o", color="#1b3a5c", markersize=3)
    axes.set_xticks(list(positions), list(found))
    axes.set_ylabel(plot.unit)
    axes.set_ylim(bottom=0)


def _lines(axes: Axes, plot: Lines, measured: Measured) -> None:
    for label, name in plot.lines.items():
        if points := measured.curves.get(name):
            axes.plot([x for x, _ in points], [y for _, y in points], marker=".", markersize=3, label=label)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.set_ylim(bottom=0)
    if len(plot.lines) > 1:
        axes.legend()
