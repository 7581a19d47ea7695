"""A small cluster, a kernel and a speaker in memory, and a clock that a test moves: what the roles' tests stand on."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

from lbnode.dataplane.memory import MemoryEdge
from lbnode.kube.watcher import Copy
from lbnode.model import IPAddress, ServiceName
from lbnode.observe import EdgeMetrics
from lbnode.probe import ProbeResult
from lbnode.roles.edge import Edge
from lbnode.settings import AgentSettings, parse
from lbnode.speaker.memory import MemorySpeaker

VIP = ip_address("203.0.113.7")
WORKERS = {"worker1": ip_address("198.51.100.21"), "worker2": ip_address("198.51.100.22")}
EDGES = {"edge1": ip_address("198.51.100.11"), "edge2": ip_address("198.51.100.12")}

SETTINGS: dict[str, Any] = {
    "pools": [{"name": "default", "cidrs": ["203.0.113.0/24"]}],
    "bgp": {"localAsn": 65010, "peers": [{"name": "tor1", "address": "198.51.100.2", "asn": 65001}]},
    "network": {"nodeCidrs": ["198.51.100.0/24"], "podCidrs": ["10.244.0.0/16"], "serviceCidrs": ["10.96.0.0/16"]},
}


def node(name: str, address: IPAddress, role: str, *, ready: str = "True", drain: bool = False) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"samegate.dev/role": role},
            "annotations": {"samegate.dev/drain": "true"} if drain else {},
        },
        "status": {
            "addresses": [{"type": "InternalIP", "address": str(address)}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def also(raw: dict[str, Any], address: IPAddress) -> dict[str, Any]:
    """The Node with a second internal address."""
    raw["status"]["addresses"].append({"type": "InternalIP", "address": str(address)})
    return raw


def service(name: str = "web", vip: IPAddress | None = VIP, **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
            **metadata,
        },
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": "samegate.dev/lb",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32100,
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": str(vip)}]} if vip is not None else {}},
    }


def endpoints(name: str = "web", **conditions: str) -> dict[str, Any]:
    """One endpoint a worker; its condition is ``ready``, ``unready`` or ``terminating`` (serving still)."""
    listed = []
    for index, (worker, condition) in enumerate(conditions.items()):
        listed.append(
            {
                "addresses": [f"10.244.0.{index + 10}"],
                "nodeName": worker,
                "conditions": {
                    "ready": condition == "ready",
                    "serving": condition != "unready",
                    "terminating": condition == "terminating",
                },
            }
        )
    return {
        "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": listed,
    }


class World:
    """The outside of one edge node."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0
        self.settings: AgentSettings = parse(SETTINGS)
        self.copy = Copy(listed={"services", "slices", "nodes"})
        for name, address in WORKERS.items():
            self.put(node(name, address, "worker"))
        for name, address in EDGES.items():
            self.put(node(name, address, "edge"))
        self.put(service(), endpoints(worker1="ready", worker2="ready"))
        self.kernel = MemoryEdge([ip_network("203.0.113.0/24")], {})
        self.speaker = MemorySpeaker(self.settings.bgp, self.settings.pools, "edge1", [EDGES["edge1"]])
        self.reachable = set(WORKERS.values())
        self.edge = self.start()

    def start(self) -> Edge:
        """A new agent process in the same world: it knows nothing yet, kernel and speaker go on."""
        self.metrics = EdgeMetrics("test")
        self.edge = Edge(
            "edge1",
            lambda: self.settings,
            lambda: self.copy,
            self.kernel,
            lambda _settings, _addresses: self.speaker,
            self.metrics,
            lambda: self.now_seconds,
        )
        return self.edge

    def use(self, settings: AgentSettings) -> None:
        """Other settings, with a speaker that knows them."""
        self.settings = settings
        self.speaker = MemorySpeaker(settings.bgp, settings.pools, "edge1", [EDGES["edge1"]])

    def put(self, *raws: dict[str, Any]) -> None:
        """Objects as the API server would send them."""
        stores = {"Service": self.copy.services, "EndpointSlice": self.copy.slices, "Node": self.copy.nodes}
        for raw in raws:
            metadata = raw["metadata"]
            stores[raw["kind"]][ServiceName(metadata.get("namespace", ""), metadata["name"])] = raw
        self.copy.version += 1

    def remove(self, kind: str, name: str, namespace: str = "shop") -> None:
        {"Service": self.copy.services, "EndpointSlice": self.copy.slices}[kind].pop(ServiceName(namespace, name))
        self.copy.version += 1

    def probe(self) -> None:
        """One round of probes, half a second after the last."""
        self.now_seconds += 0.5
        self.edge.probed(
            tuple(
                ProbeResult(w, w in self.reachable, "Answered" if w in self.reachable else "Timeout")
                for w in self.edge.probe_targets()
            )
        )

    async def run(self, seconds: float) -> None:
        """Passes and probes for so long."""
        until = self.now_seconds + seconds
        await self.edge.pass_once()
        while self.now_seconds < until:
            self.probe()
            await self.edge.pass_once()


def announced_after(world: World, seconds: float) -> bool:
    """Whether the VIP is announced when so much time has passed."""
    asyncio.run(world.run(seconds))
    return VIP in world.speaker.history[-1] if world.speaker.history else False
