"""One Service that is anything at all beside one that is sound: the roles go on, and the sound one is served."""

from __future__ import annotations

import asyncio
import copy
import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.model import ServiceName
from tests.unit.lbnode.roles import test_worker
from tests.unit.lbnode.roles.test_controller import Cluster
from tests.unit.lbnode.roles.world import VIP, World, service

EVIL = ServiceName("shop", "evil")
#: Where the API server's own word stands: a Service has a name, a namespace and a version.
FIXED = {("kind",), ("metadata",), *(("metadata", key) for key in ("name", "namespace", "resourceVersion"))}
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "x" * 5000, "\ud800", "203.0.113.9", "::1", "LoadBalancer", "http", [], {}, [None], ["a"], 10**30]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.none(), max_size=2),
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path and path not in FIXED else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [p for key, inner in entries for p in _paths(inner, (*path, key))]


@st.composite
def hostile(draw: st.DrawFn) -> dict[str, Any]:
    """A Service that uses whatever we look at, with up to three of its values replaced."""
    raw = service(
        "evil",
        ip_address("203.0.113.8"),
        annotations={"samegate.dev/probe": "http", "samegate.dev/address": "203.0.113.8"},
        finalizers=["service.kubernetes.io/load-balancer-cleanup"],
        deletionTimestamp=None,
    )
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_paths(raw)))
        place: Any = raw
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = copy.deepcopy(draw(junk))
    return raw


@settings(max_examples=80)
@given(hostile())
def test_an_edge_node_announces_the_sound_service_beside_a_hostile_one(evil: dict[str, Any]) -> None:
    announces_the_sound_one_beside(evil)


@pytest.mark.slow
@settings(max_examples=5000)
@given(hostile())
def test_five_thousand_hostile_services_crash_no_edge_node(evil: dict[str, Any]) -> None:
    announces_the_sound_one_beside(evil)


def announces_the_sound_one_beside(evil: dict[str, Any]) -> None:
    world = World()
    world.copy.services[EVIL] = evil
    world.copy.version += 1
    asyncio.run(world.run(1.5))
    assert VIP in world.speaker.history[-1]
    assert json.loads(json.dumps(world.edge.status()))["vips"][str(VIP)]["announced"]


@settings(max_examples=80)
@given(hostile())
def test_a_worker_answers_probes_beside_a_hostile_service(evil: dict[str, Any]) -> None:
    world = test_worker.World()
    world.copy.services[EVIL] = evil
    world.copy.version += 1
    world.run()
    assert world.kernel.addresses == {test_worker.PROBE}


@settings(max_examples=80)
@given(hostile())
def test_the_controller_serves_the_sound_service_beside_a_hostile_one(evil: dict[str, Any]) -> None:
    cluster = Cluster()
    cluster.copy.services[EVIL] = evil
    cluster.put(service("web", None))
    cluster.run()
    assert cluster.address() is not None


def test_a_service_without_a_status_is_served() -> None:
    cluster = Cluster()
    cluster.put({**service("web", None), "status": None})
    cluster.run()
    assert cluster.address() is not None
