"""The pages that this version's roles really serve: the command reads them whole, and explains by them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lbnode.command.pages import MUST_TELL, read_node_page, read_status
from lbnode.roles.edge import Edge
from lbnode.roles.edge_page import modules_at_work
from tests.unit.lbnode.roles.world import VIP, WORKERS, World

#: Added for every role where the pages are put together (lbnode.roles.running).
OF_EVERY_ROLE = {"last_error", "settings_error", "version"}


@pytest.fixture
def edge() -> Edge:
    world = World()
    asyncio.run(world.run(2))
    return world.edge


def test_an_edge_nodes_status_tells_all_that_the_command_expects(edge: Edge) -> None:
    status = read_status(edge.status())
    assert MUST_TELL["edge"] - OF_EVERY_ROLE <= status.model_fields_set
    assert status.vips[VIP].on_air
    assert status.sessions["tor1"].state == "Established"


def test_an_edge_nodes_own_page_tells_services_in_the_kernels_order_and_workers_with_their_probes(edge: Edge) -> None:
    page = read_node_page(edge.node_page())
    (service,) = page.services
    assert (service.vip, service.protocol, service.port, service.hash_source_port) == (VIP, "TCP", 80, True)
    assert [d.address for d in service.destinations] == sorted(WORKERS.values())
    assert [(w.name, w.healthy, w.probe) for w in page.workers] == [
        ("worker1", True, "Answered"),
        ("worker2", True, "Answered"),
    ]
    assert page.differences == {}


def test_before_the_first_pass_the_page_is_empty_and_readable() -> None:
    page = read_node_page(World().edge.node_page())
    assert (page.services, page.workers) == ((), ())


def test_a_worker_that_does_not_answer_is_drained_there_with_the_probes_reason() -> None:
    world = World()
    asyncio.run(world.run(2))
    world.reachable.discard(WORKERS["worker2"])
    asyncio.run(world.run(3))
    page = read_node_page(world.edge.node_page())
    assert {d.address: d.drained for d in page.services[0].destinations} == {
        WORKERS["worker1"]: False,
        WORKERS["worker2"]: True,
    }
    assert [(w.healthy, w.probe) for w in page.workers] == [(True, "Answered"), (False, "Timeout")]


def test_a_kernel_that_lacks_a_planned_service_is_a_difference(edge: Edge) -> None:
    from lbnode.model import EdgeState

    edge.view.observed = EdgeState()
    differences: dict[Any, str] = read_node_page(edge.node_page()).differences
    assert differences == {VIP: f"{VIP} is not on the loopback device"}
    assert edge.modules_at_work() == {"ip_vs": False, "ip_vs_mh": False, "ipip": False}


def test_with_xdp_no_module_of_ipvs_is_needed(edge: Edge) -> None:
    assert modules_at_work(edge.view.plan, edge.view.observed, "xdp") == {"ipip": True}


def test_modules_count_as_at_work_by_what_the_kernel_shows(edge: Edge) -> None:
    assert edge.modules_at_work() == {"ip_vs": True, "ip_vs_mh": True, "ipip": True}
