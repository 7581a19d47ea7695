"""What the status page says, from what the API and the edge nodes say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lbnode.object_reader import read_snapshot
from lbnode.overview import Overview, Withheld, edge_rows, vip_rows
from lbnode.roles.edge_status import announced_by
from lbnode.settings import parse
from tests.unit.lbnode.observe.scene import API, NAMES, WEB, overview, statuses, verdict
from tests.unit.lbnode.roles.world import SETTINGS, service

SCENE = overview()


def test_a_vip_shows_who_announces_it_and_why_the_others_do_not() -> None:
    web = next(v for v in SCENE.vips if v.address == WEB)
    assert (web.service, web.announced_by, web.silent) == ("shop/web", ("edge1",), ("edge3",))
    assert web.withheld == (Withheld("Draining", "samegate.dev/drain is set", ("edge2",)),)


def test_edge_nodes_with_one_reason_share_a_line() -> None:
    said = {name: {"vips": {str(WEB): verdict(False, "Draining")}} for name in ("edge1", "edge2")}
    web = next(v for v in overview(said=said).vips if v.address == WEB)
    assert web.withheld == (Withheld("Draining", "", ("edge1", "edge2")),)


def test_a_vip_that_an_edge_node_has_not_seen_has_a_reason_too() -> None:
    api = next(v for v in overview(said={"edge1": {"vips": {}}}).vips if v.address == API)
    assert [w.reason for w in api.withheld] == ["NotProgrammed"]


def test_a_vip_that_is_announced_without_a_service_is_shown() -> None:
    said = {"edge1": {"vips": {"203.0.113.99": verdict(True, "Announced")}}}
    stray = overview(said=said).vips[-1]
    assert (str(stray.address), stray.service, stray.announced_by) == ("203.0.113.99", "no Service", ("edge1",))


def test_a_shared_vip_names_all_its_services() -> None:
    sharers = read_snapshot([service("web", WEB), service("api", WEB)])
    (row,) = vip_rows(sharers, parse(SETTINGS), {})
    assert row.service == "shop/api, shop/web"


def test_a_worker_shows_which_edge_nodes_reach_it_and_silent_ones_count_neither_way() -> None:
    rows = {w.name: (w.reached_by, w.missed_by, w.draining) for w in SCENE.workers}
    assert rows == {
        "worker1": (("edge1", "edge2"), (), False),
        "worker2": (("edge2",), ("edge1",), False),
        "worker3": ((), ("edge1", "edge2"), True),
    }


def test_conditions_come_with_the_last_that_changed_first() -> None:
    assert [(c.service, c.type.rpartition("/")[2]) for c in SCENE.conditions] == [
        ("shop/names", "Announced"),
        ("shop/web", "Announced"),
        ("shop/web", "Accepted"),
    ]


def test_everything_that_is_wrong_is_told_once_and_the_worst_first() -> None:
    assert SCENE.troubles == (
        f"{NAMES} (shop/names) is announced by no edge node.",
        "Edge node edge3 does not answer.",
        "tor2 at edge2: the BGP session is Active, no answer from 198.51.100.3 port 179.",
        "edge2: fabricMtuBytes 1500 is above the device's 1450",
        "No edge node reaches worker worker3.",
    )


def test_nothing_is_told_of_a_load_balancer_that_is_well() -> None:
    well = statuses()["edge1"]
    assert well is not None
    well["vips"] = {str(a): verdict(True, "Announced") for a in (WEB, API, NAMES)}
    well["healthy_workers"] = [f"198.51.100.{n}" for n in (21, 22, 23)]
    assert overview(said={"edge1": well}).troubles == ()


def test_an_api_that_never_answered_and_a_failed_pass_come_before_all_else() -> None:
    troubles = replace(SCENE, synced=False, last_error="conflict").troubles
    assert "API" in troubles[0] and "conflict" in troubles[1]
    assert replace(SCENE, api_silence_seconds=300).troubles[0] == "The Kubernetes API has been silent for 300 s."
    assert replace(SCENE, api_silence_seconds=70).troubles == SCENE.troubles
    assert Overview("a", leads=False, synced=True, at="").troubles == ()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
pages = st.dictionaries(
    st.sampled_from(["vips", "sessions", "healthy_workers", "warnings", "blocked", "draining", "last_error"]),
    anything
    | st.dictionaries(st.sampled_from([str(WEB), "tor1"]), anything | st.fixed_dictionaries({"state": anything})),
)


@given(pages)
def test_an_edge_node_of_any_version_may_say_anything(page: dict[str, Any]) -> None:
    (row,) = edge_rows({"edge1": page}, {"edge1": announced_by(page)})
    assert row.answers
    assert len(overview(said={"edge1": page}).edges) == 1
