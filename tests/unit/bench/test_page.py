"""The page says what the document says, and why a target is missed."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import document, page, plots
from bench.case import Bars, Case, Lines, Order
from bench.document import Measured
from bench.figures import Row


def _not_run(order: Order) -> Measured:
    raise AssertionError("a page measures nothing")


CASE = Case(
    name="doors",
    title="Opening doors",
    question="Is ours lighter?",
    method="Pushed by hand.",
    rows=(
        Row("door", "ours against theirs", "N", "ours", against="theirs", target=0.66, why_missed="It is of oak."),
        Row("creak", "how loud", "dB", "creak", target=30.0),
        Row("weight", "only told", "kg", "ours"),
    ),
    plots=(
        Bars("doors.svg", "Doors", "newtons", {"ours": "ours", "theirs": "theirs", "never measured": "nothing"}),
        Lines("creak.svg", "Creaking", "seconds", "dB", {"ours": "creak", "theirs": "absent"}),
    ),
    measure=_not_run,
    minutes=1,
)
OTHER = Case("windows", "Windows", "And windows?", "", (), (), _not_run, 1)
CASES = {"doors": CASE, "windows": OTHER}
MEASURED = {
    "doors": Measured(
        {"ours": [1.0, 1.1, 1.2], "theirs": [1.0, 1.0, 1.0], "creak": [31.0, 12.0, 14.0]},
        {"creak": [(0.0, 31.0), (1.0, 12.0)]},
        ["The floor was wet."],
        {"quick": False, "rounds": 3, "programs": {"door": "2.0"}},
    )
}


def rendered(measured: dict[str, Measured]) -> str:
    return page.render(document.document({"doors": CASE.rows}, measured), measured, CASES)


def test_the_table_tells_value_ratio_target_and_verdict() -> None:
    text = rendered(MEASURED)
    assert "| `door` | ours against theirs | 1 N | 1.1 N | 1.2 N | 1.1 | at most 0.66 | **no** |" in text
    assert "| `creak` | how loud | 12 dB | 14 dB | 31 dB | - | at most 30 dB | **no** |" in text
    assert "| `weight` | only told | 1 kg | 1.1 kg | 1.2 kg | - | - | - |" in text


def test_a_target_that_is_missed_has_its_reason_and_one_that_is_met_has_none() -> None:
    assert "`door`: It is of oak." in rendered(MEASURED)
    lighter = {"doors": Measured({**MEASURED["doors"].samples, "ours": [0.1, 0.1, 0.1]})}
    assert "oak" not in rendered(lighter)


def test_what_was_seen_in_the_run_and_its_conditions_are_told() -> None:
    text = rendered(MEASURED)
    assert "The floor was wet." in text
    assert "| programs | door: 2.0 |" in text


def test_a_case_that_was_never_measured_says_so() -> None:
    assert "## Windows" in rendered(MEASURED)
    assert "Not measured yet." in rendered(MEASURED)


@pytest.mark.parametrize("quick", [True, False])
def test_a_quick_run_is_marked_as_no_measurement(quick: bool) -> None:
    measured = {"doors": Measured(MEASURED["doors"].samples, conditions={"quick": quick})}
    assert ("Not a measurement" in rendered(measured)) is quick


@pytest.mark.parametrize("plot", CASE.plots, ids=["bars", "lines"])
def test_a_plot_is_an_svg_with_its_words_and_the_same_for_the_same_samples(plot: Bars | Lines, tmp_path: Path) -> None:
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        plots.draw(plot, MEASURED["doors"], file)
    words = "".join(ElementTree.parse(files[0]).getroot().itertext())  # noqa: S314 - our own file
    assert plot.title in words
    assert "ours" in words
    assert "never measured" not in words
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not re.search(r"<dc:date>", files[0].read_text())


@pytest.mark.parametrize(("value", "text"), [(0.0123456, "0.0123"), (12345.6, "12,346"), (3.0, "3"), (999.4, "999")])
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert page.number(value) == text
