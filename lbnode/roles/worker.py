"""The worker's role: take packets out of the tunnels of the edge nodes, and say when that is safe.

The probe address is held only while everything else is in place, so an edge node whose probe is answered knows the rest. The status page
adds what only this node can see: for which Services its own kube-proxy has no endpoint, and it has no endpoint of its own either
(:mod:`lbnode.kube_proxy`, :mod:`lbnode.delivery`); and for which its own pods fail their active probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import structlog

from lbnode import backends, grace, kube_proxy
from lbnode import health as rise_and_fall
from lbnode.active_probe import ActiveProbe, Backend
from lbnode.backend_probe import BackendResult
from lbnode.dataplane.base import WorkerDataPlane
from lbnode.diff import diff_worker
from lbnode.errors import Retry
from lbnode.model import IPAddress, ServiceName, WorkerState, address_order
from lbnode.observe import WorkerMetrics
from lbnode.pace import pause_seconds
from lbnode.probe import ProbeResult
from lbnode.roles.cluster_view import ClusterView, Source
from lbnode.settings import AgentSettings
from lbnode.translate.worker import HealthCheck, WorkerPlan, translate_worker

#: kube-proxy is not asked for more Services than so many at once.
CHECKS_AT_ONCE = 16

log = structlog.get_logger()


@dataclass
class WorkerView:
    """What the last pass found."""

    plan: WorkerPlan | None = None
    observed: WorkerState | None = None
    kernel_writes: int = 0


class Worker:
    """One worker.

    Args:
        has_endpoints: asks kube-proxy's health check node port; ``None`` when it does not answer.
        refusal: a reason and its explanation when this node's Service proxy cannot deliver tunnelled packets, else ``None``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        node_name: str,
        settings: Callable[[], AgentSettings],
        copy: Callable[[], Source],
        kernel: WorkerDataPlane,
        metrics: WorkerMetrics,
        has_endpoints: Callable[[int], Awaitable[bool | None]],
        clock: Callable[[], float],
        refusal: Callable[[], tuple[str, str] | None] = lambda: None,
    ) -> None:
        self._node_name = node_name
        self._settings = settings
        self._cluster = ClusterView(copy, settings)
        self._kernel = kernel
        self._metrics = metrics
        self._has_endpoints = has_endpoints
        self._clock = clock
        self._grace = grace.Memory()
        self._refusal = refusal
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._kube_proxy = kube_proxy.Memory()
        self._edges: dict[IPAddress, rise_and_fall.WorkerState] = {}
        self._probed = backends.Memory()
        self._judgements: dict[backends.Group, backends.Judgement] = {}
        self.view = WorkerView()

    async def pass_once(self) -> None:
        """Bring the kernel to what the world asks for now."""
        with self._metrics.reconcile_seconds.time():
            await self._pass()

    async def _pass(self) -> None:
        self._metrics.api(self._cluster.synced, self._cluster.raw.answered)
        if not self._cluster.synced:
            raise Retry("the Kubernetes API has not answered yet; what is programmed stays", 0.5)
        snapshot, now = self._cluster.snapshot(), self._clock()
        self._grace, graced = grace.step(self._grace, snapshot, now, self._cluster.raw.away_seconds(now))
        failing, silent = backends.failing(self._probed), self._silent_edges()
        plan = translate_worker(snapshot, self._settings(), self._node_name, graced, failing, silent)
        if (refused := self._refusal()) is not None:
            # Without its probe address no edge node sends anything here; tunnels and filter stay for the day it is mended.
            plan = replace(plan, blocked=refused, state=replace(plan.state, probe_addresses=frozenset()))
        elif plan.blocked is not None:
            raise Retry(": ".join(plan.blocked), 1.0)
        observed = await self._in_thread(self._kernel.read)
        plan = replace(plan, warnings=(*plan.warnings, *await self._in_thread(self._kernel.warnings)))
        operations = diff_worker(plan.state, plan.filter, observed, plan.delivery)
        if operations:
            log.info("kernel.apply", operations=len(operations), kinds=sorted({type(o).__name__ for o in operations}))
            try:
                await self._in_thread(lambda: self._kernel.apply(operations))
                self._metrics.operations(operations)
            finally:
                self.view.kernel_writes += len(operations)
                observed = await self._in_thread(self._kernel.read)
        if self.view.plan is None or self.view.plan.warnings != plan.warnings:
            for warning in plan.warnings:
                log.warning("plan.warning", text=warning)
        self.view = WorkerView(plan, observed, self.view.kernel_writes)
        self._kube_proxy = kube_proxy.seen(self._kube_proxy, plan.terminating, now)
        self._judge()
        self._metrics.tunnels({t.edge_address: t in observed.tunnels for t in plan.state.tunnels})
        self._metrics.returns({edge: standing.takes for edge, standing in plan.standings.items()})
        self._metrics.ready(not self.not_ready())

    # Which edge nodes live: asked through the tunnels that replies take, and only where they do.

    def edges_to_probe(self) -> dict[IPAddress, IPAddress]:
        """The edge nodes' addresses, each by itself, for which the kernel has a way that replies take."""
        observed = self.view.observed
        paths = observed.return_paths if observed is not None else ()
        return {edge: edge for path in paths for edge in path.edges}

    def probe_sources(self) -> dict[int, IPAddress]:
        """This node's probe addresses by IP version: what edge nodes have a way to, through the tunnel."""
        observed = self.view.observed
        return {a.version: a for a in observed.probe_addresses} if observed is not None else {}

    def edges_probed(self, results: tuple[ProbeResult, ...]) -> bool:
        """Take a round of probes of edge nodes; whether the standing of one changed."""
        settings, now = self._settings().health, self._clock()
        before = rise_and_fall.summary(self._edges)
        states = {r.worker: self._edges.get(r.worker, rise_and_fall.WorkerState()) for r in results}
        self._edges = {r.worker: rise_and_fall.step(states[r.worker], r.ok, now, settings) for r in results}
        after = rise_and_fall.summary(self._edges)
        for edge in after.healthy ^ before.healthy:
            reason = next((r.reason for r in results if r.worker == edge), "")
            log.info("edge.health", edge=str(edge), healthy=edge in after.healthy, reason=reason)
        return before != after

    def _silent_edges(self) -> frozenset[IPAddress]:
        settings, now = self._settings().health, self._clock()
        return rise_and_fall.summary(
            {a: rise_and_fall.expire(s, now, settings) for a, s in self._edges.items()}
        ).unhealthy

    async def _in_thread(self, act: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    async def ask_kube_proxy(self) -> None:
        """Ask for each Service with local endpoints only, until cancelled."""
        gate = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def one(check: HealthCheck) -> tuple[ServiceName, bool | None]:
            async with gate:
                return check.service, await self._has_endpoints(check.port)

        while True:
            checks = self.view.plan.checks if self.view.plan is not None else ()
            answers = await asyncio.gather(*(one(c) for c in checks))
            before = self._kube_proxy.without
            self._kube_proxy = kube_proxy.heard(self._kube_proxy, dict(answers), self._clock())
            if self._kube_proxy.without != before:
                log.info("kube_proxy.without_endpoints", services=sorted(map(str, self._kube_proxy.without)))
            await asyncio.sleep(pause_seconds(len(checks), awaited=bool(self._kube_proxy.without)))

    def wanted_backends(self) -> Mapping[Backend, ActiveProbe]:
        """The pods of this node to probe."""
        return self.view.plan.backends if self.view.plan is not None else {}

    def backend_probed(self, backend: Backend, probe: ActiveProbe, result: BackendResult) -> None:
        """Take the result of one active probe."""
        before = self._probed.states.get(backend)
        self._probed = backends.probed(self._probed, backend, probe, result.ok, self._clock())
        self._judge()
        self._metrics.backend_probe(str(backend.service), result.reason)
        after = self._probed.states.get(backend)
        healthy = after.healthy if after is not None else None
        if healthy is not None and (before is None or before.healthy != healthy):
            log.info(
                "backend.health",
                service=str(backend.service),
                address=str(backend.address),
                port=backend.port,
                healthy=healthy,
                reason=result.reason,
                detail=result.detail,
            )

    def _judge(self) -> None:
        self._probed, judgements = backends.judge(self._probed, self.wanted_backends(), self._clock())
        for (service, family), judgement in judgements.items():
            before = self._judgements.get((service, family))
            if judgement.fit is not None and (before is None or before.fit != judgement.fit):
                log.info("service.probed", service=str(service), family=family, fit=judgement.fit)
        self._judgements = judgements
        self._metrics.backends({(str(s), f): j for (s, f), j in judgements.items()})

    def not_ready(self) -> list[str]:
        """Reasons why edge nodes must not send here yet."""
        plan, observed = self.view.plan, self.view.observed
        if plan is None or observed is None:
            return ["Starting: no pass is complete yet"]
        if plan.blocked is not None:
            return [": ".join(plan.blocked)]
        reasons = []
        if observed.filter_digest != plan.state.filter_digest:
            reasons.append("FilterMissing: the packet filter is not the desired one")
        reasons += [f"TunnelMissing: {t.device} from {t.edge_address}" for t in plan.state.tunnels - observed.tunnels]
        shapes = {p.shape for p in observed.return_paths}
        reasons += [
            f"ReturnPathMissing: replies over IPv{p.version} would not leave by edge nodes"
            for p in sorted(plan.state.return_paths, key=lambda p: p.version)
            if p.shape not in shapes
        ]
        reasons += [f"NoProbeAddress: {a}" for a in plan.state.probe_addresses - observed.probe_addresses]
        return reasons

    def status(self) -> dict[str, Any]:
        """The status page: plain JSON values."""
        plan = self.view.plan
        delivered = plan.delivered if plan is not None else frozenset()
        return {
            "node": self._node_name,
            "role": "worker",
            "not_ready": self.not_ready(),
            "without_endpoints": sorted(
                map(str, kube_proxy.without_endpoints(self._kube_proxy, delivered, self._clock()))
            ),
            "delivers": sorted(map(str, delivered)),
            "active_probes": [
                {
                    "service": str(service),
                    "family": family,
                    "fit": judgement.fit,
                    "passing": judgement.passing,
                    "failing": judgement.failing,
                    "undecided": judgement.undecided,
                }
                for (service, family), judgement in sorted(self._judgements.items())
            ],
            "return_path": [
                {"edge": str(edge), "takes_replies": standing.takes, "reason": standing.reason}
                for edge, standing in sorted(plan.standings.items(), key=lambda s: address_order(s[0]))
            ]
            if plan is not None
            else [],
            "probe_addresses": sorted(str(a) for a in plan.state.probe_addresses) if plan is not None else [],
            "warnings": list(plan.warnings) if plan is not None else [],
            "kernel_writes": self.view.kernel_writes,
        }

    def modules_at_work(self) -> dict[str, bool]:
        """The kernel modules that a worker needs, and whether their work is seen in the kernel."""
        return {"ipip": self.view.observed is not None and bool(self.view.observed.tunnels)}

    def edge_addresses(self) -> list[IPAddress]:
        """The edge nodes whose tunnels this worker has."""
        plan = self.view.plan
        return sorted((t.edge_address for t in plan.state.tunnels), key=address_order) if plan is not None else []
