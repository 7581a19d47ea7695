"""The page says what the document says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.figures import Case, document, raw
from bench.page import number, page, plot

CASES = [
    Case("load", "10,000 into an empty kernel", "s", (1.0, 2.0, 3.0), "ipvsadm -R", (4.0, 8.0, 12.0), 0.5),
    Case("slow", "what was too slow", "s", (0.9, 0.9, 0.9), "rival", (1.0, 1.0, 1.0), 0.5, note="because of this"),
    Case("alone", "reported only", "MiB", (250.0,)),
]
DOCUMENT = document({"cores": 2, "quick": False}, CASES)


def rows(text: str) -> dict[str, list[str]]:
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    return {row[0].split("`")[1]: row[1:] for row in cells}


def test_a_row_has_spread_ratio_target_and_verdict() -> None:
    said = rows(page("Title", "make bench", DOCUMENT, {}))
    assert said["load"] == ["ipvsadm -R", "1 s", "2 s", "3 s", "0.25", "at most 0.5", "met"]
    assert said["slow"][-1] == "**missed**"
    assert said["alone"] == ["-", "250 MiB", "250 MiB", "250 MiB", "-", "-", "reported"]


def test_a_quick_run_says_so_and_a_whole_one_does_not() -> None:
    assert "A quick run" in page("T", "c", document({"quick": True}, CASES), {})
    assert "A quick run" not in page("T", "c", DOCUMENT, {})


def test_conditions_and_notes_are_on_the_page() -> None:
    text = page("T", "c", DOCUMENT, {"slow": "slow.svg"})
    assert "| cores | 2 |" in text
    assert "what was too slow. because of this." in text
    assert "(slow.svg)" in text


@pytest.mark.parametrize(
    ("value", "unit", "said"), [(0.0123, "s", "12.3 ms"), (1.234, "s", "1.23 s"), (0.5, "MiB", "0.5 MiB")]
)
def test_numbers_have_three_digits_that_matter(value: float, unit: str, said: str) -> None:
    assert number(value, unit) == said


def test_a_plot_is_the_same_bytes_for_the_same_samples_and_other_bytes_for_others(tmp_path: Path) -> None:
    samples = raw(CASES)
    for name, values in (("a", samples["load"]), ("b", samples["load"]), ("c", samples["slow"])):
        plot(DOCUMENT["cases"]["load"], values, tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again != other
    assert first.startswith(b"<?xml")
