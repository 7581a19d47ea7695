"""Edge nodes outside the cluster: named by the settings, and edge nodes like the others to everybody."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from lbnode.edge_nodes import with_outside_edges
from lbnode.errors import ConfigError
from lbnode.model import Tunnel
from lbnode.objects import Snapshot
from lbnode.settings import parse
from lbnode.translate.edge import EdgePlan, translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.kube_objects import EDGES, SETTINGS, WORKERS, endpoint, endpoint_slice, node, service, snapshot

VM: dict[str, Any] = {"name": "vm1", "addresses": ["198.18.0.13"]}
VIP = ip_address("203.0.113.10")


def settings(*edges: dict[str, Any]) -> dict[str, Any]:
    return SETTINGS | {"outsideEdges": list(edges)}


def cluster(raw: dict[str, Any], *more: Any) -> Snapshot:
    items = [service(), endpoint_slice([endpoint("198.18.131.5", "worker1", "ready")])]
    return with_outside_edges(snapshot(*EDGES[:1], *WORKERS, *items, *more), parse(raw))


def plan(raw: dict[str, Any], node_name: str = "vm1") -> EdgePlan:
    return translate_edge(cluster(raw), parse(raw), node_name)


def test_it_serves_what_the_others_serve_in_the_same_order() -> None:
    raw = settings(VM)
    mine, theirs = plan(raw), plan(raw, "edge1")
    assert (mine.blocked, mine.state.vips) == (None, {VIP})
    assert mine.state.services == theirs.state.services
    assert {r.edge_address for r in mine.state.probe_routes} == {ip_address("198.18.0.13")}


def test_workers_have_a_tunnel_from_it() -> None:
    raw = settings(VM)
    tunnels = translate_worker(cluster(raw), parse(raw), "worker1").state.tunnels
    assert Tunnel(ip_address("198.18.0.13"), ip_address("198.18.0.21")) in tunnels
    assert len(tunnels) == 2


def test_it_drains_by_the_settings() -> None:
    assert plan(settings(VM | {"draining": True})).draining is True
    assert plan(settings(VM)).draining is False


def test_without_its_entry_it_is_nobody() -> None:
    blocked = plan(settings()).blocked
    assert blocked is not None
    assert blocked[0] == "NodeUnknown"


def test_pools_choose_it_by_its_labels() -> None:
    raw = settings(VM | {"labels": {"zone": "b"}})
    raw["pools"] = [SETTINGS["pools"][0] | {"nodeSelector": {"zone": "b"}}]
    assert plan(raw).vips[VIP].elsewhere is None
    assert plan(raw, "edge1").vips[VIP].elsewhere is not None


def test_a_node_of_the_cluster_of_the_same_name_counts_instead() -> None:
    raw = settings(VM)
    found = cluster(raw, node("vm1", "198.18.0.99", "edge")).nodes["vm1"]
    assert found.addresses == (ip_address("198.18.0.99"),)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([VM, VM | {"addresses": ["198.18.0.14"]}], ["two outside edge nodes are named vm1", "Rename"]),
        ([VM, VM | {"name": "vm2"}], ["vm1 and vm2 both have the address 198.18.0.13", "Mend one"]),
        ([VM | {"addresses": []}], ["outsideEdges.0.addresses", "at least 1"]),
        ([VM | {"addresses": ["2001:db8::13"]}], ["2001:db8::13 has no IPv4 address", "RFC 6286"]),
        ([VM | {"addresses": ["198.18.0.13", "198.18.0.14"]}], ["of one family", "Keep the one"]),
        ([VM | {"addresses": ["203.0.113.9"]}], ["203.0.113.9", "pool public 203.0.113.0/24", "VIP or a probe"]),
        ([VM | {"addresses": ["192.0.2.9"]}], ["192.0.2.9", "the probe network 192.0.2.0/24"]),
        ([VM | {"name": "VM 1"}], ["outsideEdges.0.name = 'VM 1'"]),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused_with_value_rule_and_way_out(edges: list[dict[str, Any]], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(settings(*edges))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.way_out
