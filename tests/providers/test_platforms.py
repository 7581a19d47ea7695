"""Each platform's program on the mock engine and the simulated cloud: no engine, no network, all rules."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks

from policy.model import Resource, ResourceRule
from policy.registry import RULES
from tests.providers.platform_program.program import run
from tests.providers.stacks import PLATFORMS, aws, gcp
from tests.providers.standin import cloud, sdk
from tests.providers.standin.aws import ENI, INSTANCE, PEER, ROUTE, SERVER_PEER, Aws
from tests.providers.standin.gcp import INSTANCE as VM
from tests.providers.standin.gcp import PEER as ROUTER_PEER
from tests.providers.standin.gcp import Gcp
from tests.providers.standin.rules import Rules

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "components"
LOOP = asyncio.new_event_loop()


@dataclass
class SimulatedEngine(mocks.Mocks):
    """Checks every registration as the stand-in providers do, and lets the simulated cloud answer."""

    rules: Rules
    config: dict[str, Any]
    world: cloud.World = field(default_factory=cloud.World)
    registered: list[tuple[str, str]] = field(default_factory=list)
    # The engine registers from several threads; a cloud's stand-in has its file's lock for that.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.registered.append((args.typ, args.name))
        if args.typ == f"pulumi:providers:{self.rules.package}":
            # What is no text is JSON to a provider, here and in the engine.
            self.config["defaultTags"] = json.loads(args.inputs.get("defaultTags", "{}"))
        if not args.typ.startswith(f"{self.rules.package}:"):
            return f"{args.name}-id", dict(args.inputs)
        inputs = dict(args.inputs)
        found = sdk.findings(sdk.resource_type(args.typ), inputs) + self.rules.findings(args.typ, inputs)
        assert not found, f"{args.typ} {args.name}: {found}"
        if (named := self.rules.automatic_name(args.typ)) and named not in inputs:
            inputs[named] = f"{args.name}-{len(self.registered):07x}"
        with self.lock:
            made = self.rules.create(self.world, args.typ, args.name, inputs, self.config)
            self.world.objects[made.identifier] = made
        return made.identifier, made.properties

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], None]:
        raise AssertionError(f"the program calls {args.token}: it must not look anything up")


def load_services(rules: Rules) -> None:
    """Load what of the SDK the fabric uses, by one thread: its services are lazy modules, which several threads see half loaded (CPython 3.11)."""
    for service in {token.split(":")[1].split("/")[0] for token in rules.references}:
        # Any name but one of a module's own, which would not load it.
        hasattr(import_module(f"{sdk.PACKAGES[rules.package]}.{service}"), "outputs")


def _provisioned(raw: Mapping[str, Any]) -> SimulatedEngine:
    rules: Rules = Aws() if raw["kind"] == "aws" else Gcp()
    load_services(rules)
    asyncio.set_event_loop(LOOP)
    engine = SimulatedEngine(rules, {"region": raw["region"], "project": raw.get("project")})
    pulumi.runtime.set_mocks(engine, project="samegate", stack="test", preview=False)

    @pulumi.runtime.test
    def program() -> None:
        run(raw)

    program()
    return engine


@pytest.fixture(scope="module", params=sorted(PLATFORMS))
def platform(request: pytest.FixtureRequest) -> tuple[str, SimulatedEngine]:
    return request.param, _provisioned(PLATFORMS[request.param])


def test_the_resources_are_those_of_the_golden_list(platform: tuple[str, SimulatedEngine]) -> None:
    name, engine = platform
    golden = GOLDEN / f"{name}.txt"
    text = "".join(f"{token} {resource}\n" for token, resource in sorted(engine.registered))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), (
        "a renamed resource is replaced: give it an alias, then UPDATE_GOLDEN=1 pytest tests/providers"
    )


def test_the_simulated_cloud_holds_something_and_refused_nothing(platform: tuple[str, SimulatedEngine]) -> None:
    assert len(platform[1].world.objects) > 30


def test_no_policy_about_a_single_resource_is_violated(platform: tuple[str, SimulatedEngine]) -> None:
    rules = [rule for rule in RULES if isinstance(rule, ResourceRule)]
    # What they protect is a setting that these stacks, which come and go, leave out.
    resources = [
        Resource(o.token, o.name, o.name, o.properties, protect=True) for o in platform[1].world.objects.values()
    ]
    found = [(rule.name, f.urn, f.message) for r in resources for rule in rules for f in rule.findings(r, {})]
    assert not found


def _of(engine: SimulatedEngine, token: str) -> dict[str, dict[str, Any]]:
    return {o.name: o.properties for o in engine.world.of(token)}


@pytest.mark.parametrize("fabric", ["transit-gateway", "route-server"])
def test_only_edge_interfaces_carry_foreign_addresses(fabric: str) -> None:
    interfaces = _of(_provisioned(aws(fabric)), ENI)
    assert interfaces.keys() == {"edge1", "edge2"}
    assert all(eni["sourceDestCheck"] is False for eni in interfaces.values())


def test_edge_machines_take_signed_metadata_requests_only_and_no_key() -> None:
    for machine in _of(_provisioned(aws()), INSTANCE).values():
        assert machine["metadataOptions"]["httpTokens"] == "required"
        assert "keyName" not in machine
        assert machine["userDataReplaceOnChange"] is True


def test_five_edge_nodes_need_a_second_connect_attachment() -> None:
    # Transit Gateway quotas: four peers per attachment.
    peers = _of(_provisioned(aws(numbers=(1, 2, 3, 4, 5))), PEER)
    by_attachment: dict[str, set[str]] = {}
    for name, peer in peers.items():
        by_attachment.setdefault(peer["transitGatewayAttachmentId"], set()).add(name)
    assert sorted(map(sorted, by_attachment.values())) == [["edge1", "edge2", "edge3", "edge4"], ["edge5"]]


def test_every_connect_peer_has_our_as_number_and_its_own_block() -> None:
    peers = _of(_provisioned(aws()), PEER)
    assert {peer["bgpAsn"] for peer in peers.values()} == {"65010"}
    assert {name: peer["insideCidrBlocks"] for name, peer in peers.items()} == {
        "edge1": ["169.254.100.0/29"],
        "edge2": ["169.254.100.8/29"],
    }


def test_vips_are_routed_to_the_gateway_from_workers_and_its_own_block_from_edge_nodes() -> None:
    routes = _of(_provisioned(aws()), ROUTE)
    to = {name: route["destinationCidrBlock"] for name, route in routes.items()}
    assert to == {
        "edge-eu-central-1a-gre": "10.255.0.0/24",
        "edge-eu-central-1b-gre": "10.255.0.0/24",
        "workers-eu-central-1a-203.0.113.0-26": "203.0.113.0/26",
        "workers-eu-central-1b-203.0.113.0-26": "203.0.113.0/26",
    }


def test_a_route_server_hears_each_node_at_both_endpoints_of_its_zone() -> None:
    peers = _of(_provisioned(aws("route-server")), SERVER_PEER)
    assert peers.keys() == {"edge1-1", "edge1-2", "edge2-1", "edge2-2"}
    assert {p["bgpOptions"]["peerLivenessDetection"] for p in peers.values()} == {"bfd"}


def test_google_machines_forward_and_peer_without_bfd() -> None:
    engine = _provisioned(gcp())
    assert all(machine["canIpForward"] is True for machine in _of(engine, VM).values())
    peers = _of(engine, ROUTER_PEER)
    assert peers.keys() == {"edge1-1", "edge1-2", "edge2-1", "edge2-2"}
    assert not any("bfd" in peer for peer in peers.values())


def _named(world: cloud.World, value: Any) -> Any:
    """The value with names in the place of identifiers, which count up in the order in which a world was made."""
    if isinstance(value, Mapping):
        return {k: _named(world, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_named(world, v) for v in value]
    found = world.objects.get(str(value))
    return value if found is None else (found.token, found.name)


@pytest.mark.parametrize("make", [aws, gcp])
def test_a_node_that_comes_or_goes_leaves_the_others_inputs_alone(make: Any) -> None:
    two, four, three = (_provisioned(make(numbers=numbers)) for numbers in ((1, 2), (1, 2, 3, 4), (1, 2, 4)))

    def inputs(engine: SimulatedEngine) -> dict[tuple[str, str], Any]:
        return {
            (o.token, o.name): _named(engine.world, o.inputs)
            for o in engine.world.objects.values()
            if o.token in (ENI, PEER, VM, ROUTER_PEER)
        }

    for other in (four, three):
        assert {key: inputs(other)[key] for key in inputs(two)} == inputs(two)
