"""The edge role as a whole, over twins: what is announced when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lbnode.dataplane.memory import MemoryEdge
from lbnode.errors import Retry
from lbnode.model import (
    Counters,
    DestinationTraffic,
    EdgeState,
    IPAddress,
    Operation,
    Protocol,
    RouteAttributes,
    VirtualKey,
)
from lbnode.settings import parse
from lbnode.speaker.memory import MemorySpeaker
from tests.unit.lbnode.roles.world import EDGES, SETTINGS, VIP, WORKERS, World, also, endpoints, node, service


def announced_after(world: World, seconds: float) -> bool:
    asyncio.run(world.run(seconds))
    return VIP in world.speaker.history[-1] if world.speaker.history else False


def test_a_vip_is_announced_once_workers_answer_and_not_before() -> None:
    world = World()
    asyncio.run(world.edge.pass_once())
    assert world.speaker.history == []
    assert VIP in world.kernel.addresses, "programmed before it is announced"
    assert announced_after(world, 2)


def test_a_pass_over_an_unchanged_world_writes_nothing() -> None:
    world = World()
    assert announced_after(world, 2)
    writes, changes = world.kernel.writes, len(world.speaker.history)
    asyncio.run(world.run(20))
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_an_agent_that_starts_again_writes_nothing_and_keeps_the_announcement() -> None:
    world = World()
    assert announced_after(world, 2)
    writes, changes = world.kernel.writes, len(world.speaker.history)
    world.start()
    asyncio.run(world.run(5))
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_an_agent_that_stood_still_for_a_minute_withdraws_nothing_and_writes_nothing() -> None:
    world = World()
    assert announced_after(world, 2)
    writes, changes = world.kernel.writes, len(world.speaker.history)
    world.now_seconds += 60
    asyncio.run(world.run(5))
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_what_changed_while_an_agent_stood_still_is_found_in_its_first_pass() -> None:
    """The control for the test above: it is not blind after the minute."""
    world = World()
    assert announced_after(world, 2)
    world.now_seconds += 60
    world.put(endpoints(worker1="unready", worker2="unready"))
    asyncio.run(world.edge.pass_once())
    assert world.speaker.history[-1] == frozenset()


def test_an_agent_that_starts_without_the_api_keeps_everything() -> None:
    world = World()
    assert announced_after(world, 2)
    world.start()
    world.copy.listed.clear()
    with pytest.raises(Retry):
        asyncio.run(world.edge.pass_once())
    assert VIP in world.kernel.addresses
    assert VIP in world.speaker.history[-1]


def test_state_that_somebody_clears_by_hand_is_mended_in_one_pass_without_a_withdrawal() -> None:
    world = World()
    assert announced_after(world, 2)
    changes = len(world.speaker.history)
    world.kernel.services.clear()
    asyncio.run(world.edge.pass_once())
    assert len(world.kernel.services) == 1
    assert len(world.speaker.history) == changes


def test_a_kernel_that_refuses_to_be_mended_withdraws_in_that_pass() -> None:
    world = World()
    assert announced_after(world, 2)
    world.kernel.services.clear()

    def refuse(operations: Sequence[Operation]) -> None:
        raise Retry("no memory")

    world.kernel.apply = refuse  # type: ignore[method-assign]
    with pytest.raises(Retry):
        asyncio.run(world.edge.pass_once())
    assert world.speaker.history[-1] == frozenset()


def test_a_program_that_its_device_lost_is_back_in_that_pass_and_nothing_is_withdrawn() -> None:
    world = World()
    assert announced_after(world, 2)
    changes = len(world.speaker.history)
    world.kernel.lost_programs = frozenset({"eth0"})
    assert announced_after(world, 1)
    assert world.kernel.lost_programs == frozenset()
    assert len(world.speaker.history) == changes


def test_one_unreadable_answer_of_the_kernel_is_no_reason_to_withdraw_but_two_in_a_row_are() -> None:
    world = World()
    assert announced_after(world, 2)
    changes = len(world.speaker.history)
    failures = [True]
    genuine = world.kernel.read

    def read() -> EdgeState:
        if failures and failures.pop():
            raise Retry("netlink: no buffer space")
        return genuine()

    world.kernel.read = read  # type: ignore[method-assign]
    asyncio.run(world.edge.pass_once())
    assert len(world.speaker.history) == changes
    failures += [True, True]
    with pytest.raises(Retry):
        asyncio.run(world.edge.pass_once())
    assert world.speaker.history[-1] == frozenset()


def test_a_worker_that_dies_is_drained_within_two_seconds_and_the_vip_stays() -> None:
    world = World()
    assert announced_after(world, 2)
    changes = len(world.speaker.history)
    world.reachable.discard(WORKERS["worker1"])
    asyncio.run(world.run(2))
    drained = {d.address: d.drained for d in next(iter(world.kernel.services.values())).destinations}
    assert drained == {WORKERS["worker1"]: True, WORKERS["worker2"]: False}
    assert len(world.speaker.history) == changes


def test_when_all_probes_fail_and_no_peer_does_better_the_vip_stays() -> None:
    world = World()
    assert announced_after(world, 2)
    world.reachable.clear()
    assert announced_after(world, 10)
    assert world.edge.view.verdicts[VIP].reason == "AllProbesFail"


def rack_of(count: int) -> list[World]:
    """Edge nodes that ask each other, and announce."""
    worlds = [World() for _ in range(count)]

    class Others:
        def __init__(self, own: World) -> None:
            self.worlds = [w for w in worlds if w is not own]

        def said(self, node: str, within_seconds: float | None = None) -> dict[str, Any]:
            """There is one other Node in each world, whom all the others speak for: each as it was when it was last asked, just now."""
            if within_seconds is not None and within_seconds < 0:
                return None
            return {"healthy_workers": [a for w in self.worlds for a in w.edge.status()["healthy_workers"]]}

    for world in worlds:
        world.edge.peers = Others(world)  # type: ignore[assignment]
    run_rack(worlds, 2)
    assert all(world.speaker.history == [{VIP}] for world in worlds)
    return worlds


def run_rack(worlds: Sequence[World], seconds: int) -> None:
    """All of them for so long, half a second each in turn."""
    for _ in range(2 * seconds):
        for world in worlds:
            asyncio.run(world.run(0.5))


def test_what_all_edge_nodes_lose_together_withdraws_nothing() -> None:
    """The way to the workers and the API server at once: what everybody shares is the suspect."""
    worlds = rack_of(4)
    for world in worlds:
        world.reachable.clear()
        world.copy.listed.clear()
        with pytest.raises(Retry):
            asyncio.run(world.edge.pass_once())
    for world in worlds:
        world.copy.listed |= {"services", "slices", "nodes"}
    run_rack(worlds, 10)
    assert all(world.speaker.history == [{VIP}] for world in worlds)
    assert {world.edge.view.verdicts[VIP].reason for world in worlds} == {"AllProbesFail"}


def test_what_one_edge_node_loses_alone_withdraws_that_one_alone() -> None:
    """The control for the test above."""
    worlds = rack_of(4)
    worlds[0].reachable.clear()
    run_rack(worlds, 5)
    assert worlds[0].speaker.history[-1] == frozenset()
    assert all(world.speaker.history == [{VIP}] for world in worlds[1:])


def test_no_ready_endpoint_withdraws_and_a_ready_one_brings_it_back() -> None:
    world = World()
    assert announced_after(world, 2)
    world.put(endpoints(worker1="unready", worker2="unready"))
    asyncio.run(world.run(2))
    assert world.speaker.history[-1] == frozenset()
    assert world.edge.view.verdicts[VIP].reason == "NoReadyEndpoints"
    world.put(endpoints(worker2="ready"))
    assert announced_after(world, 1)


def test_endpoints_of_a_node_that_became_unknown_are_held_while_its_tunnel_answers() -> None:
    world = World()
    assert announced_after(world, 2)
    writes, changes = world.kernel.writes, len(world.speaker.history)
    for name, address in WORKERS.items():
        world.put(node(name, address, "worker", ready="Unknown"))
    world.put(endpoints(worker1="unready", worker2="unready"))
    asyncio.run(world.run(10))
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_after_an_api_outage_slices_may_arrive_before_nodes_and_pods_lag_behind_them() -> None:
    world = World()
    assert announced_after(world, 2)
    writes, changes = world.kernel.writes, len(world.speaker.history)
    world.now_seconds += 120
    world.copy.returned_seconds = world.now_seconds
    world.put(endpoints(worker1="unready", worker2="unready"))
    asyncio.run(world.run(1))
    for ready in ("Unknown", "True"):
        for name, address in WORKERS.items():
            world.put(node(name, address, "worker", ready=ready))
        asyncio.run(world.run(5))
    world.put(endpoints(worker1="ready", worker2="ready"))
    asyncio.run(world.run(5))
    assert (world.kernel.writes, len(world.speaker.history)) == (writes, changes)


def test_pods_that_all_vanish_have_no_grace() -> None:
    world = World()
    assert announced_after(world, 2)
    world.put(endpoints())
    asyncio.run(world.edge.pass_once())
    assert world.speaker.history[-1] == frozenset()


def test_draining_by_annotation_withdraws_and_keeps_forwarding() -> None:
    world = World()
    assert announced_after(world, 2)
    writes = world.kernel.writes
    world.put(node("edge1", world.edge.cluster.snapshot().nodes["edge1"].addresses[0], "edge", drain=True))
    asyncio.run(world.run(10))
    assert world.speaker.history[-1] == frozenset()
    assert world.kernel.writes == writes
    assert world.edge.not_ready() == []


def test_sigterm_withdraws_first_then_waits_and_leaves_the_kernel_alone() -> None:
    world = World()
    assert announced_after(world, 2)
    writes = world.kernel.writes
    slept: list[tuple[float, bool]] = []

    async def sleep(seconds: float) -> None:
        slept.append((seconds, VIP in world.speaker.history[-1]))

    asyncio.run(world.edge.withdraw_and_wait(sleep))
    assert slept == [(5.0, False)]
    assert world.kernel.writes == writes


def test_sigterm_while_the_speaker_is_silent_keeps_forwarding_as_long_and_ends_without_an_error() -> None:
    world = World()
    assert announced_after(world, 2)
    world.speaker.running = False
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    asyncio.run(world.edge.withdraw_and_wait(sleep))
    assert slept == [5.0]
    assert VIP in world.kernel.addresses


def test_a_service_that_goes_is_withdrawn_first_and_served_until_the_routers_have_moved_on() -> None:
    world = World()
    assert announced_after(world, 2)
    world.remove("Service", "web")
    asyncio.run(world.edge.pass_once())
    assert world.speaker.history[-1] == frozenset()
    assert VIP in world.kernel.addresses
    assert len(world.kernel.services) == 1
    asyncio.run(world.run(7))
    assert world.kernel.addresses == set()
    assert world.kernel.services == {}


def test_a_service_that_goes_leaves_the_announcements_of_others_alone() -> None:
    other = VIP + 1
    world = World()
    world.put(service("api", other), endpoints("api", worker1="ready"))
    asyncio.run(world.run(2))
    assert world.speaker.history[-1] == {VIP, other}
    world.remove("Service", "web")
    asyncio.run(world.run(7))
    assert all(other in announced for announced in world.speaker.history[world.speaker.history.index({VIP, other}) :])
    assert world.speaker.history[-1] == {other}


def test_a_service_of_a_foreign_class_is_not_programmed() -> None:
    world = World()
    foreign = service()
    foreign["spec"]["loadBalancerClass"] = "example.org/other"
    world.put(foreign)
    asyncio.run(world.run(3))
    assert world.kernel.addresses == set()
    assert world.speaker.history == []


def test_a_speaker_that_is_away_ends_no_pass_for_the_kernel() -> None:
    world = World()
    world.speaker.running = False
    with pytest.raises(Retry):
        asyncio.run(world.edge.pass_once())
    assert VIP in world.kernel.addresses


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


class Pages:
    """What the workers' pages said last, by the worker's name."""

    def __init__(self, **pages: dict[str, object]) -> None:
        self.pages = pages

    def said(self, node: str, within_seconds: float | None = None) -> dict[str, object] | None:
        return self.pages.get(node)


def probe_page(fit: bool | None, **more: object) -> dict[str, object]:
    return {"active_probes": [{"service": "shop/web", "family": 4, "fit": fit} | more]}


def drained(world: World) -> set[IPAddress]:
    plan = world.edge.view.plan
    assert plan is not None
    return {d.address for s in plan.state.services for d in s.destinations if d.drained}


def test_a_worker_whose_pods_fail_their_active_probe_is_drained_and_comes_back() -> None:
    world = World()
    pages = Pages(worker1=probe_page(True), worker2=probe_page(True))
    world.edge.workers = pages  # type: ignore[assignment]
    assert announced_after(world, 2)
    assert drained(world) == set()
    pages.pages["worker2"] = probe_page(False)
    assert announced_after(world, 1)
    assert drained(world) == {WORKERS["worker2"]}
    pages.pages["worker2"] = probe_page(None)
    assert announced_after(world, 1)
    assert drained(world) == {WORKERS["worker2"]}, "an agent that starts again knows nothing yet"
    pages.pages["worker2"] = probe_page(True)
    assert announced_after(world, 1)
    assert drained(world) == set()


def test_when_all_pods_fail_their_active_probe_the_vip_goes_and_the_reason_is_told() -> None:
    world = World()
    world.edge.workers = Pages(worker1=probe_page(False), worker2=probe_page(False))  # type: ignore[assignment]
    assert not announced_after(world, 2)
    assert world.edge.view.verdicts[VIP].reason == "ActiveProbesFail"


def test_workers_are_asked_more_often_while_a_vip_waits_for_what_they_say() -> None:
    world = World()
    without: dict[str, object] = {"without_endpoints": ["shop/web"]}
    pages = Pages(worker1=without, worker2=without)
    world.edge.workers = pages  # type: ignore[assignment]
    assert not announced_after(world, 2)
    assert world.edge.worker_pages_pause_seconds(2) == pytest.approx(0.1)
    pages.pages["worker1"] = {}
    assert announced_after(world, 1)
    assert world.edge.worker_pages_pause_seconds(2) == pytest.approx(0.5)


def test_a_verdict_about_the_other_family_is_none_about_this_one() -> None:
    world = World()
    world.edge.workers = Pages(worker2=probe_page(False, family=6))  # type: ignore[assignment]
    assert announced_after(world, 2)
    assert drained(world) == set()


def test_routes_carry_what_pool_and_service_say_and_follow_its_changes() -> None:
    world = World()
    asked = service(annotations={"samegate.dev/bgp-med": "7", "samegate.dev/bgp-communities": "no-export"})
    world.put(asked)
    assert announced_after(world, 2)
    route = ip_network(VIP)
    assert asyncio.run(world.speaker.read()).routes == {route: RouteAttributes(("65535:65281",), med=7)}
    assert world.edge.status()["vips"][str(VIP)]["attributes"] == "community 65535:65281, MED 7"
    writes = world.kernel.writes
    world.put(service())
    asyncio.run(world.run(1))
    assert asyncio.run(world.speaker.read()).routes == {route: RouteAttributes()}
    assert world.kernel.writes == writes, "the kernel has nothing to do with it"


def test_an_aggregate_alone_comes_and_goes_with_its_vips_and_the_agent_that_starts_anew_finds_them() -> None:
    world = World()
    wide = {"length": 28, "hostRoutes": False}
    world.use(parse(SETTINGS | {"pools": [{"name": "default", "cidrs": ["203.0.113.0/24"], "aggregate": wide}]}))
    assert announced_after(world, 2)
    both = {ip_network("203.0.113.0/28"): RouteAttributes(), ip_network(VIP): RouteAttributes(covered=True)}
    assert asyncio.run(world.speaker.read()).routes == both
    changes = len(world.speaker.history)
    world.start()
    asyncio.run(world.run(2))
    assert len(world.speaker.history) == changes
    world.put(node("edge1", EDGES["edge1"], "edge", drain=True))
    asyncio.run(world.run(1))
    assert asyncio.run(world.speaker.read()).routes == {}


def test_an_edge_node_that_is_excluded_withdraws_keeps_forwarding_and_stays_ready() -> None:
    world = World()
    assert announced_after(world, 2)
    writes = world.kernel.writes
    excluded = node("edge1", EDGES["edge1"], "edge")
    excluded["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
    world.put(excluded)
    asyncio.run(world.run(1))
    assert world.speaker.history[-1] == frozenset()
    assert world.edge.view.verdicts[VIP].reason == "NodeExcluded"
    assert world.kernel.writes == writes
    # A roll-out must be able to go on past it.
    assert world.edge.not_ready() == []


def test_two_services_at_one_address_are_one_announcement_that_stays_for_the_one_that_stays() -> None:
    world = World()
    key = {"annotations": {"samegate.dev/sharing-key": "front"}}
    api = service("api", **key)
    api["spec"]["ports"] = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 8443}]
    behind = endpoints("api", worker2="ready")
    behind["ports"] = [{"name": "https", "port": 8443, "protocol": "TCP"}]
    world.put(service(**key), api, behind)
    assert announced_after(world, 2)
    assert {k.port for k in world.kernel.services} == {80, 443}
    page = world.edge.status()["vips"][str(VIP)]
    assert (page["service"], page["sharing"]) == ("shop/api", ["shop/web"])
    changes = len(world.speaker.history)
    world.remove("Service", "api")
    asyncio.run(world.run(7))
    assert {k.port for k in world.kernel.services} == {80}
    assert len(world.speaker.history) == changes


# Dual stack

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


def test_a_limit_that_the_kernel_cannot_keep_is_told_and_takes_no_announcement_with_it() -> None:
    world = World()
    world.kernel.able_to_limit_syn = False
    world.settings = parse(SETTINGS | {"ipvs": {"maxSynPerSecond": 5000}})
    assert announced_after(world, 2)
    plan = world.edge.view.plan
    assert plan is not None and plan.filter.max_syn_per_second is None
    [warning] = plan.warnings
    assert all(word in warning for word in ("maxSynPerSecond 5000", "modprobe xt_hashlimit"))


def test_a_limit_that_the_kernel_can_keep_is_in_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.settings = parse(SETTINGS | {"ipvs": {"maxSynPerSecond": 5000}})
    assert announced_after(world, 2)
    plan = world.edge.view.plan
    assert plan is not None and (plan.filter.max_syn_per_second, plan.warnings) == (5000, ())

    def silent() -> bool:
        raise Retry("the lock of the tools is held")

    world.start()
    monkeypatch.setattr(world.kernel, "limits_syn", silent)
    assert announced_after(world, 2), "a kernel that cannot be asked now does not end the pass"
