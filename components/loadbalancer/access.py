"""Who may do what: service accounts and the smallest roles that the agents' calls need. Pure."""

from __future__ import annotations

from typing import Any

from components.naming import BGP_KEYS, CONTROLLER, EDGE, NAMESPACE, SETTINGS, WORKER, labels

LEASE = CONTROLLER
NODE_AGENTS = "samegate-node"
_READ = ["get", "list", "watch"]


def service_account(name: str, role: str) -> dict[str, Any]:
    # No token by default: each pod that needs one says so itself.
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(name, role),
        "automountServiceAccountToken": False,
    }


def node_agents() -> list[dict[str, Any]]:
    """Edge and worker read the world, and whether their own DaemonSet is being deleted; they write nothing."""
    name = NODE_AGENTS
    cluster_role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels("node")},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": _READ},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
        ],
    }
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels("node")},
        "rules": [
            {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [EDGE, WORKER], "verbs": ["get"]}
        ],
    }
    subjects = [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE} for account in (EDGE, WORKER)]
    return [cluster_role, role, *_bindings(name, "node", subjects)]


def outside_edges(user: str, reads_keys: bool) -> list[dict[str, Any]]:
    """Edge agents outside the cluster read the same world, and by name what no mount brings them: settings, and BGP keys where a peer has one."""
    name = "samegate-outside"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels("node")},
        "rules": [
            {"apiGroups": [""], "resources": [kind], "resourceNames": [called], "verbs": ["get"]}
            for kind, called in (("configmaps", SETTINGS), *((("secrets", BGP_KEYS),) if reads_keys else ()))
        ],
    }
    subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    return [role, *_bindings(name, "node", subjects, cluster_role=NODE_AGENTS)]


def controller(reads_namespaces: bool = False) -> list[dict[str, Any]]:
    """The controller writes Service status, the clean-up finalizer, events and its own Lease.

    It reads Namespaces only where a pool selects them by their labels.
    """
    world = ["services", "nodes", *(["namespaces"] if reads_namespaces else [])]
    cluster_role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": CONTROLLER, "labels": labels("controller")},
        "rules": [
            {"apiGroups": [""], "resources": world, "verbs": _READ},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": _READ},
            {"apiGroups": [""], "resources": ["services"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        ],
    }
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": CONTROLLER, "namespace": NAMESPACE, "labels": labels("controller")},
        "rules": [
            # Whether it is being removed for good: then it takes addresses and finalizers off the Services that stay.
            {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": [CONTROLLER], "verbs": ["get"]},
            # `create` knows no resource names: the name of a new object is in its body, which authorization does not see.
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [LEASE],
                "verbs": ["get", "update"],
            },
        ],
    }
    subjects = [{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": NAMESPACE}]
    return [cluster_role, role, *_bindings(CONTROLLER, "controller", subjects)]


def _bindings(
    name: str, role: str, subjects: list[dict[str, str]], cluster_role: str | None = None
) -> list[dict[str, Any]]:
    api = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name, "labels": labels(role)},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": cluster_role or name},
            "subjects": subjects,
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels(role)},
            "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            "subjects": subjects,
        },
    ]


def _metadata(name: str, role: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "labels": labels(role)}
