"""The whole program on a simulated AWS: after the platform it is the program of every other stack, and the settings have the addresses that AWS chose."""

from __future__ import annotations

import asyncio
import json
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from stack_values import IMAGE, raw

from tests.providers.run import SIMULATED_CREDENTIALS
from tests.providers.stacks import aws
from tests.providers.standin import cloud
from tests.providers.standin.aws import SERVER_ENDPOINT, Aws
from tests.providers.test_platforms import LOOP, SimulatedEngine, load_services

ROOT = Path(__file__).resolve().parents[2]
KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://198.51.100.10:6443"}}]
users: [{name: u, user: {token: x}}]
"""
POOLS = [{"name": "public", "cidrs": ["203.0.113.0/26"]}]


@dataclass
class Engine(SimulatedEngine):
    """Keeps the inputs of Kubernetes objects, too; a LoadBalancer Service gets an address as from a cluster."""

    kubernetes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if not args.typ.startswith("kubernetes:"):
            return super().new_resource(args)
        self.kubernetes[args.name] = dict(args.inputs)
        status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
        return f"{args.name}-id", {**args.inputs, "status": status}


@dataclass
class Run:
    world: cloud.World
    kubernetes: dict[str, dict[str, Any]]
    outputs: dict[str, Any]


def _run(monkeypatch: pytest.MonkeyPatch, values: Mapping[str, Any], kubeconfig: str | None = None) -> Run:
    rules = Aws()
    load_services(rules)
    for name, value in SIMULATED_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    config = {f"samegate:{k}": v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    if kubeconfig is not None:
        config["samegate:kubeconfig"] = kubeconfig
    engine = Engine(rules, {"region": "eu-central-1"})
    asyncio.set_event_loop(LOOP)
    pulumi.runtime.set_mocks(engine, project="samegate", stack="test", preview=False)
    pulumi.runtime.set_all_config(config, secret_keys=["samegate:kubeconfig"])
    exported: dict[str, Any] = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    monkeypatch.chdir(ROOT)

    @pulumi.runtime.test
    def program() -> Any:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")
        return pulumi.Output.all(**exported).apply(exported.update)

    program()
    return Run(engine.world, engine.kubernetes, exported)


@pytest.fixture
def on_aws(monkeypatch: pytest.MonkeyPatch) -> Run:
    agent = {"pools": POOLS, "bgp": {"localAsn": 65010}, "forwarding": "nat"}
    apps = [{"path": "apps/web"}]
    return _run(monkeypatch, {"platform": aws("route-server"), "image": IMAGE, "agent": agent, "apps": apps})


@pytest.fixture
def on_prem(monkeypatch: pytest.MonkeyPatch) -> Run:
    values = raw(platform={"kind": "onprem", "edgeNodes": ["edge1", "edge2"]})
    values["agent"]["pools"] = POOLS
    del values["agent"]["bgp"]["peers"][0]["passwordKey"]
    return _run(monkeypatch, values, KUBECONFIG)


SETTINGS = "ConfigMap/samegate-system/samegate-settings"


def test_agents_peer_with_the_addresses_that_aws_chose(on_aws: Run) -> None:
    chosen = {o.outputs["eniAddress"] for o in on_aws.world.of(SERVER_ENDPOINT)}
    assert len(chosen) == 4
    written = json.loads(on_aws.kubernetes[SETTINGS]["data"]["settings.json"])
    assert {peer["address"] for peer in written["bgp"]["peers"]} == chosen
    assert {text.split()[1] for sessions in on_aws.outputs["peers"].values() for text in sessions} == chosen


def test_load_balancer_and_apps_are_the_same_objects_on_every_stack_but_for_their_settings(
    on_aws: Run, on_prem: Run
) -> None:
    assert on_aws.kubernetes.keys() == on_prem.kubernetes.keys()
    differ = {name for name in on_aws.kubernetes if on_aws.kubernetes[name] != on_prem.kubernetes[name]}
    assert differ == {SETTINGS}
    here, there = (json.loads(run.kubernetes[SETTINGS]["data"]["settings.json"]) for run in (on_aws, on_prem))
    assert {key for key in here if here[key] != there[key]} == {"bgp", "forwarding", "network"}


def test_the_stack_says_what_its_fabric_costs(on_aws: Run, on_prem: Run) -> None:
    assert on_aws.outputs["fabricCost"]["dollarsPerMonth"] > 0
    assert "fabricCost" not in on_prem.outputs
