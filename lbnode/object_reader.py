"""Kubernetes objects read from plain JSON dicts.

What the API server sends is not trusted: an object, a port or an endpoint that cannot be read becomes a :class:`Rejection`, never an
exception. Defaults are those of the Kubernetes API (``core/v1`` and ``discovery.k8s.io/v1`` types).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from lbnode.address import with_hash
from lbnode.facts import Rejection
from lbnode.model import IPAddress, IPNetwork, ServiceName
from lbnode.objects import (
    SERVICE_NAME_LABEL,
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    ServicePort,
    Snapshot,
)

_FAMILY = {"IPv4": 4, "IPv6": 6}


class _Unreadable(Exception):
    """A value breaks a rule; the text names both."""


Read = tuple[Any, tuple[Rejection, ...]]


#: An object as it came, what it is and its name, its value, what of it could not be read.
_Placed = tuple[object, type | None, Any, Any, tuple[Rejection, ...]]


class SnapshotReader:
    """Reads snapshots one after the other. An object that is the very one of the last time is not read again, and what reads equal to the
    last time is the same value, so that whoever works with it can tell at a glance what did not change.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Placed] = {}
        self._last_slices: Mapping[tuple[str, str], EndpointSliceObject] = {}
        self._last = Snapshot()

    def read(self, items: Iterable[object]) -> Snapshot:
        """A snapshot of Services, EndpointSlices, Nodes and Namespaces in any order; other kinds are skipped, of objects with one name the last counts."""
        found: dict[type, dict[Any, Any]] = {ServiceObject: {}, EndpointSliceObject: {}, NodeObject: {}, tuple: {}}
        rejections: list[Rejection] = []
        known, self._known = self._known, {}
        last = self._last
        for item in items:
            placed = known.get(id(item))
            # The object is kept beside its identity, which another one gets when it is gone.
            if placed is None or placed[0] is not item:
                placed = self._placed(item)
            self._known[id(item)] = placed
            _, kind, key, value, refused = placed
            if kind is not None:
                found[kind][key] = value
            if refused:
                rejections += refused
        services, slices, nodes, namespaces = found.values()
        self._last_slices = slices
        in_order = tuple(slices[key] for key in sorted(slices))
        self._last = Snapshot(
            services if services != last.services else last.services,
            in_order if in_order != last.slices else last.slices,
            nodes if nodes != last.nodes else last.nodes,
            namespaces if namespaces != last.namespaces else last.namespaces,
            tuple(rejections),
        )
        return self._last

    def _placed(self, item: object) -> _Placed:
        found, refused = _read(item)
        match found:
            case ServiceObject():
                return item, ServiceObject, found.name, _same(self._last.services.get(found.name), found), refused
            case EndpointSliceObject():
                key = (found.namespace, found.name)
                return item, EndpointSliceObject, key, _same(self._last_slices.get(key), found), refused
            case NodeObject():
                return item, NodeObject, found.name, _same(self._last.nodes.get(found.name), found), refused
            case (name, labels):
                return item, tuple, name, labels, refused
        return item, None, None, None, refused


def _same(last: object, found: object) -> object:
    return last if last == found else found


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
