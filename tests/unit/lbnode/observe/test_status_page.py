"""The status page as a document: what it holds, and that nothing of what it shows can become markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.observe.status_page import HEADERS, MOST_NAMES, render
from lbnode.observe.status_style import STYLE
from lbnode.overview import Overview
from tests.unit.lbnode.observe.scene import HOSTILE, overview, statuses, verdict

#: Elements without an end tag (HTML Living Standard, void elements).
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Document(HTMLParser):
    """A strict reader: every element must be closed, and in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def shape(document: Document) -> list[str]:
    return [tag for tag, _ in document.tags]


def test_every_vip_edge_node_worker_condition_and_event_is_there() -> None:
    text = " ".join(Document(render(overview())).text)
    for word in (
        "203.0.113.7",
        "shop/web",
        "edge1",
        "NoReadyEndpoints",
        "tor2",
        "worker3",
        "0 of 3 pods ready",
        "draining",
        "3 of 4",
    ):
        assert word in text


def test_the_policy_allows_the_one_style_sheet_by_its_hash_and_nothing_else() -> None:
    policy = next(h for h in HEADERS if h.startswith("Content-Security-Policy: ")).partition(": ")[2]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    style = Document(render(overview())).style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_nothing_is_loaded_from_anywhere_and_nothing_runs() -> None:
    page = Document(render(overview()))
    assert set(shape(page)).isdisjoint({"script", "img", "link", "iframe", "form", "object", "base"})
    assert not any(
        name.startswith("on") or name in ("src", "style") for _, attributes in page.tags for name in attributes
    )
    assert "url(" not in page.style and "@import" not in page.style
    # Relative, so that the page works behind the API server's proxy too.
    assert {a["href"] for a in page.all("a")} == {"", "live", "metrics", "v1/status"}


def page_of(text: str) -> Document:
    """A page with ``text`` wherever somebody else's words stand."""
    said: dict[str, Any] = {
        text: {
            "vips": {"203.0.113.7": verdict(False, text, text)},
            "sessions": {text: {"state": text, "bfd": text, "last_error": text}},
            "warnings": [text],
            "last_error": text,
        }
    }
    return Document(render(replace(overview(said=said, text=text), replica=text, last_error=text)))


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    there = page_of(HOSTILE)
    assert shape(there) == shape(page_of("harmless"))
    assert " ".join(there.text).count("</td><script>") > 10


@given(st.text(max_size=40))
def test_any_text_leaves_the_shape_of_the_document_as_it_is(text: str) -> None:
    assert shape(Document(render(overview(text=text)))) == shape(Document(render(overview(text="x"))))


def test_each_table_can_be_read_by_ear() -> None:
    page = Document(render(overview()))
    assert page.all("html") == [{"lang": "en"}]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert len(page.all("table")) == 5
    for table in page.all("table"):
        assert table["role"] == "table" and table["aria-labelledby"] in ids
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    # A region that scrolls is reached by keyboard.
    assert all(d.get("tabindex") == "0" for d in page.all("div") if d.get("class") == "scroll")


def test_a_state_is_told_in_words_and_not_by_colour_alone() -> None:
    page = render(overview()).decode()
    badges = re.findall(r'<span class="badge (\w+)"><span aria-hidden="true">(.) </span>([^<]+)</span>', page)
    assert {kind for kind, _, _ in badges} == {"good", "fair", "bad"}
    assert all(word.strip() for _, _, word in badges)
    assert len({sign for _, sign, _ in badges}) == 3


def test_only_the_page_that_is_asked_for_reloads_itself() -> None:
    refresh = [
        {m.get("http-equiv"): m.get("content") for m in Document(render(overview(), r)).all("meta")}
        for r in (False, True)
    ]
    assert [r.get("refresh") for r in refresh] == [None, "5"]


@pytest.mark.parametrize("leads", [True, False])
def test_an_empty_load_balancer_has_words_in_place_of_tables(leads: bool) -> None:
    page = Document(render(Overview("replica", leads, True, "2026-11-28T03:15:07Z")))
    assert page.all("table") == []
    text = " ".join(page.text)
    assert "No node has the edge node labels." in text
    assert ("replica that leads" in text) is not leads


def test_of_many_names_the_rest_is_counted() -> None:
    one = statuses()["edge1"]
    page = render(overview(said={f"edge{n:03}": one for n in range(100)})).decode()
    assert f" and {100 - MOST_NAMES} more" in page


def test_the_title_tells_from_afar_whether_something_is_wrong() -> None:
    assert "<title>samegate: 5 things to look at</title>" in render(overview()).decode()
    assert "<title>samegate: all is well</title>" in render(Overview("a", True, True, "")).decode()


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_stands_out_from_what_is_behind_it_in_light_and_dark() -> None:
    """4.5 to 1 (WCAG 2.2, success criterion 1.4.3)."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    schemes = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        pairs = [(text, back) for text in ("text", "dim", "link") for back in ("page", "card")]
        pairs += [(kind, f"{kind}-back") for kind in ("good", "fair", "bad")] + [("text", "bad-back"), ("bad", "card")]
        for text, back in pairs:
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
