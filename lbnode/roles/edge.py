"""The edge node's role: program, probe, announce.

A pass reads the kernel, brings it to the plan, reads it again, and tells the speaker the full set of VIPs that may be announced. It
takes nothing away at start or stop. What an edge node leaves behind when its agent dies goes on: the kernel forwards and BIRD announces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from lbnode import backends, grace
from lbnode import health as rise_and_fall
from lbnode.announce import EdgeFacts, announce
from lbnode.announce import Memory as Decided
from lbnode.dataplane.base import EdgeDataPlane
from lbnode.diff import diff_edge
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.facts import RouteAttributes, Verdict, WorkerHealth
from lbnode.model import EdgeState, IPAddress, IPNetwork, Protocol, ServiceName
from lbnode.objects import NodeObject, ServiceObject, Snapshot
from lbnode.observe import EdgeMetrics
from lbnode.pace import pause_seconds
from lbnode.probe import ProbeResult
from lbnode.remembered import Comparison, Remembered
from lbnode.roles import edge_status, worker_page
from lbnode.roles.cluster_view import ClusterView, Source
from lbnode.roles.edge_page import modules_at_work, node_page
from lbnode.roles.edge_status import EdgeView, families_reached
from lbnode.roles.edge_traffic import EdgeTraffic
from lbnode.roles.neighbours import Neighbours
from lbnode.routes import routes_of
from lbnode.settings import AgentSettings
from lbnode.speaker.base import Speaker, SpeakerState
from lbnode.translate.edge import EdgePlan, Memory, retain_announced, translate_edge

#: What another agent said longer ago than this no longer counts as what it says now.
FRESH_SECONDS = 3.0

log = structlog.get_logger()
Found = TypeVar("Found")


class Edge:
    """One edge node.

    Args:
        settings: the settings in force now.
        copy: the objects as last seen.
        make_speaker: a speaker for these settings and this node; called again when the BGP settings change.
        refusal: a reason and its explanation when this node cannot serve at all (the wrong kube-proxy mode), else ``None``.
    """

    def __init__(
        self,
        node_name: str,
        settings: Callable[[], AgentSettings],
        copy: Callable[[], Source],
        kernel: EdgeDataPlane,
        make_speaker: Callable[[AgentSettings, tuple[IPAddress, ...]], Speaker],
        metrics: EdgeMetrics,
        clock: Callable[[], float],
        refusal: Callable[[], tuple[str, str] | None] = lambda: None,
    ) -> None:
        self._node_name = node_name
        self._settings = settings
        self.cluster = ClusterView(copy, settings)
        self._kernel = kernel
        self._make_speaker = make_speaker
        self._metrics = metrics
        self._clock = clock
        self._refusal = refusal
        self._started = clock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._speaker: Speaker | None = None
        self._speaker_key: object = None
        self._workers: dict[IPAddress, rise_and_fall.WorkerState] = {}
        self._probes: Mapping[IPAddress, ProbeResult] = {}
        self._announced: Remembered[frozenset[IPAddress]] = Remembered()
        self._on_air: tuple[frozenset[IPAddress], float] = (frozenset(), 0.0)
        self._left_air: dict[IPAddress, float] = {}
        self._unfit: dict[str, frozenset[backends.Group]] = {}
        self._grace = grace.Memory()
        self._told: Mapping[IPAddress, Verdict] = {}
        self._memory, self._comparison = Memory(), Comparison()
        self._decided = Decided()
        self._sctp: Remembered[bool] = Remembered()
        self._routes: Remembered[dict[IPNetwork, RouteAttributes]] = Remembered()
        self._health = WorkerHealth()
        self._warned: frozenset[str] = frozenset()
        self._traffic = EdgeTraffic(
            lambda keys: self._in_thread(lambda: (kernel.traffic(keys), kernel.drops())), metrics, clock
        )
        self.workers: Neighbours | None = None
        self.peers: Neighbours | None = None
        self.terminating = False
        self.view = EdgeView()

    # What the prober and the neighbours need to know.

    def probe_targets(self) -> dict[IPAddress, IPAddress]:
        """Worker address to probe address, for the routes that the kernel has."""
        observed = self.view.observed
        if observed is None:
            return {}
        return {r.worker_address: r.probe_address for r in observed.probe_routes}

    def worker_pages(self) -> dict[str, str]:
        """Status page of each worker."""
        settings = self._settings()
        return self.cluster.status_pages(settings.worker_node_selector, settings.ports.worker)

    def worker_pages_pause_seconds(self, workers: int) -> float:
        """Until the status pages of so many workers are read again: soon, while a VIP waits for nothing but what a worker says there."""
        awaited = any(v.reason == "NoEndpointsOnWorkers" for v in self.view.verdicts.values())
        return pause_seconds(workers, awaited)

    def peer_pages(self) -> dict[str, str]:
        """Status page of each other edge node."""
        settings = self._settings()
        return self.cluster.status_pages(settings.edge_node_selector, settings.ports.edge, but=self._node_name)

    def probed(self, results: tuple[ProbeResult, ...]) -> bool:
        """Take a round of probes; whether the health of a worker changed."""
        settings, now = self._settings().health, self._clock()
        before = rise_and_fall.summary(self._workers)
        for result in results:
            state = self._workers.get(result.worker, rise_and_fall.WorkerState())
            self._workers[result.worker] = rise_and_fall.step(state, result.ok, now, settings)
        for gone in self._workers.keys() - {r.worker for r in results}:
            self._workers[gone] = rise_and_fall.expire(self._workers[gone], now, settings)
        self._metrics.probes(results)
        self._probes = {r.worker: r for r in results}
        after = rise_and_fall.summary(self._workers)
        for worker in after.healthy ^ before.healthy:
            reason = next((r.reason for r in results if r.worker == worker), "")
            log.info("worker.health", worker=str(worker), healthy=worker in after.healthy, reason=reason)
        return before != after

    def health(self, nodes: Mapping[str, NodeObject]) -> WorkerHealth:
        """What the probes and the workers themselves say."""
        now, settings = self._clock(), self._settings().health
        states = {a: rise_and_fall.expire(s, now, settings) for a, s in self._workers.items()}
        without: set[tuple[ServiceName, IPAddress]] = set()
        failing: set[tuple[ServiceName, IPAddress]] = set()
        self._unfit = {name: groups for name, groups in self._unfit.items() if name in nodes}
        for node in nodes.values():
            page = self.workers.said(node.name) if self.workers is not None else None
            if page is None:
                continue
            without |= {(s, a) for s in worker_page.without_endpoints(page) for a in node.addresses}
            before = self._unfit.get(node.name, frozenset())
            self._unfit[node.name] = backends.heard(before, worker_page.active_probes(page))
            failing |= {(s, a) for s, family in self._unfit[node.name] for a in node.addresses if a.version == family}
        return rise_and_fall.summary(states, without, failing)

    def _peers_reach_a_worker(self) -> dict[int, bool]:
        if self.peers is None:
            return {}
        found = {}
        for version in (4, 6):
            within_seconds = self._peers_count_within_seconds(version)
            answers = [s for node in self.peer_pages() if (s := self.peers.said(node, within_seconds)) is not None]
            if answers:
                found[version] = any(version in families_reached(answer) for answer in answers)
        return found

    def _peers_count_within_seconds(self, version: int) -> float:
        """How old the word of another edge node may be; below 0 none counts yet.

        What everybody loses, each notices in a round of probes of its own: who is first must not take what the others said before they
        noticed for proof that it is alone.
        """
        lost = rise_and_fall.lost_since(self._workers, version)
        if lost is None:
            return FRESH_SECONDS
        settings = self._settings().health
        noticed = lost + (settings.interval_ms + settings.timeout_ms) / 1000
        return min(FRESH_SECONDS, self._clock() - noticed)

    # The pass.

    async def pass_once(self) -> None:
        """Bring kernel and speaker to what the world asks for now."""
        with self._metrics.reconcile_seconds.time():
            await self._pass()

    async def _pass(self) -> None:
        self._metrics.api(self.cluster.synced, self.cluster.raw.answered)
        if not self.cluster.synced:
            raise Retry("the Kubernetes API has not answered yet; what is announced and programmed stays", 0.5)
        settings, snapshot = self._settings(), self.cluster.snapshot()
        speaker = self._current_speaker(settings, snapshot)
        speaks = await self._read_speaker(speaker)
        now = self._clock()
        on_air = self._announced.again("", (speaks.routes,), lambda: speaks.announced)
        leaving = self._leaving(on_air, now, settings.drain.withdraw_seconds)

        # The same value stays the same object, so that what depends on it need not be worked out again.
        self._health = self._health if (health := self.health(snapshot.nodes)) == self._health else health
        health = self._health
        self._grace, graced = grace.step(self._grace, snapshot, now, self.cluster.raw.away_seconds(now))
        plan = translate_edge(
            snapshot,
            settings,
            self._node_name,
            health,
            graced,
            await self._missing_protocols(snapshot),
            self._memory,
            await self._limits_syn(settings),
        )
        if (refused := self._refusal()) is not None:
            plan = replace(plan, blocked=refused)
        plan, observed, trouble = await self._program(plan, leaving)
        facts = EdgeFacts(
            vips=plan.vips,
            workers=plan.workers,
            desired=plan.state,
            observed=observed,
            health=health,
            announced=on_air,
            draining=plan.draining or self.terminating,
            blocked=plan.blocked,
            unserved=plan.unserved,
            peers_reach_a_worker=self._peers_reach_a_worker(),
        )
        verdicts = announce(facts, settings.health, self._comparison.alike, self._decided)
        self._comparison.forget_but(s.key for s in plan.state.services)
        wanted = frozenset(a for a, v in verdicts.items() if v.announce)
        self._tell(plan, verdicts)
        self.view = EdgeView(plan, observed, verdicts, on_air, speaks.sessions, self.view.kernel_writes)
        self._measure(plan, health, verdicts, speaks)
        ways = ({a: plan.vips[a].attributes for a in wanted}, settings.pools)
        routes = self._routes.again("", ways, partial(routes_of, *ways))
        await speaker.set(routes)
        if routes != speaks.routes:
            self.view.announced = (await self._read_speaker(speaker)).announced
        await self._traffic.look(self.view.observed, now)
        if trouble is not None:
            raise trouble

    def _leaving(self, on_air: frozenset[IPAddress], now: float, withdraw_seconds: float) -> frozenset[IPAddress]:
        """What is announced, or was so until a moment ago: routers need one after a withdrawal, and what they still send is served."""
        before, seen = self._on_air
        self._on_air = (on_air, now)
        self._left_air |= dict.fromkeys(before - on_air, seen)
        self._left_air = {a: at for a, at in self._left_air.items() if a not in on_air and now - at <= withdraw_seconds}
        return on_air.union(self._left_air)

    async def _missing_protocols(self, snapshot: Snapshot) -> frozenset[Protocol]:
        """Asked only where somebody wants more than TCP and UDP, which every IPVS has."""
        if not self._sctp.again("", (snapshot.services,), lambda: _has_sctp(snapshot.services.values())):
            return frozenset()
        return await self._tried(self._kernel.missing_protocols, frozenset())

    async def _limits_syn(self, settings: AgentSettings) -> bool:
        """Asked only where somebody wants it: a filter that is refused for the sake of it would take all announcements with it."""
        if settings.ipvs.max_syn_per_second is None:
            return True
        return await self._tried(self._kernel.limits_syn, True)

    async def _tried(self, ask: Callable[[], Found], unknown: Found) -> Found:
        try:
            found: Found = await self._in_thread(ask)
        except (ConfigError, Retry):
            # A kernel that cannot be asked now is told of by the pass, which has to go on for the sake of the announcements.
            return unknown
        return found

    async def _read_speaker(self, speaker: Speaker) -> SpeakerState:
        try:
            return await speaker.read()
        except Retry:
            # BIRD starts with the file that set() writes, so a silent BIRD must not end the pass.
            return SpeakerState()

    def _current_speaker(self, settings: AgentSettings, snapshot: Snapshot) -> Speaker:
        node = snapshot.nodes.get(self._node_name)
        addresses = node.addresses if node is not None else ()
        key = (settings.bgp, settings.pools, addresses)
        if self._speaker is None or (key != self._speaker_key and addresses):
            if not addresses:
                raise Retry(f"Node {self._node_name} is not there or has no internal address yet", 1.0)
            self._speaker, self._speaker_key = self._make_speaker(settings, addresses), key
        return self._speaker

    async def _program(
        self, plan: EdgePlan, leaving: frozenset[IPAddress]
    ) -> tuple[EdgePlan, EdgeState | None, ConfigError | Retry | Bug | None]:
        """Read, apply what differs, read again. Returns the plan with what is retained, which the kernel is to be measured by.

        An error is returned, not raised: what is in place decides over the announcements.
        """
        trouble: ConfigError | Retry | Bug | None = None
        observed: EdgeState | None = None
        try:
            try:
                observed = await self._in_thread(self._kernel.read)
            except Retry:
                # One lost netlink message is no reason to withdraw; two in a row are.
                observed = await self._in_thread(self._kernel.read)
            plan = retain_announced(plan, observed, leaving)
            operations = diff_edge(plan.state, plan.filter, observed, plan.translation, self._comparison.alike)
            if operations:
                log.info(
                    "kernel.apply", operations=len(operations), kinds=sorted({type(o).__name__ for o in operations})
                )
                try:
                    await self._in_thread(lambda: self._kernel.apply(operations))
                    self._metrics.operations(operations)
                finally:
                    self.view.kernel_writes += len(operations)
                    observed = await self._in_thread(self._kernel.read)
        except (ConfigError, Retry, Bug) as error:
            trouble = error
        return plan, observed if observed is not None else EdgeState(), trouble

    async def _in_thread(self, act: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    def _tell(self, plan: EdgePlan, verdicts: Mapping[IPAddress, Verdict]) -> None:
        for address, verdict in verdicts.items() if verdicts is not self._told else ():
            before = self._told.get(address)
            if before is None or (before.announce, before.reason) != (verdict.announce, verdict.reason):
                log.info(
                    "vip.verdict",
                    vip=str(address),
                    announce=verdict.announce,
                    reason=verdict.reason,
                    detail=verdict.detail,
                )
        self._told = verdicts
        said = frozenset((*plan.warnings, *(r.message for r in plan.rejections)))
        for warning in sorted(said - self._warned):
            log.warning("plan.warning", text=warning)
        self._warned = said

    def _measure(
        self, plan: EdgePlan, health: WorkerHealth, verdicts: Mapping[IPAddress, Verdict], speaks: SpeakerState
    ) -> None:
        self._metrics.verdicts(verdicts)
        self._metrics.destinations({w.address: w.address in health.healthy for w in plan.workers})
        self._metrics.sessions(speaks.sessions.values())
        self._metrics.rejections(plan.rejections)
        self._metrics.draining(plan.draining or self.terminating)
        self._metrics.probe_alarm(any(v.reason == "AllProbesFail" for v in verdicts.values()))

    # The end.

    async def withdraw_and_wait(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """SIGTERM: withdraw everything, then keep forwarding until the routers have moved on."""
        self.terminating = True
        if self._speaker is not None:
            try:
                await self._speaker.set({})
            except (ConfigError, Retry) as error:
                # What is written is what it starts with; and one that hangs may still send routers what it was told before.
                log.warning("edge.not_withdrawn", error=str(error))
            else:
                self.view.announced = frozenset()
                log.info("edge.withdrawn", forwarding_seconds=self._settings().drain.withdraw_seconds)
        await sleep(self._settings().drain.withdraw_seconds)

    # What the pages show.

    def not_ready(self) -> list[str]:
        """Reasons why this node is not ready."""
        healthy = rise_and_fall.summary(self._workers).healthy
        return edge_status.not_ready(self.view, healthy, self._clock() - self._started)

    def status(self) -> dict[str, Any]:
        """The status page: plain JSON values."""
        healthy = rise_and_fall.summary(self._workers).healthy
        return edge_status.status_page(self._node_name, self.view, healthy, self.terminating)

    def node_page(self) -> dict[str, Any]:
        """What only people ask for. May be called from another thread."""
        view, workers = self.view, dict(self._workers)
        return node_page(view.plan, view.observed, rise_and_fall.summary(workers), self._probes)

    def modules_at_work(self) -> dict[str, bool]:
        """The kernel modules that are needed now, and whether their work is seen."""
        view = self.view
        return modules_at_work(view.plan, view.observed, self._settings().dataplane)


def _has_sctp(services: Iterable[ServiceObject]) -> bool:
    return any(p.protocol == Protocol.SCTP for s in services for p in s.ports)
