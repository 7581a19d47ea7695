"""The cluster of the endpoint benchmark as Kubernetes objects: pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from lbnode.settings import AgentSettings, parse

EDGE = "edge1"
POOL, RACK, PODS = IPv4Network("198.19.0.0/20"), IPv4Network("198.18.0.0/23"), IPv4Network("10.128.0.0/9")
_EDGE_ADDRESS, _FIRST_WORKER = RACK[2], RACK[100]
NODES_PATH = "/api/v1/nodes"
SERVICES_PATH = "/api/v1/namespaces/default/services"
SLICES_PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def settings() -> AgentSettings:
    """Of the agent."""
    return parse(
        {
            "pools": [{"name": "public", "cidrs": [str(POOL)]}],
            "bgp": {"localAsn": 65010, "peers": [{"name": "tor1", "address": str(RACK[1]), "asn": 65001}]},
            "network": {"nodeCidrs": [str(RACK)], "podCidrs": [str(PODS)], "serviceCidrs": ["10.96.0.0/16"]},
        }
    )


def vip(service: int) -> IPv4Address:
    """Of the `service`-th Service, from 0."""
    return POOL[service + 1]


def worker_address(worker: int) -> IPv4Address:
    """Of the `worker`-th worker node, from 0."""
    return _FIRST_WORKER + worker


def slice_path(service: int) -> str:
    """Of the Service's only EndpointSlice."""
    return f"{SLICES_PATH}/s{service}"


def readiness_pointer(worker: int) -> str:
    """Where in it stands whether the endpoint on that worker is ready (RFC 6901)."""
    return f"/endpoints/{worker}/conditions/ready"


def cluster(services: int, workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object with the path of its collection: an edge node, workers, Services, and one ready endpoint of each Service on each worker."""
    yield NODES_PATH, _node(EDGE, _EDGE_ADDRESS, "edge")
    for number in range(workers):
        yield NODES_PATH, _node(f"w{number}", worker_address(number), "worker")
    for number in range(services):
        yield SERVICES_PATH, _service(number)
        yield SLICES_PATH, _slice(number, workers)


def _node(name: str, address: IPv4Address, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"samegate.dev/role": role}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": str(address)}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _service(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": "samegate.dev/lb",
            "allocateLoadBalancerNodePorts": False,
            # Destinations follow the endpoints only so.
            "externalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": str(vip(number))}]}},
    }


def _slice(number: int, workers: int) -> dict[str, Any]:
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{number}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"s{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [str(PODS[256 * (number + 1) + worker])],
                "nodeName": f"w{worker}",
                "conditions": conditions,
            }
            for worker in range(workers)
        ],
    }
