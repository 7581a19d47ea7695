"""Kubernetes objects as JSON dicts, with just what a test says, and the settings that go with them."""

from __future__ import annotations

from typing import Any

from lbnode.object_reader import read_snapshot
from lbnode.objects import Snapshot
from lbnode.settings import AgentSettings, parse

SETTINGS: dict[str, Any] = {
    "pools": [{"name": "public", "cidrs": ["203.0.113.0/24"]}],
    "bgp": {"localAsn": 65010, "peers": [{"name": "tor1", "address": "198.18.0.2", "asn": 65001}]},
    "network": {
        "nodeCidrs": ["198.18.0.0/24"],
        "podCidrs": ["198.18.128.0/20"],
        "serviceCidrs": ["198.18.96.0/20"],
    },
}


def settings(**changes: Any) -> AgentSettings:
    return parse(SETTINGS | changes)


def service(
    name: str = "web",
    *,
    vip: str | None = "203.0.113.10",
    ports: list[dict[str, Any]] | None = None,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    created: str = "2026-01-01T00:00:00Z",
    deleting: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    meta: dict[str, Any] = {"namespace": "default", "name": name, "creationTimestamp": created}
    meta |= {"annotations": annotations or {}, "labels": labels or {}}
    if deleting:
        meta["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    base = {
        "type": "LoadBalancer",
        "loadBalancerClass": "samegate.dev/lb",
        "externalTrafficPolicy": "Local",
        "ports": ports if ports is not None else [{"name": "http", "port": 80, "targetPort": 8080}],
    }
    status = {"loadBalancer": {"ingress": [{"ip": ip} for ip in vip.split(",")] if vip else []}}
    return {"kind": "Service", "metadata": meta, "spec": base | spec, "status": status}


def endpoint(address: str, node: str | None, state: str = "ready") -> dict[str, Any]:
    """``state``: ready, unready, terminating (still serving), gone (terminating and no longer serving)."""
    conditions = {
        "ready": {"ready": True, "serving": True, "terminating": False},
        "unready": {"ready": False, "serving": False, "terminating": False},
        "terminating": {"ready": False, "serving": True, "terminating": True},
        "gone": {"ready": False, "serving": False, "terminating": True},
    }[state]
    return {"addresses": [address], "nodeName": node, "conditions": conditions}


def endpoint_slice(
    endpoints: list[dict[str, Any]],
    service: str = "web",
    name: str = "",
    ports: list[dict[str, Any]] | None = None,
    family: str = "IPv4",
) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name or f"{service}-1",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": ports if ports is not None else [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


def node(
    name: str,
    address: str,
    role: str = "worker",
    ready: str = "True",
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    kernel: str = "6.1.176",
    unschedulable: bool = False,
) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": a} for a in address.split(",")]
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"samegate.dev/role": role} | (labels or {}),
            "annotations": annotations or {},
        },
        "spec": {"unschedulable": unschedulable},
        "status": {
            "addresses": [*addresses, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": ready}],
            "nodeInfo": {"kernelVersion": kernel},
        },
    }


EDGES = [node("edge1", "198.18.0.11", "edge"), node("edge2", "198.18.0.12", "edge")]
WORKERS = [node("worker1", "198.18.0.21"), node("worker2", "198.18.0.22")]


def snapshot(*items: Any) -> Snapshot:
    return read_snapshot(items)
