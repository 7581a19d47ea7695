"""A standalone file: what it comes to, and what of it is refused."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.__main__ import main
from lbnode.errors import ConfigError
from lbnode.model import Destination, Protocol, VirtualKey
from lbnode.plan import check_file, plan_file
from lbnode.standalone import json_schema, parse
from lbnode.translate.edge import translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.standalone_file import FILE, text_of, with_value

W1, W2 = ip_address("198.51.100.21"), ip_address("198.51.100.22")
WEB = VirtualKey(ip_address("203.0.113.7"), Protocol.TCP, 80)
DNS_TCP = VirtualKey(ip_address("203.0.113.53"), Protocol.TCP, 53)
DNS_UDP = VirtualKey(ip_address("203.0.113.53"), Protocol.UDP, 53)


def programmed(raw: dict[str, Any], node: str = "edge1") -> dict[VirtualKey, Any]:
    file = parse(text_of(raw), "file")
    plan = translate_edge(file.snapshot(), file.agent_settings(), node)
    assert plan.rejections == ()
    return {s.key: s for s in plan.state.services}


def test_services_come_with_their_flags_and_workers_with_their_weights() -> None:
    services = programmed(FILE)
    assert services.keys() == {WEB, DNS_TCP, DNS_UDP}
    assert services[WEB].destinations == (Destination(W1), Destination(W2))
    assert services[DNS_TCP].destinations == services[DNS_UDP].destinations == (Destination(W2, 3),)
    assert [(s.hash_source_port, s.one_packet) for s in services.values()] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_both_edge_nodes_program_the_same() -> None:
    assert programmed(FILE, "edge1") == programmed(FILE, "edge2")


def test_a_drained_worker_keeps_its_tcp_flows_and_loses_its_udp_flows() -> None:
    workers = [{"name": "worker1"}, {"name": "worker2", "drained": True}]
    raw = with_value(workers, "services", 1, "workers")
    services = programmed(raw)
    assert services[DNS_TCP].destinations == (Destination(W1), Destination(W2, 1, drained=True))
    assert services[DNS_UDP].destinations == (Destination(W1),)


def test_a_worker_that_drains_is_drained_in_every_service() -> None:
    services = programmed(with_value(True, "workers", 1, "draining"))
    assert services[WEB].destinations == (Destination(W1), Destination(W2, 1, drained=True))
    assert services[DNS_TCP].destinations == (Destination(W2, 1, drained=True),)


def test_an_edge_node_that_drains_knows_it_and_the_other_does_not() -> None:
    file = parse(text_of(with_value(True, "edgeNodes", 0, "draining")), "file")
    assert [translate_edge(file.snapshot(), file.settings, n).draining for n in ("edge1", "edge2")] == [True, False]


def test_a_worker_has_a_tunnel_from_each_edge_node_and_hands_ports_to_its_own_address() -> None:
    raw = with_value(["192.0.2.128/25"], "services", 0, "sourceRanges")
    file = parse(text_of(raw), "file")
    plan = translate_worker(file.snapshot(), file.agent_settings(), "worker1")
    assert {str(t.edge_address) for t in plan.state.tunnels} == {"198.51.100.11", "198.51.100.12"}
    # The last octet of the node address in the default probe network.
    assert {str(a) for a in plan.state.probe_addresses} == {"192.0.2.21"}
    [web] = plan.delivery.deliveries
    assert (web.key, web.endpoints, [str(r) for r in web.source_ranges]) == (WEB, ((W1, 8080),), ["192.0.2.128/25"])
    assert plan.checks == (), "there is no kube-proxy to be asked"


def test_two_families_have_destinations_of_their_own() -> None:
    raw = with_value([{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}], "settings", "pools")
    raw["edgeNodes"][0]["addresses"] = ["198.51.100.11", "2001:db8:1::11"]
    raw["workers"][0]["addresses"] = ["198.51.100.21", "2001:db8:1::21"]
    raw["services"][0]["addresses"] = ["203.0.113.7", "2001:db8:113::7"]
    services = programmed(raw)
    six = services[VirtualKey(ip_address("2001:db8:113::7"), Protocol.TCP, 80)]
    assert six.destinations == (Destination(ip_address("2001:db8:1::21")),)
    assert services[WEB].destinations == (Destination(W1), Destination(W2))


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        # Services
        (["198.18.7.7"], ("services", 0, "addresses"), ["198.18.7.7", "in no pool (203.0.113.0/24)", "add a pool"]),
        (["203.0.113.53"], ("services", 0, "addresses"), ["web and dns both have", "203.0.113.53", "one service"]),
        (["203.0.113.7", "203.0.113.8"], ("services", 0, "addresses"), ["two addresses of one family", "two services"]),
        ([3405803783], ("services", 0, "addresses"), ["3405803783", "a number, not an address", "Write it like"]),
        (["web.example"], ("services", 0, "addresses"), ["'web.example'", "not an IP address"]),
        ([], ("services", 0, "addresses"), ["services.0.addresses"]),
        ([], ("services", 0, "ports"), ["services.0.ports"]),
        (0, ("services", 0, "ports", 0, "port"), ["ports.0.port = 0"]),
        (65536, ("services", 0, "ports", 0, "targetPort"), ["targetPort = 65536", "65535"]),
        ("80", ("services", 0, "ports", 0, "port"), ["ports.0.port = '80'", "integer"]),
        ("ICMP", ("services", 0, "ports", 0, "protocol"), ["protocol = 'ICMP'", "'TCP'"]),
        ([{"port": 80}, {"port": 80}], ("services", 0, "ports"), ["web has port TCP 80 twice", "Remove one"]),
        (True, ("services", 0, "onePacket"), ["web has onePacket", "no UDP port", "Remove it"]),
        ("Cookie", ("services", 0, "sessionAffinity"), ["sessionAffinity = 'Cookie'", "ClientIP"]),
        (["198.51.100.1/24"], ("services", 0, "sourceRanges"), ["sourceRanges.0", "host bits"]),
        ([{"name": "worker9"}], ("services", 0, "workers"), ["worker9", "not among workers (worker1, worker2)"]),
        ([{"name": "worker1"}, {"name": "worker1"}], ("services", 0, "workers"), ["names worker worker1 twice"]),
        ([{"name": "worker1", "weight": 0}], ("services", 0, "workers"), ["weight = 0"]),
        ([{"name": "worker1", "weight": True}], ("services", 0, "workers"), ["weight = True", "integer"]),
        ("web", ("services", 1, "name"), ["two services are named web", "Rename"]),
        ("Web!", ("services", 0, "name"), ["services.0.name = 'Web!'"]),
        (1, ("services", 0, "weigth"), ["services.0.weigth = 1", "unknown settings key"]),
        ({"web": {}}, ("services",), ["services"]),
        # Nodes
        ("edge1", ("workers", 0, "name"), ["two nodes are named edge1", "once"]),
        (["198.51.100.11"], ("workers", 0, "addresses"), ["edge1 and worker1 both have", "198.51.100.11"]),
        (["203.0.113.9"], ("workers", 0, "addresses"), ["worker1", "203.0.113.9", "lies in 203.0.113.0/24"]),
        (["192.0.2.9"], ("edgeNodes", 0, "addresses"), ["edge1", "192.0.2.9", "lies in 192.0.2.0/24"]),
        (["198.51.100.21", "198.51.100.31"], ("workers", 0, "addresses"), ["two IPv4 addresses", "one of each family"]),
        ([], ("edgeNodes",), ["edgeNodes"]),
        # Settings
        ("x/y", ("settings", "serviceClass"), ["serviceClass", "there are none", "Remove it"]),
        ("endpoints", ("settings", "weights"), ["weights", "may have a weight", "Remove it"]),
        ({"role": "x"}, ("settings", "workerNodeSelector"), ["workerNodeSelector", "workers lists", "Remove it"]),
        (["edge9"], ("settings", "bgp", "peers", 0, "nodes"), ["peer tor1", "edge9", "edge1, edge2"]),
        (0, ("settings", "bgp", "localAsn"), ["settings.bgp.localAsn = 0", "RFC 7607"]),
        (None, ("settings",), ["settings = None", "not an object"]),
    ],
)
def test_a_bad_value_is_refused_by_name_with_the_rule_and_the_way_out(
    value: Any, path: tuple[Any, ...], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text_of(with_value(value, *path)), "/etc/samegate/standalone.yaml")
    said = str(caught.value)
    assert said.startswith("/etc/samegate/standalone.yaml")
    assert all(word in said for word in words), said


@pytest.mark.parametrize("key", ["settings", "edgeNodes"])
def test_a_part_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"file\.{key}.*required and missing"):
        parse(text_of({k: v for k, v in FILE.items() if k != key}), "file")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...\n",
        "- a\n...\n",
        "just words\n...\n",
        "a: [\n...\n",
        "\x00\n...\n",
        "{",
        json.dumps(FILE)[:-1],
        text_of(FILE) + text_of(FILE),
        text_of(FILE).replace("services:", "workers: []\nservices:"),
        text_of(FILE).replace("edgeNodes:", "edgeNodes: &all").replace("workers:", "workers: *all\nold:", 1),
    ],
)
def test_what_is_no_object_in_yaml_or_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text, "file")


def test_json_needs_no_end_marker() -> None:
    assert parse(json.dumps(FILE), "file") == parse(text_of(FILE), "file")


WHOLE = text_of(FILE)


@given(st.integers(min_value=0, max_value=len(WHOLE.rstrip()) - 1))
def test_however_short_a_file_is_cut_it_is_refused(length: int) -> None:
    with pytest.raises(ConfigError):
        parse(WHOLE[:length], "file")


def test_without_the_end_marker_half_a_file_would_be_taken_for_a_whole_one() -> None:
    """The control for the test above: cut between two services and closed, it is a valid file with one service less."""
    half = WHOLE[: WHOLE.index("- name: dns")]
    assert [s.name for s in parse(half + "...\n", "file").services] == ["web"]


def test_a_community_that_yaml_1_1_would_count_to_base_60_stays_text() -> None:
    text = text_of(FILE).replace("localAsn: 65010", "communities: [65010:10]\n    localAsn: 65010")
    assert parse(text, "file").settings.bgp.communities == ("65010:10",)


def test_plan_and_check_take_a_standalone_file(tmp_path: Path) -> None:
    path = tmp_path / "standalone.yaml"
    path.write_text(text_of(FILE))
    text, code = plan_file(path)
    assert code == 0
    assert text.splitlines()[:12] == [
        "standalone/dns: 203.0.113.53",
        "  203.0.113.53 is of pool public",
        "  tcp://203.0.113.53:53 (by client address)",
        "    -> worker2 198.51.100.22, weight 3, 100.0% of the table",
        "  udp://203.0.113.53:53 (by client address, one packet)",
        "    -> worker2 198.51.100.22, weight 3, 100.0% of the table",
        "  edge1 announces 203.0.113.53: Announced, 1 of 1 workers healthy",
        "  edge2 announces 203.0.113.53: Announced, 1 of 1 workers healthy",
        "",
        "standalone/web: 203.0.113.7",
        "  203.0.113.7 is of pool public",
        "  tcp://203.0.113.7:80",
    ]
    assert check_file(path) == (f"{path}: 2 services, 2 workers, 2 edge nodes: nothing refused", 0)
    with pytest.raises(ConfigError, match="has its own settings"):
        plan_file(path, tmp_path / "settings.json")
    with pytest.raises(ConfigError, match="Edge nodes there: edge1, edge2"):
        plan_file(path, node="edge9")


def test_a_bad_standalone_file_is_told_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "standalone.yaml"
    path.write_text(WHOLE.rstrip().removesuffix("..."))
    assert main(["check", str(path)]) == 2
    assert "half-written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "controller", "--standalone", "F"], "a controller serves Kubernetes alone"),
        (["run", "edge", "--node", "edge1"], "goes with --standalone or --kubeconfig only"),
        (["run", "worker", "--kubeconfig", "config"], "run worker --kubeconfig: is for edge nodes outside a cluster"),
        (["run", "edge", "--kubeconfig", "config", "--standalone", "file"], "without --standalone"),
        (["run", "edge", "--standalone", "/nowhere/file"], "/nowhere/file: cannot be read"),
        (["clean", "worker", "--standalone", "/nowhere/file"], "/nowhere/file: cannot be read"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_node_that_is_not_in_the_file_is_told_who_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "standalone.yaml"
    path.write_text(WHOLE)
    assert main(["run", "worker", "--standalone", str(path), "--node", "edge1"]) == 2
    assert "node edge1: is not among workers (worker1, worker2)" in capsys.readouterr().err


def test_the_schema_names_every_key_as_the_file_writes_it() -> None:
    schema = json_schema()
    assert schema["properties"].keys() == {"settings", "edgeNodes", "workers", "services"}
    assert {"onePacket", "sessionAffinity", "sourceRanges"} <= schema["$defs"]["Service"]["properties"].keys()
