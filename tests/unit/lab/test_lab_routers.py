"""The routers' configuration: golden files, what they may never say, and the daemons' own parsers."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components.routers import bird as user_bird
from components.routers import frr as user_frr
from components.routers import model
from components.settings import parse
from lab import routers, topology
from lab.routers import bird, frr, gobgp, kernel
from lab.routers.edge_side import edge_side
from lab.topology import Router

GOLDEN = Path(__file__).parent / "golden"
EDGE_KEY = "correct horse"


@pytest.mark.parametrize("tor", topology.TORS, ids=lambda tor: tor.name)
@pytest.mark.parametrize("password", [None, EDGE_KEY])
def test_another_software_of_a_tor_has_the_golden_configuration(tor: Router, password: str | None) -> None:
    suffix = "-key" if password else ""
    for name, file in (("bird", bird.CONFIGURATION), ("gobgp", gobgp.CONFIGURATION)):
        golden = GOLDEN / name / f"{tor.name}{suffix}{Path(file).suffix}"
        # The state folder is the checkout's.
        text = routers.SOFTWARE[name].render(tor, bgp_password=password)[file].replace(str(topology.STATE), "STATE")
        assert text == golden.read_text(), golden


def test_the_key_of_a_session_that_birds_strings_cannot_hold_is_refused_with_the_way_out() -> None:
    for key in ('say "friend"', "two\nlines", ""):
        with pytest.raises(ValueError, match=r"double quote or a control character.*Choose another"):
            bird.render(topology.TOR1_ROUTER, bgp_password=key)


def test_the_core_runs_frr_whatever_the_tors_run() -> None:
    for word, software in routers.SOFTWARE.items():
        assert routers.software_of(topology.CORE_ROUTER, word) is frr
        assert {routers.software_of(tor, word) for tor in topology.TORS} == {software}


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.conf")), ids=lambda path: path.stem)
def test_a_configuration_is_the_golden_one(golden: Path) -> None:
    name, _, program = golden.stem.partition("-")
    assert frr.render(topology.router(name))[f"{program}.conf"] == golden.read_text()


def test_a_tor_takes_nothing_but_host_routes_of_the_pool_from_edge_nodes_and_tells_them_nothing() -> None:
    for tor in topology.TORS:
        lines = [line.strip() for line in frr.render(tor)["bgpd.conf"].splitlines()]
        assert "neighbor SAMEGATE-EDGES route-map SAMEGATE-IN in" in lines
        assert "neighbor SAMEGATE-EDGES route-map SAMEGATE-NOTHING out" in lines
        assert "ip prefix-list SAMEGATE-VIPS seq 5 permit 203.0.113.0/24 ge 32" in lines
        assert lines.count("neighbor SAMEGATE-EDGES maximum-prefix 256 restart 1") == 2, "one a family"
        assert "neighbor SAMEGATE-EDGES route-map SAMEGATE-IN6 in" in lines
        assert lines.count("neighbor SAMEGATE-EDGES route-map SAMEGATE-NOTHING out") == 2
        assert "ipv6 prefix-list SAMEGATE-VIPS6 seq 5 permit 2001:db8:203:113::/120 ge 128" in lines


def of_the_lab_stack() -> list[model.Router]:
    """The ToRs, as they follow from the settings in the repository."""
    config = yaml.safe_load((topology.ROOT / "stacks/Pulumi.lab.yaml").read_text())["config"]
    values = {key.removeprefix("samegate:"): value for key, value in config.items()}
    generated = model.routers(parse({"image": "samegate@sha256:" + "0" * 64, **values}))
    return [replace(router, maximum_edge_nodes=len(topology.EDGES)) for router in generated]


def test_the_lab_stacks_own_settings_give_the_same_edge_side() -> None:
    assert of_the_lab_stack() == [edge_side(tor) for tor in topology.TORS]


def test_a_tors_frr_has_every_line_that_a_user_would_get_for_it() -> None:
    for tor, generated in zip(topology.TORS, of_the_lab_stack(), strict=True):
        running = "".join(frr.render(tor).values()).splitlines()
        assert set(user_frr.text(generated, {}).splitlines()) - set(running) == set()


def test_a_tors_bird_has_every_block_that_a_user_would_get_for_it_but_those_it_has_in_its_own_way() -> None:
    own = {"protocol device { }", "protocol direct { ipv4; ipv6; }", "protocol bfd { }"}
    for tor, generated in zip(topology.TORS, of_the_lab_stack(), strict=True):
        running = bird.render(tor)[bird.CONFIGURATION]
        blocks = user_bird.text(generated, {}).strip().split("\n\n")
        assert {block for block in blocks if f"\n{block}\n" not in running} == own


def test_no_router_switches_the_need_for_a_policy_off() -> None:
    for router in topology.ROUTERS:
        assert "ebgp-requires-policy" not in frr.render(router)["bgpd.conf"]


def test_a_password_is_that_of_the_edge_nodes_only() -> None:
    with_key = frr.render(topology.TOR1_ROUTER, bgp_password=EDGE_KEY)["bgpd.conf"]
    without = frr.render(topology.TOR1_ROUTER)["bgpd.conf"]
    assert set(with_key.splitlines()) - set(without.splitlines()) == {f" neighbor SAMEGATE-EDGES password {EDGE_KEY}"}
    assert frr.render(topology.CORE_ROUTER, bgp_password=EDGE_KEY) == frr.render(topology.CORE_ROUTER)


def test_next_hops_of_a_single_path_are_its_gateway() -> None:
    assert kernel.next_hops([{"dst": "203.0.113.1", "gateway": "198.18.0.11", "dev": "rack"}]) == ["198.18.0.11"]


def test_next_hops_of_a_multipath_route_are_all_gateways() -> None:
    hops = [{"gateway": "198.18.0.11", "dev": "rack", "weight": 1}, {"gateway": "198.18.0.12", "dev": "rack"}]
    assert kernel.next_hops([{"dst": "203.0.113.1", "nexthops": hops}]) == ["198.18.0.11", "198.18.0.12"]


def test_a_connected_route_has_no_next_hop() -> None:
    assert kernel.next_hops([{"dst": "198.18.0.0/24", "dev": "rack", "scope": "link"}]) == []


BFD_LOG = """\
2026/11/23 18:55:28 BFD: [PSB4R-8T1TJ] session-new: mhop:no peer:198.18.1.1 local:198.18.1.0 vrf:default ifname:tor1
2026/11/23 18:55:29 BFD: [J1C6V-VMRW5] state-change: [mhop:no peer:198.18.1.1 local:198.18.1.0 vrf:default ifname:tor1] \
down -> up
2026/11/23 18:55:31 BFD: [SEY1D-NT8EQ] state-change: [mhop:no peer:198.18.1.3 local:198.18.1.2 vrf:default ifname:tor2] \
init -> down reason:control-expired
2026/11/23 18:55:33 BFD: [SEY1D-NT8EQ] state-change: [mhop:no peer:198.18.1.1 local:198.18.1.0 vrf:default ifname:tor1] \
up -> down reason:control-expired
2026/11/23 18:55:34 BFD: [J1C6V-VMRW5] state-change: [mhop:no peer:198.18.1.1 local:198.18.1.0 vrf:default ifname:tor1] \
init -> up
2026/11/23 18:55:39 BFD: [NW21R-MRYNT] session-delete: mhop:no peer:198.18.1.1 local:198.18.1.0 vrf:default ifname:tor1
"""
"""As FRR 8.4 wrote it while the daemon at the far end was stopped for two seconds."""


def test_only_sessions_that_were_up_count_as_gone_down() -> None:
    (event,) = frr.bfd_downs_in("core", BFD_LOG)
    assert event == routers.BfdDown("core", "2026/11/23 18:55:33", "198.18.1.1", "control-expired")


def test_a_session_that_went_down_counts_though_it_was_removed_since() -> None:
    assert "session-delete" in BFD_LOG.splitlines()[-1]
    assert len(frr.bfd_downs_in("core", BFD_LOG)) == 1


def _needs_frr() -> None:
    if os.geteuid() != 0 or shutil.which("vtysh") is None:
        pytest.skip("FRR's parser needs root and the package frr")


@pytest.mark.root
@pytest.mark.parametrize("name", [router.name for router in topology.ROUTERS])
@pytest.mark.parametrize("password", [None, "s3cret"])
def test_frr_accepts_every_configuration(name: str, password: str | None, tmp_path: Path) -> None:
    _needs_frr()
    for file, text in frr.render(topology.router(name), bgp_password=password).items():
        path = tmp_path / file
        path.write_text(text)
        frr.check_configuration(path.stem, path)


@pytest.mark.root
def test_frr_rejects_a_misspelt_configuration(tmp_path: Path) -> None:
    _needs_frr()
    path = tmp_path / "bgpd.conf"
    path.write_text(frr.render(topology.TOR1_ROUTER)["bgpd.conf"].replace("maximum-paths", "maximal-paths"))
    with pytest.raises(ValueError, match="maximal-paths"):
        frr.check_configuration("bgpd", path)
