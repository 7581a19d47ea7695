"""The load balancer's objects: as rendered, and the promises that a reader of the golden files would check by hand."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from stack_values import IMAGE, raw

from components.loadbalancer.manifests import bgp_keys, stages
from components.naming import logical_name
from components.settings import parse
from lbnode.settings import AgentSettings, parse_json

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "components"


def _agent(**changes: Any) -> AgentSettings:
    values = raw()
    values["agent"] |= changes
    return parse(values, bgp_keys=["tor"]).agent


def _objects(**changes: Any) -> dict[str, dict[str, Any]]:
    return {logical_name(m): m for stage in stages(_agent(**changes), IMAGE) for m in stage}


def _pods(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        m["metadata"]["name"]: m["spec"]["template"]["spec"]
        for m in objects.values()
        if m["kind"] in ("DaemonSet", "Deployment")
    }


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


XDP = {"dataplane": "xdp", "xdp": {"devices": ["eth0"], "mostProcessors": 16}}


@pytest.mark.parametrize(("name", "changes"), [("loadbalancer.yaml", {}), ("loadbalancer-xdp.yaml", XDP)])
def test_the_objects_are_those_of_the_golden_file(name: str, changes: dict[str, Any]) -> None:
    objects = [m for stage in stages(_agent(**changes), IMAGE) for m in stage]
    text = yaml.safe_dump_all(objects, sort_keys=False, width=120)
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), (
        "look at the difference; if it is meant: UPDATE_GOLDEN=1 pytest tests/unit/components"
    )


def test_no_two_objects_have_the_same_name() -> None:
    names = [logical_name(m) for stage in stages(_agent(), IMAGE) for m in stage]
    assert len(names) == len(set(names))


def test_the_agent_reads_the_very_settings_that_the_stack_says() -> None:
    agent = _agent()
    text = _objects()["ConfigMap/samegate-system/samegate-settings"]["data"]["settings.json"]
    assert parse_json(text) == agent


def test_every_container_runs_the_image_that_was_given() -> None:
    assert {c["image"] for pod in _pods(_objects()).values() for c in _containers(pod)} == {IMAGE}


# Independent of the code: what docs/adr/0003-privileges.md decided.
DECIDED = {
    ("samegate-edge", "agent"): {"NET_ADMIN"},
    ("samegate-edge", "bird"): {"NET_ADMIN"},
    ("samegate-worker", "agent"): {"NET_ADMIN"},
    ("samegate-controller", "agent"): set[str](),
}


@pytest.mark.parametrize("packet_filter", ["nftables", "iptables-legacy"])
def test_a_container_has_the_capabilities_that_were_decided_and_no_other(packet_filter: str) -> None:
    found = {
        (name, c["name"]): set(c["securityContext"]["capabilities"].get("add", []))
        for name, pod in _pods(_objects(packetFilter=packet_filter)).items()
        for c in _containers(pod)
    }
    raw_socket = {"NET_RAW"} if packet_filter == "iptables-legacy" else set()
    expected = {key: caps | (raw_socket if key[1] == "agent" and caps else set()) for key, caps in DECIDED.items()}
    assert found == expected


def test_no_container_may_gain_privileges_or_write_to_its_root() -> None:
    for name, pod in _pods(_objects()).items():
        for container in _containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"]["drop"] == ["ALL"], name
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert "privileged" not in context, name


def test_the_controller_is_not_root_and_not_in_the_nodes_network() -> None:
    pod = _pods(_objects())["samegate-controller"]
    assert pod["containers"][0]["securityContext"]["runAsNonRoot"] is True
    assert not pod.get("hostNetwork")
    assert not [v for v in pod["volumes"] if "hostPath" in v]


def test_host_paths_are_the_three_that_were_decided() -> None:
    for name in ("samegate-edge", "samegate-worker"):
        paths = {v["hostPath"]["path"] for v in _pods(_objects())[name]["volumes"] if "hostPath" in v}
        assert paths == {"/proc/sys/net", "/var/lib/samegate", "/run/xtables.lock"}


def test_xdp_takes_two_capabilities_and_the_bpf_file_system_in_the_agent_of_the_edge_and_nowhere_else() -> None:
    with_ipvs, with_xdp = _pods(_objects()), _pods(_objects(**XDP))
    (agent,) = with_xdp["samegate-edge"]["containers"]
    # Linux 5.8 took both out of CAP_SYS_ADMIN: capabilities(7).
    assert agent["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "BPF", "PERFMON"]}
    assert [m["mountPath"] for m in agent["volumeMounts"] if m["name"] == "bpf"] == ["/sys/fs/bpf"]
    assert {"name": "DATA_PLANE", "value": "xdp"} in agent["env"]
    (volume,) = [v for v in with_xdp["samegate-edge"]["volumes"] if v["name"] == "bpf"]
    assert volume["hostPath"] == {"path": "/sys/fs/bpf", "type": "Directory"}
    # By hand: 320 MiB for the agent; 255.8 of rings, 64 of flows, 8.5 of destinations, 0.4 of VIPs, 0.9 of what was dropped of them, 0.3 for captures.
    assert agent["resources"]["limits"] == {"memory": "650Mi"}
    for name in ("samegate-worker", "samegate-controller"):
        assert with_xdp[name] == with_ipvs[name]
    assert with_xdp["samegate-edge"]["initContainers"] == with_ipvs["samegate-edge"]["initContainers"]


def test_bird_is_a_sidecar_that_outlives_the_agent() -> None:
    pod = _pods(_objects())["samegate-edge"]
    (bird,) = pod["initContainers"]
    assert bird["restartPolicy"] == "Always"
    shared = [m["mountPath"] for m in bird["volumeMounts"] if m["name"] == "run"]
    assert (
        shared
        == [m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == "run"]
        == ["/run/samegate"]
    )


def test_edge_nodes_are_replaced_one_at_a_time_and_only_when_ready_for_a_while() -> None:
    spec = _objects()["DaemonSet/samegate-system/samegate-edge"]["spec"]
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    assert spec["minReadySeconds"] >= 1
    assert spec["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("withdraw_seconds", [0, 5, 60.5])
def test_the_grace_period_is_longer_than_the_drain(withdraw_seconds: float) -> None:
    for name in ("samegate-edge", "samegate-worker"):
        assert (
            _pods(_objects(drain={"withdrawSeconds": withdraw_seconds}))[name]["terminationGracePeriodSeconds"]
            > withdraw_seconds + 10
        )


def test_edge_pods_tolerate_the_edge_taint_and_worker_pods_do_not() -> None:
    pods = _pods(_objects())
    keys = {name: {t["key"] for t in pods[name]["tolerations"]} for name in ("samegate-edge", "samegate-worker")}
    assert "samegate.dev/edge" in keys["samegate-edge"]
    assert "samegate.dev/edge" not in keys["samegate-worker"]
    assert {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} <= keys["samegate-edge"] & keys[
        "samegate-worker"
    ]


def test_pods_go_where_the_settings_say() -> None:
    pods = _pods(_objects(edgeNodeSelector={"pool": "edge"}, workerNodeSelector={"pool": "work"}))
    assert pods["samegate-edge"]["nodeSelector"] == {"pool": "edge"}
    assert pods["samegate-worker"]["nodeSelector"] == pods["samegate-controller"]["nodeSelector"] == {"pool": "work"}


def test_rights_and_settings_outlive_the_agents_and_edge_nodes_go_before_workers() -> None:
    order = [logical_name(m) for stage in stages(_agent(), IMAGE) for m in stage]
    position = {name: i for i, stage in enumerate(stages(_agent(), IMAGE)) for name in (logical_name(m) for m in stage)}
    agents = [n for n in order if n.startswith(("DaemonSet/", "Deployment/"))]
    for name in order:
        if name.split("/")[0] in (
            "ServiceAccount",
            "ClusterRole",
            "Role",
            "ClusterRoleBinding",
            "RoleBinding",
            "ConfigMap",
            "Namespace",
        ):
            assert all(position[name] < position[agent] for agent in agents), name
    assert position["DaemonSet/samegate-system/samegate-worker"] < position["DaemonSet/samegate-system/samegate-edge"]


def test_agents_are_deleted_in_the_foreground_so_that_they_learn_of_it() -> None:
    for name in (
        "DaemonSet/samegate-system/samegate-edge",
        "DaemonSet/samegate-system/samegate-worker",
        "Deployment/samegate-system/samegate-controller",
    ):
        annotations = _objects()[name]["metadata"]["annotations"]
        assert annotations["pulumi.com/deletionPropagationPolicy"] == "foreground"


def test_bgp_keys_are_mounted_files_of_one_owner_and_in_no_other_object() -> None:
    assert bgp_keys({"tor": "x"})["stringData"] == {"tor": "x"}
    volumes = {v["name"]: v for v in _pods(_objects())["samegate-edge"]["volumes"]}
    assert volumes["bgp-keys"]["secret"]["defaultMode"] == 0o400
    assert "bgp-keys" not in {v["name"] for v in _pods(_objects())["samegate-worker"]["volumes"]}
    for container in _containers(_pods(_objects())["samegate-edge"]):
        assert not [e for e in container.get("env", []) if "secretKeyRef" in e.get("valueFrom", {})]


# What the agents call, from reading lbnode/kube, not from the manifests.
ALLOWED = {
    "samegate-edge": {
        ("", "services", "list"), ("", "services", "watch"), ("", "services", "get"),
        ("", "nodes", "list"), ("", "nodes", "watch"), ("", "nodes", "get"),
        ("discovery.k8s.io", "endpointslices", "list"), ("discovery.k8s.io", "endpointslices", "watch"), ("discovery.k8s.io", "endpointslices", "get"),
        ("apps", "daemonsets:samegate-edge,samegate-worker@samegate-system", "get"),
    },
}  # fmt: skip
ALLOWED["samegate-worker"] = ALLOWED["samegate-edge"]
ALLOWED["samegate-controller"] = {
    *(rule for rule in ALLOWED["samegate-edge"] if rule[0] != "apps"),
    ("", "services", "patch"),
    ("", "services/status", "patch"),
    ("", "events", "create"),
    ("apps", "deployments:samegate-controller@samegate-system", "get"),
    ("coordination.k8s.io", "leases@samegate-system", "create"),
    ("coordination.k8s.io", "leases:samegate-controller@samegate-system", "get"),
    ("coordination.k8s.io", "leases:samegate-controller@samegate-system", "update"),
}


@pytest.mark.parametrize("account", sorted(ALLOWED))
def test_an_account_may_do_what_its_agent_calls_and_nothing_more(account: str) -> None:
    objects = _objects()
    granted = set()
    for binding in objects.values():
        if not binding["kind"].endswith("RoleBinding") or account not in {s["name"] for s in binding["subjects"]}:
            continue
        namespace = binding["metadata"].get("namespace")
        reference = binding["roleRef"]
        role = objects["/".join(part for part in (reference["kind"], namespace, reference["name"]) if part)]
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    what = resource + (":" + ",".join(rule["resourceNames"]) if "resourceNames" in rule else "")
                    granted |= {(group, what + (f"@{namespace}" if namespace else ""), verb) for verb in rule["verbs"]}
    assert granted == ALLOWED[account]


def test_no_account_hands_its_token_to_pods_that_do_not_ask_for_it() -> None:
    accounts = [m for m in _objects().values() if m["kind"] == "ServiceAccount"]
    assert len(accounts) == 3
    assert all(a["automountServiceAccountToken"] is False for a in accounts)


def test_only_the_agents_namespace_is_exempt_from_pod_security() -> None:
    namespaces = [m for m in _objects().values() if m["kind"] == "Namespace"]
    assert [
        (n["metadata"]["name"], n["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]) for n in namespaces
    ] == [("samegate-system", "privileged")]


def test_the_controller_may_read_namespaces_only_where_a_pool_selects_them_by_labels() -> None:
    def readable(**changes: Any) -> list[str]:
        [role] = [
            m
            for m in _objects(**changes).values()
            if m["kind"] == "ClusterRole" and "controller" in m["metadata"]["name"]
        ]
        return [resource for rule in role["rules"] for resource in rule["resources"]]

    assert "namespaces" not in readable()
    selected = {"name": "public", "cidrs": ["203.0.113.0/24"], "namespaceSelector": {"matchLabels": {"tier": "gold"}}}
    assert "namespaces" in readable(pools=[selected])


VM = "edge-vm"


def _outside() -> dict[str, dict[str, Any]]:
    """What the objects are more where edge nodes outside the cluster have this name to its API server."""
    objects = {logical_name(m): m for stage in stages(_agent(), IMAGE, VM) for m in stage}
    assert {name: objects[name] for name in _objects()} == _objects()
    return {name: m for name, m in objects.items() if name not in _objects()}


def test_edge_nodes_outside_the_cluster_may_what_their_page_says_and_nothing_more() -> None:
    page = (GOLDEN.parents[2] / "docs/outside-edges.md").read_text()
    (block,) = (b for b in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "RoleBinding" in b)
    said = {logical_name(m): m for m in yaml.safe_load_all(block)}

    def without_labels(manifest: dict[str, Any]) -> dict[str, Any]:
        metadata = {k: v for k, v in manifest["metadata"].items() if k != "labels"}
        return {**manifest, "metadata": metadata}

    assert {name: without_labels(m) for name, m in _outside().items()} == said


def test_who_is_outside_is_bound_to_a_role_that_exists_and_reads_the_settings_that_are_written() -> None:
    role = _outside()["ClusterRoleBinding/samegate-outside"]["roleRef"]
    assert f"{role['kind']}/{role['name']}" in _objects()
    settings, keys = _outside()["Role/samegate-system/samegate-outside"]["rules"]
    assert f"ConfigMap/samegate-system/{settings['resourceNames'][0]}" in _objects()
    assert keys["resourceNames"] == [bgp_keys({})["metadata"]["name"]]


def test_who_is_outside_reads_no_secret_where_no_peer_has_a_key() -> None:
    values = raw()
    del values["agent"]["bgp"]["peers"][0]["passwordKey"]
    objects = {logical_name(m): m for stage in stages(parse(values).agent, IMAGE, VM) for m in stage}
    rules = objects["Role/samegate-system/samegate-outside"]["rules"]
    assert [rule["resources"] for rule in rules] == [["configmaps"]]


def test_a_quota_for_critical_pods_lets_every_pod_of_ours_in_and_is_there_before_them() -> None:
    order = [m for stage in stages(_agent(), IMAGE, critical_pods_need_quota=True) for m in stage]
    (position,) = (i for i, m in enumerate(order) if m["kind"] == "ResourceQuota")
    assert position < min(i for i, m in enumerate(order) if m["kind"] in ("DaemonSet", "Deployment"))
    (scope,) = order[position]["spec"]["scopeSelector"]["matchExpressions"]
    assert (scope["scopeName"], scope["operator"]) == ("PriorityClass", "In")
    assert {pod["priorityClassName"] for pod in _pods(_objects()).values()} <= set(scope["values"])
    assert not [name for name in _objects() if name.startswith("ResourceQuota")]
