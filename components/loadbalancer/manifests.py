"""The load balancer's Kubernetes objects as plain dicts, in the stages that they are created in. Pure.

Deletion runs through the stages backwards: edge nodes withdraw and go first, then the workers' tunnels, then the rights and settings
that both still need while they go, then the namespace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.loadbalancer import access
from components.naming import BGP_KEYS, CONTROLLER, EDGE, NAMESPACE, SETTINGS, WORKER, labels, selector
from lbnode.settings import DATA_PLANE_VARIABLE, AgentSettings

RUN_DIRECTORY = "/run/samegate"
BPF_DIRECTORY = "/sys/fs/bpf"
NON_ROOT_UID = 65532
"""`samegate` of the image's /etc/passwd."""
AGENT_MEMORY_MIB = 320
"""The most that an agent may take."""
REMOVAL_SECONDS = 25
"""What an agent may take beyond its drain to take its kernel state away on a slow node."""
MINIMUM_READY_SECONDS = 5
"""How long an edge node must have announced before the next one is replaced; routers install a route in less than a second."""

CRITICAL, CRITICAL_ON_NODES = "system-cluster-critical", "system-node-critical"
"""Priority classes that every cluster has (Kubernetes documentation, pod priority)."""
_FOREGROUND = {"pulumi.com/deletionPropagationPolicy": "foreground"}

Object = dict[str, Any]


def stages(
    settings: AgentSettings, image: str, outside_user: str | None = None, critical_pods_need_quota: bool = False
) -> tuple[tuple[Object, ...], ...]:
    """All objects but the BGP Secret (whose values are not plain), each stage depending on the one before it.

    ``outside_user`` is who edge nodes outside the cluster are to its API server, None where the program makes none. With
    ``critical_pods_need_quota`` :func:`critical_pods_quota` is among them.
    """
    return (
        (namespace(),),
        (
            access.service_account(EDGE, "edge"),
            access.service_account(WORKER, "worker"),
            access.service_account(CONTROLLER, "controller"),
            *access.node_agents(),
            *access.controller(settings.needs_namespaces),
            *(access.outside_edges(outside_user, _has_keys(settings)) if outside_user is not None else ()),
            *((critical_pods_quota(),) if critical_pods_need_quota else ()),
            settings_map(settings),
        ),
        (controller(settings, image), disruption_budget(), worker(settings, image)),
        # Last up, first down: when the controller releases Services for good, nobody announces them any more.
        (edge(settings, image),),
    )


def _has_keys(settings: AgentSettings) -> bool:
    return any(peer.password_key is not None for peer in settings.bgp.peers)


def namespace() -> Object:
    # hostNetwork and hostPath need `privileged`: the one exemption, for this namespace and no other.
    levels = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {**levels, "app.kubernetes.io/part-of": "samegate"}},
    }


def critical_pods_quota() -> Object:
    """What lets our pods in where an API server limits the use of priority classes by default (Kubernetes documentation, resource quotas): any number."""
    classes = {"scopeName": "PriorityClass", "operator": "In", "values": [CRITICAL_ON_NODES, CRITICAL]}
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _metadata("samegate-critical-pods", "settings"),
        # As many as GKE's own quota in kube-system has: it is there to allow, not to limit.
        "spec": {"hard": {"pods": "1G"}, "scopeSelector": {"matchExpressions": [classes]}},
    }


def settings_map(settings: AgentSettings) -> Object:
    """One name for ever: the agents follow the mounted file, and keep the last good settings when a new text is malformed."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(SETTINGS, "settings"),
        "data": {"settings.json": settings.to_json()},
    }


def bgp_keys(values: Any) -> Object:
    """The Secret of BGP keys; ``values`` maps names to keys and is a Pulumi secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(BGP_KEYS, "edge"),
        "type": "Opaque",
        "stringData": values,
    }


def edge(settings: AgentSettings, image: str) -> Object:
    """Agent and BIRD on every edge node, replaced one node at a time: the next only when the one before announces again."""
    bird = {
        "name": "bird",
        "image": image,
        "command": ["/usr/local/bin/bird-supervisor", RUN_DIRECTORY],
        # A sidecar (an init container that always restarts): it starts before the agent, outlives its restarts, and ends after it has withdrawn.
        "restartPolicy": "Always",
        "securityContext": _privileges(["NET_ADMIN"]),
        # More than it uses: what it asks for is its share on a busy node, and BFD has deadlines of a third of a second.
        "resources": _resources(cpu="100m", memory="16Mi", limit="128Mi"),
        "volumeMounts": [_mount("run", RUN_DIRECTORY), _mount("bgp-keys", "/etc/samegate/bgp-keys", read_only=True)],
    }
    agent = _agent("edge", EDGE, settings, image)
    agent["volumeMounts"] += [
        _mount("run", RUN_DIRECTORY),
        _mount("bgp-keys", "/etc/samegate/bgp-keys", read_only=True),
    ]
    pod = _node_pod(EDGE, settings.edge_node_selector, agent, drain_seconds=settings.drain.withdraw_seconds)
    pod["initContainers"] = [bird]
    pod["tolerations"] = [{"key": "samegate.dev/edge", "operator": "Exists"}, *pod["tolerations"]]
    if settings.dataplane == "xdp":
        # The pod and not the settings decide: those change under a pod that has neither mount nor privileges yet.
        agent["env"].append({"name": DATA_PLANE_VARIABLE, "value": "xdp"})
        # Loading programs takes CAP_BPF since Linux 5.8, and CAP_PERFMON what the verifier calls bounded pointers; both were CAP_SYS_ADMIN.
        agent["securityContext"]["capabilities"]["add"] += ["BPF", "PERFMON"]
        agent["volumeMounts"].append(_mount("bpf", BPF_DIRECTORY))
        # The kernel counts maps as memory of the pod that made them, since Linux 5.11.
        mib = AGENT_MEMORY_MIB + math.ceil(settings.xdp.memory_bytes(settings.xdp.most_processors) / (1 << 20))
        agent["resources"]["limits"]["memory"] = f"{mib}Mi"
        # Made and mounted by the node's systemd; what the agent pins there outlives pods.
        pod["volumes"].append({"name": "bpf", "hostPath": {"path": BPF_DIRECTORY, "type": "Directory"}})
    pod["volumes"] += [
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        # Optional: without keys there is no such Secret. 0400 suffices, both containers are uid 0 without the right to pass over modes.
        {"name": "bgp-keys", "secret": {"secretName": BGP_KEYS, "optional": True, "defaultMode": 0o400}},
    ]
    return _daemon_set("edge", EDGE, pod)


def worker(settings: AgentSettings, image: str) -> Object:
    """Agent on every worker node. Its restart touches no traffic: the kernel state stays."""
    agent = _agent("worker", WORKER, settings, image)
    return _daemon_set(
        "worker",
        WORKER,
        _node_pod(WORKER, settings.worker_node_selector, agent, drain_seconds=settings.drain.withdraw_seconds),
    )


def controller(settings: AgentSettings, image: str) -> Object:
    """Two replicas, one of which holds the Lease; neither root nor any capability."""
    container = {
        "name": "agent",
        "image": image,
        "args": ["run", "controller"],
        "env": [*_environment(), {"name": "DEPLOYMENT_NAME", "value": CONTROLLER}],
        "ports": [{"name": "http", "containerPort": settings.ports.controller, "protocol": "TCP"}],
        "readinessProbe": _probe("/readyz", settings.ports.controller, period=5, failures=3),
        "livenessProbe": _probe("/healthz", settings.ports.controller, period=15, failures=6),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NON_ROOT_UID,
            "runAsGroup": NON_ROOT_UID,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": _resources(cpu="20m", memory="64Mi", limit="256Mi"),
        "volumeMounts": [_mount("settings", "/etc/samegate", read_only=True)],
    }
    pod = {
        "serviceAccountName": CONTROLLER,
        "automountServiceAccountToken": True,
        "priorityClassName": CRITICAL,
        "nodeSelector": dict(settings.worker_node_selector),
        "terminationGracePeriodSeconds": 10,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                # Not DoNotSchedule: a cluster with one worker would never finish its rollout.
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector("controller")},
            }
        ],
        "containers": [container],
        "volumes": [_settings_volume()],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        # Foreground, as for the DaemonSets: it is still there to be asked while its pods end.
        "metadata": {**_metadata(CONTROLLER, "controller"), "annotations": _FOREGROUND},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": selector("controller")},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels("controller")}, "spec": pod},
        },
    }


def disruption_budget() -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(CONTROLLER, "controller"),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector("controller")}},
    }


def _daemon_set(role: str, name: str, pod: Object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        # Foreground: the object stays, marked as deleted, until its last pod has gone. So the agents learn of their removal,
        # and rights and settings outlive them.
        "metadata": {**_metadata(name, role), "annotations": _FOREGROUND},
        "spec": {
            "selector": {"matchLabels": selector(role)},
            "minReadySeconds": MINIMUM_READY_SECONDS,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": labels(role)}, "spec": pod},
        },
    }


def _node_pod(account: str, node_selector: Mapping[str, str], agent: Object, *, drain_seconds: float) -> Object:
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": True,
        "priorityClassName": CRITICAL_ON_NODES,
        "nodeSelector": dict(node_selector),
        "hostNetwork": True,
        # Nothing here looks names up; the cluster's DNS may itself depend on us.
        "dnsPolicy": "Default",
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
        ],
        "terminationGracePeriodSeconds": math.ceil(drain_seconds) + REMOVAL_SECONDS,
        "containers": [agent],
        "volumes": [
            _settings_volume(),
            # The one way to the sysctls: /proc/sys of a container is read-only, and privileged would be the alternative.
            {"name": "sysctls", "hostPath": {"path": "/proc/sys/net", "type": "Directory"}},
            # What the sysctls were before us, for the day we go; it outlives pods.
            {"name": "state", "hostPath": {"path": "/var/lib/samegate", "type": "DirectoryOrCreate"}},
            # Shared with kube-proxy: iptables replaces whole tables, and two writers without one lock lose each other's rules.
            {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
        ],
    }


def _agent(role: str, daemon_set: str, settings: AgentSettings, image: str) -> Object:
    port = {"edge": settings.ports.edge, "worker": settings.ports.worker}[role]
    # iptables-legacy opens a raw socket where nftables needs netlink only.
    capabilities = ["NET_ADMIN", *(["NET_RAW"] if settings.packet_filter == "iptables-legacy" else [])]
    return {
        "name": "agent",
        "image": image,
        "args": ["run", role],
        "env": [*_environment(), {"name": "DAEMONSET_NAME", "value": daemon_set}],
        "ports": [{"name": "http", "containerPort": port, "hostPort": port, "protocol": "TCP"}],
        # Ready: announces, or has nothing to announce. The rolling update waits for it.
        "readinessProbe": _probe("/readyz", port, period=2, failures=2),
        "livenessProbe": _probe("/healthz", port, period=15, failures=6),
        "securityContext": _privileges(capabilities),
        # A share of the processor that stays one while many pods start at once: as much as calico-node's manifest asks for.
        "resources": _resources(cpu="250m", memory="64Mi", limit=f"{AGENT_MEMORY_MIB}Mi"),
        "volumeMounts": [
            _mount("settings", "/etc/samegate", read_only=True),
            _mount("sysctls", "/host/proc/sys/net"),
            _mount("state", "/var/lib/samegate"),
            _mount("xtables-lock", "/run/xtables.lock"),
        ],
    }


def _privileges(capabilities: list[str]) -> Object:
    """Kubernetes gives a non-root process no ambient capabilities, so uid 0 with all of them dropped but these is the least that works."""
    return {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _environment() -> list[Object]:
    fields = {
        "NODE_NAME": "spec.nodeName",
        "NODE_ADDRESS": "status.hostIP",
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
    }
    return [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]


def _probe(path: str, port: int, *, period: int, failures: int) -> Object:
    # Five seconds: a node under load answers late, and a restart would only add to its load.
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _resources(*, cpu: str, memory: str, limit: str) -> Object:
    # No limit on the processor: throttled in the wrong second, an agent misses a failure.
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}


def _settings_volume() -> Object:
    return {"name": "settings", "configMap": {"name": SETTINGS}}


def _mount(name: str, path: str, *, read_only: bool = False) -> Object:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _metadata(name: str, role: str) -> Object:
    return {"name": name, "namespace": NAMESPACE, "labels": labels(role)}
