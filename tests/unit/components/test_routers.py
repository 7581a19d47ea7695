"""What routers are told: golden files for each platform, what no platform may leave out, and mistakes told before anything is created."""

from __future__ import annotations

import json
import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from router_stack import KEY, router_stack
from stack_values import raw

from components.routers.__main__ import main
from components.routers.model import Accepted, most_routes, routers
from components.routers.render import PLATFORMS, configurations
from components.settings import StackSettings, parse
from lbnode.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/routers"


def stack(platform: str = "frr", **router: Any) -> StackSettings:
    return parse(router_stack(platform, **router), bgp_keys=["tor"])


def text(platform: str, keys: dict[str, str] | None = None) -> str:
    return "".join(configurations(stack(platform), keys)["tor1"].values())


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        configurations(parse(values, bgp_keys=["tor"]))
    return str(caught.value)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_configuration_is_the_golden_one(platform: str) -> None:
    files = configurations(stack(platform))["tor1"]
    folder = GOLDEN / platform
    if os.environ.get("UPDATE_GOLDEN"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content)
    assert files == {path.name: path.read_text() for path in folder.iterdir()}


#: What each platform calls: whom it takes, import filter, export filter, limit, BFD, MD5, width of ECMP, hash over ports. Written from the vendors'
#: documentation that the modules name, not from the code: a generator that leaves one out fails here even when its golden file was written anew.
STATEMENTS = {
    "frr": (
        r"bgp listen range 198\.51\.100\.0/24 peer-group (\S+)",
        r"neighbor \1 route-map SAMEGATE-IN in",
        r"neighbor \1 route-map SAMEGATE-NOTHING out",
        r"neighbor \1 maximum-prefix 136 ",
        r"neighbor \1 bfd profile samegate",
        r"neighbor \1 password \$\{bgpKeys\.tor\}",
        r"maximum-paths 8",
        r"net\.ipv4\.fib_multipath_hash_policy = 1",
        r"neighbor \1 ttl-security hops 1",
    ),
    "bird": (
        r"neighbor range (198\.51\.100\.0/24) as 65010;",
        r"import filter samegate_in;",
        r"export none;",
        r"import limit 136 action restart;",
        r"bfd \{ min rx interval 300 ms; min tx interval 300 ms; multiplier 3; \};",
        r"password \"\$\{bgpKeys\.tor\}\";",
        r"error wait time 1, 4;",
        r"merge paths yes limit 8;",
        r"net\.ipv4\.fib_multipath_hash_policy = 1",
        r"ttl security on;",
    ),
    "vyos": (
        r"set protocols bgp listen range 198\.51\.100\.0/24 peer-group (\S+)",
        r"peer-group \1 address-family ipv4-unicast route-map import SAMEGATE-IN",
        r"peer-group \1 address-family ipv4-unicast route-map export SAMEGATE-NOTHING",
        r"peer-group \1 address-family ipv4-unicast maximum-prefix 136",
        r"peer-group \1 bfd profile samegate",
        r"peer-group \1 password '\$\{bgpKeys\.tor\}'",
        r"maximum-paths ebgp 8",
        r"set system ip multipath layer4-hashing",
        r"peer-group \1 ttl-security hops 1",
    ),
    "nx-os": (
        r"neighbor (198\.51\.100\.0/24)\n    remote-as 65010",
        r"prefix-list SAMEGATE-VIPS in",
        r"route-map SAMEGATE-NOTHING out",
        r"maximum-prefix 136 restart 1",
        r"\n    bfd\n",
        r"password \$\{bgpKeys\.tor\}",
        r"maximum-paths 8",
        r"ip load-sharing address source-destination port source-destination",
        r"ttl-security hops 1",
    ),
    "ios-xe": (
        r"bgp listen range 198\.51\.100\.0/24 peer-group (\S+)",
        r"neighbor \1 prefix-list SAMEGATE-VIPS in",
        r"neighbor \1 route-map SAMEGATE-NOTHING out",
        r"neighbor \1 maximum-prefix 136 75 restart 1",
        r"neighbor \1 fall-over bfd",
        r"neighbor \1 password \$\{bgpKeys\.tor\}",
        r"maximum-paths 8",
        r"ip cef load-sharing algorithm include-ports source destination",
        r"neighbor \1 ttl-security hops 1",
    ),
    "junos": (
        r"set protocols bgp group (\S+) allow 198\.51\.100\.0/24",
        r"group \1 import SAMEGATE-IN\n",
        r"group \1 export SAMEGATE-NOTHING",
        r"group \1 family inet unicast accepted-prefix-limit maximum 136",
        r"group \1 bfd-liveness-detection minimum-interval 300",
        r"group \1 authentication-key \"\$\{bgpKeys\.tor\}\"",
        r"group \1 multipath",
        r"forwarding-options hash-key family inet layer-4",
        r"then load-balance per-packet",
    ),
    "eos": (
        r"bgp listen range 198\.51\.100\.0/24 peer-group (\S+) peer-filter SAMEGATE-AS",
        r"neighbor \1 prefix-list SAMEGATE-VIPS in",
        r"neighbor \1 route-map SAMEGATE-NOTHING out",
        r"neighbor \1 maximum-routes 136",
        r"neighbor \1 bfd interval 300 min-rx 300 multiplier 3",
        r"neighbor \1 password \$\{bgpKeys\.tor\}",
        r"maximum-paths 8 ecmp 8",
        r"match as-range 65010 result accept",
        r"neighbor \1 ttl maximum-hops 1",
    ),
}
STATEMENTS["sonic"] = (*STATEMENTS["frr"][:7], r'"L4_SRC_PORT"', r'"docker_routing_config_mode": "split"')


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_platform_leaves_a_safeguard_out(platform: str) -> None:
    said = text(platform)
    first, *others = STATEMENTS[platform]
    found = re.search(first, said)
    assert found, first
    for statement in others:
        assert re.search(statement.replace(r"\1", re.escape(found[1])), said), statement


@pytest.mark.parametrize("platform", PLATFORMS)
def test_only_the_pools_host_routes_and_declared_aggregates_pass_in_both_families(platform: str) -> None:
    said = text(platform)
    rules = {
        "frr": ("203.0.113.0/25 ge 32", "203.0.113.128/25 ge 28 le 28", "2001:db8:113::/120 ge 128"),
        "bird": ("203.0.113.0/25{32,32}", "203.0.113.128/25{28,28}", "2001:db8:113::/120{128,128}"),
        "vyos": (
            "203.0.113.0/25\nset policy prefix-list SAMEGATE-VIPS rule 5 ge 32",
            "203.0.113.128/25\nset policy prefix-list SAMEGATE-VIPS rule 10 ge 28\nset policy prefix-list SAMEGATE-VIPS rule 10 le 28",
            "2001:db8:113::/120\nset policy prefix-list6 SAMEGATE-VIPS6 rule 5 ge 128",
        ),
        "junos": (
            "203.0.113.0/25 prefix-length-range /32-/32",
            "203.0.113.128/25 prefix-length-range /28-/28",
            "2001:db8:113::/120 prefix-length-range /128-/128",
        ),
    }
    for rule in rules.get(platform, rules["frr"]):
        assert rule in said, rule
    # The pool that announces its aggregates alone has no host routes.
    assert "203.0.113.128/25 ge 32" not in said
    assert "203.0.113.128/25{32" not in said


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_key_appears_only_when_it_is_given(platform: str) -> None:
    assert KEY not in text(platform)
    assert KEY in text(platform, {"tor": KEY})
    assert "${bgpKeys" not in text(platform, {"tor": KEY})


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_session_without_bfd_and_key_says_nothing_of_them(platform: str) -> None:
    values = router_stack(platform)
    values["agent"]["bgp"]["peers"] = [{"name": "tor1", "address": "198.51.100.2", "asn": 65001, "bfd": None}]
    values["platform"]["routers"][0]["peers"] = ["tor1"]
    said = "".join(configurations(parse(values))["tor1"].values())
    assert not re.search(r"\bbfd\b|password|authentication-key|ttl-security|ttl security", said)


def test_the_session_of_one_family_is_not_active_in_the_other() -> None:
    said = text("frr")
    four, six = said.split("address-family ipv4 unicast")[1].split("address-family ipv6 unicast")
    assert "no neighbor SAMEGATE-EDGES6 activate" in four
    assert "SAMEGATE-EDGES " not in six


@given(st.integers(24, 32), st.integers(0, 8))
def test_a_limit_is_the_number_of_routes_that_can_pass(length: int, wider: int) -> None:
    network = ip_network((0xCB007100, length - wider), strict=False)
    rule = Accepted(network, length)
    assert most_routes([rule], 4) == len(list(network.subnets(new_prefix=length)))
    assert most_routes([rule], 6) == 0


def test_no_limit_is_beyond_what_routers_hold() -> None:
    assert most_routes([Accepted(ip_network("2001:db8::/64"), 128)], 6) == 65536


def test_a_smaller_limit_can_be_asked_for() -> None:
    (router,) = routers(stack(maximumPrefixes=100))
    assert router.maximum_prefixes == {4: 100, 6: 100}


def test_edge_nodes_connect_from_the_networks_that_are_asked_for() -> None:
    (router,) = routers(stack(edgeCidrs=["198.51.100.64/26"]))
    assert [list(map(str, s.networks)) for s in router.sessions] == [["198.51.100.64/26"], ["2001:db8:1::/64"]]


def _with(**router: Any) -> dict[str, Any]:
    return router_stack("frr", **router)


def test_a_peer_that_there_is_not_is_refused_with_those_there_are() -> None:
    said = refused(_with(peers=["tor9"]))
    for words in ("'tor9'", "tor1, tor1-v6", "Correct"):
        assert words in said


def test_peers_of_different_as_numbers_are_not_one_router() -> None:
    values = _with()
    values["agent"]["bgp"]["peers"][1]["asn"] = 65002
    assert "peers of one router have one AS number" in refused(values)


def test_a_router_of_the_edge_nodes_own_as_is_refused() -> None:
    values = _with()
    for peer in values["agent"]["bgp"]["peers"]:
        peer["asn"] = 65010
    assert "eBGP" in refused(values)


def test_two_sessions_of_one_family_are_refused() -> None:
    values = _with()
    values["agent"]["bgp"]["peers"][1]["address"] = "198.51.100.3"
    assert "Keep one peer for each IP version" in refused(values)


def test_a_router_outside_all_node_networks_needs_to_be_told_where_edge_nodes_are() -> None:
    values = _with()
    values["agent"]["network"]["nodeCidrs"] = ["198.18.0.0/24"]
    assert "edgeCidrs" in refused(values)


def test_ttl_security_is_refused_where_it_cannot_be_written() -> None:
    values = router_stack("junos")
    values["agent"]["bgp"]["peers"][0]["ttlSecurity"] = True
    assert "Leave ttlSecurity out" in refused(values)


def test_fewer_paths_than_edge_nodes_are_refused() -> None:
    assert "Set at least 2" in refused(_with(maximumPaths=1))


def test_fewer_neighbours_than_edge_nodes_are_refused() -> None:
    assert "the last to come would be refused. Set at least 2" in refused(_with(maximumEdgeNodes=1))


def test_frr_is_told_of_more_dynamic_neighbours_than_it_takes_by_itself() -> None:
    """100 of all sessions together, by FRR's user guide."""
    assert "bgp listen limit" not in "".join(configurations(stack(maximumEdgeNodes=50))["tor1"].values())
    assert " bgp listen limit 102\n" in configurations(stack(maximumEdgeNodes=51))["tor1"]["frr.conf"]


def test_bird_is_told_its_own_address_where_bfd_goes_over_more_than_one_hop() -> None:
    """BIRD 2.0.12 refuses it otherwise: "Multihop BGP with BFD requires specified local address"."""
    values = router_stack("bird")
    for peer in values["agent"]["bgp"]["peers"]:
        peer |= {"multihop": 2, "ttlSecurity": False}
    said = configurations(parse(values, bgp_keys=["tor"]))["tor1"]["bird.conf"]
    assert re.findall(r"local (\S+) as 65001;", said) == ["198.51.100.2", "2001:db8:1::2"]


@pytest.mark.parametrize(
    ("platform", "statement"),
    [
        ("ios-xe", "bgp listen limit 20"),
        ("eos", "dynamic peer max 20"),
        ("vyos", "protocols bgp listen limit 20"),
        # Counts each network by itself.
        ("nx-os", "maximum-peers 10"),
    ],
)
def test_an_edge_node_counts_once_for_each_of_its_sessions(platform: str, statement: str) -> None:
    """Two sessions, one of each IP version."""
    said = "".join(configurations(stack(platform, maximumEdgeNodes=10))["tor1"].values())
    assert re.search(rf"{statement}$", said, re.MULTILINE)


def test_a_peer_of_two_routers_is_refused() -> None:
    values = _with()
    values["platform"]["routers"].append({"name": "tor2", "platform": "frr", "peers": ["tor1"]})
    assert "'tor1' twice" in refused(values)


def test_a_stack_without_routers_has_no_configurations() -> None:
    assert configurations(parse(raw(), bgp_keys=["tor"])) == {}


def _file(folder: Path) -> str:
    values = router_stack("frr")
    values["bgpKeys"] = {"tor": {"secure": "v1:encrypted"}}
    path = folder / "Pulumi.test.yaml"
    path.write_text(yaml.safe_dump({"config": {f"samegate:{k}": v for k, v in values.items()}}))
    return str(path)


def test_the_command_prints_what_the_stack_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([_file(tmp_path)]) == 0
    assert (GOLDEN / "frr/frr.conf").read_text() in capsys.readouterr().out


def test_the_command_writes_files_for_the_owner_only_with_the_keys_in(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"tor": KEY}))
    assert main([_file(tmp_path), "--keys", str(keys), "--output", str(tmp_path / "out")]) == 0
    written = tmp_path / "out/tor1/frr.conf"
    assert f"password {KEY}\n" in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "words"), [("[]", "Give a file"), ("config: {}", "required and missing"), ("{", "Give a file")]
)
def test_the_command_tells_what_is_wrong_with_a_file(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(content)
    assert main([str(path)]) == 1
    assert words in capsys.readouterr().err


def test_a_key_that_no_peer_names_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"spine": KEY}))
    assert main([_file(tmp_path), "--keys", str(keys)]) == 1
    said = capsys.readouterr().err
    assert "'spine'" in said
    assert KEY not in said


@pytest.mark.parametrize(
    "key", ["", "two words", 'quo"te', "line\nrouter bgp 1", "what?", "a;b", "${x}", "a" * 81, 7, None]
)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_key_that_would_be_read_as_something_else_is_refused_and_not_shown(platform: str, key: object) -> None:
    with pytest.raises(ConfigError) as caught:
        configurations(stack(platform), {"tor": key})  # type: ignore[dict-item]
    said = str(caught.value)
    assert "Choose another" in said
    assert not (isinstance(key, str) and len(key) > 2 and key in said)


def test_keys_that_are_no_table_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([KEY]))
    assert main([_file(tmp_path), "--keys", str(keys)]) == 1
    said = capsys.readouterr().err
    assert "a JSON object" in said
    assert KEY not in said
