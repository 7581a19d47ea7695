"""What is pure of the hundred edge nodes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bench import many_edges
from bench.fib import Fib
from bench.many_edges import NotConverged, follow


def readings(*points: tuple[float, int]) -> Iterable[Fib]:
    return iter([Fib(at, 10, stale, 1, 100) for at, stale in points])


def gone(reading: Fib) -> bool:
    return reading.with_address == 0


def test_readings_from_before_the_event_do_not_count() -> None:
    source = readings((0.0, 0), (0.9, 0), (1.0, 10), (1.1, 4), (1.2, 0), (1.3, 0))
    found = follow(lambda: next(iter(source)), 1.0, gone, "a node leaves")
    assert [(r.at_seconds, r.with_address) for r in found] == [(1.0, 10), (1.1, 4), (1.2, 0)]


def test_a_router_that_never_settles_is_told_with_what_it_last_held() -> None:
    late = 1.0 + many_edges._SETTLE_SECONDS
    source = readings((1.0, 10), (late + 1, 3))
    with pytest.raises(NotConverged, match=r"a node leaves.*with_address=3"):
        follow(lambda: next(iter(source)), 1.0, gone, "a node leaves")


def test_nodes_have_addresses_and_namespaces_of_their_own_within_the_rack(tmp_path: object) -> None:
    fabric = many_edges.Fabric(many_edges.EDGES, many_edges.VIPS, tmp_path)  # type: ignore[arg-type]
    addresses = {fabric.address(number) for number in range(many_edges.EDGES)}
    assert len(addresses) == many_edges.EDGES
    assert addresses <= set(many_edges.RACK.hosts())
    assert len({many_edges.node(number) for number in range(many_edges.EDGES)}) == many_edges.EDGES


def test_every_vip_is_a_host_of_the_pool_that_the_agent_has() -> None:
    (network,) = many_edges.settings().pool_networks
    assert network.num_addresses - 2 >= many_edges.VIPS
