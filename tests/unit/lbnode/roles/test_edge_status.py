"""What an edge node says of itself: whether it is ready, its status page, its counters."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from lbnode.errors import Retry
from lbnode.model import Counters, DestinationTraffic, Protocol, VirtualKey
from lbnode.settings import parse
from tests.unit.lbnode.roles.world import (
    SETTINGS,
    VIP,
    WORKERS,
    World,
    announced_after,
    endpoints,
)


def test_an_edge_node_is_ready_only_when_its_vip_is_announced() -> None:
    world = World()
    assert world.edge.not_ready() == ["Starting: no pass is complete yet"]
    asyncio.run(world.edge.pass_once())
    assert any("Starting" in reason for reason in world.edge.not_ready())
    asyncio.run(world.run(2))
    assert world.edge.not_ready() == []


def test_an_edge_node_with_nothing_to_announce_is_ready() -> None:
    world = World()
    world.remove("Service", "web")
    asyncio.run(world.run(1))
    assert world.edge.not_ready() == []


def test_every_vip_that_is_not_announced_has_a_reason_on_the_status_page() -> None:
    world = World()
    world.put(endpoints())
    asyncio.run(world.run(2))
    vip = world.edge.status()["vips"][str(VIP)]
    assert (vip["announce"], vip["reason"], vip["service"]) == (False, "NoReadyEndpoints", "shop/web")


def connections(world: World) -> float | None:
    """What the page says of the VIP."""
    return world.metrics.registry.get_sample_value("samegate_vip_connections_total", {"vip": str(VIP)})


def test_connections_since_the_agents_start_are_told_a_few_seconds_later() -> None:
    world = World()
    at = (VirtualKey(VIP, Protocol.TCP, 80), WORKERS["worker1"])
    world.kernel.counted[at] = Counters(1000, 1, 1)  # under a former agent
    asyncio.run(world.run(1))
    assert connections(world) == 0
    world.kernel.counted[at] = Counters(1007, 1, 1)
    asyncio.run(world.run(6))
    assert connections(world) == 7


def test_counters_that_cannot_be_read_fail_no_pass_and_are_made_up_for() -> None:
    world = World()
    at = (VirtualKey(VIP, Protocol.TCP, 80), WORKERS["worker1"])
    assert announced_after(world, 2)
    genuine = world.kernel.traffic

    def refuse(_keys: object) -> tuple[DestinationTraffic, ...]:
        raise Retry("netlink: no buffer space")

    world.kernel.counted[at] = Counters(3, 1, 1)
    world.kernel.traffic = refuse  # type: ignore[method-assign]
    assert announced_after(world, 6)
    world.kernel.traffic = genuine  # type: ignore[method-assign]
    asyncio.run(world.run(6))
    assert connections(world) == 3


def test_a_node_whose_link_is_missing_is_not_ready_and_makes_it_in_the_next_pass() -> None:
    world = World()
    link = {"name": "tgw", "node": "edge1", "routerAddress": "198.18.9.1", "addresses": ["169.254.6.1/29"]}
    world.settings = parse(SETTINGS | {"bgp": SETTINGS["bgp"] | {"links": [link]}})
    assert announced_after(world, 2)
    assert (world.edge.not_ready(), world.edge.modules_at_work()["ip_gre"]) == ([], True)
    assert world.edge.view.observed is not None
    world.edge.view.observed = replace(world.edge.view.observed, links=frozenset())
    assert [r for r in world.edge.not_ready() if "LinkMissing: sgl-tgw to 198.18.9.1" in r]
    assert world.edge.modules_at_work()["ip_gre"] is False
    world.kernel.links.clear()
    asyncio.run(world.run(2))
    assert (set(world.kernel.links), world.edge.not_ready()) == ({"sgl-tgw"}, [])


def test_packets_that_the_data_plane_drops_are_told_by_reason_since_the_agents_start() -> None:
    world = World()
    web = VirtualKey(VIP, Protocol.TCP, 80)
    world.kernel.dropped = {(web, "NoRoute"): 40, (web, "TooBig"): 0}  # under a former agent
    asyncio.run(world.run(1))
    world.kernel.dropped = {(web, "NoRoute"): 42, (web, "TooBig"): 1}
    asyncio.run(world.run(6))
    told = {
        reason: world.metrics.registry.get_sample_value("samegate_xdp_drops_total", {"reason": reason})
        for reason in ("NoRoute", "TooBig", "Source")
    }
    assert told == {"NoRoute": 2, "TooBig": 1, "Source": None}
    of_vip = {"vip": str(VIP), "reason": "NoRoute"}
    assert world.metrics.registry.get_sample_value("samegate_vip_xdp_drops_total", of_vip) == 2
