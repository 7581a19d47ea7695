"""The whole program on simulated clouds: after the platform it is the program of every other stack, and the settings have the addresses that AWS chose."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
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
from tests.providers.stacks import aws, gcp
from tests.providers.standin import cloud
from tests.providers.standin.aws import SERVER_ENDPOINT, Aws
from tests.providers.standin.gcp import ACCOUNT, Gcp
from tests.providers.standin.gcp import INSTANCE as VM
from tests.providers.standin.gcp import PEER as ROUTER_PEER
from tests.providers.standin.rules import Rules
from tests.providers.test_platforms import LOOP, SimulatedEngine, load_services

ROOT = Path(__file__).resolve().parents[2]
KUBECONFIG = """
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://198.51.100.10:6443"}}]
users: [{name: u, user: {token: x}}]
"""
POOLS = [{"name": "public", "cidrs": ["203.0.113.0/26"]}]


# How the SDK marks a secret on the wire (pulumi's sdk/go/common/resource/sig.go).
SECRET_MARK = "4dabf18193072939515e22adb298388d"


def _opened(value: Any) -> Any:
    """The value as a cloud is sent it: secrets in the clear."""
    if isinstance(value, Mapping):
        return _opened(value["value"]) if SECRET_MARK in value else {k: _opened(v) for k, v in value.items()}
    return [_opened(v) for v in value] if isinstance(value, list) else value


@dataclass
class Engine(SimulatedEngine):
    """Keeps the inputs of Kubernetes objects, too; a LoadBalancer Service gets an address as from a cluster."""

    kubernetes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if not args.typ.startswith("kubernetes:"):
            args.inputs = _opened(args.inputs)
            return super().new_resource(args)
        self.kubernetes[args.name] = dict(args.inputs)
        status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
        return f"{args.name}-id", {**args.inputs, "status": status}


@dataclass
class Run:
    world: cloud.World
    kubernetes: dict[str, dict[str, Any]]
    outputs: dict[str, Any]


def _run(
    monkeypatch: pytest.MonkeyPatch,
    values: Mapping[str, Any],
    kubeconfig: str | None = None,
    rules: Rules | None = None,
    bgp_keys: Mapping[str, str] | None = None,
) -> Run:
    rules = rules or Aws()
    load_services(rules)
    for name, value in SIMULATED_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    config = {f"samegate:{k}": v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    if kubeconfig is not None:
        config["samegate:kubeconfig"] = kubeconfig
    if bgp_keys is not None:
        config["samegate:bgpKeys"] = json.dumps(bgp_keys)
    platform = values["platform"]
    engine = Engine(rules, {"region": platform.get("region", "eu-central-1"), "project": platform.get("project")})
    asyncio.set_event_loop(LOOP)
    pulumi.runtime.set_mocks(engine, project="samegate", stack="test", preview=False)
    pulumi.runtime.set_all_config(config, secret_keys=["samegate:kubeconfig", "samegate:bgpKeys"])
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


def _on_gcp(platform: Mapping[str, Any]) -> dict[str, Any]:
    agent = {"pools": POOLS, "bgp": {"localAsn": 65010}, "forwarding": "tunnel", "return": "via-edge"}
    return {"platform": platform, "image": IMAGE, "agent": agent, "apps": [{"path": "apps/web"}]}


@pytest.fixture
def on_gcp(monkeypatch: pytest.MonkeyPatch) -> Run:
    return _run(monkeypatch, _on_gcp(gcp()), rules=Gcp())


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


def test_on_gcp_more_objects_are_there_only_for_edge_nodes_outside_the_cluster_and_for_gkes_quota(
    on_gcp: Run, on_prem: Run
) -> None:
    assert on_gcp.kubernetes.keys() - on_prem.kubernetes.keys() == {
        "ClusterRoleBinding/samegate-outside",
        "ResourceQuota/samegate-system/samegate-critical-pods",
        "Role/samegate-system/samegate-outside",
        "RoleBinding/samegate-system/samegate-outside",
    }
    assert not on_prem.kubernetes.keys() - on_gcp.kubernetes.keys()
    alike = on_prem.kubernetes.keys()
    assert {name for name in alike if on_gcp.kubernetes[name] != on_prem.kubernetes[name]} == {SETTINGS}


def _files(machine: Mapping[str, Any]) -> list[str]:
    """What a VM's start-up script writes."""
    return [base64.b64decode(text).decode() for text in re.findall(r"<<< (\S+)\)", machine["metadataStartupScript"])]


def test_the_agents_on_gcp_know_every_vm_by_its_name_and_its_address(on_gcp: Run) -> None:
    written = json.loads(on_gcp.kubernetes[SETTINGS]["data"]["settings.json"])
    machines = [o.inputs for o in on_gcp.world.of(VM)]
    assert {edge["name"]: edge["addresses"] for edge in written["outsideEdges"]} == {
        machine["name"]: [machine["networkInterfaces"][0]["networkIp"]] for machine in machines
    }
    for machine in machines:
        assert any(f"--node {machine['name']}\n" in file for file in _files(machine))


def test_a_bgp_key_reaches_vms_by_the_clusters_secret_and_not_by_their_start_up_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "correct horse battery staple"
    run = _run(monkeypatch, _on_gcp(gcp(cloudRouter={"passwordKey": "router"})), rules=Gcp(), bgp_keys={"router": key})
    sessions = [o.inputs["md5AuthenticationKey"]["key"] for o in run.world.of(ROUTER_PEER)]
    # The stand-in keeps of a secret what tells it from another.
    assert sessions == [f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"] * 4, "two sessions a node"
    for machine in (o.inputs for o in run.world.of(VM)):
        assert not any(key in file for file in (json.dumps(machine), *_files(machine)))
    assert key not in run.kubernetes[SETTINGS]["data"]["settings.json"]
    assert SECRET_MARK in run.kubernetes["Secret/samegate-system/samegate-bgp-keys"]["stringData"]
    read = run.kubernetes["Role/samegate-system/samegate-outside"]["rules"][1]
    assert read["resources"] == ["secrets"]
    assert [f"Secret/samegate-system/{name}" for name in read["resourceNames"]] == [
        name for name in run.kubernetes if name.startswith("Secret/")
    ]


def test_rights_in_the_cluster_go_to_the_service_account_that_the_vms_have(on_gcp: Run) -> None:
    (email,) = (o.outputs["email"] for o in on_gcp.world.of(ACCOUNT) if o.name == "edge")
    for name in ("ClusterRoleBinding/samegate-outside", "RoleBinding/samegate-system/samegate-outside"):
        assert [subject["name"] for subject in on_gcp.kubernetes[name]["subjects"]] == [email]
    for machine in on_gcp.world.of(VM):
        assert machine.inputs["serviceAccount"]["email"] == email
        # Without it RBAC is told a number (GKE documentation, RBAC: errors of service accounts on VMs).
        assert "https://www.googleapis.com/auth/userinfo.email" in machine.inputs["serviceAccount"]["scopes"]
