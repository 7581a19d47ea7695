"""What the command says of shared addresses, aggregates, and pools for some edge nodes only."""

from __future__ import annotations

from typing import Any

import pytest

from lbnode.command.explain import arguments, explain
from lbnode.command.overview import status
from lbnode.command.routes import routes
from lbnode.command.view import View
from lbnode.command.why import why
from lbnode.errors import ConfigError
from lbnode.objects import EXCLUDE_SERVICE_LABEL
from tests.unit.lbnode.command.rack import (
    EDGES,
    VIP,
    agent,
    edge_page,
    edge_status,
    nodes,
    settings,
    view,
    web,
    web_slice,
)


def shared() -> View:
    """`default/web` on port 80 and the younger `default/api` on port 443, at one address."""
    port = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}
    return view(web(), web(name="api", ports=[port], created="2026-01-02T00:00:00Z"), web_slice(), *nodes())


def test_a_flow_belongs_to_the_service_at_the_shared_address_that_has_its_port() -> None:
    owners = {p: explain(shared(), arguments("192.0.2.7:40000", f"{VIP}:{p}")).data["service"] for p in (80, 443)}
    assert owners == {80: "default/web", 443: "default/api"}


def test_a_port_that_no_service_at_a_shared_address_has_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"default/web, default/api has no such port.*80/tcp, 443/tcp"):
        explain(shared(), arguments("192.0.2.7:40000", f"{VIP}:81"))


def test_the_status_names_every_service_at_a_shared_address() -> None:
    (line,) = status(shared()).data["vips"]
    assert (line["service"], line["sharing"]) == ("default/web", ["default/api"])


@pytest.mark.parametrize(("reason", "code"), [("NodeNotSelected", 0), ("NodeExcluded", 1), ("Draining", 1)])
def test_an_edge_node_that_the_pool_does_not_choose_is_not_missed(reason: str, code: int) -> None:
    line = {"announce": False, "announced": False, "reason": reason}
    seen = view(change={"edge2": agent("edge", "edge2", edge_status("edge2", vip=line), edge_page())})
    assert (status(seen).code, why(seen, VIP).code) == (code, code)


def test_a_vip_that_its_pool_chooses_nobody_for_is_found() -> None:
    line = {"announce": False, "announced": False, "reason": "NodeNotSelected"}
    nowhere = {edge: agent("edge", edge, edge_status(edge, vip=line), edge_page()) for edge in EDGES}
    assert why(view(change=nowhere), VIP).code == 1


def of_pool(**aggregate: Any) -> list[tuple[str, str]]:
    pool = {"name": "public", "cidrs": ["203.0.113.0/24"], "aggregate": {"length": 28} | aggregate}
    said = routes(view(settings_in_force=settings(pools=[pool]))).data
    return [(r["prefix"], r["edge"]) for r in said["routes"]]


def test_routers_should_have_an_aggregate_beside_the_host_routes_or_alone() -> None:
    wide = [("203.0.113.0/28", edge) for edge in EDGES]
    assert sorted(of_pool()) == sorted([*wide, *((f"{VIP}/32", edge) for edge in EDGES)])
    assert of_pool(hostRoutes=False) == wide


def test_a_service_that_a_label_takes_out_of_our_hands_is_told_the_label() -> None:
    said = why(view(web(labels={EXCLUDE_SERVICE_LABEL: ""}), *nodes()), "default/web")
    (failure,) = [f for f in said.data["first_failures"] if f["where"] == "cluster"]
    assert EXCLUDE_SERVICE_LABEL in failure["said"]
