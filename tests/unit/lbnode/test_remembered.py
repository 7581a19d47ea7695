"""Whoever remembers comes to the same as who works everything out anew, whatever changes in between."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lbnode import announce as announcing
from lbnode import grace
from lbnode.announce import EdgeFacts, announce
from lbnode.dataplane.memory import MemoryEdge
from lbnode.diff import diff_edge
from lbnode.facts import WorkerHealth
from lbnode.model import Destination, IPAddress, Protocol, ServiceName, VirtualKey, VirtualService, alike
from lbnode.object_reader import SnapshotReader, read_snapshot
from lbnode.remembered import Comparison, Remembered
from lbnode.served import serve
from lbnode.translate import edge
from lbnode.translate.edge import EdgePlan, Memory, translate_edge
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, node, service
from tests.unit.lbnode.kube_objects import settings as agent_settings

NAMES = ("web", "api", "dns")
#: Two that have one address together, each a port of it.
SHARERS = ("front", "back")
STATES = ("ready", "unready", "terminating", "gone")
SETTINGS = agent_settings()
OTHER_SETTINGS = agent_settings(weights="endpoints")
Objects = dict[tuple[str, str], Any]


def start() -> Objects:
    objects: Objects = {("Node", raw["metadata"]["name"]): raw for raw in (*EDGES, *WORKERS)}
    for number, name in enumerate(NAMES):
        port = {"name": "http", "port": 80, "targetPort": "web" if name == "dns" else 8080}
        objects["Service", name] = service(name, vip=f"203.0.113.{10 + number}", ports=[port])
        objects["Slice", name] = endpoint_slice([endpoint("198.18.131.5", "worker1")], name)
    for number, name in enumerate(SHARERS):
        ports = [{"name": "http", "port": 81 + number, "targetPort": "web"}]
        objects["Service", name] = service(
            name, vip="203.0.113.20", ports=ports, annotations={"samegate.dev/sharing-key": "front"}
        )
        objects["Slice", name] = endpoint_slice([endpoint("198.18.131.6", "worker2")], name)
    return objects


names = st.sampled_from(NAMES)
all_names = st.sampled_from((*NAMES, *SHARERS))
steps = st.one_of(
    st.tuples(st.just("endpoints"), all_names, st.lists(st.tuples(st.sampled_from(["worker1", "worker2", "edge1"]), st.sampled_from(STATES)), max_size=3)),
    st.tuples(st.just("ports of pods"), all_names, st.sampled_from(["http", "other"])),
    st.tuples(st.just("service"), names, st.sampled_from(["203.0.113.10", "203.0.113.11", "203.0.113.12,203.0.113.13", "192.0.2.1", None])),
    st.tuples(st.just("policy"), names, st.sampled_from(["Local", "Cluster"])),
    st.tuples(st.just("annotation"), names, st.sampled_from([{}, {"samegate.dev/forwarding": "nat"}, {"samegate.dev/forwarding": "?"}, {"samegate.dev/bgp-med": "7"}])),
    st.tuples(st.just("node"), st.sampled_from(["worker1", "worker2", "edge1"]), st.sampled_from(["ready", "drain", "Unknown", "False", "gone"])),
    st.tuples(st.just("delete"), names, st.just(None)),
    st.tuples(st.just("health"), st.sampled_from(["fine", "worker1 fails", "worker2 has none", "worker1 fails its probe"]), names),
    st.tuples(st.just("settings"), st.booleans(), st.just(None)),
    st.tuples(st.just("time"), st.floats(0, 70), st.just(None)),
    st.tuples(st.just("relist"), st.just(None), st.just(None)),
)  # fmt: skip

ADDRESSES = {"worker1": IPv4Address("198.18.0.21"), "worker2": IPv4Address("198.18.0.22")}


def health_of(word: str, name: str) -> WorkerHealth:
    one, two = ADDRESSES.values()
    fine = WorkerHealth(healthy=frozenset({one, two}))
    match word:
        case "worker1 fails":
            return WorkerHealth(healthy=frozenset({two}), unhealthy=frozenset({one}))
        case "worker2 has none":
            return replace(fine, without_endpoints=frozenset({(ServiceName("default", name), two)}))
        case "worker1 fails its probe":
            return replace(fine, failing_probes=frozenset({(ServiceName("default", name), one)}))
    return fine


def change(objects: Objects, kind: str, what: Any, how: Any) -> None:
    match kind:
        case "endpoints":
            listed = [endpoint(f"198.18.131.{n + 5}", where, state) for n, (where, state) in enumerate(how)]
            objects["Slice", what] = endpoint_slice(listed, what)
        case "ports of pods":
            ports = [{"name": how, "port": 8080, "protocol": "TCP"}]
            objects["Slice", what] = endpoint_slice([endpoint("198.18.131.9", "worker1")], what, ports=ports)
        case "service":
            objects["Service", what] = service(what, vip=how)
        case "policy" | "annotation":
            if ("Service", what) in objects:
                raw = objects["Service", what] = deepcopy(objects["Service", what])
                if kind == "policy":
                    raw["spec"]["externalTrafficPolicy"] = how
                else:
                    raw["metadata"]["annotations"] = how
        case "node" if how == "gone":
            objects.pop(("Node", what), None)
        case "node":
            role, address = ("edge", "198.18.0.11") if what == "edge1" else ("worker", str(ADDRESSES[what]))
            ready = how if how in ("Unknown", "False") else "True"
            drain = {"samegate.dev/drain": "true"} if how == "drain" else {}
            objects["Node", what] = node(what, address, role, ready=ready, annotations=drain)
        case "delete":
            objects.pop(("Service", what), None)
        case "relist":
            for key in objects:
                objects[key] = deepcopy(objects[key])


@settings(max_examples=150)
@example([("ports of pods", "dns", "other")])
@example([("endpoints", "web", [("worker1", "ready"), ("worker2", "ready")]), ("health", "worker2 has none", "web")])
@given(st.lists(steps, max_size=12))
def test_an_edge_node_that_remembers_plans_and_decides_as_one_that_does_not(
    changes: list[tuple[str, Any, Any]],
) -> None:
    objects, health, used, now = start(), health_of("fine", "web"), SETTINGS, 0.0
    reader, memory, comparison = SnapshotReader(), Memory(), Comparison()
    kernel, known = MemoryEdge(SETTINGS.pool_networks), grace.Memory()
    verdicts = announcing.Memory()
    announced: frozenset[IPAddress] = frozenset()
    for kind, what, how in [("time", 0.0, None), *changes]:
        change(objects, kind, what, how)
        health = health_of(what, how) if kind == "health" else health
        used = (OTHER_SETTINGS if what else SETTINGS) if kind == "settings" else used
        now += what if kind == "time" else 0.1

        snapshot = reader.read(objects.values())
        anew = read_snapshot(deepcopy(list(objects.values())))
        assert snapshot == anew
        known, graced = grace.step(known, snapshot, now, None)
        plan = translate_edge(snapshot, used, "edge1", health, graced, memory=memory)
        assert plan == translate_edge(anew, used, "edge1", health, graced)

        observed = kernel.read()
        operations = diff_edge(plan.state, plan.filter, observed, plan.translation, comparison.alike)
        assert operations == diff_edge(plan.state, plan.filter, observed, plan.translation)
        facts = EdgeFacts(
            plan.vips,
            plan.workers,
            plan.state,
            observed,
            health,
            announced,
            blocked=plan.blocked,
            unserved=plan.unserved,
        )
        decided = announce(facts, used.health, comparison.alike, verdicts)
        assert decided == announce(facts, used.health)
        announced = frozenset(a for a, v in decided.items() if v.announce)
        kernel.apply(operations)
        comparison.forget_but(s.key for s in plan.state.services)


def test_an_endpoint_that_changes_has_its_own_service_worked_out_anew_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects, reader, memory = start(), SnapshotReader(), Memory()
    served: list[str] = []

    def serve_and_note(around: Any, service: Any, *rest: Any) -> Any:
        served.append(service.name.name)
        return serve(around, service, *rest)

    monkeypatch.setattr(edge, "serve", serve_and_note)

    def plan() -> EdgePlan:
        served.clear()
        return translate_edge(reader.read(objects.values()), SETTINGS, "edge1", health_of("fine", "web"), memory=memory)

    first = plan()
    assert sorted(served) == sorted((*NAMES, *SHARERS))
    assert plan() is first
    assert served == []
    change(objects, "endpoints", "api", [("worker2", "ready")])
    second = plan()
    assert served == ["api"]
    assert {s.key.address: [d.address for d in s.destinations] for s in second.state.services} == {
        IPv4Address("203.0.113.10"): [ADDRESSES["worker1"]],
        IPv4Address("203.0.113.11"): [ADDRESSES["worker2"]],
        IPv4Address("203.0.113.12"): [ADDRESSES["worker1"]],
        IPv4Address("203.0.113.20"): [ADDRESSES["worker2"]],
    }
    assert second.filter is first.filter


def test_what_does_not_change_is_worked_out_once_and_forgotten_when_nobody_asks() -> None:
    remembered: Remembered[list[int]] = Remembered()
    calls: list[int] = []

    def work(value: int) -> Callable[[], list[int]]:
        return lambda: calls.append(value) or [value]

    first = remembered.get("a", (1,), work(1))
    remembered.end_of_round()
    assert remembered.get("a", (1,), work(1)) is first
    assert remembered.get("a", (2,), work(2)) == [2]
    remembered.end_of_round()
    remembered.end_of_round()
    remembered.get("a", (2,), work(3))
    assert calls == [1, 2, 3]


KEY = VirtualKey(IPv4Address("203.0.113.10"), Protocol.TCP, 80)
destinations = st.lists(
    st.builds(Destination, st.sampled_from(list(ADDRESSES.values())), st.integers(1, 2), st.booleans()), max_size=3
).map(tuple)
virtual_services = st.builds(VirtualService, st.just(KEY), destinations, st.booleans(), st.booleans(), st.booleans())


@given(
    st.lists(virtual_services, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12),
)
def test_a_comparison_says_each_time_what_comparing_anew_says(
    pool: list[VirtualService], asked: list[tuple[int, int]]
) -> None:
    comparison = Comparison()
    for one, other in asked:
        wanted, observed = pool[one % len(pool)], pool[other % len(pool)]
        assert comparison.alike(wanted, observed) == alike(wanted, observed)


def test_an_object_that_comes_anew_reads_equal_and_is_the_same_value() -> None:
    reader = SnapshotReader()
    objects = start()
    first = reader.read(objects.values())
    change(objects, "relist", None, None)
    second = reader.read(objects.values())
    assert second.nodes is first.nodes
    assert all(one is other for one, other in zip(first.slices, second.slices, strict=True))
    assert all(second.services[n] is s for n, s in first.services.items())
