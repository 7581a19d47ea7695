from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbnode.__main__ import main
from lbnode.errors import ConfigError
from lbnode.facts import RouteAttributes
from lbnode.plan import check_file, plan, plan_file
from tests.unit.lbnode.kube_objects import EDGES, SETTINGS, WORKERS, endpoint, endpoint_slice, node, service, settings

WEB = [
    service(),
    endpoint_slice([endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2", "terminating")]),
]
CLUSTER = [*EDGES, *WORKERS, *WEB]


def write(tmp_path: Path, *items: Any, name: str = "objects.yaml") -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump_all(items))
    return path


def settings_file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return path


def test_a_plan_says_what_is_programmed_where_it_goes_and_who_announces(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path, *CLUSTER), settings_file(tmp_path))
    assert code == 0
    assert text.splitlines()[:7] == [
        "default/web: 203.0.113.10",
        "  203.0.113.10 is of pool public",
        "  tcp://203.0.113.10:80",
        "    -> worker1 198.18.0.21, weight 1, 50.0% of the table",
        "    -> worker2 198.18.0.22, drained, 50.0% of the table",
        "  edge1 announces 203.0.113.10: Announced, 1 of 1 workers healthy",
        "  edge2 announces 203.0.113.10: Announced, 1 of 1 workers healthy",
    ]


def test_assumed_nodes_have_an_address_of_each_family() -> None:
    dual = settings(
        pools=[{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]}],
        network={"nodeCidrs": ["198.18.0.0/24", "2001:db8:3::/64"], "probeCidrs": ["192.0.2.0/24", "2001:db8:2::/64"]},
    )
    objects = [
        service(vip=None, ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack"),
        endpoint_slice([endpoint("198.18.131.5", "somewhere")]),
        endpoint_slice([endpoint("2001:db8:4::5", "somewhere")], name="v6", family="IPv6"),
    ]
    report = plan(objects, dual)
    (web,) = report.services
    assert [a.version for a in web.addresses] == [4, 6]
    assert [(v.announce, v.reason) for _, _, v in web.verdicts] == [(True, "Announced")] * 2
    assert report.warnings == ()


def test_a_plan_says_why_something_is_not_announced(tmp_path: Path) -> None:
    drained = node("edge2", "198.18.0.12", "edge", annotations={"samegate.dev/drain": "true"})
    empty = service("empty", vip="203.0.113.11")
    text, _ = plan_file(write(tmp_path, *CLUSTER, drained, empty), settings_file(tmp_path))
    assert "edge2 does not announce 203.0.113.10: Draining" in text
    assert "edge1 does not announce 203.0.113.11: NoReadyEndpoints" in text


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"loadBalancerClass": "other.example/x"}, "loadBalancerClass is other.example/x, ours is samegate.dev/lb"),
        ({"loadBalancerClass": None}, "it has no loadBalancerClass, and serveWithoutClass is off"),
        ({"type": "NodePort"}, "type is NodePort"),
    ],
)
def test_a_plan_says_why_a_service_is_left_alone(tmp_path: Path, spec: dict[str, Any], reason: str) -> None:
    text, code = plan_file(write(tmp_path, service(**spec)), settings_file(tmp_path))
    assert f"default/web: left alone: {reason}" in text
    assert code == 0


def test_a_missing_address_is_allocated_as_the_controller_would(tmp_path: Path) -> None:
    text, _ = plan_file(write(tmp_path, *CLUSTER[:-2], service(vip=None), WEB[1]), settings_file(tmp_path))
    # sha256("default/web") modulo 254 is 229, counted from 203.0.113.1.
    assert "default/web: 203.0.113.230 (allocated)" in text
    assert "edge1 announces 203.0.113.230" in text


def test_nodes_that_the_file_lacks_are_assumed_and_that_is_said(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path, *WEB), settings_file(tmp_path))
    assert code == 0
    assert "-> worker1 " in text
    assert "edge announces 203.0.113.10" in text
    assert "note: no worker Nodes in the file: assumed worker1, worker2, with made-up addresses" in text
    assert "note: no edge Nodes in the file" in text


def test_a_file_without_settings_is_planned_with_the_example_pool_and_that_is_said(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path, *CLUSTER))
    assert code == 0
    assert "example pool 203.0.113.0/24" in text


def test_settings_are_taken_from_a_config_map_in_the_file(tmp_path: Path) -> None:
    own = SETTINGS | {"pools": [{"name": "p", "cidrs": ["198.51.100.0/24"]}]}
    config_map = {"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"settings.json": json.dumps(own)}}
    text, _ = plan_file(write(tmp_path, config_map, *CLUSTER))
    assert "default/web: 198.51.100." in text


def test_a_broken_config_map_is_told_with_its_place(tmp_path: Path) -> None:
    config_map = {"kind": "ConfigMap", "data": {"settings.json": "{"}}
    with pytest.raises(ConfigError, match=r"settings\.json: not JSON"):
        plan_file(write(tmp_path, config_map))


def test_settings_may_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    assert plan_file(write(tmp_path, *CLUSTER), path)[1] == 0


@pytest.mark.parametrize("shape", ["documents", "list", "kubernetes list", "json lines of one object"])
def test_a_file_may_have_any_shape_that_kubectl_takes(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "objects"
    if shape == "documents":
        path.write_text(yaml.safe_dump_all(CLUSTER))
    elif shape == "list":
        path.write_text(json.dumps(CLUSTER))
    elif shape == "kubernetes list":
        path.write_text(json.dumps({"kind": "List", "items": CLUSTER}))
    else:
        path.write_text("\n---\n".join(map(json.dumps, CLUSTER)))
    assert "edge1 announces 203.0.113.10" in plan_file(path, settings_file(tmp_path))[0]


def test_unquoted_times_stay_text_as_in_kubernetes(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all(CLUSTER).replace("'2026-01-01T00:00:00Z'", "2026-01-01T00:00:00Z"))
    assert "'2026" not in path.read_text()
    assert plan_file(path, settings_file(tmp_path))[1] == 0


def test_one_node_can_be_asked_for(tmp_path: Path) -> None:
    text, _ = plan_file(write(tmp_path, *CLUSTER), settings_file(tmp_path), node="edge2")
    assert "edge2 announces" in text
    assert "edge1" not in text
    with pytest.raises(ConfigError, match=r"--node nobody.*Edge nodes there: edge1, edge2"):
        plan_file(write(tmp_path, *CLUSTER), settings_file(tmp_path), node="nobody")


def test_a_plan_for_machines_says_the_same(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path, *CLUSTER), settings_file(tmp_path), as_json=True)
    assert code == 0
    report = json.loads(text)
    [web] = report["services"]
    assert web["service"] == "default/web"
    [port] = web["programmed"]
    assert (port["vip"], port["protocol"], port["port"]) == ("203.0.113.10", "TCP", 80)
    assert [(d["node"], d["drained"], d["share"]) for d in port["destinations"]] == [
        ("worker1", False, 0.5001),
        ("worker2", True, 0.4999),
    ]
    assert [(v["edge"], v["announce"], v["reason"]) for v in web["verdicts"]] == [
        ("edge1", True, "Announced"),
        ("edge2", True, "Announced"),
    ]
    assert report["rejections"] == []


BAD = [
    service("asks", vip=None, annotations={"samegate.dev/address": "192.0.2.77"}),
    service(
        "ports", vip="203.0.113.12", ports=[{"name": "s", "port": 1, "protocol": "DCCP"}, {"name": "http", "port": 80}]
    ),
]


def test_a_check_lists_what_is_refused_and_fails(tmp_path: Path) -> None:
    text, code = check_file(write(tmp_path, *CLUSTER, *BAD), settings_file(tmp_path))
    assert code == 1
    lines = text.splitlines()
    assert any(line.startswith("refused: default/asks: AddressOutsidePool:") for line in lines)
    assert any(line.startswith("refused: default/ports: UnsupportedProtocol:") for line in lines)
    assert lines[-1].endswith("3 Services, 1 EndpointSlices, 4 Nodes: 2 refused")


def test_a_check_of_good_objects_passes(tmp_path: Path) -> None:
    text, code = check_file(write(tmp_path, *CLUSTER), settings_file(tmp_path))
    assert (code, text.splitlines()[-1].partition(": ")[2]) == (
        0,
        "1 Services, 1 EndpointSlices, 4 Nodes: nothing refused",
    )
    assert json.loads(check_file(write(tmp_path, *CLUSTER), settings_file(tmp_path), as_json=True)[0])["services"] == []


def test_a_plan_shows_the_active_probe_and_a_check_refuses_a_bad_one(tmp_path: Path) -> None:
    good = service(annotations={"samegate.dev/probe": "http", "samegate.dev/probe-path": "/healthz"})
    text, code = plan_file(write(tmp_path, *EDGES, *WORKERS, good, WEB[1]), settings_file(tmp_path))
    assert code == 0
    assert (
        "  workers probe its pods: http GET /healthz on port http each 2000 ms, timeout 1000 ms, rise 2, fall 3" in text
    )
    bad = service(annotations={"samegate.dev/probe": "https"})
    text, code = check_file(write(tmp_path, *EDGES, *WORKERS, bad, WEB[1]), settings_file(tmp_path))
    assert code == 1
    assert "refused: default/web: InvalidProbe: samegate.dev/probe = 'https': there is no such probe" in text


def test_bad_services_leave_the_others_planned(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path, *CLUSTER, *BAD), settings_file(tmp_path))
    assert code == 1
    assert "edge1 announces 203.0.113.10: Announced" in text
    assert "default/asks: no address" in text


@pytest.mark.parametrize("content", ["{", "a: [1", "\x00", "- &a [*a]", "? [", "!!python/object:os.system {}"])
def test_a_file_that_is_no_yaml_is_an_error_and_no_crash(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    try:
        check_file(path, settings_file(tmp_path))
    except ConfigError as error:
        assert "Mend the file" in str(error)


def test_an_empty_file_plans_nothing(tmp_path: Path) -> None:
    text, code = plan_file(write(tmp_path), settings_file(tmp_path))
    assert code == 0
    assert "announces" not in text


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        plan_file(tmp_path / "nowhere")


def test_the_command_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump_all(CLUSTER)))
    assert main(["plan", "-"]) == 0
    assert "edge1 announces 203.0.113.10" in capsys.readouterr().out


def test_the_same_objects_give_the_same_plan_in_any_order() -> None:
    assert plan(CLUSTER, settings()) == plan(list(reversed(CLUSTER)), settings())


POOLS = [
    {
        "name": "gold",
        "cidrs": ["203.0.113.0/28"],
        "namespaceSelector": {"matchLabels": {"tier": "gold"}},
        "nodes": ["edge1"],
    },
    {
        "name": "rest",
        "cidrs": ["203.0.113.128/25"],
        "priority": 200,
        "communities": ["no-export"],
        "aggregate": {"length": 26},
    },
]


def test_a_plan_shows_pool_sharing_and_attributes() -> None:
    key = {"samegate.dev/sharing-key": "front"}
    objects = [
        *EDGES,
        *WORKERS,
        service("a", vip=None, annotations=key | {"samegate.dev/bgp-med": "7"}),
        service("b", vip=None, annotations=key, ports=[{"name": "https", "port": 443}]),
    ]
    own = settings(pools=POOLS, bgp=SETTINGS["bgp"] | {"communities": ["65010:1"]})
    report = plan(objects, own)
    assert report.rejections == ()
    a, b = report.services
    [vip] = a.vips
    assert (vip.pool, vip.shared_with, vip.host_route) == ("rest", (b.name,), True)
    assert vip.attributes == RouteAttributes(("65010:1", "65535:65281"), med=7)
    assert vip.aggregate is not None
    assert vip.address in vip.aggregate
    assert (vip.aggregate.prefixlen, a.addresses) == (26, b.addresses)
    assert [s.key.port for s in a.programmed] == [80]
    assert [s.key.port for s in b.programmed] == [443]
    assert (
        report.notes[0]
        == "no Namespace objects for default in the file: their labels are taken to be none but the name"
    )
    gold = {"kind": "Namespace", "metadata": {"name": "default", "labels": {"tier": "gold"}}}
    [vip] = plan([gold, *objects], own).services[0].vips
    assert (vip.pool, vip.aggregate) == ("gold", None)


def test_a_plan_in_words_and_for_machines_says_the_same_of_routes(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    pools = [
        {"name": "public", "cidrs": ["203.0.113.0/24"], "prepend": 1, "aggregate": {"length": 28, "hostRoutes": False}}
    ]
    path.write_text(json.dumps(SETTINGS | {"pools": pools}))
    key = {"samegate.dev/sharing-key": "front"}
    other = service("zz", annotations=key, ports=[{"name": "dns", "port": 53}])
    objects = write(tmp_path, *CLUSTER[:-2], service(annotations=key), other)
    text, _ = plan_file(objects, path)
    assert (
        "  203.0.113.10 is of pool public; shared with default/zz; announced as 203.0.113.0/28 alone; prepended 1x"
        in text
    )
    report = json.loads(plan_file(objects, path, as_json=True)[0])
    assert report["services"][0]["vips"] == [
        {
            "vip": "203.0.113.10",
            "pool": "public",
            "sharedWith": ["default/zz"],
            "communities": [],
            "localPreference": None,
            "med": None,
            "prepend": 1,
            "aggregate": "203.0.113.0/28",
            "hostRoute": False,
        }
    ]


def test_a_plan_says_which_edge_nodes_a_pool_is_not_for(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(
        json.dumps(SETTINGS | {"pools": [{"name": "public", "cidrs": ["203.0.113.0/24"], "nodes": ["edge1"]}]})
    )
    text, _ = plan_file(write(tmp_path, *CLUSTER), path)
    assert "edge1 announces 203.0.113.10: Announced" in text
    assert "edge2 does not announce 203.0.113.10: NodeNotSelected, pool public is for edge1" in text
