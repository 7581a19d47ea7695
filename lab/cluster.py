"""The cluster as its clients see it: kubectl, the objects that the lab puts there before anything else, readiness."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import tools
from lab import images, netns, node_settings, registry, topology
from lab.credentials import KUBECONFIGS, KUBELET_CLIENT
from lab.processes import write_text
from lab.topology import Node

kubeconfig: Path = KUBECONFIGS / "admin.kubeconfig"
"""For `kubectl` in the control namespace; group system:masters."""

_ARCHIVES = topology.STATE / "images"
_PAUSE = "pause"
_PAUSE_TAG = node_settings.PAUSE_TAG
_PAUSE_SOURCE = Path(__file__).parent / "uml" / "pause.c"
_COREDNS = "coredns"


def kubectl(*arguments: str, input: str | None = None, timeout_seconds: float = 120.0) -> str:  # noqa: A002
    """Run kubectl as the cluster's administrator; returns what it printed.

    Raises CommandError with what it said on an error.
    """
    argv = [str(tools.locate("kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    environment = {**os.environ, "KUBECACHEDIR": str(topology.STATE / "kubectl-cache")}
    completed = netns.run(topology.CONTROL, argv, input=input, timeout_seconds=timeout_seconds, environment=environment)
    return completed.stdout


def get(*arguments: str) -> dict[str, Any]:
    """`kubectl get ... -o json`, parsed."""
    parsed: dict[str, Any] = json.loads(kubectl("get", *arguments, "--output=json"))
    return parsed


def apply(objects: list[dict[str, Any]]) -> None:
    """Server-side apply of the objects, as the lab."""
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    kubectl("apply", "--server-side", "--field-manager=samegate-lab", "--force-conflicts", "-f", "-", input=document)


def node_object(node: Node) -> dict[str, Any]:
    """The Node, made before its kubelet comes: labels, taint and pod range are the rack's, not the kubelet's."""
    pods = [str(node.pod_network), str(node.pod_network6)]
    spec: dict[str, Any] = {"podCIDR": pods[0], "podCIDRs": pods}
    if node.role == "edge":
        spec["taints"] = [{"key": topology.EDGE_TAINT, "effect": "NoSchedule"}]
    labels = {topology.ROLE_LABEL: node.role, "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "spec": spec}


def kubelet_access() -> dict[str, Any]:
    """What lets the API server use the kubelets, for `kubectl exec` and `logs`."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "samegate-lab-apiserver-kubelets"},
        "roleRef": _role("system:kubelet-api-admin"),
        "subjects": [
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"kube-{KUBELET_CLIENT}"},
        ],
    }


def _role(name: str) -> dict[str, str]:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}


def dns_objects(image: str) -> list[dict[str, Any]]:
    """Cluster DNS: CoreDNS with the kubernetes plugin. Nothing is forwarded: the lab has no outside."""
    labels = {"k8s-app": "kube-dns"}
    metadata = {"name": "coredns", "namespace": "kube-system"}
    corefile = f""".:53 {{
    errors
    health :8080
    ready :8181
    kubernetes {topology.CLUSTER_DOMAIN} in-addr.arpa {{
        pods insecure
        ttl 30
    }}
    cache 30
}}
"""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    container = {
        "name": "coredns",
        "image": image,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 5},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "nodeSelector": {topology.ROLE_LABEL: "worker"},
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        # Port 53 without a capability: the pod's own network namespace lowers the limit (sysctl is in the safe set).
        "securityContext": {
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
            "runAsNonRoot": True,
            "runAsUser": 65532,
        },
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    service = {
        "clusterIP": str(topology.DNS_SERVICE_ADDRESS),
        "selector": labels,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    }
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "system:coredns"}, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": _role("system:coredns"),
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": corefile}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata | {"labels": labels},
            "spec": {
                # One a worker: names resolve while a machine is gone, and `up` need not wait for the one that comes back.
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": service,
        },
    ]


def images_trouble() -> str | None:
    """The image that the registry lacks, or None."""
    for name, tag in ((_PAUSE, _PAUSE_TAG), (_COREDNS, _coredns_tag())):
        if registry.digest_of(name, tag=tag) is None:
            return f"{name}:{tag} is not in the registry"
    return None


def _coredns_tag() -> str:
    return f"size-{tools.locate('coredns').stat().st_size}"


def push_images() -> None:
    """Make and push the pods' pause image and CoreDNS."""
    _ARCHIVES.mkdir(parents=True, exist_ok=True)
    program, pause = _ARCHIVES / "pause", _ARCHIVES / "pause.tar"
    netns.run(None, ["gcc", "-static", "-Os", "-s", "-o", str(program), str(_PAUSE_SOURCE)])
    images.write_archive(pause, {"bin/pause": program}, ["/bin/pause"])
    registry.push(pause, _PAUSE, tag=_PAUSE_TAG)
    coredns = _ARCHIVES / "coredns.tar"
    images.write_archive(coredns, {"bin/coredns": tools.locate("coredns").resolve()}, ["/bin/coredns"])
    registry.push(coredns, _COREDNS, tag=_coredns_tag())
    shutil.rmtree(_ARCHIVES)


def objects() -> list[dict[str, Any]]:
    """Everything that the lab puts into the cluster."""
    dns_image = f"{topology.REGISTRY}/{_COREDNS}:{_coredns_tag()}"
    return [*(node_object(node) for node in topology.NODES), kubelet_access(), *dns_objects(dns_image)]


_APPLIED = topology.STATE / "run" / "objects.applied"


def _objects_digest() -> str:
    return hashlib.sha256(json.dumps(objects(), sort_keys=True).encode()).hexdigest()


def objects_trouble() -> str | None:
    """Why the lab's objects have to be applied, or None."""
    if not _APPLIED.is_file() or _APPLIED.read_text() != _objects_digest():
        return "not applied"
    found = {item["metadata"]["name"] for item in get("nodes")["items"]}
    missing = [node.name for node in topology.NODES if node.name not in found]
    return f"nodes missing: {', '.join(missing)}" if missing else None


def apply_objects() -> None:
    """Apply the lab's objects."""
    apply(objects())
    write_text(_APPLIED, _objects_digest())


def nodes_not_ready() -> list[str]:
    """The nodes whose condition Ready is not True."""
    boots = ready_boots()
    return [node.name for node in topology.NODES if node.name not in boots]


def ready_boots() -> dict[str, str]:
    """The nodes whose condition Ready is True, and the boot (`boot_id`) that their kubelets reported it for.

    A node whose machine went down keeps its condition for a while: compare with the machine's own.
    """
    boots = {}
    for item in get("nodes")["items"]:
        for condition in item.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                boots[item["metadata"]["name"]] = str(item["status"].get("nodeInfo", {}).get("bootID", ""))
    return boots


def dns_ready() -> bool:
    """Whether cluster DNS has a ready pod."""
    status = get("deployment", "coredns", "--namespace=kube-system").get("status", {})
    return int(status.get("readyReplicas", 0)) >= 1
