"""Which workers are destinations of a Service port, by the EndpointSlices and Nodes.

- ``externalTrafficPolicy: Local``: the workers that hold endpoints. One with a ready endpoint is active; one whose endpoints are
  unready or terminate is drained, its slots stay, and it goes when its last endpoint goes. UDP flows never end by themselves, so there only
  endpoints that still serve keep a drained worker.
- ``Cluster``: every worker, while there is a ready endpoint anywhere, because kube-proxy forwards from each.
- No ready endpoint anywhere: serving terminating ones count as ready, as kube-proxy delivers to them then.
- ``forwarding: nat``: the endpoints themselves, wherever they are, by the same rules for each endpoint instead of each worker.
- Endpoints that are unready on a Node whose Ready condition is Unknown count as ready and are *held*: the API or the kubelet is away,
  and the tunnel probe decides. So are, where no endpoint is ready, those that have grace (:mod:`lbnode.grace`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lbnode.facts import Rejection, WorkerHealth
from lbnode.model import Destination, IPAddress, Place, Protocol, ServiceName, address_order
from lbnode.objects import Endpoint, EndpointSliceObject, NodeObject, ServiceObject, ServicePort
from lbnode.settings import AgentSettings

#: A drained destination has this share of the table, whatever its share was: the kernel does not show the share of a weight-0 destination,
#: so only a constant can be kept equal on all edge nodes.
DRAINED_WEIGHT = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Destinations of one Service port in one family, probes aside: workers, or pods where it is forwarded by ``nat``."""

    destinations: tuple[Destination, ...] = ()
    held: frozenset[IPAddress] = frozenset()
    endpoints: int = 0
    terminating_only: bool = False


def destinations_of(
    nodes: Mapping[str, NodeObject],
    slices: Sequence[EndpointSliceObject],
    settings: AgentSettings,
    service: ServiceObject,
    port: ServicePort,
    protocol: Protocol,
    family: int,
    graced: frozenset[tuple[ServiceName, str]],
    nat: bool = False,
) -> tuple[Target, list[Rejection]]:
    """The destinations of one port of ``service`` in the IP version ``family``, and why there are none where a mistake is the reason.

    ``slices`` are the Service's own; ``graced`` as in :func:`lbnode.translate.edge.translate_edge`; ``nat`` asks for pods instead of workers.
    """
    ports, known = endpoints_of(slices, port, family)
    endpoints = list(ports)
    refused: list[Rejection] = []
    if not endpoints and known and isinstance(port.target, str):
        message = (
            f"port {port.name or port.port}: no pod has a port named {port.target!r}. "
            "Name a container port so, or give targetPort a number"
        )
        refused.append(Rejection(service.name, "UnknownNamedPort", message))

    ready = counting_as_ready(nodes, endpoints, service.name, graced)
    # An endpoint that terminates on an Unknown node was evicted in absence and may well run on.
    last_resort = [
        e
        for e in endpoints
        if e.terminating and (e.serving or ((n := nodes.get(e.node_name or "")) is not None and n.ready == "Unknown"))
    ]
    terminating_only = not ready and bool(last_resort)
    delivering = ready or last_resort
    if nat:
        pods = _pods(nodes, ports, delivering, (*ready, *last_resort), settings, protocol)
        return Target(pods, frozenset(), len(delivering), terminating_only), refused
    count: Counter[str] = Counter()
    for endpoint in delivering:
        count[endpoint.node_name or ""] += endpoint.weight
    if protocol is Protocol.UDP:
        present = {e.node_name for e in (*ready, *last_resort)}
    else:
        present = {e.node_name for e in endpoints}
    surely_ready = {e.node_name for e in endpoints if e.ready}

    destinations: list[Destination] = []
    held: set[IPAddress] = set()
    for node in nodes.values():
        address = node.address(family)
        if address is None or not node.matches(settings.worker_node_selector):
            continue
        if service.local:
            if node.name not in present:
                continue
            active = count[node.name] > 0
            weight = count[node.name] if settings.weights == "endpoints" else 1
        else:
            if not endpoints:
                continue
            # A node that says it is not ready keeps its place in the table but gets nothing new.
            active = bool(delivering) and node.ready != "False"
            weight = 1
        drained = not active or node.draining or node.deleting or node.excluded
        destinations.append(Destination(address, DRAINED_WEIGHT if drained else weight, drained))
        if service.local and not drained and not terminating_only and node.name not in surely_ready:
            held.add(address)
    destinations.sort(key=lambda d: address_order(d.address))
    return Target(tuple(destinations), frozenset(held), len(delivering), terminating_only), refused


def _pods(
    nodes: Mapping[str, NodeObject],
    ports: Mapping[Endpoint, int],
    delivering: Sequence[Endpoint],
    serving: Sequence[Endpoint],
    settings: AgentSettings,
    protocol: Protocol,
) -> tuple[Destination, ...]:
    """Endpoints as destinations. ``delivering`` take new flows; of the others UDP keeps those that still serve, TCP all."""

    def is_leaving(name: str | None) -> bool:
        node = nodes.get(name or "")
        return node is not None and (node.draining or node.deleting or node.excluded)

    present = list(serving) if protocol is Protocol.UDP else list(ports)
    found: dict[Place, Destination] = {}
    for endpoint in present:
        drained = endpoint not in delivering or is_leaving(endpoint.node_name)
        weight = endpoint.weight if settings.weights == "endpoints" and not drained else DRAINED_WEIGHT
        destination = Destination(endpoint.addresses[0], weight, drained, ports[endpoint])
        # Two pods on a node's own network have one address; one port of it is one destination.
        if destination.place not in found or not drained:
            found[destination.place] = destination
    return tuple(sorted(found.values(), key=lambda d: d.order))


def counting_as_ready(
    nodes: Mapping[str, NodeObject],
    endpoints: Iterable[Endpoint],
    service: ServiceName,
    graced: frozenset[tuple[ServiceName, str]],
) -> list[Endpoint]:
    """The endpoints of one Service port that are ready, are held because their Node is Unknown, or have grace."""
    listed = list(endpoints)
    some_ready = any(e.ready for e in listed)

    def is_held(endpoint: Endpoint) -> bool:
        node = nodes.get(endpoint.node_name or "")
        if node is None or endpoint.ready or endpoint.terminating:
            return False
        return node.ready == "Unknown" or (not some_ready and (service, node.name) in graced)

    return [e for e in listed if e.ready or is_held(e)]


def endpoints_of(
    slices: Sequence[EndpointSliceObject], port: ServicePort, family: int
) -> tuple[dict[Endpoint, int], bool]:
    """Endpoints of a Service port, each pod once, with the port that it listens on, and whether the Service has endpoints on any port."""
    found: dict[tuple[IPAddress, ...], tuple[Endpoint, int]] = {}
    known = False
    for piece in slices:
        if piece.version != family or not piece.endpoints:
            continue
        known = True
        number = next((p.port for p in piece.ports if p.name == port.name and p.protocol == port.protocol), None)
        if number is None:
            continue
        for endpoint in piece.endpoints:
            # A pod that moves between slices is in both for a while (discovery/v1); the better view counts.
            other, _ = found.get(endpoint.addresses, (None, 0))
            if other is None or (endpoint.ready, endpoint.serving) > (other.ready, other.serving):
                found[endpoint.addresses] = (endpoint, number)
    return dict(found.values()), known


def drain_unfit(
    destinations: tuple[Destination, ...], service: ServiceName, protocol: Protocol, health: WorkerHealth
) -> tuple[Destination, ...]:
    """Drain the destinations that probes, the worker's kube-proxy or the Service's active probe speak against, unless that leaves none: then
    withdrawal decides."""

    def is_broken(destination: Destination) -> bool:
        return destination.address in health.unhealthy or (service, destination.address) in health.failing_probes

    def is_unfit(destination: Destination) -> bool:
        return is_broken(destination) or (service, destination.address) in health.without_endpoints

    active = [d for d in destinations if not d.drained]
    if all(map(is_unfit, active)):
        return destinations
    fitted: list[Destination] = []
    for destination in destinations:
        if is_broken(destination) and protocol is Protocol.UDP:
            # A UDP flow would follow its drained destination as long as it sends; without the destination it moves on.
            continue
        if not destination.drained and is_unfit(destination):
            fitted.append(Destination(destination.address, DRAINED_WEIGHT, True))
        else:
            fitted.append(destination)
    return tuple(fitted)
