"""What a worker delivers by itself: new connections to VIPs that its kube-proxy does not take.

kube-proxy follows the API's picture to the letter: while an API server comes back, and pods are called unready for reasons of the API's
own, it drops every new connection although the pods run on. So each worker keeps, behind kube-proxy's own rules, where its pods are that
count as ready here (:mod:`lbnode.destinations`: ready, held or with grace). As long as kube-proxy delivers, nothing gets that far.

Pods that fail their Service's active probe are left out, unless all of them fail: what still arrives has nowhere better to go.

Terminating endpoints and SCTP are left to kube-proxy. Pods on other nodes are never delivered to: that would need masquerading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lbnode.destinations import counting_as_ready, endpoints_of
from lbnode.model import IPAddress, Protocol, ServiceName, VirtualKey, address_order
from lbnode.objects import (
    SERVICE_PROXY_LABEL,
    EndpointSliceObject,
    NodeObject,
    ServiceObject,
    ServicePort,
    forwarding_of,
    is_ours,
)
from lbnode.packet_tables import Delivery, DeliveryTable
from lbnode.settings import AgentSettings


def delivery_table(
    services: Iterable[ServiceObject],
    nodes: Mapping[str, NodeObject],
    slices: Mapping[ServiceName, Sequence[EndpointSliceObject]],
    settings: AgentSettings,
    node_name: str,
    graced: frozenset[tuple[ServiceName, str]],
    failing: frozenset[tuple[ServiceName, IPAddress]] = frozenset(),
) -> tuple[DeliveryTable, frozenset[ServiceName]]:
    """The table of the worker ``node_name``, and the Services in it. ``graced`` as in :func:`lbnode.translate.edge.translate_edge`;
    ``failing`` are the pods of this node that fail their active probe.

    Of two Services with the same address and port the older one is served, as on the edge nodes.
    """
    pools = settings.pool_networks
    found: dict[VirtualKey, tuple[ServiceName, Delivery]] = {}
    for service in sorted(services, key=lambda s: s.seniority):
        if not is_ours(service, settings) or SERVICE_PROXY_LABEL in service.labels or service.deleting:
            continue
        if forwarding_of(service, settings) != "tunnel":
            continue
        for address in service.addresses:
            ranges = tuple(r for r in service.source_ranges if r.version == address.version)
            # Ranges of the other family only: nobody of this one is allowed.
            if not any(address in pool for pool in pools) or (service.source_ranges and not ranges):
                continue
            for port in service.ports:
                # Not every kernel can match SCTP ports, and one rule that it refuses would cost the whole table.
                if port.protocol not in Protocol.__members__ or port.protocol == Protocol.SCTP:
                    continue
                key = VirtualKey(address, Protocol(port.protocol), port.port)
                local = _local(service, port, nodes, slices.get(service.name, ()), node_name, address.version, graced)
                here = tuple(e for e in local if (service.name, e[0]) not in failing) or local
                if here and key not in found:
                    found[key] = service.name, Delivery(key, here, ranges, service.client_ip_affinity)
    ordered = sorted(found.values(), key=lambda entry: entry[1].key.order)
    table = DeliveryTable(pools, tuple(delivery for _, delivery in ordered))
    return table, frozenset(name for name, _ in ordered)


def _local(
    service: ServiceObject,
    port: ServicePort,
    nodes: Mapping[str, NodeObject],
    slices: Sequence[EndpointSliceObject],
    node_name: str,
    version: int,
    graced: frozenset[tuple[ServiceName, str]],
) -> tuple[tuple[IPAddress, int], ...]:
    ports, _ = endpoints_of(slices, port, version)
    usable = counting_as_ready(nodes, ports, service.name, graced)
    here = {(e.addresses[0], ports[e]) for e in usable if e.node_name == node_name and e.addresses}
    return tuple(sorted(here, key=lambda place: (address_order(place[0]), place[1])))
