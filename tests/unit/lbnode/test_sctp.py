"""SCTP: served by tunnel where the kernel has it, refused clearly where it does not, and nobody else is harmed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lbnode.announce import EdgeFacts, announce
from lbnode.dataplane.ipvs import ipvs_knows_sctp
from lbnode.dataplane.rules import render
from lbnode.errors import Retry
from lbnode.facts import WorkerHealth
from lbnode.model import Protocol, VirtualKey
from lbnode.packet_tables import EdgeFilter
from lbnode.settings import Health
from lbnode.translate.edge import EdgePlan, translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, service, settings, snapshot
from tests.unit.lbnode.roles.world import World
from tests.unit.lbnode.test_nat import NAT, VIP, WEB

SIGNALS = VirtualKey(VIP, Protocol.SCTP, 2905)
SIGNAL_PORT = {"name": "sig", "port": 2905, "protocol": "SCTP", "targetPort": 2905}
WEB_PORT = {"name": "http", "port": 80, "targetPort": 8080}
NO_SCTP = frozenset({Protocol.SCTP})
SLICE = endpoint_slice(
    [endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2", "unready")],
    ports=[{"name": "sig", "port": 2905, "protocol": "SCTP"}, {"name": "http", "port": 8080, "protocol": "TCP"}],
)


def plan(ports: list[dict[str, Any]], missing: frozenset[Protocol] = frozenset()) -> EdgePlan:
    cluster = snapshot(*EDGES, *WORKERS, service(ports=ports), SLICE)
    return translate_edge(cluster, settings(), "edge1", missing=missing)


def test_an_sctp_port_is_served_and_drains_as_tcp_does() -> None:
    result = plan([SIGNAL_PORT])
    [signals] = result.state.services
    assert signals.key == SIGNALS
    assert [d.drained for d in signals.destinations] == [False, True]
    assert all(d.nat_port is None for d in signals.destinations)
    assert (str(SIGNALS), Protocol.SCTP.number) == ("sctp://203.0.113.10:2905", 132)  # IANA protocol numbers


def test_another_edge_node_may_go_on_with_an_association_it_never_saw_begin() -> None:
    assert plan([SIGNAL_PORT]).state.sysctls["net.ipv4.vs.sloppy_sctp"] == "1"
    assert "net.ipv4.vs.sloppy_sctp" not in plan([WEB_PORT]).state.sysctls


def test_the_filter_lets_the_port_in_by_its_own_match() -> None:
    chains = render(EdgeFilter(settings().pool_networks, frozenset({SIGNALS})))[4, "mangle"].chains
    assert ("-d 203.0.113.10/32 -p sctp -m sctp --dport 2905 -j ACCEPT",) in chains.values()


def test_a_kernel_without_it_refuses_that_port_and_serves_the_others() -> None:
    result = plan([SIGNAL_PORT, WEB_PORT], NO_SCTP)
    [rejection] = result.rejections
    assert rejection.reason == "ProtocolNotInKernel"
    assert all(
        word in rejection.message for word in ("port sig", "SCTP", "CONFIG_IP_VS_PROTO_SCTP", "modprobe xt_sctp")
    )
    assert result.filter.served == {WEB}
    assert "net.ipv4.vs.sloppy_sctp" not in result.state.sysctls


def test_a_service_of_nothing_else_says_so_instead_of_being_announced() -> None:
    result = plan([SIGNAL_PORT], NO_SCTP)
    facts = EdgeFacts(result.vips, result.workers, result.state, result.state, WorkerHealth())
    verdict = announce(facts, Health())[VIP]
    assert (verdict.announce, verdict.reason) == (False, "ProtocolNotInKernel")
    assert "modprobe xt_sctp" in verdict.detail


def test_sctp_together_with_nat_is_refused() -> None:
    cluster = snapshot(*EDGES, *WORKERS, service(ports=[SIGNAL_PORT, WEB_PORT], annotations=NAT), SLICE)
    result = translate_edge(cluster, settings(), "edge1")
    [rejection] = result.rejections
    assert rejection.reason == "SctpWithNat"
    assert "forwarding tunnel" in rejection.message
    assert [s.key for s in result.state.services] == [WEB]


def test_the_workers_own_delivery_leaves_it_to_kube_proxy() -> None:
    cluster = snapshot(*EDGES, *WORKERS, service(ports=[SIGNAL_PORT, WEB_PORT]), SLICE)
    found = translate_worker(cluster, settings(), "worker1")
    assert [d.key for d in found.delivery.deliveries] == [WEB]


def test_the_role_asks_the_kernel_only_where_somebody_wants_it() -> None:
    world = World()
    world.kernel.missing = NO_SCTP
    asyncio.run(world.run(2))
    assert world.edge.view.plan is not None and world.edge.view.plan.rejections == ()
    raw = service("signals", vip="203.0.113.9", ports=[SIGNAL_PORT])
    world.put(raw)
    asyncio.run(world.run(2))
    assert [r.reason for r in world.edge.view.plan.rejections] == ["ProtocolNotInKernel"]
    assert {str(a) for a in world.speaker.history[-1]} == {"203.0.113.7"}, "the other Service goes on"


def test_a_kernel_that_cannot_be_asked_for_it_does_not_end_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.put(service("signals", vip="203.0.113.9", ports=[SIGNAL_PORT]))

    def silent() -> frozenset[Protocol]:
        raise Retry("a netlink message was lost")

    monkeypatch.setattr(world.kernel, "missing_protocols", silent)
    asyncio.run(world.run(2))
    assert {str(a) for a in world.speaker.history[-1]} == {"203.0.113.7"}


@pytest.mark.parametrize(
    ("symbols", "knows"),
    [
        ("0000 t sctp_conn_schedule\t[ip_vs]\n", True),
        ("0000 t tcp_conn_schedule\t[ip_vs]\n0000 T sctp_bind\t[sctp]\n", False),
        ("", True),
    ],
)
def test_ipvs_knows_sctp_by_its_own_function(tmp_path: Path, symbols: str, knows: bool) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(symbols)
    assert ipvs_knows_sctp(path) is knows
    assert ipvs_knows_sctp(tmp_path / "hidden") is True
