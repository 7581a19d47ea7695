"""Whole lives of the platforms on the real engine with the stand-in providers; nothing is reached but this machine.

One life a fabric, looked at by many tests: every command starts the engine, the program and a provider.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tools
from tests.providers.run import ROOT, Done, Stack
from tests.providers.stacks import PLATFORMS, POOL, aws, gcp
from tests.providers.standin import cloud
from tests.providers.standin.aws import CLUSTER, INSTANCE, NODE_GROUP, PEER, SERVER_PEER, VPC
from tests.providers.standin.gcp import CLUSTER as GKE
from tests.providers.standin.gcp import INSTANCE as VM
from tests.providers.standin.gcp import NETWORK, SPOKE
from tests.providers.standin.gcp import PEER as ROUTER_PEER
from tests.providers.standin.gcp import POOL as NODES

pytestmark = pytest.mark.root
GOLDEN = ROOT / "tests/golden/components"
MACHINES = (INSTANCE, VM)
SESSIONS = (PEER, SERVER_PEER, ROUTER_PEER)
NEWER_IMAGES = {
    "aws": "ami-0fedcba9876543210",
    "gcp": "projects/debian-cloud/global/images/debian-13-trixie-v20261120",
}
# An AMI for EKS is made for a Kubernetes version, and comes with it. An edge VM on GCP is no node of the cluster.
NEWER_VERSION = {
    "aws": {"kubernetesVersion": "1.35", "image": "ami-0135013501350135a"},
    "gcp": {"kubernetesVersion": "1.35.0-gke.1203001", "image": NEWER_IMAGES["gcp"]},
}
OTHER_POOL = "203.0.113.64/26"
OTHER_WORKERS = {"aws": {"machineType": "m7g.xlarge"}, "gcp": {"machineType": "n2-standard-8"}}
# By the design of each fabric: address, machine and what it peers or balances by.
OF_A_NODE = {
    "aws-transit-gateway": ("{}", "{}", "{}"),
    "aws-route-server": ("{}", "{}", "{}-1", "{}-2"),
    "gcp-router-appliance": ("{}", "{}", "{}", "{}-1", "{}-2"),
    "gcp-passthrough": ("{}", "{}", "internal-{}", "external-{}"),
}
# The VPC's own routes to VIPs: to the gateway from each table of workers, or to the balancer. Elsewhere only sessions tell of them.
ROUTES_TO_POOLS = {
    "aws-transit-gateway": {
        POOL: ("workers-eu-central-1a-203.0.113.0-26", "workers-eu-central-1b-203.0.113.0-26"),
        OTHER_POOL: ("workers-eu-central-1a-203.0.113.64-26", "workers-eu-central-1b-203.0.113.64-26"),
    },
    "aws-route-server": {POOL: (), OTHER_POOL: ()},
    "gcp-router-appliance": {POOL: (), OTHER_POOL: ()},
    "gcp-passthrough": {POOL: ("pool-203-0-113-0-26",), OTHER_POOL: ("pool-203-0-113-64-26",)},
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

    @property
    def kind(self) -> str:
        return self.name.split("-")[0]

    def settings(self, numbers: tuple[int, ...], image: str | None = None, pool: str = POOL, **changes: Any) -> None:
        """Change the stack file."""
        fabric = self.name.split("-", 1)[1]
        kept = {key: PLATFORMS[self.name][key] for key in PLATFORMS[self.name].keys() & {"internetIngress"}}
        values = (aws if self.kind == "aws" else gcp)(fabric, numbers, **kept, **changes)
        if image is not None:
            values["edge"]["image"] = image
        self.stack.configure({"samegate:platform": values, "samegate:pool": pool})


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
    life.settings((1, 2, 4), NEWER_IMAGES[life.kind])
    life.stage("another image", stack.up())
    newer = NEWER_VERSION[life.kind]
    life.settings((1, 2, 4), **newer)
    life.stage("another version", stack.up())
    life.settings((1, 2, 4), **newer, pool=OTHER_POOL, workers=OTHER_WORKERS[life.kind])
    life.stage("other pools", stack.up())
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


def _calls(life: Life, after: str, stage: str) -> list[tuple[str, str, str]]:
    """(call, type, name) of what the cloud was asked for since the other stage, in order."""
    calls = [line.split(" ") for line in life.worlds[stage].log[len(life.worlds[after].log) :]]
    return [(call, token, name) for call, token, name in calls]


def _one_at_a_time(life: Life) -> list[tuple[str, str, str]]:
    machine = INSTANCE if life.kind == "aws" else VM
    return [(call, machine, name) for name in ("edge1", "edge2", "edge4") for call in ("delete", "create")]


def test_machines_are_replaced_one_at_a_time(life: Life) -> None:
    calls = _calls(life, "one node less", "another image")
    assert [call for call in calls if call[1] in MACHINES] == _one_at_a_time(life)


def test_another_version_is_taken_in_place_by_control_plane_and_then_workers_and_by_edge_nodes_with_its_image(
    life: Life,
) -> None:
    on_aws = life.kind == "aws"
    in_place = [
        ("update", CLUSTER if on_aws else GKE, "cluster"),
        ("update", NODE_GROUP if on_aws else NODES, "workers"),
    ]
    calls = _calls(life, "another image", "another version")
    assert [call for call in calls if call[1] not in MACHINES] == in_place
    assert [call for call in calls if call[1] in MACHINES] == (_one_at_a_time(life) if on_aws else [])
    # A node is never newer than the API server.
    assert calls[0] == in_place[0]
    touched = {"cluster", "workers", *(("edge1", "edge2", "edge4") if on_aws else ())}
    assert {name for _, name in life.done["another version"].steps} == touched


def test_another_pool_of_addresses_moves_only_its_routes_and_another_pool_of_workers_nothing_else(life: Life) -> None:
    """A node group of EKS keeps its machine type for life, so that another one comes before it goes; a node pool of GKE changes."""
    calls = _calls(life, "another version", "other pools")
    workers = [(call, name) for call, token, name in calls if token in (NODE_GROUP, NODES)]
    assert workers == [(call, "workers") for call in (("create", "delete") if life.kind == "aws" else ("update",))]
    routes = ROUTES_TO_POOLS[life.name]
    assert sorted((call, name) for call, token, name in calls if token not in (NODE_GROUP, NODES)) == [
        *(("create", name) for name in routes[OTHER_POOL]),
        *(("delete", name) for name in routes[POOL]),
    ]
    assert {name for _, name in life.done["other pools"].steps} == {"workers", *routes[POOL], *routes[OTHER_POOL]}


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


RUNBOOK = ROOT / "docs/runbook.md"


def _way_out_of_a_killed_update() -> list[list[str]]:
    """The arguments of each command of the runbook's section, in order."""
    section = RUNBOOK.read_text().split("## A `pulumi up` that was killed")[1].split("\n## ")[0]
    blocks = "".join(block.split("```")[0] for block in section.split("```sh\n")[1:])
    return [line.split()[1:] for line in blocks.splitlines()]


def test_after_a_killed_engine_the_runbooks_commands_complete_the_stack_without_duplicates(tmp_path: Path) -> None:
    """One session was made and nobody was told, the other one not: the state cannot tell the two apart."""
    name = "aws-transit-gateway"
    stack = _new_stack(tmp_path)
    stack.configure({"samegate:platform": PLATFORMS[name]})
    cloud.inject(stack.world_file, PEER, "create", "Hang", 1, "edge1")
    cloud.inject(stack.world_file, PEER, "create", "Lost", 1, "edge2")
    pending = {(PEER, "edge1"), (PEER, "edge2")}
    waiting = pending | {(INSTANCE, "edge1"), (INSTANCE, "edge2")}
    # Everything else is made and known, so that exactly these are in the air.
    stack.killed_up(when=lambda: stack.recorded("aws") == (set(_golden(name)) - waiting, pending))
    (made,) = stack.world.of(PEER)
    assert made.name == "edge1"
    assert "locked" in stack.up().said
    said: dict[str, str] = {}
    for command in _way_out_of_a_killed_update():
        agreed = ("--yes", "--skip-preview") if command[0] in ("refresh", "up") else ()
        done = stack.pulumi(*("test" if word == "STACK" else word for word in command), *agreed)
        assert done.returncode == 0, done.said[-4000:]
        said[command[0]] = done.said
        if command[0] == "stack":
            begun = json.loads(done.said)["deployment"]["pending_operations"]
            names = {(o["resource"]["type"], o["resource"]["urn"].split("::")[-1]) for o in begun}
            assert names == pending
            with cloud.opened(stack.world_file) as world:
                for left in [o for o in world.objects.values() if (o.token, o.name) in names]:
                    del world.objects[left.identifier]
    assert list(said) == ["cancel", "stack", "refresh", "up"]
    assert _existing(stack.world) == _golden(name)
    assert stack.recorded("aws") == (set(_golden(name)), set())
