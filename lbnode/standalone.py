"""Standalone mode: everything that a role otherwise learns from Kubernetes, in one file that all nodes may share.

The file becomes the same :class:`lbnode.objects.Snapshot` that the API server's objects become, so that what follows is the very same
code. A worker of a service is an endpoint on that worker, at its node address; one that is drained is an endpoint that terminates and
no longer serves: it keeps its slots and live TCP flows, and gets nothing new.

A half-written YAML file can be valid YAML with half of the services. So a file must end with YAML's document end marker (YAML 1.2.2
section 9.1.2); JSON ends by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from lbnode.documents import read_documents
from lbnode.errors import ConfigError
from lbnode.model import IPAddress, Protocol, ServiceName
from lbnode.objects import (
    FORWARDING_ANNOTATION,
    ONE_PACKET_ANNOTATION,
    Endpoint,
    EndpointPort,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    ServicePort,
    Snapshot,
)
from lbnode.schema import Port, Whole
from lbnode.settings import AgentSettings, config_error

#: The namespace of the file's services, in logs and pages.
NAMESPACE = "standalone"
DOCUMENT_END = "..."
#: Keys of the settings that choose among Kubernetes objects, and would do nothing here.
_KUBERNETES_ONLY = {
    "service_class": "every service of the file is ours",
    "serve_without_class": "every service of the file is ours",
    "edge_node_selector": "edgeNodes lists the edge nodes",
    "worker_node_selector": "workers lists the workers",
    "outside_edges": "edgeNodes lists the edge nodes",
    "weights": "each worker of a service may have a weight",
}
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _text(value: object) -> object:
    # A bare number is a valid address to the library.
    if isinstance(value, int):
        raise ValueError(f"{value} is a number, not an address. Write it like 198.51.100.11")
    return value


Address = Annotated[IPv4Address | IPv6Address, BeforeValidator(_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Node(_Part):
    """A machine with its own addresses, at most one of each family. ``draining`` takes it out of service as ``samegate.dev/drain`` does."""

    name: str = Field(pattern=_NAME, max_length=253)
    addresses: tuple[Address, ...] = Field(min_length=1)
    draining: bool = False

    @field_validator("addresses")
    @classmethod
    def _one_of_each_family(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        if (twice := _first_twice(a.version for a in addresses)) is not None:
            raise ValueError(
                f"two IPv{twice} addresses: a node has one of each family here. Keep the one that the others reach it at"
            )
        return addresses


class PortOf(_Part):
    """One port of a service. The worker role hands it to ``target_port`` on its own node address, by default the same port."""

    port: Port
    protocol: Protocol = Protocol.TCP
    target_port: Port | None = None


class WorkerOf(_Part):
    """A worker of a service. ``weight`` is its share of new flows; ``drained`` lets live flows end and sends nothing new."""

    name: str
    weight: Whole = Field(default=1, ge=1, le=100)
    drained: bool = False


class Service(_Part):
    """One or two VIPs (one of each family) with their ports. ``workers`` left out means all workers, with equal weights.

    ``one_packet`` schedules every UDP packet by itself, for DNS-like traffic. ``source_ranges`` limit the clients; the worker role
    enforces them. ``forwarding`` is that of the settings unless given; with ``nat`` workers need nothing but something that listens on
    ``target_port`` of their own address.
    """

    name: str = Field(pattern=_NAME, max_length=253)
    addresses: tuple[Address, ...] = Field(min_length=1, max_length=2)
    ports: tuple[PortOf, ...] = Field(min_length=1)
    session_affinity: Literal["None", "ClientIP"] = "None"
    one_packet: bool = False
    forwarding: Literal["tunnel", "nat"] | None = None
    source_ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    workers: tuple[WorkerOf, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Service:
        if _first_twice(a.version for a in self.addresses) is not None:
            raise ValueError(f"service {self.name} has two addresses of one family. Make it two services")
        if (twice := _first_twice((p.protocol.value, p.port) for p in self.ports)) is not None:
            raise ValueError(f"service {self.name} has port {twice[0]} {twice[1]} twice. Remove one")
        if self.one_packet and not any(p.protocol is Protocol.UDP for p in self.ports):
            raise ValueError(f"service {self.name} has onePacket, and no UDP port that it could be for. Remove it")
        if self.workers is not None and (twice := _first_twice(w.name for w in self.workers)) is not None:
            raise ValueError(f"service {self.name} names worker {twice} twice. Remove one")
        return self


class Standalone(_Part):
    """The whole file. Which of the nodes a process runs on is not in it, so that all nodes can have the same file."""

    settings: AgentSettings
    edge_nodes: tuple[Node, ...] = Field(min_length=1)
    workers: tuple[Node, ...] = ()
    services: tuple[Service, ...] = ()

    @field_validator("settings")
    @classmethod
    def _nothing_about_kubernetes(cls, settings: AgentSettings) -> AgentSettings:
        for key, instead in _KUBERNETES_ONLY.items():
            if key in settings.model_fields_set:
                raise ValueError(
                    f"{to_camel(key)} chooses among Kubernetes objects, and there are none: {instead}. Remove it"
                )
        return settings

    @model_validator(mode="after")
    def _nodes(self) -> Standalone:
        nodes = (*self.edge_nodes, *self.workers)
        if (twice := _first_twice(n.name for n in nodes)) is not None:
            raise ValueError(
                f"two nodes are named {twice}: a node is an edge node or a worker, once. Rename or remove one"
            )
        owners: dict[IPAddress, str] = {}
        for node in nodes:
            for address in node.addresses:
                if (owner := owners.setdefault(address, node.name)) != node.name:
                    raise ValueError(f"nodes {owner} and {node.name} both have the address {address}. Mend one")
                for network in (*self.settings.pool_networks, *self.settings.network.probe_cidrs):
                    if address in network:
                        raise ValueError(
                            f"node {node.name} has the address {address}, which lies in {network}: pools and probe network are for VIPs and probes alone. "
                            "Give the node another address, or choose another network"
                        )
        edges = {n.name for n in self.edge_nodes}
        for peer in self.settings.bgp.peers:
            for name in peer.nodes:
                if name not in edges:
                    raise ValueError(
                        f"peer {peer.name} is for node {name}, which is not among edgeNodes ({', '.join(sorted(edges))}). Mend its nodes"
                    )
        return self

    @model_validator(mode="after")
    def _services(self) -> Standalone:
        if (twice := _first_twice(s.name for s in self.services)) is not None:
            raise ValueError(f"two services are named {twice}: names must be unique. Rename one")
        owners: dict[IPAddress, str] = {}
        known = {n.name for n in self.workers}
        pools = self.settings.pool_networks
        for service in self.services:
            for address in service.addresses:
                if not any(address in p for p in pools):
                    raise ValueError(
                        f"service {service.name} has the address {address}, which is in no pool ({', '.join(map(str, pools))}). Take one that is, or add a pool"
                    )
                if (owner := owners.setdefault(address, service.name)) != service.name:
                    raise ValueError(
                        f"services {owner} and {service.name} both have the address {address}. Put their ports into one service"
                    )
            if service.one_packet and (service.forwarding or self.settings.forwarding) == "nat":
                raise ValueError(
                    f"service {service.name} has onePacket together with forwarding nat: answers would come back untranslated. Drop one of them"
                )
            for worker in service.workers or ():
                if worker.name not in known:
                    raise ValueError(
                        f"service {service.name} names worker {worker.name}, which is not among workers ({', '.join(sorted(known)) or 'none'}). Add it there, or mend the name"
                    )
        return self

    def node(self, name: str, role: Literal["edge", "worker"]) -> Node:
        """This process's own node.

        Raises:
            ConfigError: the file has no such node in that role.
        """
        listed, key = (self.edge_nodes, "edgeNodes") if role == "edge" else (self.workers, "workers")
        for node in listed:
            if node.name == name:
                return node
        names = ", ".join(n.name for n in listed) or "none"
        raise ConfigError(
            f"node {name}", f"is not among {key} ({names})", "Add it to the file, or name this node by --node NAME"
        )

    def agent_settings(self) -> AgentSettings:
        """The settings in force: the file's, with weights as its services give them."""
        return self.settings.model_copy(update={"weights": "endpoints"})

    def snapshot(self) -> Snapshot:
        """What the file says, as the objects that translate takes."""
        nodes = {
            n.name: NodeObject(
                name=n.name,
                labels=selector,
                annotations={"samegate.dev/drain": "true"} if n.draining else {},
                addresses=n.addresses,
            )
            for selector, listed in (
                (self.settings.edge_node_selector, self.edge_nodes),
                (self.settings.worker_node_selector, self.workers),
            )
            for n in listed
        }
        services = {}
        slices: list[EndpointSliceObject] = []
        for position, service in enumerate(self.services):
            name = ServiceName(NAMESPACE, service.name)
            services[name] = _service_object(service, name, position, self.settings)
            chosen = service.workers if service.workers is not None else [WorkerOf(name=w.name) for w in self.workers]
            slices += [_slice(service, name, version, chosen, nodes) for version in (4, 6)]
        return Snapshot(services, tuple(slices), nodes)


def _service_object(service: Service, name: ServiceName, position: int, settings: AgentSettings) -> ServiceObject:
    return ServiceObject(
        name=name,
        # In place of a time: the file's order decides, and sorts.
        created=f"{position:06}",
        type="LoadBalancer",
        load_balancer_class=settings.service_class,
        ports=tuple(
            ServicePort(_port_name(p), p.protocol.value, p.port, p.target_port or p.port) for p in service.ports
        ),
        local=True,
        client_ip_affinity=service.session_affinity == "ClientIP",
        source_ranges=tuple(ip_network(r) for r in service.source_ranges),
        families=tuple(a.version for a in service.addresses),
        annotations=({ONE_PACKET_ANNOTATION: "true"} if service.one_packet else {})
        | ({FORWARDING_ANNOTATION: service.forwarding} if service.forwarding is not None else {}),
        addresses=service.addresses,
    )


def _slice(
    service: Service, name: ServiceName, version: int, workers: Iterable[WorkerOf], nodes: dict[str, NodeObject]
) -> EndpointSliceObject:
    ports = tuple(EndpointPort(_port_name(p), p.protocol.value, p.target_port or p.port) for p in service.ports)
    endpoints = tuple(
        Endpoint(
            addresses=(address,),
            node_name=worker.name,
            ready=not worker.drained,
            serving=not worker.drained,
            terminating=worker.drained,
            weight=worker.weight,
        )
        for worker in workers
        if (address := nodes[worker.name].address(version)) is not None
    )
    return EndpointSliceObject(NAMESPACE, f"{service.name}-{version}", name, version, ports, endpoints)


def _port_name(port: PortOf) -> str:
    return f"{port.protocol.value.lower()}-{port.port}"


def _first_twice(values: Iterable[Any]) -> Any:
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def is_standalone(documents: list[Any]) -> bool:
    """Whether documents look like a standalone file rather than Kubernetes objects."""
    if len(documents) != 1 or not isinstance(documents[0], dict) or "kind" in documents[0]:
        return False
    return not documents[0].keys().isdisjoint({"settings", "edgeNodes", "workers", "services"})


def parse(text: str, where: str) -> Standalone:
    """The file's text as a value.

    Raises:
        ConfigError: it is cut short, no YAML or JSON, or a value breaks a rule.
    """
    if not text.lstrip().startswith("{") and text.rstrip().rpartition("\n")[2] != DOCUMENT_END:
        raise ConfigError(
            where,
            f"does not end with the line {DOCUMENT_END} (YAML's document end), so it may be half-written",
            f"Write the file whole, with {DOCUMENT_END} as its last line; best beside the old one, then rename it",
        )
    documents = read_documents(text, where)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigError(where, "is not one object with keys", "Write settings, edgeNodes, workers and services in it")
    try:
        return Standalone.model_validate(documents[0])
    except ValidationError as error:
        raise config_error(error, where) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return Standalone.model_json_schema(by_alias=True)
