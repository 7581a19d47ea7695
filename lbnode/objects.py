"""Kubernetes objects as small frozen values, read from plain JSON dicts.

What the API server sends is not trusted: an object, a port or an endpoint that cannot be read becomes a :class:`Rejection`, never an
exception. Defaults are those of the Kubernetes API (``core/v1`` and ``discovery.k8s.io/v1`` types).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from lbnode.address import with_hash
from lbnode.model import IPAddress, IPNetwork, Rejection, ServiceName
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
_FAMILY = {"IPv4": 4, "IPv6": 6}


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


class _Unreadable(Exception):
    """A value breaks a rule; the text names both."""


Read = tuple[Any, tuple[Rejection, ...]]


class SnapshotReader:
    """Reads snapshots one after the other. An object that is the very one of the last time is not read again, and what reads equal to the
    last time is the same value, so that whoever works with it can tell at a glance what did not change.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, Read]] = {}
        self._last_slices: Mapping[tuple[str, str], EndpointSliceObject] = {}
        self._last = Snapshot()

    def read(self, items: Iterable[object]) -> Snapshot:
        """A snapshot of Services, EndpointSlices, Nodes and Namespaces in any order; other kinds are skipped, of objects with one name the last counts."""
        services: dict[ServiceName, ServiceObject] = {}
        slices: dict[tuple[str, str], EndpointSliceObject] = {}
        nodes: dict[str, NodeObject] = {}
        namespaces: dict[str, Mapping[str, str]] = {}
        rejections: list[Rejection] = []
        known, self._known = self._known, {}
        last = self._last
        for item in items:
            before = known.get(id(item))
            # The object is kept beside its identity, which another one gets when it is gone.
            if before is None or before[0] is not item:
                found, refused = _read(item)
                before = (item, (self._as_before(found), refused))
            self._known[id(item)] = before
            found, refused = before[1]
            rejections += refused
            match found:
                case ServiceObject():
                    services[found.name] = found
                case EndpointSliceObject():
                    slices[found.namespace, found.name] = found
                case NodeObject():
                    nodes[found.name] = found
                case (name, labels):
                    namespaces[name] = labels
        self._last_slices = slices
        self._last = Snapshot(
            services if services != last.services else last.services,
            tuple(slices[key] for key in sorted(slices)),
            nodes if nodes != last.nodes else last.nodes,
            namespaces,
            tuple(rejections),
        )
        return self._last

    def _as_before(self, found: Any) -> Any:
        last: object = None
        match found:
            case ServiceObject():
                last = self._last.services.get(found.name)
            case EndpointSliceObject():
                last = self._last_slices.get((found.namespace, found.name))
            case NodeObject():
                last = self._last.nodes.get(found.name)
        return last if last is not None and last == found else found


def _read(item: object) -> Read:
    match item.get("kind") if isinstance(item, Mapping) else None:
        case "Service":
            return read_service(item)
        case "EndpointSlice":
            return read_endpoint_slice(item)
        case "Node":
            return read_node(item)
        case "Namespace":
            return read_namespace(item), ()
    return None, ()


def read_snapshot(items: Iterable[object]) -> Snapshot:
    """One snapshot, as :class:`SnapshotReader` reads it."""
    return SnapshotReader().read(items)


def read_service(raw: object) -> tuple[ServiceObject | None, tuple[Rejection, ...]]:
    """A Service, and what of it could not be read. A bad port costs that port; a bad source range costs the Service, which would be open otherwise."""
    name = _name(raw)
    refused: list[Rejection] = []
    try:
        meta, spec = _mapping(raw, "metadata"), _mapping(raw, "spec")
        status = _mapping(raw, "status")
        ports = []
        for index, port in enumerate(_list(spec, "ports")):
            try:
                ports.append(_service_port(port))
            except _Unreadable as error:
                message = f"port {index + 1}: {error}. Mend this port of the Service; its other ports are served"
                refused.append(Rejection(name, "InvalidPort", message))
        families = tuple(_FAMILY[f] for f in _strings(spec, "ipFamilies") if f in _FAMILY)
        service = ServiceObject(
            name=name,
            uid=_text(meta, "uid"),
            created=_text(meta, "creationTimestamp"),
            type=_text(spec, "type") or "ClusterIP",
            load_balancer_class=_text(spec, "loadBalancerClass") or None,
            ports=tuple(ports),
            local=_text(spec, "externalTrafficPolicy") == "Local",
            client_ip_affinity=_text(spec, "sessionAffinity") == "ClientIP",
            source_ranges=tuple(_network(r) for r in _strings(spec, "loadBalancerSourceRanges")),
            families=families or (4,),
            family_policy=_text(spec, "ipFamilyPolicy") or "SingleStack",
            load_balancer_ip=_text(spec, "loadBalancerIP"),
            health_check_node_port=_port(spec.get("healthCheckNodePort") or 0, lowest=0),
            allocate_node_ports=spec.get("allocateLoadBalancerNodePorts") is not False,
            labels=_text_map(meta, "labels"),
            annotations=_text_map(meta, "annotations"),
            finalizers=tuple(_strings(meta, "finalizers")),
            deleting=bool(meta.get("deletionTimestamp")),
            addresses=tuple(_addresses(status)),
            conditions=tuple(_conditions(status)),
        )
    except _Unreadable as error:
        return None, (
            Rejection(
                name, "InvalidService", f"Service {name}: {error}. Mend the Service; it is not served until then"
            ),
        )
    return service, tuple(refused)


def _service_port(raw: object) -> ServicePort:
    port = _mapping({"port": raw}, "port")
    number = _port(port.get("port"), lowest=1)
    target = port.get("targetPort")
    if isinstance(target, bool) or not isinstance(target, int | str) or target in (0, ""):
        target = number
    return ServicePort(_text(port, "name"), _text(port, "protocol") or "TCP", number, target)


def read_endpoint_slice(raw: object) -> tuple[EndpointSliceObject | None, tuple[Rejection, ...]]:
    """An EndpointSlice, and what of it could not be read. A bad endpoint costs that endpoint. Slices of host names give nothing."""
    own = _name(raw)
    refused: list[Rejection] = []
    service = own
    try:
        meta = _mapping(raw, "metadata")
        label = _text_map(meta, "labels").get(SERVICE_NAME_LABEL)
        service = ServiceName(own.namespace, label) if label else own
        address_type = _text(_as_mapping(raw), "addressType")
        if address_type not in _FAMILY:
            if address_type == "FQDN":
                return None, ()
            raise _Unreadable(f"addressType {address_type!r} is neither IPv4 nor IPv6")
        # A port without a number means all ports, which no Service port of ours asks for.
        ports = [
            EndpointPort(_text(port, "name"), _text(port, "protocol") or "TCP", _port(port["port"], lowest=1))
            for port in map(_as_mapping, _list(_as_mapping(raw), "ports"))
            if port.get("port") is not None
        ]
        endpoints = []
        for endpoint in _list(_as_mapping(raw), "endpoints"):
            try:
                endpoints.append(_endpoint(endpoint, _FAMILY[address_type]))
            except _Unreadable as error:
                refused.append(
                    Rejection(service, "InvalidEndpoint", f"EndpointSlice {own}: {error}. This endpoint is left out")
                )
    except _Unreadable as error:
        message = f"EndpointSlice {own}: {error}. Its endpoints are left out until it is mended"
        return None, (Rejection(service, "InvalidEndpointSlice", message),)
    owner = service if label else None
    return EndpointSliceObject(
        own.namespace, own.name, owner, _FAMILY[address_type], tuple(ports), tuple(endpoints)
    ), tuple(refused)


def _endpoint(raw: object, version: int) -> Endpoint:
    endpoint = _as_mapping(raw)
    addresses = tuple(_address(a) for a in _strings(endpoint, "addresses"))
    if not addresses or any(a.version != version for a in addresses):
        raise _Unreadable(f"addresses {[str(a) for a in addresses]} are not IPv{version} addresses")
    conditions = _mapping(endpoint, "conditions")
    # discovery/v1: a nil ready means true, a nil serving defers to ready, a nil terminating means false.
    ready = _flag(conditions, "ready", True)
    terminating = _flag(conditions, "terminating", False)
    return Endpoint(
        addresses, _text(endpoint, "nodeName") or None, ready, _flag(conditions, "serving", ready), terminating
    )


def read_node(raw: object) -> tuple[NodeObject | None, tuple[Rejection, ...]]:
    """A Node, or why it could not be read. Its name stands in the rejection in the place of a Service's, with an empty namespace."""
    name = _name(raw).name
    try:
        meta, status = _mapping(raw, "metadata"), _mapping(raw, "status")
        ready = next((c.status for c in _conditions(status) if c.type == "Ready"), "Unknown")
        node = NodeObject(
            name=name,
            labels=_text_map(meta, "labels"),
            annotations=_text_map(meta, "annotations"),
            addresses=tuple(
                with_hash(_address(_text(a, "address")))
                for a in map(_as_mapping, _list(status, "addresses"))
                if a.get("type") == "InternalIP"
            ),
            ready="True" if ready == "True" else "False" if ready == "False" else "Unknown",
            kernel_version=_text(_mapping(status, "nodeInfo"), "kernelVersion"),
            deleting=bool(meta.get("deletionTimestamp")),
        )
    except _Unreadable as error:
        message = f"Node {name}: {error}. The node is left out until it is mended"
        return None, (Rejection(ServiceName("", name), "InvalidNode", message),)
    return node, ()


def read_namespace(raw: object) -> tuple[str, Mapping[str, str]]:
    """A Namespace's name and labels; labels that cannot be read select nothing."""
    name = _name(raw).name
    try:
        return name, _text_map(_mapping(raw, "metadata"), "labels")
    except _Unreadable:
        return name, {}


# Readers of one field each: absent or null gives the empty value, the wrong type raises.


def _as_mapping(raw: object) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise _Unreadable(f"{_shown(raw)} is not an object")
    return raw


def _mapping(raw: object, key: str) -> Mapping[str, Any]:
    value = _as_mapping(raw).get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _Unreadable(f"{key} {_shown(value)} is not an object")
    return value


def _list(raw: Mapping[str, Any], key: str) -> list[object]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Unreadable(f"{key} {_shown(value)} is not a list")
    return value


def _strings(raw: Mapping[str, Any], key: str) -> Iterator[str]:
    for value in _list(raw, key):
        if not isinstance(value, str):
            raise _Unreadable(f"{key} holds {_shown(value)}, which is not text")
        yield value


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unreadable(f"{key} {_shown(value)} is not text")
    return value


def _text_map(raw: Mapping[str, Any], key: str) -> Mapping[str, str]:
    return {str(k): v for k, v in _mapping(raw, key).items() if isinstance(v, str)}


def _flag(raw: Mapping[str, Any], key: str, default: bool) -> bool:
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _Unreadable(f"{key} {_shown(value)} is neither true nor false")
    return value


def _port(value: object, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= 65535:
        raise _Unreadable(f"port {_shown(value)} is not a number from {lowest} to 65535")
    return value


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise _Unreadable(f"{_shown(text)} is not an IP address") from None


def _network(text: str) -> IPNetwork:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise _Unreadable(f"{_shown(text)} is not a network in CIDR notation") from None


def _addresses(status: Mapping[str, Any]) -> Iterator[IPAddress]:
    for ingress in map(_as_mapping, _list(_mapping(status, "loadBalancer"), "ingress")):
        # Other load balancers write host names; such an entry is no address of ours.
        if text := _text(ingress, "ip"):
            yield with_hash(_address(text))


def _conditions(status: Mapping[str, Any]) -> Iterator[Condition]:
    for condition in map(_as_mapping, _list(status, "conditions")):
        texts = (_text(condition, key) for key in ("type", "status", "reason", "message", "lastTransitionTime"))
        yield Condition(*texts)


def _name(raw: object) -> ServiceName:
    """Namespace and name as far as they can be read, for messages about objects that otherwise cannot."""
    meta = raw.get("metadata") if isinstance(raw, Mapping) else None
    if not isinstance(meta, Mapping):
        return ServiceName("", "?")
    namespace, name = meta.get("namespace"), meta.get("name")
    return ServiceName(
        namespace if isinstance(namespace, str) else "default", name if isinstance(name, str) and name else "?"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
