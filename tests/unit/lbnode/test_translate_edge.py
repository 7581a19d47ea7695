"""What an edge node is to have in its kernel beside its services, and what keeps it from announcing."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from lbnode.facts import RouteAttributes
from lbnode.model import Destination, EdgeState, ProbeRoute, Protocol, VirtualKey, VirtualService
from lbnode.translate.edge import EdgePlan, retain_announced, translate_edge
from tests.unit.lbnode.edge_plans import DUAL, VIP, W1, W2, both, destinations, plan
from tests.unit.lbnode.kube_objects import EDGES, endpoint, endpoint_slice, node, service, settings, snapshot


def test_the_drain_annotation_on_an_edge_node_drains_this_node_and_keeps_it_forwarding() -> None:
    drained = node("edge1", "198.18.0.11", "edge", annotations={"samegate.dev/drain": "true"})
    result = plan(drained, service(), both("ready", "ready"))
    assert result.draining
    assert destinations(result) == (Destination(W1), Destination(W2))
    assert not plan(drained, node_name="edge2").draining


def test_endpoints_on_nodes_that_are_no_workers_get_no_traffic_and_a_warning() -> None:
    result = plan(service(), endpoint_slice([endpoint("198.18.129.5", "edge1"), endpoint("198.18.131.5", "worker1")]))
    assert destinations(result) == (Destination(W1),)
    [warning] = result.warnings
    assert "edge1" in warning
    assert "an edge node" in warning


def test_an_edge_node_that_is_a_worker_too_is_refused() -> None:
    both_roles = node("edge1", "198.18.0.11", "edge", labels={"takes": "traffic"})
    result = translate_edge(snapshot(both_roles), settings(workerNodeSelector={"takes": "traffic"}), "edge1")
    assert result.blocked is not None
    assert result.blocked[0] == "EdgeNodeIsWorker"


def test_a_node_that_is_not_labelled_as_an_edge_node_is_refused() -> None:
    assert (plan(node_name="worker1").blocked or ("",))[0] == "NotAnEdgeNode"


def test_a_node_that_is_not_in_the_cluster_is_told_apart() -> None:
    assert (plan(node_name="nobody").blocked or ("",))[0] == "NodeUnknown"


def test_edge_nodes_with_different_kernels_are_warned_about() -> None:
    [warning] = plan(node("edge2", "198.18.0.12", "edge", kernel="6.6.1")).warnings
    assert "edge1 6.1.176" in warning
    assert "edge2 6.6.1" in warning


# The rest of the edge state


def test_every_worker_has_a_probe_route_whether_or_not_it_has_endpoints() -> None:
    edge = IPv4Address("198.18.0.11")
    expected = {ProbeRoute(IPv4Address(f"192.0.2.{n}"), IPv4Address(f"198.18.0.{n}"), edge) for n in (21, 22)}
    assert plan().state.probe_routes == expected
    assert plan().state.probe_devices == {4}


def test_workers_that_would_share_a_probe_address_are_told() -> None:
    result = plan(
        node("far", "198.18.1.21"),
        network={"nodeCidrs": ["198.18.0.0/23"], "probeCidrs": ["192.0.2.0/24"]},
    )
    assert len([w for w in result.workers if w.probe_address is None]) == 1
    [warning] = result.warnings
    assert "192.0.2.21" in warning


def test_timeouts_come_from_the_settings() -> None:
    assert plan(ipvs={"udpSeconds": 7}).state.timeouts.udp_seconds == 7


def test_a_limit_of_new_connections_comes_from_the_settings_and_its_change_is_a_change_of_the_filter() -> None:
    free, slow, fast = (plan(ipvs=limit) for limit in ({}, {"maxSynPerSecond": 1000}, {"maxSynPerSecond": 5000}))
    assert [p.filter.max_syn_per_second for p in (free, slow, fast)] == [None, 1000, 5000]
    assert len({p.state.filter_digest for p in (free, slow, fast)}) == 3


def test_sysctls_let_a_node_pick_up_flows_that_it_never_saw_open_and_hear_its_probes() -> None:
    assert plan().state.sysctls == {
        "net.ipv4.conf.all.rp_filter": "2",
        "net.ipv4.vs.sloppy_tcp": "1",
        "net.ipv4.vs.expire_nodest_conn": "1",
        "net.ipv4.vs.conn_reuse_mode": "1",
        "net.ipv4.vs.schedule_icmp": "1",
    }


DUAL_EDGE = node("edge1", "198.18.0.11,2001:db8:3::b", "edge")
VIP6 = IPv6Address("2001:db8:1::a")


def dual_plan(*edges: dict[str, Any], **changes: Any) -> EdgePlan:
    """The plan of edge1 for a dual-stack Service on worker1."""
    return translate_edge(
        snapshot(
            node("worker1", "198.18.0.21,2001:db8:3::15"),
            *edges,
            service(vip=f"203.0.113.10,{VIP6}", ipFamilies=["IPv4", "IPv6"]),
            endpoint_slice([endpoint("198.18.131.5", "worker1")]),
            endpoint_slice([endpoint("2001:db8:4::5", "worker1")], name="v6", family="IPv6"),
        ),
        settings(**(DUAL | changes)),
        "edge1",
    )


def test_a_dual_stack_service_uses_each_family_for_itself() -> None:
    result = dual_plan(DUAL_EDGE)
    assert destinations(result) == (Destination(W1),)
    assert destinations(result, vip=VIP6) == (Destination(IPv6Address("2001:db8:3::15")),)
    assert result.state.probe_devices == {4, 6}
    assert result.state.probe_routes == {
        ProbeRoute(IPv4Address("192.0.2.21"), IPv4Address("198.18.0.21"), IPv4Address("198.18.0.11")),
        ProbeRoute(IPv6Address("2001:db8:2::15"), IPv6Address("2001:db8:3::15"), IPv6Address("2001:db8:3::b")),
    }
    assert (result.unserved, result.warnings) == ({}, ())


def test_an_edge_node_without_an_ipv6_address_serves_the_ipv4_part_and_says_so() -> None:
    result = dual_plan(*EDGES[:1])
    assert destinations(result) == (Destination(W1),)
    assert result.state.vips == {IPv4Address("203.0.113.10")}
    assert {s.key.address.version for s in result.state.services} == {4}
    assert result.state.probe_devices == {4}
    assert {r.probe_address.version for r in result.state.probe_routes} == {4}
    assert VIP6 in result.vips, "so that it has a verdict"
    assert result.unserved.keys() == {6}
    assert result.unserved[6][0] == "NoNodeAddress"
    [warning] = result.warnings
    assert "edge1" in warning
    assert "IPv6" in warning


def test_a_router_that_an_edge_node_cannot_speak_to_is_told_by_name() -> None:
    peers = [
        {"name": "tor1", "address": "198.18.0.2", "asn": 65001},
        {"name": "tor1-six", "address": "2001:db8:3::2", "asn": 65001},
    ]
    result = plan(bgp={"localAsn": 65010, "peers": peers})
    assert [w for w in result.warnings if "edge1" in w and "tor1-six = 2001:db8:3::2" in w]
    assert not [w for w in result.warnings if "198.18.0.2" in w]
    assert result.blocked is None


def test_a_vip_that_routers_still_send_stays_in_the_kernel_until_it_is_withdrawn() -> None:
    gone = plan()
    kernel = EdgeState(
        vips=frozenset({VIP}), services=(VirtualService(VirtualKey(VIP, Protocol.TCP, 80), (Destination(W1),)),)
    )
    kept = retain_announced(gone, kernel, frozenset({VIP}))
    assert kept.state.vips == {VIP}
    assert kept.state.services == kernel.services
    assert kept.filter.served == {VirtualKey(VIP, Protocol.TCP, 80)}
    assert kept.state.filter_digest == kept.filter.digest
    assert retain_announced(gone, kernel, frozenset()) == gone
    assert VIP not in kept.vips, "nothing argues for announcing it"


# Which edge nodes announce


POOL_ON_EDGE1 = [{"name": "public", "cidrs": ["203.0.113.0/24"], "nodes": ["edge1"]}]


def test_a_pool_is_announced_by_the_chosen_edge_nodes_and_programmed_on_all() -> None:
    for name, elsewhere in (("edge1", None), ("edge2", "NodeNotSelected")):
        result = plan(service(), both("ready", "ready"), node_name=name, pools=POOL_ON_EDGE1)
        assert (result.vips[VIP].elsewhere or (None,))[0] == elsewhere
        assert result.state.vips == {VIP}
        assert result.blocked is None
        assert result.warnings == ()


def test_edge_nodes_are_chosen_by_their_labels_too() -> None:
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24"], "nodeSelector": {"rack": "b"}}]
    labelled = node("edge2", "198.18.0.12", "edge", labels={"rack": "b"})
    assert plan(labelled, service(), node_name="edge2", pools=pools).vips[VIP].elsewhere is None
    reason, detail = plan(labelled, service(), node_name="edge1", pools=pools).vips[VIP].elsewhere or ("", "")
    assert (reason, detail) == ("NodeNotSelected", "pool public is for rack=b")


def test_a_pool_that_no_edge_node_is_chosen_for_is_a_warning() -> None:
    result = plan(service(), pools=[{"name": "public", "cidrs": ["203.0.113.0/24"], "nodes": ["edge9"]}])
    [warning] = result.warnings
    for words in ("pool public", "announced by nobody", "nodeSelector"):
        assert words in warning


@pytest.mark.parametrize(
    "label",
    [
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "service.kubernetes.io/exclude-from-external-load-balancers",
    ],
)
def test_an_edge_node_with_the_label_that_excludes_it_leaves_all_vips_to_others(label: str) -> None:
    excluded = node("edge1", "198.18.0.11", "edge", labels={label: ""})
    result = plan(excluded, service(), both("ready", "ready"))
    assert (result.vips[VIP].elsewhere or ("",))[0] == "NodeExcluded"
    assert result.state.vips == {VIP}
    assert plan(excluded, service(), both("ready", "ready"), node_name="edge2").vips[VIP].elsewhere is None


def test_a_service_with_the_label_that_excludes_it_is_left_alone() -> None:
    excluded = service(labels={"service.kubernetes.io/exclude-from-external-load-balancers": ""})
    assert plan(excluded, both("ready", "ready")).state.vips == frozenset()


def test_a_vip_has_the_attributes_of_its_pool_and_service_and_what_is_wrong_is_told_once() -> None:
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"], "communities": ["no-export"]}]
    asks = {"samegate.dev/bgp-med": "7", "samegate.dev/bgp-prepend": "many"}
    result = plan(service(vip="203.0.113.10,2001:db8:1::10", annotations=asks), pools=pools)
    assert {f.attributes for f in result.vips.values()} == {RouteAttributes(("65535:65281",), med=7)}
    assert [r.reason for r in result.rejections] == ["InvalidAttribute"]
