"""Every relative link in the documentation leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitoring.__main__ import ROOT
from tests.unit.monitoring.links import anchors, relative_links

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "apps").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = page.read_text()
    for file, anchor in relative_links(text):
        target = (page.parent / file) if file else page
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text()), f"{file}#{anchor}"


def test_an_anchor_is_made_as_github_makes_it() -> None:
    text = "# One, two: `three`!\n```\n# not a heading\n```\n## SamegateBug\n"
    assert anchors(text) == {"one-two-three", "samegatebug"}
    assert relative_links("[a](b.md#c) [d](https://example.org) [e](#f)") == [("b.md", "c"), ("", "f")]
