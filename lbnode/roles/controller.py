"""The controller's role: addresses, status, conditions and events of Services, and the clean-up finalizer.

It decides nothing about traffic: what it writes is a function of names, pools and what the edge nodes report. With it gone, everything
that has an address goes on.

A Service counts as having been ours when it carries our condition; the finalizer alone proves nothing, because every cloud's load balancer
uses the same one. So a Service of a foreign class is never touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from lbnode.allocate import Allocation, allocate
from lbnode.candidates import usable_addresses
from lbnode.conditions import ACCEPTED, ANNOUNCED, accepted, announced, merge
from lbnode.errors import Retry
from lbnode.facts import Rejection, Verdict
from lbnode.kube.watcher import Copy
from lbnode.model import IPAddress, ServiceName
from lbnode.objects import ServiceObject, Snapshot, forwarding_of, is_of_our_class, is_ours
from lbnode.observe import ControllerMetrics
from lbnode.overview import EventRow, Overview, condition_rows, edge_rows, vip_rows, worker_rows
from lbnode.roles.cluster_view import ClusterView
from lbnode.roles.edge_status import announced_by
from lbnode.roles.neighbours import Neighbours, Status
from lbnode.served import NAT_NOTE
from lbnode.settings import AgentSettings
from lbnode.translate.edge import translate_edge

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
#: A Service that is deleted waits for edge nodes that do not answer at most so long.
SILENT_EDGE_SECONDS = 30.0
#: An edge node's answer counts as what it does now for so long.
FRESH_SECONDS = 5.0
#: So many of the last events are kept for the status page.
KEPT_EVENTS = 50
CLUSTER_POLICY_NOTE = (
    "externalTrafficPolicy Cluster: kube-proxy hides the client's address from the app; Local keeps it."
)

log = structlog.get_logger()


class ServiceWriter(Protocol):
    """The controller's writes: :class:`lbnode.kube.writer.Writer`, or a twin."""

    async def patch_status(self, service: ServiceName, status: dict[str, Any]) -> None: ...

    async def set_finalizers(self, service: ServiceName, finalizers: list[str], resource_version: str) -> None: ...

    async def event(self, service: ServiceName, uid: str, kind: str, reason: str, message: str) -> None: ...


class Controller:
    """The writing half. ``leads`` is asked before each pass."""

    def __init__(
        self,
        settings: Callable[[], AgentSettings],
        copy: Callable[[], Copy],
        writer: ServiceWriter,
        metrics: ControllerMetrics,
        leads: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._cluster = ClusterView(copy, settings)
        self._writer = writer
        self._metrics = metrics
        self._leads = leads
        self._clock = clock
        self._leaving_since: dict[ServiceName, float] = {}
        self.edges: Neighbours | None = None
        self.allocation = Allocation()
        self.events: deque[EventRow] = deque(maxlen=KEPT_EVENTS)
        self._by_address: Mapping[IPAddress, Sequence[ServiceName]] = {}
        self._staying: frozenset[ServiceName] = frozenset()

    def edge_pages(self) -> dict[str, str]:
        """Status page of each edge node."""
        settings = self._settings()
        return self._cluster.status_pages(settings.edge_node_selector, settings.ports.edge)

    async def pass_once(self) -> None:
        """Write what differs. One Service that cannot be written does not hold up the others."""
        self._metrics.leader(self._leads())
        self._metrics.api(self._cluster.synced, self._cluster.raw.answered)
        self._metrics.edges({node: status is not None for node, status in self._statuses().items()})
        if not self._leads():
            return
        if not self._cluster.synced:
            raise Retry("the Kubernetes API has not answered yet", 0.5)
        with self._metrics.reconcile_seconds.time():
            await self._pass()

    async def _pass(self) -> None:
        settings, snapshot = self._settings(), self._cluster.snapshot()
        self.allocation = allocate(snapshot.services.values(), settings, snapshot.namespaces)
        self._by_address = self.allocation.by_address()
        self._staying = frozenset(n for n in self.allocation.addresses if not snapshot.services[n].deleting)
        rejections = self._rejections(snapshot, settings)
        reports = self._reports()
        self._measure(settings, rejections)
        failed: list[Retry] = []
        for _, service in sorted(snapshot.services.items()):
            try:
                if is_ours(service, settings) and not service.deleting:
                    self._leaving_since.pop(service.name, None)
                    await self._serve(service, rejections, reports)
                elif _was_ours(service) or _bears_our_finalizer(service, settings):
                    await self._let_go(service, reports)
            except Retry as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _rejections(self, snapshot: Snapshot, settings: AgentSettings) -> dict[ServiceName, list[Rejection]]:
        # Ports are judged by the same pure function that every edge node uses, so the condition cannot say something else.
        found: dict[ServiceName, list[Rejection]] = {}
        for rejection in (*self.allocation.rejections, *translate_edge(snapshot, settings, "").rejections):
            told = found.setdefault(rejection.service, [])
            if rejection not in told:
                told.append(rejection)
        return found

    def _statuses(self) -> dict[str, Status | None]:
        return {n: self.edges.said(n, FRESH_SECONDS) if self.edges is not None else None for n in self.edge_pages()}

    def _reports(self) -> dict[str, Mapping[IPAddress, Verdict] | None]:
        return {n: announced_by(s) if s is not None else None for n, s in self._statuses().items()}

    async def _serve(
        self,
        service: ServiceObject,
        rejections: Mapping[ServiceName, Sequence[Rejection]],
        reports: Mapping[str, Mapping[IPAddress, Verdict] | None],
    ) -> None:
        addresses = self.allocation.addresses.get(service.name, ())
        raw = self._cluster.raw.services[service.name]
        if addresses and FINALIZER not in service.finalizers:
            # The finalizer before the address: a Service that was announced must not vanish unseen.
            await self._writer.set_finalizers(service.name, [*service.finalizers, FINALIZER], _version(raw))
            self._metrics.wrote("finalizer")
            return
        notes = [] if service.local else [CLUSTER_POLICY_NOTE]
        if forwarding_of(service, self._settings()) == "nat":
            # kube-proxy has no part in it, so its note would be wrong.
            notes = [f"{NAT_NOTE[:1].upper()}{NAT_NOTE[1:]}."]
        if sharers := sorted({n for a in addresses for n in self._by_address.get(a, ()) if n != service.name}):
            notes.append(f"Shared with {', '.join(map(str, sharers))}.")
        wanted = [accepted(addresses, rejections.get(service.name, ()), notes), announced(addresses, reports)]
        before = (raw.get("status") or {}).get("conditions") or []
        patches, happenings = merge(before, wanted, raw.get("metadata", {}).get("generation", 0), _now())
        status: dict[str, Any] = {"conditions": patches} if patches else {}
        if tuple(addresses) != service.addresses:
            status["loadBalancer"] = {"ingress": [{"ip": str(a), "ipMode": "VIP"} for a in addresses]}
        if status:
            await self._writer.patch_status(service.name, status)
            self._metrics.wrote("status")
            log.info("service.status", service=str(service.name), addresses=[str(a) for a in addresses])
        for happening in happenings:
            await self._writer.event(service.name, service.uid, happening.kind, happening.reason, happening.message)
            self._metrics.wrote("event")
            self.events.appendleft(
                EventRow(_now(), str(service.name), happening.kind, happening.reason, happening.message)
            )

    async def _let_go(self, service: ServiceObject, reports: Mapping[str, Mapping[IPAddress, Verdict] | None]) -> None:
        """A Service that is deleted, or no longer ours: its traces go when no edge node announces it any more."""
        since = self._leaving_since.setdefault(service.name, self._clock())
        mine = [a for a in service.addresses if any(a in n for n in self._settings().pool_networks)]
        # A shared address stays on the air for the Services that stay.
        alone = [a for a in mine if not self._staying.intersection(self._by_address.get(a, ()))]
        on_air = [n for n, r in reports.items() if r is not None and any(r[a].announce for a in alone if a in r)]
        silent = [n for n, r in reports.items() if r is None]
        if on_air or (silent and self._clock() - since < SILENT_EDGE_SECONDS):
            raise Retry(f"{service.name} is leaving, and is still announced by {', '.join(on_air or silent)}", 0.5)
        # The finalizer first: writing the status would outdate the version that its removal is tied to. A Service of type LoadBalancer
        # and of another class that is not being deleted belongs to another controller now, and so does the finalizer.
        is_our_finalizer = (
            service.deleting or service.type != "LoadBalancer" or is_of_our_class(service, self._settings())
        )
        if FINALIZER in service.finalizers and is_our_finalizer:
            raw = self._cluster.raw.services.get(service.name, {})
            left = [f for f in service.finalizers if f != FINALIZER]
            await self._writer.set_finalizers(service.name, left, _version(raw))
            self._metrics.wrote("finalizer")
        if not service.deleting:
            status: dict[str, Any] = {"conditions": [{"$patch": "delete", "type": t} for t in (ACCEPTED, ANNOUNCED)]}
            if mine:
                status["loadBalancer"] = {"ingress": None}
            await self._writer.patch_status(service.name, status)
            self._metrics.wrote("status")
        self._leaving_since.pop(service.name, None)
        log.info("service.released", service=str(service.name), deleted=service.deleting)

    def _measure(self, settings: AgentSettings, rejections: Mapping[ServiceName, Sequence[Rejection]]) -> None:
        pairs = [(str(name), a) for name, addresses in self.allocation.addresses.items() for a in addresses]
        self._metrics.addresses(pairs)
        self._metrics.rejections(r for listed in rejections.values() for r in listed)
        sizes = {
            pool.name: (
                sum(usable_addresses(n) for n in pool.cidrs),
                sum(a in pool for a in {a for _, a in pairs}),
            )
            for pool in settings.pools
        }
        self._metrics.pools(sizes)

    def overview(self, replica: str, last_error: str) -> Overview:
        """The whole load balancer as this replica sees it, for the status page. A replica that stands by sees it too, but for events."""
        settings, snapshot = self._settings(), self._cluster.snapshot()
        statuses, reports = self._statuses(), self._reports()
        heard = min(self._cluster.raw.answered.values(), default=0.0)
        return Overview(
            replica,
            self._leads(),
            self._cluster.synced,
            _now(),
            vip_rows(snapshot, settings, reports),
            edge_rows(statuses, reports),
            worker_rows(snapshot.nodes.values(), settings, statuses),
            condition_rows(snapshot.services.values()),
            tuple(self.events),
            last_error,
            datetime.now(UTC).timestamp() - heard if heard else 0.0,
        )

    def status(self) -> dict[str, Any]:
        """The status page: plain JSON values."""
        return {
            "role": "controller",
            "leads": self._leads(),
            "addresses": {
                str(name): [str(a) for a in addresses] for name, addresses in self.allocation.addresses.items()
            },
            "rejections": [
                {"service": str(r.service), "reason": r.reason, "message": r.message}
                for r in self.allocation.rejections
            ],
        }


def _was_ours(service: ServiceObject) -> bool:
    return any(c.type == ACCEPTED for c in service.conditions)


def _bears_our_finalizer(service: ServiceObject, settings: AgentSettings) -> bool:
    # One without a class that a label keeps from us may have it from another controller.
    is_surely_ours = is_of_our_class(service, settings) and service.load_balancer_class is not None
    return FINALIZER in service.finalizers and (is_ours(service, settings) or is_surely_ours)


def _version(raw: Mapping[str, Any]) -> str:
    return str(raw.get("metadata", {}).get("resourceVersion", ""))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
