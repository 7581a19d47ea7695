"""The scorecard: every row stands on something that exists, and the measured column is made of kept reports."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import scorecard
from lab.report.catalogue import BY_KEY, nested
from lab.scorecard import NotAReport, Row, filled, measured, numbers, read, rows

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "scorecard.md").read_text()
ROWS = rows(TEXT)


def functions(path: Path) -> set[str]:
    """Names of all functions in a file, methods among them."""
    return {
        n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_there_are_thirty_rows_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, 31))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_a_row_names_tests_and_keys_that_exist_or_says_not_yet(row: Row) -> None:
    for file, name in row.tests:
        assert (ROOT / file).is_file(), f"row {row.number}: there is no {file}"
        assert name in functions(ROOT / file), f"row {row.number}: {file} has no {name}"
    for key in row.keys:
        assert key in BY_KEY, f"row {row.number}: the report has no {key}"
    told = row.cells[3]
    assert row.keys or row.tests or "not yet" in told
    # What is missing belongs somewhere.
    if "not yet" in told:
        assert any(work in told for work in ("agent and rack", "benchmarks", "XDP data plane", "cloud stacks"))
    assert all(row.cells), f"row {row.number} has an empty cell"


def test_a_row_that_names_a_test_that_is_gone_is_found() -> None:
    [row] = rows("| 1 | f | m | `tests/unit/lab/test_scorecard.py::test_gone`, `report:flows.leave` | c | - | p |")
    assert row.tests == (("tests/unit/lab/test_scorecard.py", "test_gone"),)
    assert row.keys == ("flows.leave",)
    assert "test_gone" not in functions(Path(__file__))


def test_a_row_with_a_cell_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 8 cells"):
        rows("| 1 | a | b | c | d | e | f | g |")


def report(met: bool = True, error: str | None = None, **values: Any) -> dict[str, Any]:
    """As `python -m lab report --json` prints it; two underscores in a name are a dot of the key."""
    keys = {key.replace("__", "."): value for key, value in values.items()}
    verdict = {"met": met and error is None, "error": error}
    return {**nested(keys), "verdicts": dict.fromkeys(keys, verdict), "met": met}


def test_the_spread_is_over_all_reports() -> None:
    reports = [report(edge_killed__route_gone_s=s) for s in (0.9, 0.7, 1.1, 0.8)]
    assert measured(reports, "edge_killed.route_gone_s") == "edge_killed.route_gone_s 0.7 / 0.85 / 1.1 (4)"


def test_each_number_of_a_value_has_its_own_spread() -> None:
    reports = [report(rollout={"new_failed": n, "flows_broken": 0}) for n in (0, 2)]
    assert measured(reports, "rollout") == "rollout new_failed 0 / 1 / 2 (2); rollout flows_broken 0 / 0 / 0 (2)"


def test_what_was_missed_or_not_measured_is_not_hidden() -> None:
    reports = [
        report(loops=1),
        report(loops=32, met=False),
        report(loops=None, error="NotReached: the rack is down"),
        report(spoofed=0),
    ]
    assert measured(reports, "loops") == "loops 1 / 16.5 / 32 (2); loops not measured in 1 of 3; loops missed in 1 of 3"


def test_a_key_that_no_report_has_says_nothing() -> None:
    assert measured([report(loops=1)], "spoofed") == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, {"": 1.0}),
        (0.5, {"": 0.5}),
        ([1, 2], {"": 2.0}),
        ("text", {}),
        (None, {}),
        (
            {"complete": True, "seconds": 0.4, "how": "x", "in": {"a": []}},
            {"complete": 1.0, "seconds": 0.4, "in.a": 0.0},
        ),
    ],
)
def test_numbers_are_found_by_their_name_inside_a_value(value: Any, expected: dict[str, float]) -> None:
    assert numbers(value) == expected


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_the_spread_is_minimum_median_and_maximum(seconds: list[float]) -> None:
    text = measured([report(upload_no_icmp=s) for s in seconds], "upload_no_icmp")
    ordered = sorted(seconds)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    assert text == f"upload_no_icmp {ordered[0]:g} / {middle:g} / {ordered[-1]:g} ({len(ordered)})"


def test_filling_changes_the_measured_column_only_and_twice_is_once() -> None:
    reports = [report(flows__leave=0), report(flows__leave=0)]
    once = filled(TEXT, reports)
    assert "flows.leave 0 / 0 / 0 (2)" in rows(once)[0].cells[scorecard.MEASURED]
    assert filled(once, reports) == once
    emptied = [cells[: scorecard.MEASURED] + cells[scorecard.MEASURED + 1 :] for cells in (r.cells for r in rows(once))]
    assert emptied == [r.cells[: scorecard.MEASURED] + r.cells[scorecard.MEASURED + 1 :] for r in ROWS]
    assert filled(once, []) == filled(TEXT, [])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"verdicts": 7}', '{"verdicts": {"loops": 1}}', "\x00", "[" * 100_000]
)
def test_a_file_that_is_no_report_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run1.json"
    path.write_text(content)
    with pytest.raises(NotAReport, match=r"run1\.json"):
        read([path])


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, kept = tmp_path / "scorecard.md", tmp_path / "run1.json"
    page.write_text(TEXT)
    kept.write_text(json.dumps(report(flows__leave=0)))
    monkeypatch.setattr(scorecard, "SCORECARD", page)
    assert scorecard.main(["scorecard", str(kept)]) == 0
    assert "flows.leave 0 / 0 / 0 (1)" in capsys.readouterr().out
    assert page.read_text() == TEXT
    assert scorecard.main(["scorecard", str(kept), "--write"]) == 0
    assert "flows.leave 0 / 0 / 0 (1)" in page.read_text()
    assert scorecard.main(["scorecard", str(tmp_path / "gone.json")]) == 2
    assert "gone.json cannot be read" in capsys.readouterr().err
