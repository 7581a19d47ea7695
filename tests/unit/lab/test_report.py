"""The report's judgement: what it reads from routers, kernels and the API, and when it calls a promise kept."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from lab import leftovers
from lab.report import (
    broken,
    catalogue,
    endpoint_watch,
    ipvs_tables,
    killed,
    live_flows,
    route_watch,
    run,
    steady,
    table,
)
from lab.report.measurement import Control, Measured, failed, judge
from lab.report.route_watch import RouteEvent
from lab.routers import BfdDown
from lab.traffic.connections import Sample

# Written down from the issue's table, independently of the catalogue.
KEYS_OF_THE_ISSUE = [
    "routes",
    "client_ip_preserved",
    "spread",
    "flows.leave",
    "flows.join",
    "flows.join_after_change",
    "rollout",
    "edge_killed.route_gone_s",
    "edge_killed.new_failed_after_s",
    "edge_killed.flows_broken",
    "worker_killed",
    "backend_drained",
    "dataplane_broken.withdrawn_s",
    "api_down",
    "agent_killed",
    "no_endpoints",
    "upload_no_icmp",
    "download_no_icmp",
    "icmp_errors",
    "exposed_ports",
    "loops",
    "spoofed",
    "udp",
    "affinity",
    "source_ranges",
    "bfd_false_downs",
    "second_up_changes",
    "leftovers",
]
KEYS_OVER_IPV6 = [
    f"ipv6.{key}"
    for key in (
        "routes",
        "client_ip_preserved",
        "spread",
        "flows.leave",
        "flows.join",
        "edge_killed.route_gone_s",
        "edge_killed.new_failed_after_s",
        "edge_killed.flows_broken",
        "upload_no_icmp",
        "download_no_icmp",
        "icmp_errors",
        "exposed_ports",
        "loops",
        "udp",
    )
]
KEYS = [*KEYS_OF_THE_ISSUE, *KEYS_OVER_IPV6]

GOOD: dict[str, Any] = {
    "routes": {
        "203.0.113.7": {
            "core": ["198.18.1.1", "198.18.1.3"],
            "tor1": ["198.18.0.11", "198.18.0.12"],
            "tor2": ["198.18.0.12", "198.18.0.11"],
        }
    },
    "client_ip_preserved": True,
    "spread": {"edges": {"edge1": 480, "edge2": 520}, "workers": {"worker1": 360, "worker2": 640}},
    "flows.leave": 0,
    "flows.join": 0,
    "flows.join_after_change": 0,
    "rollout": {"new_failed": 0, "flows_broken": 0},
    "edge_killed.route_gone_s": 1.49,
    "edge_killed.new_failed_after_s": 1.99,
    "edge_killed.flows_broken": 0,
    "worker_killed": {"new_failed_for_s": 2.9, "other_flows_broken": 0},
    "backend_drained": {"flows_broken": 0, "new_failed": 0},
    "dataplane_broken.withdrawn_s": 2.9,
    "api_down": {"withdrawals": 0, "failed_connections": 0, "reconciled_s": 5.0},
    "agent_killed": {"new_failed": 0, "kernel_writes": 0, "bird_flows_broken": 0},
    "no_endpoints": {"withdrawn_s": 2.9, "announced_s": 2.9},
    "upload_no_icmp": 1.9,
    "download_no_icmp": 1.9,
    "icmp_errors": {"complete": True, "seconds": 0.4},
    "exposed_ports": [],
    "loops": 1,
    "spoofed": 0,
    "udp": {"flows": 300, "same_pod_on_leave": 300, "same_pod_on_join": 300},
    "affinity": 1,
    "source_ranges": {"refused": True, "announced": True, "inside_served": True},
    "bfd_false_downs": 0,
    "second_up_changes": 0,
    "leftovers": {"machines": [], "host": []},
}
BAD: dict[str, list[Any]] = {
    "routes": [{}, {"203.0.113.7": {**GOOD["routes"]["203.0.113.7"], "tor2": ["198.18.0.11"]}}],
    "client_ip_preserved": [False, None, "yes"],
    "spread": [
        {"edges": {"edge1": 340, "edge2": 660}, "workers": {"worker1": 500, "worker2": 500}},
        {"edges": {"edge1": 500, "edge2": 500}, "workers": {"worker1": 1000}},
        {"edges": {"edge1": 500, "edge2": 500}, "workers": {"worker1": 500, "worker2": 400, "failed": 100}},
    ],
    "flows.leave": [1, None],
    "flows.join": [1],
    "flows.join_after_change": [1],
    "rollout": [{"new_failed": 1, "flows_broken": 0}, {"new_failed": 0, "flows_broken": 1}, {}],
    "edge_killed.route_gone_s": [1.5, None],
    "edge_killed.new_failed_after_s": [2.0],
    "edge_killed.flows_broken": [1],
    "worker_killed": [
        {"new_failed_for_s": 3.0, "other_flows_broken": 0},
        {"new_failed_for_s": 0, "other_flows_broken": 1},
    ],
    "backend_drained": [{"flows_broken": 1, "new_failed": 0}],
    "dataplane_broken.withdrawn_s": [3.0, None],
    "api_down": [
        {"withdrawals": 1, "failed_connections": 0, "reconciled_s": 1},
        {"withdrawals": 0, "failed_connections": 1, "reconciled_s": 1},
        {"withdrawals": 0, "failed_connections": 0, "reconciled_s": 5.1},
    ],
    "agent_killed": [{"new_failed": 0, "kernel_writes": 1, "bird_flows_broken": 0}],
    "no_endpoints": [{"withdrawn_s": 3.0, "announced_s": 1}, {"withdrawn_s": 1, "announced_s": 3.0}],
    "upload_no_icmp": [2.0, None],
    "download_no_icmp": [2.0, None],
    "icmp_errors": [{"complete": False, "seconds": 6}],
    "exposed_ports": [["203.0.113.7:22/tcp"], None],
    "loops": [0, 2],
    "spoofed": [1],
    "udp": [
        {"flows": 300, "same_pod_on_leave": 299, "same_pod_on_join": 299},
        {"flows": 10, "same_pod_on_leave": 10, "same_pod_on_join": 10},
    ],
    "affinity": [2, 0],
    "source_ranges": [
        {"refused": False, "announced": True, "inside_served": True},
        {"refused": True, "announced": False, "inside_served": True},
    ],
    "bfd_false_downs": [1],
    "second_up_changes": [1],
    "leftovers": [
        {"machines": ["edge1: links: left sgprobe"], "host": []},
        {"machines": [], "host": ["namespace sg-core"]},
    ],
}


ROUTES6: dict[str, list[str]] = {
    "core": ["2001:db8:0:12::2", "2001:db8:0:11::2"],
    "tor1": ["2001:db8:0:1::11", "2001:db8:0:1::12"],
    "tor2": ["2001:db8:0:1::12", "2001:db8:0:1::11"],
}
GOOD |= {key: GOOD[key.removeprefix("ipv6.")] for key in KEYS_OVER_IPV6}
GOOD["ipv6.routes"] = {"2001:db8:203:113::7": ROUTES6}
BAD |= {key: BAD[key.removeprefix("ipv6.")] for key in KEYS_OVER_IPV6}
BAD["ipv6.routes"] = [
    {},
    {"2001:db8:203:113::7": ROUTES6 | {"tor1": ["fe80::11", "fe80::12"]}},
    {"2001:db8:203:113::7": GOOD["routes"]["203.0.113.7"]},
]


def sample(at: float, ok: bool = True, source: str = "198.18.8.10", pod: str = "a") -> Sample:
    return Sample(at, source, ok, 5.0, None if ok else "timeout", pod if ok else None, "worker1", source)


def test_the_catalogue_has_the_keys_of_the_issue_in_its_order() -> None:
    assert [entry.key for entry in catalogue.CATALOGUE] == KEYS


def test_every_key_is_measured_by_exactly_one_measurement() -> None:
    measured = [key for measurement in run.MEASUREMENTS for key in measurement.keys]
    assert sorted([*measured, run.BFD_KEY]) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_kept_promise_is_met(key: str) -> None:
    assert judge(key, Measured(GOOD[key]), 1.0, None).met


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_broken_promise_is_not_met(key: str, value: Any) -> None:
    assert not judge(key, Measured(value), 1.0, None).met


def test_a_control_that_shows_nothing_spoils_the_result() -> None:
    assert not judge("flows.leave", Measured(0, {}, Control("with sloppy_tcp=0", 3, shows=False)), 1.0, None).met


def test_a_measurement_that_fails_is_not_met_and_says_why() -> None:
    finding = failed("loops", "NotReached: no agent runs on edge1", 2.0)
    assert not finding.met
    assert "no agent runs on edge1" in table.line(finding)


def test_dotted_keys_nest_in_the_json() -> None:
    findings = [judge(key, Measured(GOOD[key]), 1.0, None) for key in ("flows.leave", "flows.join", "loops")]
    document = run.as_json(findings)
    assert document["flows"] == {"leave": 0, "join": 0}
    assert document["loops"] == 1
    assert document["verdicts"]["flows.join"]["must"] == "0"
    assert document["met"] is True
    json.dumps(document)


def test_everything_over_ipv6_can_be_selected_at_once() -> None:
    assert list(catalogue.select(["ipv6"])) == KEYS_OVER_IPV6


def test_a_group_of_keys_can_be_selected_by_its_name() -> None:
    assert catalogue.select(["edge_killed", "loops"]) == (
        "edge_killed.route_gone_s",
        "edge_killed.new_failed_after_s",
        "edge_killed.flows_broken",
        "loops",
    )
    with pytest.raises(ValueError, match=r"'loop' is not measured; the keys are routes, "):
        catalogue.select(["loop"])


MULTIPATH = "203.0.113.7 nhid 31 proto bgp metric 20 \\\tnexthop via 198.18.0.11 dev rack weight 1 \\\tnexthop via 198.18.0.12 dev rack weight 1 "
SINGLE = "203.0.113.7 nhid 32 via 198.18.0.11 dev rack proto bgp metric 20 "


def test_route_notifications_are_read_with_their_next_hops() -> None:
    assert route_watch.parse(1.0, MULTIPATH) == RouteEvent(
        1.0, "203.0.113.7", frozenset({"198.18.0.11", "198.18.0.12"})
    )
    assert route_watch.parse(2.0, SINGLE) == RouteEvent(2.0, "203.0.113.7", frozenset({"198.18.0.11"}))
    assert route_watch.parse(3.0, f"Deleted {MULTIPATH}") == RouteEvent(3.0, "203.0.113.7", frozenset())


MULTIPATH6 = (
    "2001:db8:203:113::7 nhid 41 proto bgp metric 20 pref medium \\\tnexthop via 2001:db8:0:1::11 dev rack weight 1 "
    "\\\tnexthop via 2001:db8:0:1::12 dev rack weight 1 "
)


def test_route_notifications_of_ipv6_are_read_with_their_next_hops() -> None:
    edges = frozenset({"2001:db8:0:1::11", "2001:db8:0:1::12"})
    assert route_watch.parse(1.0, MULTIPATH6) == RouteEvent(1.0, "2001:db8:203:113::7", edges)
    assert route_watch.parse(2.0, f"Deleted {MULTIPATH6}") == RouteEvent(2.0, "2001:db8:203:113::7", frozenset())
    single = "2001:db8:203:113::7 nhid 42 via 2001:db8:0:1::11 dev rack proto bgp metric 20 pref medium"
    assert route_watch.parse(3.0, single).next_hops == {"2001:db8:0:1::11"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        "fe80::/64 dev rack proto kernel metric 256 pref medium",
        "198.18.8.0/24 via 198.18.1.0 dev core proto bgp",
        "local 198.18.0.2 dev rack table local",
        "",
        "nonsense",
    ],
)
def test_other_notifications_are_ignored(line: str) -> None:
    assert route_watch.parse(1.0, line) is None


def events(*history: tuple[float, set[str]]) -> list[RouteEvent]:
    return [RouteEvent(at, "203.0.113.7", frozenset(hops)) for at, hops in history]


def test_a_next_hop_is_lost_when_it_went_for_good() -> None:
    flapped = events((1, {"a", "b"}), (2, {"a"}), (3, {"a", "b"}), (4, {"a"}), (5, {"a"}))
    assert route_watch.lost_at(flapped, "203.0.113.7", "b", since=1.5) == 4
    assert route_watch.lost_at(flapped, "203.0.113.7", "a", since=0) is None
    assert route_watch.lost_at(flapped, "203.0.113.9", "b", since=0) is None


def test_a_next_hop_that_came_back_was_lost_at_first_all_the_same() -> None:
    flapped = events((1, {"a", "b"}), (2, {"a"}), (3, {"a", "b"}))
    assert route_watch.first_lost_at(flapped, "203.0.113.7", "b", since=0) == 2
    assert route_watch.first_lost_at(flapped, "203.0.113.7", "b", since=2.5) is None


def test_a_next_hop_is_gained_at_its_first_appearance_from_then_on() -> None:
    history = events((1, {"a", "b"}), (2, {"a"}), (3, {"a", "b"}))
    assert route_watch.gained_at(history, "203.0.113.7", "b", since=1.5) == 3
    assert route_watch.gained_at(history, "203.0.113.7", "b", since=3.5) is None


def test_withdrawals_are_the_events_that_take_a_next_hop_away() -> None:
    history = events((1, {"a", "b"}), (2, {"a", "b", "c"}), (3, {"a", "c"}), (4, {"a", "b", "c"}), (5, set()))
    assert [event.at for event in route_watch.withdrawals(history, since=2)] == [3, 5]
    assert [event.at for event in route_watch.withdrawals(events((7, {"a"})), since=6)] == [7]
    assert route_watch.withdrawals(events((7, {"a", "b"})), since=6) == []


def test_json_documents_are_found_in_a_stream_cut_anywhere() -> None:
    text = json.dumps({"a": "}{"}, indent=2) + "\n" + json.dumps({"b": [1, 2]}) + "\n"
    for size in (1, 3, 7, len(text)):
        parts = (text[at : at + size] for at in range(0, len(text), size))
        assert list(endpoint_watch.documents(parts)) == [{"a": "}{"}, {"b": [1, 2]}]


def test_serving_endpoints_that_terminate_are_usable() -> None:
    conditions = [
        {"ready": True},
        {"ready": False, "serving": True, "terminating": True},
        {"ready": False, "serving": False},
    ]
    assert endpoint_watch.usable({"endpoints": [{"conditions": c} for c in conditions]}) == 2
    assert endpoint_watch.usable({"endpoints": None}) == 0


SAVED = """\
-A -t 203.0.113.7:7000 -s mh -b mh-fallback,mh-port
-a -t 203.0.113.7:7000 -r 198.18.0.22:7000 -i -w 0 --tun-type ipip
-a -t 203.0.113.7:7000 -r 198.18.0.21:7000 -i -w 1 --tun-type ipip
-A -u 203.0.113.7:7000 -s mh -b mh-fallback,mh-port
"""


def test_the_kernels_destinations_are_read_in_its_order() -> None:
    assert ipvs_tables.destinations(SAVED) == {
        "t 203.0.113.7:7000": [("198.18.0.22", 0), ("198.18.0.21", 1)],
        "u 203.0.113.7:7000": [],
    }


def test_another_scheduler_or_order_is_another_choice() -> None:
    first, second = SAVED.splitlines()[1:3]
    assert ipvs_tables.choices(SAVED) == ipvs_tables.choices(SAVED)
    for other in (SAVED.replace("mh -b mh-fallback,mh-port", "rr", 1), SAVED.replace("-w 1", "-w 9")):
        assert ipvs_tables.choices(other) != ipvs_tables.choices(SAVED)
    swapped = SAVED.replace(first, "").replace(second, f"{second}\n{first}")
    assert ipvs_tables.choices(swapped) != ipvs_tables.choices(SAVED)


STATISTICS = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  203.0.113.7:7000                  512     2301        0   124253        0
  -> 198.18.0.21:7000                  250     1100        0    60000        0
"""


def test_connections_are_counted_by_the_kernels_statistics() -> None:
    assert ipvs_tables.parse_connections(STATISTICS, "203.0.113.7:7000") == 512
    assert ipvs_tables.parse_connections(STATISTICS, "203.0.113.8:7000") == 0


def test_random_endpoints_always_leave_one_ready_and_replay_by_seed() -> None:
    pods = {"worker1": ["198.18.131.2", "198.18.131.3"], "worker2": ["198.18.132.2"]}
    chance, again = random.Random(7), random.Random(7)
    fates = set()
    for _ in range(200):
        endpoints = live_flows.random_endpoints(chance, pods)
        assert endpoints == live_flows.random_endpoints(again, pods)
        assert any(e["conditions"]["ready"] for e in endpoints)
        assert all(e["addresses"][0] in pods[e["nodeName"]] for e in endpoints)
        fates |= {(e["nodeName"], e["conditions"]["ready"]) for e in endpoints}
    assert fates == {(node, ready) for node in pods for ready in (True, False)}


def test_failures_are_dated_from_the_kill_and_those_before_it_do_not_count() -> None:
    samples = [sample(9.0, ok=False), sample(10.5, ok=False), sample(11.2, ok=False), sample(12.0)]
    assert killed.last_failed_after(samples, since=10.0) == 1.2
    assert killed.last_failed_after([sample(11.0)], since=10.0) == 0


def test_a_client_that_meets_two_pods_has_no_affinity() -> None:
    assert steady.most_pods([sample(1), sample(2)]) == 1
    assert steady.most_pods([sample(1), sample(2, pod="b"), sample(3, source="198.18.8.11")]) == 2
    assert steady.most_pods([sample(1), sample(2, ok=False)]) == 2


METRICS = """\
# TYPE samegate_kernel_operations_total counter
samegate_kernel_operations_total{operation="AddService"} 3.0
samegate_kernel_operations_total{operation="SetSysctl"} 0.0
samegate_kernel_operations_created{operation="AddService"} 1.7e+09
"""


def test_kernel_writes_are_summed_over_all_operations() -> None:
    assert broken.operations_written(METRICS) == 3


def test_kernel_events_of_other_owners_are_not_counted() -> None:
    assert broken.ours("7: sgt-1a2b3c4d@NONE: <POINTOPOINT,NOARP,UP> mtu 1480")
    assert broken.ours("Deleted 1: lo    inet 203.0.113.7/32 scope global lo")
    assert not broken.ours("9: veth12ab@if2: <BROADCAST> mtu 1500 master cni0")


def test_only_downs_that_nobody_wanted_are_false() -> None:
    first = BfdDown("tor1", "2026/11/23 19:03:33", "198.18.0.11", "control-expired")
    killed_edge = BfdDown("tor1", "2026/11/23 19:05:00", "198.18.0.12", "control-expired")
    false = BfdDown("tor2", "2026/11/23 19:05:01", "198.18.0.11", "control-expired")
    assert run.new_downs([first], [first, killed_edge, false], ["198.18.0.12"]) == [false]
    # Two in one second are two.
    assert run.new_downs([first], [first, first], []) == [first]


def test_leftovers_name_machine_aspect_and_direction() -> None:
    before = {"edge1": {"links": ("lo:", "eth0:"), "sysctls": ("net.ipv4.ip_forward = 1",)}}
    after = {
        "edge1": {
            "links": ("lo:", "sgprobe:"),
            "sysctls": ("net.ipv4.ip_forward = 1", "net.ipv4.vs.sloppy_tcp = 1", "net.ipv4.vs.conn_reuse_mode = 1"),
            "default sysctls": ("net.ipv4.vs.sloppy_tcp = 0", "net.ipv4.vs.conn_reuse_mode = 1"),
        }
    }
    assert leftovers.differences(before, after) == [
        "edge1: links: left sgprobe:",
        "edge1: links: lost eth0:",
        "edge1: sysctls: left net.ipv4.vs.sloppy_tcp = 1",
        "edge1: sysctls: lost net.ipv4.vs.sloppy_tcp = 0",
    ]
    assert leftovers.differences(before, before) == []


def test_what_the_cluster_itself_changes_is_no_leftover() -> None:
    text = "=== links\nlo:\nveth01ab:\ncni0:\nsgprobe:\n=== packet filter\nnat -A KUBE-SVC-X -j RETURN\nraw -N SAMEGATE-PREROUTING\n=== ipvs\n"
    assert leftovers.parse(text) == {
        "links": ("lo:", "sgprobe:"),
        "packet filter": ("raw -N SAMEGATE-PREROUTING",),
        "ipvs": (),
    }


def test_values_are_shown_in_words() -> None:
    assert (
        table.shown({"edges": {"edge1": 480}, "ok": True, "left": [], "s": 1.25})
        == "edges edge1 480, ok true, left none, s 1.25"
    )
    assert table.shown(None) == "-"
