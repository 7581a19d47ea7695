"""The document's shape, as the issue asks for it, and the files of samples."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from bench import document
from bench.cases import CASES
from bench.document import BadSamples, Measured, shared_conditions
from bench.figures import Row

NUMBER, MAYBE = {"type": "number"}, {"type": ["number", "null"]}
#: Written from the issue's words, not from the code.
SHAPE = {
    "type": "object",
    "required": ["conditions", "cases"],
    "additionalProperties": False,
    "properties": {
        "conditions": {"type": "object"},
        "cases": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["min", "median", "max", "ratio", "target", "met"],
                "additionalProperties": False,
                "properties": {
                    **dict.fromkeys(("min", "median", "max"), NUMBER),
                    **dict.fromkeys(("ratio", "target"), MAYBE),
                    "met": {"type": ["boolean", "null"]},
                },
            },
        },
    },
}


def samples_for(rows: tuple[Row, ...]) -> Measured:
    series = {s for row in rows for s in (row.series, row.against) if s is not None}
    return Measured({key: [1.0, 2.0] for key in series}, conditions={"quick": True})


def test_the_document_of_every_case_has_the_shape_of_the_issue() -> None:
    measured = {name: samples_for(case.rows) for name, case in CASES.items()}
    made = document.document({name: case.rows for name, case in CASES.items()}, measured)
    jsonschema.validate(made, SHAPE)
    assert len(made["cases"]) == sum(len(case.rows) for case in CASES.values())


def test_keys_and_plots_are_not_given_twice() -> None:
    keys = [row.key for case in CASES.values() for row in case.rows]
    files = [plot.file for case in CASES.values() for plot in case.plots]
    assert len(keys) == len(set(keys))
    assert len(files) == len(set(files))


def test_samples_come_back_as_they_were_written(tmp_path: Path) -> None:
    measured = Measured({"a": [1.0, 2.5]}, {"c": [(0.0, 1.0)]}, ["slow disk"], {"quick": False})
    document.write(tmp_path / "x" / "case.json", measured)
    assert document.read(tmp_path / "x" / "case.json") == measured


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"samples": 3, "curves": {}, "notes": [], "conditions": {}}'])
def test_a_file_that_holds_no_samples_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    file = tmp_path / "case.json"
    file.write_text(text)
    with pytest.raises(BadSamples, match=r"case\.json.*Remove"):
        document.read(file)


def test_conditions_that_differ_are_told_by_case() -> None:
    assert shared_conditions({"a": {"cpus": 2, "load": 0.1}, "b": {"cpus": 2, "load": 0.4, "vips": 7}}) == {
        "cpus": 2,
        "load": {"by case": {"a": 0.1, "b": 0.4}},
        "vips": {"by case": {"b": 7}},
    }
