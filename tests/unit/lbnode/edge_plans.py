"""The plan of an edge node for a few objects on two workers, and what of it most tests ask for."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from lbnode.facts import WorkerHealth
from lbnode.model import Destination, Protocol, ServiceName, VirtualKey
from lbnode.translate.edge import EdgePlan, translate_edge
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, settings, snapshot

VIP = IPv4Address("203.0.113.10")
W1, W2 = IPv4Address("198.18.0.21"), IPv4Address("198.18.0.22")
WEB = ServiceName("default", "web")
UDP_PORTS = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}]
UDP_SLICE_PORTS = [{"name": "dns", "port": 5353, "protocol": "UDP"}]

DUAL = {
    "pools": [{"name": "p", "cidrs": ["203.0.113.0/24", "2001:db8:1::/64"]}],
    "network": {"nodeCidrs": ["198.18.0.0/24"], "probeCidrs": ["192.0.2.0/24", "2001:db8:2::/64"]},
}


def plan(*items: Any, health: WorkerHealth | None = None, node_name: str = "edge1", **changes: Any) -> EdgePlan:
    cluster = snapshot(*EDGES, *WORKERS, *items)
    return translate_edge(cluster, settings(**changes), node_name, health or WorkerHealth())


def destinations(
    result: EdgePlan, protocol: Protocol = Protocol.TCP, port: int = 80, vip: Any = VIP
) -> tuple[Destination, ...]:
    [found] = [s for s in result.state.services if s.key == VirtualKey(vip, protocol, port)]
    return found.destinations


def both(first: str, second: str) -> dict[str, Any]:
    return endpoint_slice([endpoint("198.18.131.5", "worker1", first), endpoint("198.18.132.5", "worker2", second)])
