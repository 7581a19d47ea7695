"""Kubernetes objects as small frozen values, and what their annotations and labels ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from lbnode.facts import Rejection
from lbnode.model import IPAddress, IPNetwork, ServiceName
from lbnode.settings import AgentSettings

ADDRESS_ANNOTATION = "samegate.dev/address"
POOL_ANNOTATION = "samegate.dev/pool"
SHARING_ANNOTATION = "samegate.dev/sharing-key"
COMMUNITIES_ANNOTATION = "samegate.dev/bgp-communities"
LOCAL_PREFERENCE_ANNOTATION = "samegate.dev/bgp-local-preference"
MED_ANNOTATION = "samegate.dev/bgp-med"
PREPEND_ANNOTATION = "samegate.dev/bgp-prepend"
FORWARDING_ANNOTATION = "samegate.dev/forwarding"
DRAIN_ANNOTATION = "samegate.dev/drain"
ONE_PACKET_ANNOTATION = "samegate.dev/udp-one-packet"
#: Kubernetes: well-known labels, annotations and taints.
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SERVICE_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
EXCLUDE_NODE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
#: The same word on a Service; some write it on Nodes too.
EXCLUDE_SERVICE_LABEL = "service.kubernetes.io/exclude-from-external-load-balancers"
#: Values of a switch annotation that mean no; any other value, the empty one included, means yes.
_NO = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service. ``protocol`` is the API's word and may be one that is not served; ``target`` may be a name."""

    name: str
    protocol: str
    port: int
    target: int | str


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a status. ``since`` is when its status last changed, as RFC 3339 text."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class ServiceObject:
    """A Service as far as the load balancer cares. ``addresses`` are the status' ingress addresses; ``created`` is RFC 3339 text, which sorts by time."""

    name: ServiceName
    uid: str = ""
    created: str = ""
    type: str = "ClusterIP"
    load_balancer_class: str | None = None
    ports: tuple[ServicePort, ...] = ()
    local: bool = False
    client_ip_affinity: bool = False
    source_ranges: tuple[IPNetwork, ...] = ()
    families: tuple[int, ...] = (4,)
    family_policy: str = "SingleStack"
    load_balancer_ip: str = ""
    health_check_node_port: int = 0
    allocate_node_ports: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    deleting: bool = False
    addresses: tuple[IPAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def seniority(self) -> tuple[str, ServiceName]:
        """Sort key for disputes: the older Service first, then by name."""
        return (self.created, self.name)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One pod behind a Service. ``weight`` is what it counts for with ``weights: endpoints``; Kubernetes has no such thing."""

    addresses: tuple[IPAddress, ...]
    node_name: str | None
    ready: bool
    serving: bool
    terminating: bool
    weight: int = 1


@dataclass(frozen=True, slots=True)
class EndpointPort:
    """A port of an EndpointSlice; ``name`` is that of the Service's port, and a named target port is a number here."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class EndpointSliceObject:
    namespace: str
    name: str
    service: ServiceName | None
    version: int
    ports: tuple[EndpointPort, ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class NodeObject:
    """A Node. ``ready`` is the status of its Ready condition; absent counts as Unknown."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[IPAddress, ...] = ()
    ready: Literal["True", "False", "Unknown"] = "True"
    kernel_version: str = ""
    deleting: bool = False

    @property
    def draining(self) -> bool:
        """Whether the drain annotation asks to take this node out of service. Cordon is something else and does not count."""
        return is_on(self.annotations.get(DRAIN_ANNOTATION))

    @property
    def excluded(self) -> bool:
        """Whether a label keeps load balancers off this node. As in Kubernetes its presence counts, whatever its value."""
        return EXCLUDE_NODE_LABEL in self.labels or EXCLUDE_SERVICE_LABEL in self.labels

    def address(self, version: int) -> IPAddress | None:
        """The first internal address of a family."""
        return next((a for a in self.addresses if a.version == version), None)

    def matches(self, selector: Mapping[str, str]) -> bool:
        return all(self.labels.get(key) == value for key, value in selector.items())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment. ``namespaces`` are their labels by name; ``rejections`` tell what could not be read."""

    services: Mapping[ServiceName, ServiceObject] = field(default_factory=dict)
    slices: tuple[EndpointSliceObject, ...] = ()
    nodes: Mapping[str, NodeObject] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()


def slices_by_service(snapshot: Snapshot) -> defaultdict[ServiceName, list[EndpointSliceObject]]:
    """The EndpointSlices of each Service; of one without any the empty list."""
    found: defaultdict[ServiceName, list[EndpointSliceObject]] = defaultdict(list)
    for piece in snapshot.slices:
        if piece.service is not None:
            found[piece.service].append(piece)
    return found


def services_touched(
    before: tuple[EndpointSliceObject, ...], now: tuple[EndpointSliceObject, ...]
) -> frozenset[ServiceName]:
    """The Services of which one of the two has a slice that is no object of the other: for a caller that asks after every change."""
    if before is now:
        return frozenset()
    known, present = set(map(id, before)), set(map(id, now))
    changed = [*(s for s in now if id(s) not in known), *(s for s in before if id(s) not in present)]
    return frozenset(s.service for s in changed if s.service is not None)


def slices_of(
    slices: Iterable[EndpointSliceObject], services: Set[ServiceName]
) -> dict[ServiceName, list[EndpointSliceObject]]:
    """The slices of each of these Services, in their order."""
    found: dict[ServiceName, list[EndpointSliceObject]] = {name: [] for name in services}
    if found:
        for piece in slices:
            if piece.service in found:
                found[piece.service].append(piece)
    return found


def is_on(annotation: str | None) -> bool:
    """Whether a switch annotation is set: there, and not one of ``false``, ``no``, ``off``, ``0``."""
    return annotation is not None and annotation.strip().lower() not in _NO


def is_ours(service: ServiceObject, settings: AgentSettings) -> bool:
    """Whether a Service is for us: of our class, and no label takes it out of all load balancers' hands."""
    return is_of_our_class(service, settings) and EXCLUDE_SERVICE_LABEL not in service.labels


def is_of_our_class(service: ServiceObject, settings: AgentSettings) -> bool:
    """Whether a Service's type is LoadBalancer and its class is ours, or it has none and the settings say to serve those too."""
    if service.type != "LoadBalancer":
        return False
    if service.load_balancer_class is None:
        return settings.serve_without_class
    return service.load_balancer_class == settings.service_class


def forwarding_of(service: ServiceObject, settings: AgentSettings) -> str:
    """How a Service is forwarded: by its annotation, else by the settings. Anything but ``tunnel`` and ``nat`` is the annotation's mistake."""
    return service.annotations.get(FORWARDING_ANNOTATION, settings.forwarding).strip().lower()
