"""Whole lives of the platforms on the real engine with the stand-in providers; nothing is reached but this machine.

One life a fabric, looked at by many tests: every command starts the engine, the program and a provider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tools
from tests.providers.run import ROOT, Done, Stack
from tests.providers.stacks import PLATFORMS, aws, gcp
from tests.providers.standin import cloud
from tests.providers.standin.aws import INSTANCE, PEER, SERVER_PEER, VPC
from tests.providers.standin.gcp import INSTANCE as VM
from tests.providers.standin.gcp import NETWORK, SPOKE
from tests.providers.standin.gcp import PEER as ROUTER_PEER

pytestmark = pytest.mark.root
GOLDEN = ROOT / "tests/golden/components"
MACHINES = (INSTANCE, VM)
SESSIONS = (PEER, SERVER_PEER, ROUTER_PEER)
NEWER_IMAGES = {
    "aws": "ami-0fedcba9876543210",
    "gcp": "projects/debian-cloud/global/images/debian-13-trixie-v20261120",
}
# By the design of each fabric: address, machine and what it peers or balances by.
OF_A_NODE = {
    "aws-transit-gateway": ("{}", "{}", "{}"),
    "aws-route-server": ("{}", "{}", "{}-1", "{}-2"),
    "gcp-router-appliance": ("{}", "{}", "{}", "{}-1", "{}-2"),
    "gcp-passthrough": ("{}", "{}", "internal-{}", "external-{}"),
}


@dataclass
class Life:
    """What the engine did at each stage of one stack's life, and what existed after it."""

    name: str
    stack: Stack
    done: dict[str, Done] = field(default_factory=dict)
    worlds: dict[str, cloud.World] = field(default_factory=dict)

    def stage(self, stage: str, done: Done) -> None:
        """Keep it. The life ends where the engine failed: AssertionError with what it said."""
        assert done.returncode == 0, f"{self.name}, {stage}: {done.said[-4000:]}"
        self.done[stage], self.worlds[stage] = done, self.stack.world

    def settings(self, numbers: tuple[int, ...], image: str | None = None) -> None:
        """Change the stack file."""
        kind, fabric = self.name.split("-", 1)
        changes = {key: PLATFORMS[self.name][key] for key in PLATFORMS[self.name].keys() & {"internetIngress"}}
        values = (aws if kind == "aws" else gcp)(fabric, numbers, **changes)
        if image is not None:
            values["edge"]["image"] = image
        self.stack.configure({"samegate:platform": values})


def _new_stack(folder: Path) -> Stack:
    try:
        tools.locate("pulumi")
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    return Stack(folder / "stack", ROOT / "tests/providers/platform_program").prepare()


@pytest.fixture(scope="module", params=sorted(PLATFORMS))
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    stack = _new_stack(tmp_path_factory.mktemp(request.param))
    life = Life(request.param, stack)
    life.settings((1, 2))
    life.stage("preview", stack.preview())
    life.stage("up", stack.up())
    life.stage("second up", stack.up())
    life.settings((1, 2, 3, 4))
    life.stage("two nodes more", stack.up())
    life.settings((1, 2, 4))
    life.stage("one node less", stack.up())
    life.settings((1, 2, 4), NEWER_IMAGES[request.param.split("-")[0]])
    life.stage("another image", stack.up())
    with cloud.opened(stack.world_file) as world:
        machine = next(o for o in world.objects.values() if o.token in MACHINES and o.name == "edge1")
        del world.objects[machine.identifier]
    life.stage("refresh", stack.refresh())
    life.stage("destroy", stack.destroy())
    yield life


def _golden(name: str) -> Counter[tuple[str, str]]:
    lines = [tuple(line.split(" ")) for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]
    return Counter((token, resource) for token, resource in lines if token.startswith(("aws:", "gcp:")))


def _existing(world: cloud.World) -> Counter[tuple[str, str]]:
    return Counter((o.token, o.name) for o in world.objects.values())


def _node(life: Life, *names: str) -> list[str]:
    return sorted(part.format(name) for name in names for part in OF_A_NODE[life.name])


def test_a_preview_plans_what_up_makes_and_makes_nothing(life: Life) -> None:
    assert not life.worlds["preview"].objects
    assert life.done["preview"].changes == life.done["up"].changes
    assert life.done["up"].changes.keys() == {"create"}


def test_up_makes_the_resources_of_the_golden_list(life: Life) -> None:
    assert _existing(life.worlds["up"]) == _golden(life.name)


def test_a_second_up_changes_nothing(life: Life) -> None:
    assert life.done["second up"].steps == ()
    assert life.worlds["second up"].log == life.worlds["up"].log


def test_nodes_that_come_touch_only_what_is_theirs(life: Life) -> None:
    steps = life.done["two nodes more"].steps
    assert sorted(steps) == [("create", part) for part in _node(life, "edge3", "edge4")]


def test_a_node_that_goes_touches_only_what_is_its_own(life: Life) -> None:
    steps = life.done["one node less"].steps
    assert sorted(steps) == [("delete", part) for part in _node(life, "edge3")]


def test_machines_are_replaced_one_at_a_time(life: Life) -> None:
    before = len(life.worlds["one node less"].log)
    calls = [line.split(" ") for line in life.worlds["another image"].log[before:]]
    assert [(call, name) for call, token, name in calls if token in MACHINES] == [
        (call, name) for name in ("edge1", "edge2", "edge4") for call in ("delete", "create")
    ]


def test_a_replaced_machine_keeps_its_sessions(life: Life) -> None:
    sessions = [
        {i: o.inputs for i, o in life.worlds[stage].objects.items() if o.token in SESSIONS}
        for stage in ("one node less", "another image")
    ]
    assert sessions[0] == sessions[1]
    assert bool(sessions[0]) == (life.name != "gcp-passthrough")


def test_a_machine_deleted_by_hand_is_all_that_refresh_finds(life: Life) -> None:
    changes = life.done["refresh"].changes
    assert {operation: number for operation, number in changes.items() if operation != "same"} == {"delete": 1}


def test_destroy_leaves_nothing(life: Life, record_property: Callable[[str, object], None]) -> None:
    assert not life.worlds["destroy"].objects
    for stage, done in life.done.items():
        record_property(f"{life.name} {stage} seconds", round(done.seconds, 1))


FAULTS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "aws-transit-gateway": (
        (VPC, "create", "Throttled", 2),
        (PEER, "create", "NotVisibleYet", 1, "edge1"),
        (PEER, "create", "InternalError", 1, "edge2"),
        (INSTANCE, "create", "CreatedButFailed", 1, "edge1"),
    ),
    "gcp-router-appliance": (
        (NETWORK, "create", "Throttled", 2),
        (SPOKE, "create", "NotVisibleYet", 1, "edge1"),
        (SPOKE, "create", "backendError", 1, "edge2"),
        (VM, "create", "CreatedButFailed", 1, "edge1"),
    ),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_after_errors_in_the_middle_further_ups_complete_without_duplicates(tmp_path: Path, name: str) -> None:
    stack = _new_stack(tmp_path)
    stack.configure({"samegate:platform": PLATFORMS[name]})
    for fault in FAULTS[name]:
        cloud.inject(stack.world_file, *fault)
    # Machine and session wait for one another, so that one of the two errors comes an update later.
    for _ in range(2):
        assert stack.up().returncode != 0
        assert _existing(stack.world) < _golden(name)
    completed = stack.up()
    assert completed.returncode == 0, completed.said[-4000:]
    assert not any(fault["times"] for fault in stack.world.faults)
    assert _existing(stack.world) == _golden(name)
