"""Plain lines: nothing is cut off, columns are aligned, and a field that is empty keeps its place for `awk`."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from lbnode.command.answer import Answer, Cell, Table, Tone, plain_lines, row
from lbnode.command.terminal import show

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=8))
def test_every_field_is_found_again_in_the_plain_lines(rows: list[tuple[str, str, str]]) -> None:
    lines = plain_lines(Table("Things", ("one", "two", "three"), tuple(row(*r) for r in rows)))
    assert lines[0] == "Things"
    assert [tuple(line.split()) for line in lines[2:]] == [tuple(f or "-" for f in r) for r in rows]


def test_a_table_without_rows_says_what_its_emptiness_means() -> None:
    assert plain_lines(Table("Routes", ("prefix",), (), "nobody announces")) == ["Routes: nobody announces"]


def test_json_goes_to_standard_output_with_the_notes_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    answer = Answer({"a": 1}, (Cell("for people"),), ("agent is old",))
    show(answer, as_json=True, out=out, err=err)
    assert json.loads(out.getvalue()) == {"a": 1, "notes": ["agent is old"]}
    assert err.getvalue() == ""


def test_for_people_notes_go_to_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    show(Answer({}, (Cell("all is [red]well", Tone.GOOD),), ("agent is old",)), as_json=False, out=out, err=err)
    assert out.getvalue() == "all is [red]well\n"
    assert err.getvalue() == "note: agent is old\n"
