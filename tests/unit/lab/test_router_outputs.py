"""What routers of each software print, taken from the real daemons, and what the lab reads in it.

The files of router_outputs were printed by BIRD 2.0.12, GoBGP 4.8.0 and FRR 8.4.4 as tor1 of `tests/root/router_rig.py`. `up`: edge1 announces 203.0.113.7,
203.0.113.8 and 2001:db8:203:113::7, edge2 203.0.113.7, the core one network of each family. `down`: three seconds after edge2's BIRD was stopped
with SIGSTOP, and after the core's bgpd and then its bfdd ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab import routers, topology
from lab.routers import Session, bird, frr, gobgp

OUTPUTS = Path(__file__).parent / "router_outputs"


def printed(name: str) -> str:
    return (OUTPUTS / name).read_text()


READ: Mapping[str, Callable[[str], list[Session]]] = {
    "frr": lambda state: frr.sessions_in(
        "tor1", printed(f"frr-{state}-summary.json"), printed(f"frr-{state}-bfd.json")
    ),
    "bird": lambda state: bird.sessions_in(
        "tor1", printed(f"bird-{state}-protocols.txt"), printed(f"bird-{state}-bfd.txt")
    ),
    "gobgp": lambda state: gobgp.sessions_in("tor1", printed(f"gobgp-{state}-neighbors.json")),
}


@pytest.mark.parametrize("software", READ)
def test_sessions_that_are_up_are_told_in_the_same_words_by_all(software: str) -> None:
    found = READ[software]("up")
    assert [(one.router, one.peer, one.asn, one.bgp, one.bfd) for one in found] == [
        ("tor1", "198.18.0.11", 65010, "Established", "up"),
        ("tor1", "198.18.0.12", 65010, "Established", "up"),
        ("tor1", "198.18.1.0", 65000, "Established", "up"),
    ]


@pytest.mark.parametrize(
    ("software", "prefixes"),
    # FRR's summary is of one family.
    [("frr", [2, 1, 1]), ("bird", [3, 1, 2]), ("gobgp", [3, 1, 2])],
)
def test_prefixes_are_those_that_were_taken_in(software: str, prefixes: list[int]) -> None:
    assert [one.prefixes for one in READ[software]("up")] == prefixes


@pytest.mark.parametrize("software", READ)
def test_a_session_that_is_down_is_neither_established_nor_up(software: str) -> None:
    found = {one.peer: (one.bgp, one.bfd) for one in READ[software]("down")}
    assert found["198.18.0.11"] == ("Established", "up")
    for peer in ("198.18.0.12", "198.18.1.0"):
        # A neighbour that came by itself may be forgotten with its session.
        bgp, bfd = found.get(peer, ("gone", "gone"))
        assert bgp != "Established"
        assert bfd != "up"
    assert "198.18.1.0" in found


@pytest.mark.parametrize("software", READ)
def test_bfd_sessions_that_went_down_are_told_with_their_reason_and_the_others_not(software: str) -> None:
    downs = routers.SOFTWARE[software].bfd_downs_in("tor1", printed(f"{software}-bfd.log"))
    assert [(down.router, down.peer, down.reason) for down in downs] == [
        ("tor1", "198.18.1.0", "neighbor-down"),
        ("tor1", "198.18.0.12", "control-expired"),
    ]
    assert all(down.when.startswith(("2026-11-28", "2026/11/28")) for down in downs)


NEVER_UP = {
    "bird": "2026-11-28 08:41:36 <TRACE> bfd1: Session to 198.18.0.11 expired\n"
    "2026-11-28 08:41:36 <TRACE> bfd1: Session to 198.18.0.11 changed state from Init to Down\n",
    "frr": "2026/11/23 18:55:31 BFD: [SEY1D-NT8EQ] state-change: [mhop:no peer:198.18.1.3 local:198.18.1.2 vrf:default ifname:tor2] "
    "init -> down reason:control-expired\n",
}


@pytest.mark.parametrize("software", NEVER_UP)
def test_a_session_that_never_came_up_did_not_go_down(software: str) -> None:
    assert routers.SOFTWARE[software].bfd_downs_in("tor1", NEVER_UP[software]) == ()


def test_an_expiry_is_the_reason_of_the_next_down_of_that_peer_only() -> None:
    log = (
        "2026-11-28 08:41:35 <TRACE> bfd1: Session to 198.18.0.11 expired\n"
        "2026-11-28 08:41:35 <TRACE> bfd1: Session to 198.18.0.12 changed state from Up to Down\n"
        "2026-11-28 08:41:35 <TRACE> bfd1: Session to 198.18.0.11 changed state from Up to Down\n"
        "2026-11-28 08:41:39 <TRACE> bfd1: Session to 198.18.0.11 changed state from Up to Down\n"
    )
    assert [(down.peer, down.reason) for down in bird.bfd_downs_in("tor1", log)] == [
        ("198.18.0.12", "neighbor-down"),
        ("198.18.0.11", "control-expired"),
        ("198.18.0.11", "neighbor-down"),
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(routers, "DIRECTORY", tmp_path)
    return tmp_path


def test_a_lab_keeps_the_routers_it_was_made_with_and_has_frr_at_first(place: Path) -> None:
    assert routers.chosen() == "frr"
    (place / "tors").write_text("bird\n")
    assert routers.chosen() == "bird"
    assert routers.trouble(software="gobgp") == "the ToRs run bird, not gobgp"
    (place / "tors").write_text("a later version's\n")
    assert routers.chosen() == "frr"


def test_the_shell_of_frr_is_refused_where_there_is_none(place: Path) -> None:
    (place / "tors").write_text("bird\n")
    with pytest.raises(ValueError, match=r"tor1 has no vtysh: it runs bird.*--routers frr"):
        routers.vtysh("tor1", "show version")


def test_sessions_to_the_core_are_judged_alike_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {
        "core": [Session("core", peer, 65001, "Established", "up", 1) for peer in ("198.18.1.1", "198.18.1.3")],
        "tor1": READ["bird"]("up"),
        "tor2": [Session("tor2", "198.18.1.2", 65000, "Established", "up", 1)],
    }
    monkeypatch.setattr(routers, "sessions", lambda router: whole[router])
    assert routers.sessions_trouble() is None
    whole["tor1"] = READ["bird"]("down")
    assert (routers.sessions_trouble() or "").startswith("tor1 to 198.18.1.0: BGP ")
    whole["tor1"] = []
    assert routers.sessions_trouble() == "tor1 to 198.18.1.0: BGP None, BFD None"
    assert topology.TOR1_ROUTER in topology.TORS
