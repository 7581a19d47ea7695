"""The edge role with Services of both IP versions."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

from lbnode.dataplane.memory import MemoryEdge
from lbnode.settings import parse
from lbnode.speaker.memory import MemorySpeaker
from tests.unit.lbnode.roles.world import (
    EDGES,
    SETTINGS,
    VIP,
    WORKERS,
    World,
    also,
    endpoints,
    node,
    service,
)

VIP6, EDGE6 = ip_address("2001:db8:113::7"), ip_address("2001:db8:1::11")
WORKERS6 = {"worker1": ip_address("2001:db8:1::21"), "worker2": ip_address("2001:db8:1::22")}


def dual_world(*, edge_has_ipv6: bool = True) -> World:
    """The world with a pool, workers and endpoints of both families; edge1 has an IPv6 address or not."""
    world = World()
    network = SETTINGS["network"] | {"probeCidrs": ["192.0.2.0/24", "2001:db8:2::/64"]}
    pools = [{"name": "default", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}]
    world.settings = parse(SETTINGS | {"pools": pools, "network": network})
    world.kernel = MemoryEdge(world.settings.pool_networks, {})
    for name, address in WORKERS.items():
        world.put(also(node(name, address, "worker"), WORKERS6[name]))
    own = [EDGES["edge1"]]
    if edge_has_ipv6:
        own.append(EDGE6)
        world.put(also(node("edge1", EDGES["edge1"], "edge"), EDGE6))
    web = service()
    web["spec"]["ipFamilies"] = ["IPv4", "IPv6"]
    web["status"]["loadBalancer"]["ingress"].append({"ip": str(VIP6)})
    world.put(web, endpoints6())
    world.reachable |= set(WORKERS6.values())
    world.speaker = MemorySpeaker(world.settings.bgp, world.settings.pools, "edge1", own)
    world.start()
    return world


def endpoints6() -> dict[str, Any]:
    slice6 = endpoints(worker1="ready", worker2="ready")
    slice6["metadata"]["name"] = "web-6"
    slice6["addressType"] = "IPv6"
    for number, endpoint in enumerate(slice6["endpoints"], 10):
        endpoint["addresses"] = [f"2001:db8:4::{number}"]
    return slice6


def verdicts(world: World) -> dict[str, tuple[bool, str]]:
    return {str(a): (v.announce, v.reason) for a, v in world.edge.view.verdicts.items()}


def test_both_families_of_a_service_are_probed_and_announced() -> None:
    world = dual_world()
    asyncio.run(world.run(2))
    assert world.speaker.history[-1] == {VIP, VIP6}
    assert set(world.edge.probe_targets()) == set(WORKERS.values()) | set(WORKERS6.values())
    writes = world.kernel.writes
    asyncio.run(world.run(5))
    assert world.kernel.writes == writes


def test_an_edge_node_without_ipv6_announces_the_ipv4_part_and_is_ready() -> None:
    world = dual_world(edge_has_ipv6=False)
    asyncio.run(world.run(2))
    assert world.speaker.history[-1] == {VIP}
    assert verdicts(world)[str(VIP6)] == (False, "NoNodeAddress")
    assert world.edge.not_ready() == []
    assert {a.version for a in world.kernel.addresses} == {4}


def test_workers_that_are_all_gone_in_one_family_put_the_prober_of_that_family_under_suspicion_alone() -> None:
    world = dual_world()
    asyncio.run(world.run(2))
    world.reachable -= set(WORKERS6.values())
    asyncio.run(world.run(5))
    assert verdicts(world) == {str(VIP): (True, "Announced"), str(VIP6): (True, "AllProbesFail")}
    world.reachable.add(WORKERS6["worker1"])
    asyncio.run(world.run(5))
    assert verdicts(world)[str(VIP6)] == (True, "Announced")
    assert world.speaker.history[-1] == {VIP, VIP6}


def test_an_ipv6_address_that_a_node_loses_withdraws_ipv6_and_nothing_else() -> None:
    world = dual_world()
    asyncio.run(world.run(2))
    world.put(node("edge1", EDGES["edge1"], "edge"))
    asyncio.run(world.run(1))
    assert world.speaker.history[-1] == {VIP}
    asyncio.run(world.run(10))
    assert {a.version for a in world.kernel.addresses} == {4}
    assert world.kernel.probe_devices == {4}
