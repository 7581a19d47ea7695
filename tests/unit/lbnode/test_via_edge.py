"""``return: via-edge`` from settings and verdicts on edge nodes to what a worker and an edge node should have."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.rules import render
from lbnode.diff import diff_worker
from lbnode.errors import ConfigError
from lbnode.model import IPAddress, ReturnPath, ReturnTunnel, WorkerState
from lbnode.objects import NodeObject
from lbnode.operations import (
    AddAddress,
    EnsureTunnel,
    RemoveAddress,
    RemoveReturnPath,
    RemoveTunnel,
    ReplaceFilter,
    SetReturnPath,
    SetSysctl,
)
from lbnode.return_path import Standing, standings
from lbnode.settings import parse
from lbnode.translate.edge import EdgePlan, translate_edge
from lbnode.translate.worker import WorkerPlan, translate_worker
from tests.unit.lbnode.kube_objects import EDGES, SETTINGS, WORKERS, node, snapshot

EDGE1, EDGE2 = ip_address("198.18.0.11"), ip_address("198.18.0.12")
WORKER1, WORKER2 = ip_address("198.18.0.21"), ip_address("198.18.0.22")
VIA_EDGE: dict[str, Any] = SETTINGS | {"return": "via-edge"}


def nodes(draining: frozenset[IPAddress] = frozenset()) -> dict[IPAddress, NodeObject]:
    drain = {"samegate.dev/drain": "true"}
    raw = [node(f"edge{n}", f"198.18.0.{n}", "edge") for n in range(1, 5)]
    for each in raw:
        address = ip_address(each["status"]["addresses"][0]["address"])
        each["metadata"]["annotations"] = drain if address in draining else {}
    return {n.addresses[0]: n for n in snapshot(*raw).nodes.values()}


ADDRESSES = sorted(nodes(), key=int)


@pytest.mark.parametrize(
    ("silent", "draining", "expected"),
    [
        ([], [], ["Live", "Live", "Live", "Live"]),
        ([0], [], ["Silent", "Live", "Live", "Live"]),
        ([0], [1], ["Silent", "Draining", "Live", "Live"]),
        ([0, 1], [2, 3], ["Silent", "Silent", "Live", "Live"]),
        ([0, 1, 2, 3], [0], ["AllSilent"] * 4),
    ],
    ids=["all live", "one silent", "one drains", "none left but draining ones", "all silent"],
)
def test_who_answers_takes_replies_and_who_drains_only_if_nobody_else_does(
    silent: list[int], draining: list[int], expected: list[str]
) -> None:
    found = standings(nodes(frozenset(ADDRESSES[n] for n in draining)), [ADDRESSES[n] for n in silent])
    assert [found[a].reason for a in ADDRESSES] == expected
    assert all(s.takes == (s.reason in ("Live", "AllSilent")) for s in found.values())


subsets = st.frozensets(st.sampled_from(ADDRESSES))


@given(subsets, subsets)
def test_somebody_always_takes_replies_and_nobody_silent_while_another_answers(
    silent: frozenset[IPAddress], draining: frozenset[IPAddress]
) -> None:
    taking = {a for a, verdict in standings(nodes(draining), silent).items() if verdict.takes}
    assert taking
    assert not taking & silent or silent == set(ADDRESSES)


def worker_plan(settings: dict[str, Any], silent: frozenset[IPAddress] = frozenset(), *more: Any) -> WorkerPlan:
    return translate_worker(snapshot(*EDGES, *WORKERS, *more), parse(settings), "worker1", silent=silent)


def edge_plan(settings: dict[str, Any]) -> EdgePlan:
    return translate_edge(snapshot(*EDGES, *WORKERS), parse(settings), "edge1")


def path(*group: IPAddress) -> ReturnPath:
    return ReturnPath(4, WORKER1, 0x2000, 100, 7310, frozenset({EDGE1, EDGE2}), frozenset(group))


def test_replies_leave_by_every_edge_node_that_answers() -> None:
    assert worker_plan(VIA_EDGE).state.return_paths == {path(EDGE1, EDGE2)}
    plan = worker_plan(VIA_EDGE, frozenset({EDGE2}))
    assert plan.state.return_paths == {path(EDGE1)}
    assert plan.standings == {EDGE1: Standing(True, "Live"), EDGE2: Standing(False, "Silent")}


def test_with_direct_return_nothing_of_it_is_there() -> None:
    plan, edge = worker_plan(SETTINGS), edge_plan(SETTINGS)
    assert (plan.state.return_paths, plan.filter.return_mask, plan.standings) == (frozenset(), None, {})
    assert not any("multipath" in name for name in plan.state.sysctls)
    assert (edge.state.return_tunnels, edge.filter.returning) == (frozenset(), frozenset())
    assert "net.ipv4.ip_forward" not in edge.state.sysctls
    assert not any("sgr-" in rule for text in render(edge.filter).values() for c in text.chains.values() for rule in c)


def test_mark_priority_and_table_are_settings() -> None:
    own = VIA_EDGE | {"viaEdge": {"markMask": 0x40, "rulePriority": 90, "routeTable": 300}}
    plan = worker_plan(own)
    [found] = plan.state.return_paths
    assert (found.mark_mask, found.rule_priority, found.route_table) == (0x40, 90, 300)
    assert plan.filter.return_mask == 0x40


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("markMask", 0, ["markMask = 0"]),
        ("markMask", 0x6000, ["0x6000 has several bits", "power of two"]),
        ("markMask", 0x4000, ["0x4000 is kube-proxy's", "0x2000"]),
        ("markMask", 0x8000, ["0x8000 is kube-proxy's"]),
        ("markMask", 1 << 32, ["markMask = 4294967296"]),
        ("rulePriority", 32766, ["rulePriority = 32766"]),
        ("routeTable", 254, ["table main", "7310"]),
        ("routeTable", 0, ["routeTable = 0"]),
    ],
)
def test_a_wrong_value_is_refused_with_value_rule_and_way_out(key: str, value: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(VIA_EDGE | {"viaEdge": {key: value}})
    for word in words:
        assert word in str(caught.value)
    assert caught.value.way_out


def test_an_edge_node_takes_in_what_comes_back_from_each_worker_and_forwards_it() -> None:
    plan = edge_plan(VIA_EDGE)
    assert plan.state.return_tunnels == {ReturnTunnel(WORKER1, EDGE1), ReturnTunnel(WORKER2, EDGE1)}
    assert plan.state.sysctls["net.ipv4.ip_forward"] == "1"
    assert plan.filter.returning == {(ip_network("192.0.2.0/24"), EDGE1)}


def test_out_of_the_tunnels_from_workers_come_replies_of_vips_and_probes_and_nothing_else() -> None:
    raw = render(edge_plan(VIA_EDGE).filter)[4, "raw"].chains
    first, *_, tracking = raw["SAMEGATE-PREROUTING"]
    assert first.startswith("-i sgr-+ -j SAMEGATE-")
    assert tracking == "-s 203.0.113.0/24 -j CT --notrack", "replies of VIPs have no state here"
    assert raw[first.split()[-1]] == (
        "-d 203.0.113.0/24 -j DROP",
        "-s 203.0.113.0/24 -j RETURN",
        "-s 192.0.2.0/24 -d 198.18.0.11/32 -p icmp -j RETURN",
        "-j DROP",
    )
    assert render(edge_plan(VIA_EDGE).filter)[4, "mangle"].chains["SAMEGATE-INPUT"][0] == (
        "-s 203.0.113.0/24 -i sgr-+ -j DROP"
    )


def test_what_came_by_a_tunnel_is_marked_and_what_answers_it_gets_the_mark() -> None:
    mangle = render(worker_plan(VIA_EDGE).filter)[4, "mangle"].chains
    restore = "-j CONNMARK --restore-mark --nfmask 0x2000 --ctmask 0x2000"
    assert mangle["SAMEGATE-PREROUTING"] == (
        "-i sgt-+ -j CONNMARK --set-xmark 0x2000/0x2000",
        "-i sgt-+ -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440",
        f"! -i sgt-+ -m conntrack --ctdir REPLY {restore}",
    )
    assert mangle["SAMEGATE-OUTPUT"] == (f"-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY {restore}",)
    assert worker_plan(SETTINGS).filter.digest != worker_plan(VIA_EDGE).filter.digest


def test_the_way_back_is_there_before_the_worker_answers_probes_and_behind_the_tunnels_it_leads_to() -> None:
    plan = worker_plan(VIA_EDGE)
    kinds = [type(o) for o in diff_worker(plan.state, plan.filter, WorkerState(), plan.delivery) if not isinstance(o, SetSysctl)]  # fmt: skip
    assert [k for k in kinds if k in (ReplaceFilter, EnsureTunnel, SetReturnPath, AddAddress)] == [
        *(ReplaceFilter, EnsureTunnel, EnsureTunnel, SetReturnPath, AddAddress)
    ]


def test_an_edge_node_that_falls_silent_costs_one_operation_and_no_answer_to_a_probe() -> None:
    plan, fewer = worker_plan(VIA_EDGE), worker_plan(VIA_EDGE, frozenset({EDGE2}))
    assert diff_worker(fewer.state, fewer.filter, plan.state, fewer.delivery) == (SetReturnPath(path(EDGE1)),)


def test_an_edge_node_that_is_gone_leaves_the_group_before_its_tunnel_goes() -> None:
    before = worker_plan(VIA_EDGE)
    after = translate_worker(snapshot(EDGES[0], *WORKERS), parse(VIA_EDGE), "worker1")
    operations = diff_worker(after.state, after.filter, before.state, after.delivery)
    assert [type(o) for o in operations] == [SetReturnPath, RemoveTunnel]


def test_a_worker_whose_way_back_is_lost_is_silent_until_it_is_mended() -> None:
    plan = worker_plan(VIA_EDGE)
    lost = WorkerState(**{f: getattr(plan.state, f) for f in plan.state.__slots__} | {"return_paths": frozenset()})
    kinds = [type(o) for o in diff_worker(plan.state, plan.filter, lost, plan.delivery)]
    assert kinds == [RemoveAddress, SetReturnPath, AddAddress]


def test_back_to_direct_return_the_way_is_taken_away() -> None:
    direct = worker_plan(SETTINGS)
    operations = diff_worker(direct.state, direct.filter, worker_plan(VIA_EDGE).state, direct.delivery)
    assert RemoveReturnPath(4) in operations


def test_each_family_has_a_way_of_its_own_where_edge_node_and_worker_have_it() -> None:
    both = VIA_EDGE | {"pools": [{"name": "public", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}]}
    plan = worker_plan(both)
    assert {p.version for p in plan.state.return_paths} == {4}
    dual = [node("edge3", "198.18.0.13,2001:db8::13", "edge"), node("worker1", "198.18.0.21,2001:db8::21")]
    found = {p.version: p for p in worker_plan(both, frozenset(), *dual).state.return_paths}
    assert found[6].edges == {ip_address("2001:db8::13")}
    assert found[4].edges == {EDGE1, EDGE2, IPv4Address("198.18.0.13")}
