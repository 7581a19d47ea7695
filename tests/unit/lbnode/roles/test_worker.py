"""The worker role over a kernel in memory: answering probes is the last thing it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lbnode.backend_probe import BackendResult
from lbnode.command.pages import MUST_TELL, read_status
from lbnode.dataplane.memory import MemoryWorker
from lbnode.errors import Retry
from lbnode.grace import API_RECOVERY_SECONDS, UNREADY_SECONDS
from lbnode.kube.watcher import Copy
from lbnode.kube_proxy import RULES_SECONDS
from lbnode.model import ServiceName
from lbnode.observe import WorkerMetrics
from lbnode.operations import AddAddress, Operation, ReplaceDelivery
from lbnode.packet_tables import Delivery
from lbnode.probe import ProbeResult
from lbnode.roles.worker import Worker
from lbnode.settings import parse
from tests.unit.lbnode.roles.world import EDGES, SETTINGS, WORKERS, endpoints, node, service

PROBE = ip_address("192.0.2.21")


class World:
    def __init__(self, **changes: Any) -> None:
        self.copy = Copy(listed={"services", "slices", "nodes"})
        self.kernel = MemoryWorker([ip_network("192.0.2.0/24")], {})
        self.refusal: tuple[str, str] | None = None
        self.without: set[int] = set()
        for name, address in (*WORKERS.items(), *EDGES.items()):
            raw = node(name, address, "worker" if name in WORKERS else "edge")
            self.copy.nodes[ServiceName("", name)] = raw
        for raw in (service(), endpoints(worker1="ready")):
            store = self.copy.services if raw["kind"] == "Service" else self.copy.slices
            store[ServiceName("shop", raw["metadata"]["name"])] = raw

        self.mute = False
        self.metrics = WorkerMetrics("test")
        self.now = 100.0

        async def has_endpoints(port: int) -> bool | None:
            return None if self.mute else port not in self.without

        settings = parse(SETTINGS | changes)
        self.worker = Worker(
            "worker1",
            lambda: settings,
            lambda: self.copy,
            self.kernel,
            self.metrics,
            has_endpoints,
            lambda: self.now,
            lambda: self.refusal,
        )

    def run(self) -> None:
        asyncio.run(self.worker.pass_once())


def test_it_has_a_tunnel_from_each_edge_node_and_then_answers_probes() -> None:
    world = World()
    world.run()
    assert {t.edge_address for t in world.kernel.tunnels.values()} == set(EDGES.values())
    assert world.kernel.addresses == {PROBE}
    assert world.worker.not_ready() == []


def test_the_probe_address_comes_after_everything_else() -> None:
    world = World()
    applied: list[Operation] = []
    genuine = world.kernel.apply

    def note(operations: Sequence[Operation]) -> None:
        applied.extend(operations)
        genuine(operations)

    world.kernel.apply = note  # type: ignore[method-assign]
    world.run()
    assert [isinstance(o, AddAddress) for o in applied] == [False] * (len(applied) - 1) + [True]


def test_a_second_pass_writes_nothing() -> None:
    world = World()
    world.run()
    writes = world.kernel.writes
    world.run()
    assert world.kernel.writes == writes


def test_a_tunnel_that_is_deleted_by_hand_is_back_after_one_pass() -> None:
    world = World()
    world.run()
    world.kernel.tunnels.popitem()
    world.run()
    assert len(world.kernel.tunnels) == 2


def test_a_filter_that_is_lost_is_replaced_in_the_same_pass() -> None:
    world = World()
    world.run()
    world.kernel.filter_digest = None
    world.run()
    assert world.kernel.filter_digest is not None
    assert world.kernel.addresses == {PROBE}


def test_a_service_proxy_that_cannot_deliver_silences_the_probe_address() -> None:
    world = World()
    world.run()
    world.refusal = ("EbpfServiceProxy", "it does not deliver")
    world.run()
    assert world.kernel.addresses == set()
    assert world.worker.not_ready() == ["EbpfServiceProxy: it does not deliver"]


def test_without_the_api_everything_stays() -> None:
    world = World()
    world.run()
    world.copy.listed.clear()
    with pytest.raises(Retry):
        world.run()
    assert world.kernel.addresses == {PROBE}


async def ask_once(world: World) -> None:
    asking = asyncio.create_task(world.worker.ask_kube_proxy())
    await asyncio.sleep(0.05)
    asking.cancel()


def test_the_status_page_names_services_whose_endpoints_kube_proxy_lacks() -> None:
    world = World()
    set_endpoints(world, "terminating")
    world.run()
    world.without = {32100}
    asyncio.run(ask_once(world))
    assert world.worker.status()["without_endpoints"] == ["shop/web"]


@pytest.mark.parametrize(("without", "seconds"), [(set(), 0.5), ({32100}, 0.1)])
def test_kube_proxy_is_asked_more_often_while_it_lacks_endpoints(
    without: set[int], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.run()
    world.without = without
    pauses: list[float] = []

    async def end_with_the_first_pause(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", end_with_the_first_pause)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(world.worker.ask_kube_proxy())
    assert pauses == [pytest.approx(seconds)]


def set_endpoints(world: World, state: str) -> None:
    world.copy.slices[ServiceName("shop", "web-1")] = endpoints(worker1=state)
    world.copy.version += 1


def test_a_service_that_this_worker_delivers_by_itself_is_not_without_endpoints() -> None:
    world = World()
    world.run()
    world.without = {32100}
    asyncio.run(ask_once(world))
    assert world.worker.status()["without_endpoints"] == []
    assert world.worker.status()["delivers"] == ["shop/web"]


def test_a_new_pod_beside_one_that_terminates_gets_nothing_until_kube_proxy_surely_names_it() -> None:
    world = World()
    set_endpoints(world, "terminating")
    world.run()
    world.without = {32100}
    asyncio.run(ask_once(world))
    old = endpoints(worker1="terminating")
    both = old["endpoints"] + endpoints(other="ready", worker1="ready")["endpoints"][1:]
    world.copy.slices[ServiceName("shop", "web-1")] = old | {"endpoints": both}
    world.copy.version += 1
    world.run()
    assert world.worker.status()["delivers"] == ["shop/web"]
    assert world.worker.status()["without_endpoints"] == ["shop/web"]
    world.without = set()
    asyncio.run(ask_once(world))
    assert world.worker.status()["without_endpoints"] == ["shop/web"]
    world.now += RULES_SECONDS + 0.1
    assert world.worker.status()["without_endpoints"] == []


def test_a_pod_that_turns_unready_in_an_api_outage_is_delivered_to_until_its_grace_is_over() -> None:
    world = World()
    world.run()
    world.copy.returned_seconds = world.now
    set_endpoints(world, "unready")
    world.now += API_RECOVERY_SECONDS - 1
    world.run()
    assert [str(d.key.address) for d in delivered(world)] == ["203.0.113.7"]
    world.now += 2
    world.run()
    assert delivered(world) == ()


def test_a_pod_that_turns_unready_by_itself_is_no_longer_delivered_to_after_a_second() -> None:
    world = World()
    world.run()
    set_endpoints(world, "unready")
    world.now += UNREADY_SECONDS + 0.1
    world.run()
    assert delivered(world) == ()


def test_a_delivery_that_somebody_changed_is_put_back_without_silencing_the_probe_address() -> None:
    world = World()
    world.run()
    world.kernel.delivery = None
    applied: list[Operation] = []
    genuine = world.kernel.apply

    def note(operations: Sequence[Operation]) -> None:
        applied.extend(operations)
        genuine(operations)

    world.kernel.apply = note  # type: ignore[method-assign]
    world.run()
    assert [type(o) for o in applied] == [ReplaceDelivery]


def delivered(world: World) -> tuple[Delivery, ...]:
    return world.kernel.delivery.deliveries if world.kernel.delivery is not None else ()


def test_a_kube_proxy_that_never_answered_has_no_endpoints() -> None:
    world = World()
    set_endpoints(world, "unready")
    world.run()
    world.mute = True
    asyncio.run(ask_once(world))
    assert world.worker.status()["without_endpoints"] == ["shop/web"]


def test_a_kube_proxy_that_falls_silent_keeps_its_last_answer() -> None:
    world = World()
    set_endpoints(world, "terminating")
    world.run()
    asyncio.run(ask_once(world))
    world.mute = True
    asyncio.run(ask_once(world))
    assert world.worker.status()["without_endpoints"] == []


def probed_world() -> World:
    """Its Service asks for an active probe."""
    world = World()
    world.copy.services[ServiceName("shop", "web")] = service(annotations={"samegate.dev/probe": "tcp"})
    world.copy.version += 1
    world.run()
    return world


def probe(world: World, rounds: int, result: BackendResult) -> None:
    for _ in range(rounds):
        world.now += 2.0
        for backend, asked in world.worker.wanted_backends().items():
            world.worker.backend_probed(backend, asked, result)


def page_line(**judgement: object) -> list[dict[str, object]]:
    return [{"service": "shop/web", "family": 4, "passing": 0, "failing": 0, "undecided": 0} | judgement]


def test_the_status_page_says_for_which_services_its_pods_pass_their_active_probe() -> None:
    world = probed_world()
    assert world.worker.status()["active_probes"] == page_line(fit=None, undecided=1)
    probe(world, 2, BackendResult(True, "Passed"))
    assert world.worker.status()["active_probes"] == page_line(fit=True, passing=1)
    probe(world, 2, BackendResult(False, "Refused"))
    assert world.worker.status()["active_probes"] == page_line(fit=True, passing=1)
    probe(world, 1, BackendResult(False, "Refused"))
    assert world.worker.status()["active_probes"] == page_line(fit=False, failing=1)


def test_what_it_delivers_by_itself_leaves_out_a_pod_that_fails_its_active_probe_until_it_passes_again() -> None:
    world = probed_world()
    name = ServiceName("shop", "web-1")
    second = endpoints(other="ready", worker1="ready")["endpoints"][1:]
    world.copy.slices[name] = world.copy.slices[name] | {"endpoints": world.copy.slices[name]["endpoints"] + second}
    world.copy.version += 1
    world.run()
    good, bad = sorted(str(b.address) for b in world.worker.wanted_backends())

    def pods() -> list[str]:
        world.run()
        return [str(address) for address, _ in delivered(world)[0].endpoints]

    def probe_bad(rounds: int, ok: bool) -> None:
        for _ in range(rounds):
            world.now += 2.0
            for backend, asked in world.worker.wanted_backends().items():
                world.worker.backend_probed(backend, asked, BackendResult(ok or str(backend.address) == good, "Told"))

    assert pods() == [good, bad]
    probe_bad(3, ok=False)
    assert pods() == [good]
    probe_bad(2, ok=True)
    assert pods() == [good, bad]


def test_a_service_without_the_annotation_is_not_probed() -> None:
    world = World()
    world.run()
    assert world.worker.wanted_backends() == {}
    assert world.worker.status()["active_probes"] == []


def test_probes_that_stop_are_undecided_after_a_while() -> None:
    world = probed_world()
    probe(world, 3, BackendResult(False, "Refused"))
    world.now += 60.0
    world.run()
    assert world.worker.status()["active_probes"] == page_line(fit=None, undecided=1)


def test_active_probes_are_measured_and_a_service_that_is_gone_leaves_no_series() -> None:
    world = probed_world()
    probe(world, 3, BackendResult(False, "WrongStatus"))
    read = world.metrics.registry.get_sample_value
    assert read("samegate_backend_probe_results_total", {"service": "shop/web", "reason": "WrongStatus"}) == 3
    assert read("samegate_active_probe_fit", {"service": "shop/web", "family": "4"}) == 0
    assert read("samegate_backends", {"service": "shop/web", "family": "4", "state": "failing"}) == 1
    del world.copy.services[ServiceName("shop", "web")]
    world.copy.version += 1
    world.run()
    assert read("samegate_backend_probe_results_total", {"service": "shop/web", "reason": "WrongStatus"}) is None
    assert read("samegate_active_probe_fit", {"service": "shop/web", "family": "4"}) is None


def test_people_are_told_the_edge_nodes_it_has_tunnels_from_and_that_their_module_works() -> None:
    world = World()
    assert world.worker.modules_at_work() == {"ipip": False}
    assert world.worker.edge_addresses() == []
    world.run()
    assert world.worker.modules_at_work() == {"ipip": True}
    assert world.worker.edge_addresses() == sorted(EDGES.values())


def test_its_status_tells_all_that_the_operators_command_expects() -> None:
    world = World()
    world.run()
    of_every_role = {"last_error", "settings_error", "version"}
    assert MUST_TELL["worker"] - of_every_role <= read_status(world.worker.status()).model_fields_set


# Replies by way of edge nodes


def answers(world: World, rounds: int, *silent: str) -> None:
    """Rounds of probes of all edge nodes, each half a second after the other, with a pass whenever one changed."""
    for _ in range(rounds):
        world.now += 0.5
        results = tuple(
            ProbeResult(edge, name not in silent, "Timeout" if name in silent else "Answered")
            for name, edge in EDGES.items()
            if edge in world.worker.edges_to_probe()
        )
        if world.worker.edges_probed(results):
            world.run()


def taking(world: World) -> set[str]:
    [path] = world.kernel.return_paths.values()
    return {name for name, edge in EDGES.items() if edge in path.group}


def test_replies_leave_an_edge_node_that_falls_silent_within_three_probes_and_come_back_to_it() -> None:
    world = World(**{"return": "via-edge"})
    world.run()
    assert (taking(world), world.worker.not_ready()) == (set(EDGES), [])
    answers(world, 3)
    answers(world, 2, "edge2")
    assert taking(world) == set(EDGES), "two lost packets are no death"
    answers(world, 1, "edge2")
    assert taking(world) == {"edge1"}
    assert world.kernel.addresses == {PROBE}, "the other edge nodes go on sending here"
    assert world.metrics.registry.get_sample_value("samegate_return_path_edge", {"edge": str(EDGES["edge2"])}) == 0
    assert world.worker.status()["return_path"] == [
        {"edge": str(EDGES["edge1"]), "takes_replies": True, "reason": "Live"},
        {"edge": str(EDGES["edge2"]), "takes_replies": False, "reason": "Silent"},
    ]
    answers(world, 2)
    assert taking(world) == set(EDGES)


def test_when_all_edge_nodes_fall_silent_the_prober_is_the_suspect_and_all_stay() -> None:
    world = World(**{"return": "via-edge"})
    world.run()
    answers(world, 3)
    answers(world, 10, *EDGES)
    assert taking(world) == set(EDGES)


def test_a_prober_that_stands_still_condemns_nobody_for_longer() -> None:
    world = World(**{"return": "via-edge"})
    world.run()
    answers(world, 5, "edge2")
    assert taking(world) == {"edge1"}
    world.now += 60
    world.run()
    assert taking(world) == set(EDGES)


def test_edge_nodes_are_probed_from_its_probe_address_once_that_is_held_and_replies_go_by_them() -> None:
    direct = World()
    direct.run()
    assert direct.worker.edges_to_probe() == {}
    world = World(**{"return": "via-edge"})
    assert (world.worker.edges_to_probe(), world.worker.probe_sources()) == ({}, {})
    world.run()
    assert set(world.worker.edges_to_probe()) == set(EDGES.values())
    assert world.worker.probe_sources() == {4: PROBE}


def test_a_way_back_that_cannot_be_made_keeps_the_worker_from_being_ready() -> None:
    world = World(**{"return": "via-edge"})
    world.run()
    assert world.worker.view.observed is not None
    world.worker.view.observed = replace(world.worker.view.observed, return_paths=frozenset())
    assert [r for r in world.worker.not_ready() if r.startswith("ReturnPathMissing: replies over IPv4")]
