"""The whole program on a mock engine: what it registers, not what the cluster makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from router_stack import router_stack
from stack_values import IMAGE, raw

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/components/resources.txt"
KEY = "correct horse battery staple"
TOKEN = "token-of-the-admin"
KUBECONFIG = f"""
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "https://198.51.100.10:6443"}}}}]
users: [{{name: u, user: {{token: {TOKEN}}}}}]
"""
# How the SDK marks a secret on the wire (pulumi's sdk/go/common/resource/sig.go).
SECRET_MARK, SECRET_VALUE = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"


@dataclass
class Engine(mocks.Mocks):
    """Records every registration; a LoadBalancer Service gets an address as from a cluster."""

    registered: list[mocks.MockResourceArgs] = field(default_factory=list)
    requests: dict[str, Any] = field(default_factory=dict)

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.registered.append(args)
        outputs = dict(args.inputs)
        if args.typ == "kubernetes:core/v1:Service":
            outputs["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], None]:
        raise AssertionError(f"the program calls {args.token}: it must not look anything up")


class Monitor(mocks.MockMonitor):
    """Also keeps the raw request: parent, provider and dependencies are not in what mocks are told."""

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - gRPC's name
        self.mocks.requests[request.name if request.custom else f"component {request.name}"] = request
        return super().RegisterResource(request)


@dataclass
class Run:
    engine: Engine
    outputs: dict[str, Any]

    def request(self, name: str) -> Any:
        return self.engine.requests[name]


def _run(monkeypatch: pytest.MonkeyPatch, *, preview: bool = False, **changes: Any) -> Run:
    values = raw(**{"platform": {"kind": "onprem", "edgeNodes": ["edge1", "edge2"]}, **changes})
    config = {
        f"samegate:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }
    config |= {"samegate:bgpKeys": json.dumps({"tor": KEY}), "samegate:kubeconfig": KUBECONFIG}
    engine = Engine()
    pulumi.runtime.set_mocks(engine, project="samegate", stack="test", preview=preview, monitor=Monitor(engine))
    pulumi.runtime.set_all_config(config, secret_keys=["samegate:bgpKeys", "samegate:kubeconfig"])
    exported: dict[str, Any] = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    monkeypatch.chdir(ROOT)

    @pulumi.runtime.test
    def program() -> Any:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")
        return pulumi.Output.all(**exported).apply(exported.update)

    program()
    return Run(engine, exported)


# One loop that stays open: the SDK makes a loop in each of its threads and closes none, so that ending them would warn.
LOOP = asyncio.new_event_loop()


@pytest.fixture(autouse=True)
def own_event_loop() -> None:
    """The SDK takes the thread's loop, which a test before may have closed."""
    asyncio.set_event_loop(LOOP)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return _run(monkeypatch)


def test_the_resources_are_those_of_the_golden_list(run: Run) -> None:
    text = "".join(sorted(f"{args.typ} {args.name}\n" for args in run.engine.registered))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), (
        "a renamed resource is replaced: give it an alias, then UPDATE_GOLDEN=1 pytest tests/program"
    )


def test_every_object_is_the_child_of_a_component_and_uses_the_explicit_provider(run: Run) -> None:
    objects = [args for args in run.engine.registered if args.typ.startswith("kubernetes:")]
    assert len(objects) > 15
    for args in objects:
        assert "samegate:index:" in run.request(args.name).parent, args.name
        assert "pulumi:providers:kubernetes::kubernetes" in (args.provider or ""), args.name


def test_the_order_of_the_apps_changes_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    apps = [{"path": "apps/web"}, {"path": "apps/echo"}]
    one = {(a.typ, a.name) for a in _run(monkeypatch, apps=apps).engine.registered}
    other = {(a.typ, a.name) for a in _run(monkeypatch, apps=apps[::-1]).engine.registered}
    assert one == other


def test_apps_depend_on_the_load_balancer_so_that_a_controller_still_releases_their_services(run: Run) -> None:
    dependencies = set(run.request("Service/web/web").dependencies) | set(run.request("component web").dependencies)
    assert any("Deployment/samegate-system/samegate-controller" in urn for urn in dependencies) or any(
        "samegate:index:LoadBalancer" in urn for urn in dependencies
    )


def test_edge_agents_go_before_workers_and_both_before_their_rights(run: Run) -> None:
    edge = " ".join(run.request("DaemonSet/samegate-system/samegate-edge").dependencies)
    worker = " ".join(run.request("DaemonSet/samegate-system/samegate-worker").dependencies)
    assert "DaemonSet/samegate-system/samegate-worker" in edge
    assert "ClusterRoleBinding/samegate-node" in worker
    assert "Secret/samegate-system/samegate-bgp-keys" in worker


def test_a_bgp_key_stays_a_secret_and_is_in_no_other_resource(run: Run) -> None:
    secret = next(a for a in run.engine.registered if a.typ == "kubernetes:core/v1:Secret")
    request = run.request(secret.name)
    assert secret.inputs["stringData"] == {SECRET_MARK: SECRET_VALUE, "value": {"tor": KEY}}
    assert set(request.additionalSecretOutputs) == {"data", "stringData"}
    for args in run.engine.registered:
        if args is not secret:
            assert KEY not in json.dumps(args.inputs, default=str), args.name


def test_every_object_is_owned_under_one_name_so_that_an_up_after_a_killed_one_meets_no_stranger(run: Run) -> None:
    """The annotation is the provider's (Managing Resources with Server-Side Apply, in its registry)."""
    objects = [a for a in run.engine.registered if a.typ.startswith("kubernetes:")]
    assert len(objects) > 20
    owners = {a.name: a.inputs["metadata"]["annotations"]["pulumi.com/patchFieldManager"] for a in objects}
    assert set(owners.values()) == {"samegate"}


def test_the_kubeconfig_stays_a_secret(run: Run) -> None:
    request = run.request("kubernetes")
    assert dict(request.object["kubeconfig"]) == {SECRET_MARK: SECRET_VALUE, "value": KUBECONFIG}
    for args in run.engine.registered:
        if args.name != "kubernetes":
            assert TOKEN not in json.dumps(args.inputs, default=str), args.name


def test_the_stack_exports_addresses_edge_nodes_peers_and_the_image(run: Run) -> None:
    assert run.outputs["addresses"] == {"web/web": "203.0.113.7"}
    assert run.outputs["edgeNodes"] == ["edge1", "edge2"]
    assert run.outputs["peers"] == {node: ["tor1 198.51.100.2 AS65001"] for node in ("edge1", "edge2")}
    assert run.outputs["image"] == IMAGE


def test_the_stack_exports_what_its_routers_must_be_told_without_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    values = router_stack("frr")
    values["platform"].pop("kubeconfigFile")
    routers = _run(monkeypatch, agent=values["agent"], platform=values["platform"]).outputs["routers"]
    assert routers["tor1"]["frr.conf"] == (ROOT / "tests/golden/routers/frr/frr.conf").read_text()
    assert KEY not in json.dumps(routers)


def test_a_router_that_names_no_peer_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = router_stack("frr", peers=["tor9"])
    values["platform"].pop("kubeconfigFile")
    with pytest.raises(pulumi.RunError, match=r"bgp\.peers has no such peer"):
        _run(monkeypatch, agent=values["agent"], platform=values["platform"])


def test_without_keys_there_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = raw()["agent"]
    del agent["bgp"]["peers"][0]["passwordKey"]
    config_keys = pulumi.runtime.set_all_config

    def without_keys(config: dict[str, str], secret_keys: list[str] | None = None) -> None:
        config_keys({k: v for k, v in config.items() if k != "samegate:bgpKeys"}, secret_keys)

    monkeypatch.setattr(pulumi.runtime, "set_all_config", without_keys)
    registered = _run(monkeypatch, agent=agent).engine.registered
    assert not [a for a in registered if a.typ == "kubernetes:core/v1:Secret"]


def test_a_mistake_in_the_settings_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pulumi.RunError, match="named by digest"):
        _run(monkeypatch, image="samegate:latest")


def test_a_first_preview_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = KUBECONFIG.replace("198.51.100.10:6443", "127.0.0.1:1")
    monkeypatch.setitem(globals(), "KUBECONFIG", unreachable)
    run = _run(monkeypatch, preview=True)
    # The SDK's marker of an unknown value (sdk/python, rpc.UNKNOWN).
    assert run.request("kubernetes").object["kubeconfig"] == "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
    assert any(a.typ == "kubernetes:apps/v1:DaemonSet" for a in run.engine.registered)
