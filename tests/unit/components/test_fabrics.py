"""The table of differences: whole, and the page is the current one."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.fabrics import DIFFERENCES, FABRICS, of, page

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_page_is_the_current_one() -> None:
    assert (ROOT / "docs/fabrics.md").read_text() == page(), "run: python -m components.fabrics > docs/fabrics.md"


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda d: d.what)
def test_every_property_has_a_value_for_every_fabric_and_a_source(difference: object) -> None:
    assert len(difference.cells) == len(FABRICS)  # type: ignore[attr-defined]
    assert all(difference.cells)  # type: ignore[attr-defined]
    assert difference.source  # type: ignore[attr-defined]


def test_the_issues_six_properties_are_in_it() -> None:
    # Issue 5, section 5: ECMP width, convergence time, liveness, return path, MTU, public address.
    said = " ".join(d.what for d in DIFFERENCES)
    for word in ("ECMP width", "dies without a word", "liveness", "return path", "largest packet", "public address"):
        assert word in said


def test_a_route_server_is_never_called_ecmp() -> None:
    assert dict(of("aws-route-server"))["ECMP width"].startswith("1:")


def test_an_unknown_fabric_has_no_column() -> None:
    with pytest.raises(KeyError):
        of("azure")
