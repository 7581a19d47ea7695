"""The status page for people: :class:`lbnode.overview.Overview` as one HTML document that loads nothing and runs nothing.

Built as a tree of elements, so that every value is escaped by the serializer and none can become markup. The policy allows the one style
sheet of this module, by its hash, and nothing else: no script, no image, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from lbnode import __version__
from lbnode.observe.status_style import STYLE
from lbnode.overview import ConditionRow, EdgeRow, Overview, VipRow, WorkerRow

Element = ElementTree.Element
Content = str | Element

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
#: Headers that go with the page (Content Security Policy Level 3).
HEADERS = (
    f"Content-Security-Policy: default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options: nosniff",
    "Referrer-Policy: no-referrer",
)
#: The page that reloads itself does so after this long.
RELOAD_SECONDS = 5
#: Of more names than this the rest is counted.
MOST_NAMES = 8


def render(overview: Overview, reloads: bool = False) -> bytes:
    """The document. One that reloads itself is asked for, because a page that moves under the reader is a hindrance to some."""
    head = [
        _element("meta", charset="utf-8"),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        *([_element("meta", {"http-equiv": "refresh"}, content=str(RELOAD_SECONDS))] if reloads else []),
        _element("title", {}, "samegate: ", _headline(overview)),
        _element("style", {}, STYLE),
    ]
    main = [_summary(overview), _attention(overview.troubles)]
    main += [_vips(overview.vips), _edges(overview.edges), _workers(overview.workers)]
    main += [_conditions(overview.conditions), _events(overview)]
    body = [_header(overview, reloads), _element("main", {}, *main), _footer()]
    document = _element("html", {"lang": "en"}, _element("head", {}, *head), _element("body", {}, *body))
    text = ElementTree.tostring(document, encoding="unicode", method="html")
    # JSON may carry half of a surrogate pair, which no encoding has.
    return b"<!DOCTYPE html>\n" + text.encode("utf-8", "replace") + b"\n"


def _element(tag: str, attributes: dict[str, str] | None = None, *children: Content, **more: str) -> Element:
    element = Element(tag, {**(attributes or {}), **more})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return element


# The top


def _headline(overview: Overview) -> str:
    count = len(overview.troubles)
    return "all is well" if not count else f"{count} thing{'s' if count > 1 else ''} to look at"


def _header(overview: Overview, reloads: bool) -> Element:
    leads = "leads" if overview.leads else "stands by"
    links = (
        [_link(".", "stop reloading")]
        if reloads
        else [_link("", "reload"), " · ", _link("live", f"reload every {RELOAD_SECONDS} s")]
    )
    return _element(
        "header",
        {},
        _element("h1", {}, "samegate"),
        _element(
            "p",
            {},
            "Seen by replica ",
            _element("strong", {}, overview.replica),
            f", which {leads}, at ",
            _time(overview.at),
            ". ",
            *links,
        ),
    )


def _link(target: str, text: str) -> Element:
    return _element("a", {"href": target}, text)


def _summary(overview: Overview) -> Element:
    sessions = [s for e in overview.edges for s in e.sessions]
    cards = (
        ("VIPs announced", sum(bool(v.announced_by) for v in overview.vips), len(overview.vips)),
        ("edge nodes answer", sum(e.answers for e in overview.edges), len(overview.edges)),
        ("BGP sessions up", sum(s.up for s in sessions), len(sessions)),
        ("workers reached", sum(bool(w.reached_by) for w in overview.workers), len(overview.workers)),
    )
    listed = [
        _element(
            "li",
            {"class": "good" if good == of else "bad"},
            _element("strong", {}, f"{good} of {of}"),
            " ",
            _element("span", {}, what),
        )
        for what, good, of in cards
    ]
    return _element("ul", {"class": "cards", "aria-label": "Summary"}, *listed)


def _attention(troubles: Sequence[str]) -> Element:
    title = _element("h2", {"id": "attention"}, "To look at")
    if not troubles:
        return _section("attention", title, _element("p", {}, _badge("good", "Nothing"), " needs attention now."))
    items = [_element("li", {}, trouble) for trouble in troubles]
    return _section("attention", title, _element("ul", {"class": "troubles"}, *items))


def _section(name: str, *children: Content) -> Element:
    return _element("section", {"aria-labelledby": name}, *children)


def _footer() -> Element:
    return _element(
        "footer",
        {},
        f"samegate {__version__}. Read-only. For machines: ",
        _link("metrics", "metrics"),
        ", ",
        _link("v1/status", "status as JSON"),
        ". What each reason means, and what to do, is in docs/runbook.md.",
    )


# The tables


def _vips(rows: Sequence[VipRow]) -> Element:
    return _table(
        "vips",
        "VIPs",
        ("VIP", "Service", "State", "Announced by", "Not by, because"),
        ([str(v.address), v.service, _vip_state(v), _names(v.announced_by), _elsewhere(v)] for v in rows),
        "No Service has an address of ours.",
    )


def _vip_state(row: VipRow) -> Content:
    if not row.announced_by:
        return _badge("bad", "withheld")
    return _badge("fair", "not by all") if row.withheld or row.silent else _badge("good", "announced")


def _elsewhere(row: VipRow) -> Content:
    lines = [
        _element(
            "li",
            {},
            _element("span", {"class": "names"}, _names(w.edges)),
            ": ",
            _element("strong", {}, w.reason),
            *([f", {w.detail}"] if w.detail else []),
        )
        for w in row.withheld
    ]
    if row.silent:
        lines.append(_element("li", {}, _names(row.silent), ": ", _element("strong", {}, "no answer")))
    return _element("ul", {"class": "plain"}, *lines) if lines else "–"


def _edges(rows: Sequence[EdgeRow]) -> Element:
    return _table(
        "edges",
        "Edge nodes",
        ("Edge node", "State", "Announces", "Sessions", "Says"),
        (
            [e.name, _edge_state(e), _count(e.announces, "VIP") if e.answers else "–", _sessions(e), _lines(e.troubles)]
            for e in rows
        ),
        "No node has the edge node labels.",
    )


def _edge_state(row: EdgeRow) -> Content:
    if not row.answers:
        return _badge("bad", "silent")
    if row.draining:
        return _badge("fair", "draining")
    return _badge("good", "answers") if not row.troubles else _badge("fair", "has findings")


def _sessions(row: EdgeRow) -> Content:
    lines = []
    for session in row.sessions:
        words = f"{session.state}" + (f", BFD {session.bfd}" if session.bfd else "")
        told = f"{words}, {_count(session.exported, 'route')}" + (
            f": {session.last_error}" if session.last_error else ""
        )
        mark = _badge("good" if session.up else "bad", session.peer)
        lines.append(_element("li", {}, mark, " ", told))
    return _element("ul", {"class": "plain"}, *lines) if lines else "–"


def _workers(rows: Sequence[WorkerRow]) -> Element:
    return _table(
        "workers",
        "Workers",
        ("Worker", "Addresses", "Health", "Reached by", "Not reached by", "Node is ready"),
        (
            [
                w.name,
                ", ".join(map(str, w.addresses)) or "–",
                _worker_state(w),
                _names(w.reached_by),
                _names(w.missed_by),
                w.ready,
            ]
            for w in rows
        ),
        "No node has the worker labels.",
    )


def _worker_state(row: WorkerRow) -> Content:
    if row.draining:
        return _badge("fair", "draining")
    if not row.reached_by:
        return _badge("bad" if row.missed_by else "fair", "unhealthy" if row.missed_by else "unknown")
    return _badge("fair", "not from all") if row.missed_by else _badge("good", "healthy")


def _conditions(rows: Sequence[ConditionRow]) -> Element:
    return _table(
        "conditions",
        "Conditions, the last that changed first",
        ("Service", "Condition", "Status", "Reason", "Message", "Since"),
        (
            [
                c.service,
                c.type.rpartition("/")[2],
                _badge("good" if c.status == "True" else "bad", c.status),
                c.reason,
                c.message,
                _time(c.since),
            ]
            for c in rows
        ),
        "No Service of ours has a condition yet.",
    )


def _events(overview: Overview) -> Element:
    kept = "No event since this replica started." if overview.leads else "Events are kept by the replica that leads."
    return _table(
        "events",
        "Recent events",
        ("When", "Service", "Kind", "Reason", "Message"),
        (
            [_time(e.at), e.service, _badge("good" if e.kind == "Normal" else "fair", e.kind), e.reason, e.message]
            for e in overview.events
        ),
        kept,
    )


def _table(name: str, title: str, columns: Sequence[str], rows: Iterable[Sequence[Content]], empty: str) -> Element:
    """A table that stays one for screen readers when a narrow screen shows each row as a block, hence the roles."""
    heading = _element("h2", {"id": name}, title)
    body = [
        _element(
            "tr",
            {"role": "row"},
            *(
                _cell(column, content, is_first=place == 0)
                for place, (column, content) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for row in rows
    ]
    if not body:
        return _section(name, heading, _element("p", {}, empty))
    head = [_element("th", {"role": "columnheader", "scope": "col"}, column) for column in columns]
    table = _element(
        "table",
        {"role": "table", "aria-labelledby": name},
        _element("thead", {"role": "rowgroup"}, _element("tr", {"role": "row"}, *head)),
        _element("tbody", {"role": "rowgroup"}, *body),
    )
    # A region that scrolls must be reachable by keyboard.
    return _section(
        name,
        heading,
        _element("div", {"class": "scroll", "role": "group", "aria-labelledby": name, "tabindex": "0"}, table),
    )


def _cell(column: str, content: Content, *, is_first: bool) -> Element:
    # One box inside, so that a narrow screen can set it beside its label.
    box = _element("div", {}, content)
    if is_first:
        return _element("th", {"role": "rowheader", "scope": "row", "data-label": column}, box)
    return _element("td", {"role": "cell", "data-label": column}, box)


# Small things


def _badge(kind: str, text: str) -> Element:
    # The sign says it without colour.
    sign = {"good": "✓", "fair": "!", "bad": "✗"}[kind]
    return _element("span", {"class": f"badge {kind}"}, _element("span", {"aria-hidden": "true"}, f"{sign} "), text)


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "") if names else "–"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lines(texts: Sequence[str]) -> Content:
    return _element("ul", {"class": "plain"}, *(_element("li", {}, t) for t in texts)) if texts else "–"


def _time(text: str) -> Content:
    return _element("time", {"datetime": text}, text.replace("T", " ").replace("Z", " UTC")) if text else "–"
