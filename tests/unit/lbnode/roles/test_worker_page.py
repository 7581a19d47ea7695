"""Status pages as edge nodes and the controller read them: what is there, and anything at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.facts import Verdict
from lbnode.model import IPAddress, ServiceName
from lbnode.roles.edge_status import announced_by, families_reached
from lbnode.roles.worker_page import active_probes, without_endpoints

WEB = ServiceName("shop", "web")


def test_what_a_worker_says_is_read() -> None:
    page = {
        "without_endpoints": ["shop/web"],
        "active_probes": [
            {"service": "shop/web", "family": 4, "fit": False, "passing": 0},
            {"service": "shop/dns", "family": 6, "fit": None},
        ],
    }
    assert without_endpoints(page) == (WEB,)
    assert active_probes(page) == {(WEB, 4): False, (ServiceName("shop", "dns"), 6): None}


def test_a_page_of_an_older_agent_says_nothing() -> None:
    assert without_endpoints({"node": "worker1"}) == ()
    assert active_probes({"node": "worker1"}) == {}


@pytest.mark.parametrize(
    "entry",
    [
        7,
        None,
        {},
        {"service": "web", "family": 4, "fit": False},
        {"service": "a/b/c", "family": 4, "fit": False},
        {"service": "shop/web", "family": 5, "fit": False},
        {"service": "shop/web", "family": True, "fit": False},
        {"service": "shop/web", "family": [4], "fit": False},
        {"service": "shop/web", "family": 4, "fit": "no"},
        {"service": "shop/web", "family": 4, "fit": 0},
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_and_the_others_count(entry: object) -> None:
    page = {"active_probes": [entry, {"service": "shop/web", "family": 6, "fit": False}]}
    assert active_probes(page) == {(WEB, 6): False}


texts = st.one_of(st.text(max_size=8), st.sampled_from(["shop/web", "203.0.113.7", "fe80::1%eth0", "Announced"]))
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
PAGE = {
    "active_probes": [{"service": "shop/web", "family": 4, "fit": False}],
    "without_endpoints": ["shop/web"],
    "vips": {"203.0.113.7": {"announce": True, "announced": True, "reason": "Announced", "detail": ""}},
    "healthy_workers": ["198.51.100.21"],
}


def read_all(page: Any) -> tuple[object, ...]:
    """What every reader of a status page makes of it."""
    return without_endpoints(page), active_probes(page), announced_by(page), families_reached(page)


@given(st.dictionaries(st.one_of(texts, st.sampled_from(sorted(PAGE))), values, max_size=6))
def test_any_json_object_is_read_without_an_error(page: dict[str, Any]) -> None:
    services, probes, verdicts, families = read_all(page)
    assert isinstance(services, tuple) and isinstance(probes, dict) and isinstance(verdicts, dict)
    assert isinstance(families, set) and families <= {4, 6}


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6))
def test_a_page_with_bytes_overwritten_says_less_or_the_same_kind_of_thing(changes: list[tuple[int, int]]) -> None:
    text = bytearray(json.dumps(PAGE).encode())
    for position, value in changes:
        text[position % len(text)] = value
    try:
        page = json.loads(text)
    except ValueError:
        return
    if isinstance(page, dict):
        _, probes, verdicts, _ = read_all(page)
        assert isinstance(probes, dict) and all(fit in (True, False, None) for fit in probes.values())
        assert isinstance(verdicts, dict) and all(isinstance(v, Verdict) for v in verdicts.values())


@pytest.mark.parametrize(
    ("listed", "families"),
    [
        ([], set()),
        (["198.51.100.21"], {4}),
        (["2001:db8::15", "198.51.100.21", "198.51.100.22"], {4, 6}),
        (["worker1", None, 5, "2001:db8::15"], {6}),
        ("198.51.100.21", set()),
        (None, set()),
    ],
)
def test_an_edge_node_reaches_the_families_of_the_workers_that_it_names(listed: Any, families: set[int]) -> None:
    assert families_reached({"healthy_workers": listed}) == families


def test_an_address_as_its_page_writes_it_is_read_back() -> None:
    [(address, verdict)] = announced_by(PAGE).items()
    assert isinstance(address, IPAddress)
    assert (str(address), verdict.announce, verdict.reason) == ("203.0.113.7", True, "Announced")
