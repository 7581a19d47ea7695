"""From the cluster's objects to the desired data plane of a worker, and what it is to ask its own kube-proxy and pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lbnode.active_probe import ActiveProbe, Backend, local_backends, read_active_probe
from lbnode.delivery import delivery_table
from lbnode.model import IPAddress, ServiceName, Tunnel, WorkerState
from lbnode.objects import EndpointSliceObject, Snapshot, forwarding_of, is_ours, slices_by_service
from lbnode.packet_tables import DeliveryTable, WorkerFilter
from lbnode.return_path import Standing, return_paths
from lbnode.settings import AgentSettings
from lbnode.translate.nodes import unknown, workers_of
from lbnode.translate.sysctls import RETURN_SYSCTLS


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """kube-proxy's health check node port of a Service on this node: HTTP 200 while it has a ready local endpoint."""

    service: ServiceName
    port: int


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker should be, and the Services whose endpoints its kube-proxy is to be asked for, and the pods to probe.

    ``delivered`` are the Services that the worker delivers by itself where kube-proxy does not; ``terminating`` those asked for of which a
    pod of this node terminates; ``standings`` say which edge nodes take replies.
    """

    state: WorkerState
    filter: WorkerFilter
    delivery: DeliveryTable
    delivered: frozenset[ServiceName] = frozenset()
    checks: tuple[HealthCheck, ...] = ()
    terminating: frozenset[ServiceName] = frozenset()
    backends: Mapping[Backend, ActiveProbe] = field(default_factory=dict)
    blocked: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()
    standings: Mapping[IPAddress, Standing] = field(default_factory=dict)


def translate_worker(
    snapshot: Snapshot,
    settings: AgentSettings,
    node_name: str,
    graced: frozenset[tuple[ServiceName, str]] = frozenset(),
    failing: frozenset[tuple[ServiceName, IPAddress]] = frozenset(),
    silent: frozenset[IPAddress] = frozenset(),
) -> WorkerPlan:
    """The plan of the worker ``node_name``: a tunnel from each edge node, the way of replies, its filter, its probe addresses, what it delivers by
    itself, its checks of kube-proxy, its active probes of its own pods. ``graced`` as in :func:`lbnode.translate.edge.translate_edge`; ``failing``
    are pods that fail those probes, ``silent`` are edge nodes that do not answer this worker.
    """
    pools = settings.pool_networks
    node = snapshot.nodes.get(node_name)
    workers, warnings = workers_of(snapshot.nodes, settings)
    probe_addresses = tuple(w.probe_address for w in workers if w.name == node_name and w.probe_address is not None)
    families = sorted({n.version for n in pools})
    table = WorkerFilter(
        pools,
        probe_addresses,
        tuple((f, settings.max_segment_bytes(f)) for f in families),
        settings.via_edge.mark_mask if settings.return_path == "via-edge" else None,
    )
    edges = [n for n in snapshot.nodes.values() if n.matches(settings.edge_node_selector) and n.name != node_name]
    tunnels = frozenset(
        Tunnel(edge_address, node_address)
        for edge in edges
        for family in families
        if node is not None
        and (edge_address := edge.address(family)) is not None
        and (node_address := node.address(family)) is not None
    )
    checks = tuple(
        HealthCheck(service.name, service.health_check_node_port)
        for _, service in sorted(snapshot.services.items())
        if is_ours(service, settings)
        and service.local
        and service.health_check_node_port
        and forwarding_of(service, settings) == "tunnel"
    )
    slices = slices_by_service(snapshot)
    delivery, delivered = delivery_table(
        snapshot.services.values(), snapshot.nodes, slices, settings, node_name, graced, failing
    )
    terminating = frozenset(
        check.service
        for check in checks
        if any(e.terminating and e.node_name == node_name for piece in slices[check.service] for e in piece.endpoints)
    )
    paths = return_paths(edges, node, settings, silent)
    state = WorkerState(
        sysctls={n: v for path in paths for n, v in RETURN_SYSCTLS[path.version].items()},
        filter_digest=table.digest,
        tunnels=tunnels,
        probe_addresses=frozenset(probe_addresses),
        delivery_digest=delivery.digest,
        return_paths=frozenset(paths),
    )
    return WorkerPlan(
        state=state,
        filter=table,
        delivery=delivery,
        delivered=delivered,
        checks=checks,
        terminating=terminating,
        backends=_backends(snapshot, slices, settings, node_name),
        blocked=unknown(node_name) if node is None else None,
        warnings=tuple(warnings),
        standings={address: verdict for verdicts in paths.values() for address, verdict in verdicts.items()},
    )


def _backends(
    snapshot: Snapshot,
    slices: Mapping[ServiceName, Sequence[EndpointSliceObject]],
    settings: AgentSettings,
    node_name: str,
) -> dict[Backend, ActiveProbe]:
    found: dict[Backend, ActiveProbe] = {}
    for service in snapshot.services.values():
        if not is_ours(service, settings):
            continue
        probe, _ = read_active_probe(service, settings.active_probes)
        if probe is not None:
            found |= dict.fromkeys(local_backends(service.name, probe, slices[service.name], node_name), probe)
    return found
