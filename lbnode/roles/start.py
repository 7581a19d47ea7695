"""Put a role together from its parts and run it until SIGTERM. Wiring only: what is decided is decided elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

import structlog

from lbnode.backend_probe import BackendProber
from lbnode.kube.client import client
from lbnode.kube.lookups import deployment_is_going
from lbnode.kube.watcher import Watcher
from lbnode.kube.writer import Writer
from lbnode.model import IPAddress
from lbnode.observe import (
    ControllerMetrics,
    EdgeMetrics,
    Machine,
    Metrics,
    WorkerMetrics,
    configure_logging,
    status_page,
)
from lbnode.probe import Prober, ensure_ping_allowed, fetch_status
from lbnode.roles.controller import Controller
from lbnode.roles.edge import Edge
from lbnode.roles.from_outside import FromOutside
from lbnode.roles.kernels import RECORD_DIRECTORY, edge_kernel, leave_edge, sysctl_base, take_away, worker_kernel
from lbnode.roles.leadership import Leadership
from lbnode.roles.loop import Loop, SettingsFile
from lbnode.roles.neighbours import Neighbours
from lbnode.roles.outside import (
    NAMESPACE,
    Cluster,
    NodeRole,
    Outside,
    StandaloneNode,
    dataplane_of,
    required,
    standalone_name,
)
from lbnode.roles.removal import release_services
from lbnode.roles.running import role_pages, until_terminated
from lbnode.roles.surroundings import Surroundings, edge_refusal, kube_proxy_has_endpoints, worker_refusal
from lbnode.roles.worker import Worker
from lbnode.settings import AgentSettings
from lbnode.speaker.bird import Bird
from lbnode.translate.sysctls import EVERY_SYSCTL_OF, WORKER_NEEDS

LOOPBACK = ip_address("127.0.0.1")
LEASE_NAME = "samegate-controller"
#: Readback of the kernel, so that what somebody changes by hand is mended or withdrawn within the deadline of three seconds.
RESYNC_SECONDS = 1.0
CONTROLLER_RESYNC_SECONDS = 5.0
WORKER_PAGE_TIMEOUT_SECONDS = 0.5

log = structlog.get_logger()


def run(role: Literal["edge", "worker", "controller"], settings_path: Path) -> int:
    """Run a role in Kubernetes until SIGTERM; returns the exit code.

    Raises:
        ConfigError: the settings file is missing or wrong at start. Later a wrong one leaves the last good one in force.
    """
    settings = SettingsFile(settings_path, dataplane_of(os.environ) if role == "edge" else None)
    configure_logging(settings.current.log_level, role=role, node=os.environ.get("NODE_NAME", os.uname().nodename))
    if settings.error:
        log.error("settings.refused", error=settings.error)
    if settings.pending:
        log.warning("settings.pending", text=settings.pending)

    async def main() -> None:
        match role:
            case "edge":
                await _edge(Cluster(settings))
            case "worker":
                await _worker(Cluster(settings))
            case "controller":
                await _controller(settings)

    asyncio.run(main())
    return 0


def run_standalone(role: NodeRole, path: Path, node_name: str | None = None) -> int:
    """Run a node's role by a standalone file until SIGTERM; returns the exit code.

    Raises:
        ConfigError: the file is missing or wrong at start, or does not have this node. Later a wrong one leaves the last good one in force.
    """
    outside = StandaloneNode(path, role, standalone_name(node_name))
    configure_logging(outside.settings.log_level, role=role, node=outside.node_name)
    asyncio.run({"edge": _edge, "worker": _worker}[role](outside))
    return 0


def run_outside(kubeconfig: Path, node_name: str | None, settings_path: Path | None) -> int:
    """Run the edge role on a machine outside the cluster until SIGTERM; returns the exit code. Raises as :class:`FromOutside`."""
    outside = FromOutside(kubeconfig, standalone_name(node_name), settings_path, RECORD_DIRECTORY)
    configure_logging(outside.settings.log_level, role="edge", node=outside.node_name)
    asyncio.run(_edge(outside))
    return 0


def clean(role: NodeRole, settings_path: Path) -> int:
    """Remove samegate's own kernel state from this node."""
    return _clean(role, SettingsFile(settings_path).current)


def clean_standalone(role: NodeRole, path: Path, node_name: str | None = None) -> int:
    """The same on a node of a standalone file."""
    return _clean(role, StandaloneNode(path, role, standalone_name(node_name)).settings)


def _clean(role: NodeRole, settings: AgentSettings) -> int:
    (edge_kernel(settings) if role == "edge" else worker_kernel(settings)).clean()
    print(f"samegate's {role} state is gone from this node")
    return 0


async def _edge(outside: Outside) -> None:
    node_name = outside.node_name
    former_range = ensure_ping_allowed(sysctl_base())
    metrics = EdgeMetrics()
    loop = Loop(RESYNC_SECONDS, metrics.reconcile_failed, metrics.reconcile_succeeded)
    surroundings = Surroundings(edge_refusal, loop.wake)
    kernel = edge_kernel(outside.settings)
    if former_range is not None:
        kernel.remember_sysctl("net.ipv4.ping_group_range", former_range)

    def make_speaker(now: AgentSettings, addresses: tuple[IPAddress, ...]) -> Bird:
        return Bird(now.bgp, now.pools, node_name, addresses, key_directory=outside.key_directory)

    edge = Edge(
        node_name,
        lambda: outside.settings,
        outside.copy,
        kernel,
        make_speaker,
        metrics,
        time.monotonic,
        lambda: surroundings.refusal,
    )
    edge.workers = Neighbours(
        edge.worker_pages, fetch_status, loop.wake, WORKER_PAGE_TIMEOUT_SECONDS, edge.worker_pages_pause_seconds
    )
    edge.peers = Neighbours(edge.peer_pages, fetch_status, loop.wake)

    async def probe() -> None:
        now = outside.settings
        prober = Prober(now.network.fabric_mtu_bytes, now.health.timeout_ms)
        async for results in prober.rounds(edge.probe_targets, now.health.interval_ms):
            if edge.probed(results):
                loop.wake()

    dataplane = outside.settings.dataplane
    machine = Machine(edge.modules_at_work, EVERY_SYSCTL_OF[dataplane], edge.probe_targets, sysctl_base())

    def node_page() -> dict[str, Any]:
        return {
            **edge.node_page(),
            "machine": {"dataplane": dataplane, **machine.facts(), **surroundings.facts()},
        }

    def status() -> dict[str, Any]:
        return {**edge.status(), "settings_pending": outside.settings_pending}

    pages = role_pages(metrics, edge.not_ready, loop, lambda: outside.settings_error, status, node_page)
    tasks = [
        *outside.tasks(loop.wake, _shape_watch(outside, metrics, loop)),
        surroundings.run(),
        edge.workers.run(),
        edge.peers.run(),
        probe(),
    ]
    await until_terminated(loop, edge.pass_once, tasks, pages, outside.settings.ports.edge, [outside.node_address])
    await edge.withdraw_and_wait()
    await leave_edge(outside, kernel)


async def _worker(outside: Outside) -> None:
    metrics = WorkerMetrics()
    loop = Loop(RESYNC_SECONDS, metrics.reconcile_failed, metrics.reconcile_succeeded)
    surroundings = Surroundings(worker_refusal, loop.wake)
    kernel = worker_kernel(outside.settings)
    worker = Worker(
        outside.node_name,
        lambda: outside.settings,
        outside.copy,
        kernel,
        metrics,
        kube_proxy_has_endpoints,
        time.monotonic,
        lambda: surroundings.refusal,
    )
    active = BackendProber(
        worker.wanted_backends, worker.backend_probed, lambda: outside.settings.active_probes.at_once
    )

    async def probe_edges() -> None:
        now = outside.settings
        if now.return_path == "direct":
            return
        if (former_range := ensure_ping_allowed(sysctl_base())) is not None:
            kernel.remember_sysctl("net.ipv4.ping_group_range", former_range)
        # With the mark of replies, so that probes go the way that replies go.
        prober = Prober(
            now.network.fabric_mtu_bytes, now.health.timeout_ms, worker.probe_sources, now.via_edge.mark_mask
        )
        async for results in prober.rounds(worker.edges_to_probe, now.health.interval_ms):
            if worker.edges_probed(results):
                loop.wake()

    machine = Machine(worker.modules_at_work, tuple(WORKER_NEEDS), worker.edge_addresses, sysctl_base())

    def node_page() -> dict[str, Any]:
        return {"machine": {**machine.facts(), **surroundings.facts()}}

    pages = role_pages(metrics, worker.not_ready, loop, lambda: outside.settings_error, worker.status, node_page)
    tasks = [
        *outside.tasks(loop.wake, _shape_watch(outside, metrics, loop)),
        surroundings.run(),
        worker.ask_kube_proxy(),
        active.run(),
        probe_edges(),
    ]
    await until_terminated(loop, worker.pass_once, tasks, pages, outside.settings.ports.worker, [outside.node_address])

    if await outside.is_removed():
        # The edge nodes withdraw first and forward for a while; tunnels that go before that would cut live connections.
        await asyncio.sleep(outside.settings.drain.withdraw_seconds + RESYNC_SECONDS)
        await take_away(kernel.clean)


async def _controller(settings: SettingsFile) -> None:
    identity = os.environ.get("POD_NAME", os.uname().nodename)
    api = client()
    metrics = ControllerMetrics()
    loop = Loop(CONTROLLER_RESYNC_SECONDS, metrics.reconcile_failed, metrics.reconcile_succeeded)
    namespace = os.environ.get("POD_NAMESPACE", NAMESPACE)
    writer = Writer(api, namespace, identity)
    watcher = Watcher(api, loop.wake, with_namespaces=settings.current.needs_namespaces)
    leadership = Leadership(writer, LEASE_NAME, identity, time.monotonic, loop.wake)
    controller = Controller(
        lambda: settings.current,
        lambda: watcher.copy,
        writer,
        metrics,
        lambda: leadership.leads,
        time.monotonic,
    )
    controller.edges = Neighbours(controller.edge_pages, fetch_status, loop.wake)

    def not_ready() -> list[str]:
        return [] if watcher.copy.synced else ["the Kubernetes API has not answered yet"]

    def html(reloads: bool) -> bytes:
        return status_page.render(controller.overview(identity, loop.last_error), reloads)

    pages = role_pages(metrics, not_ready, loop, lambda: settings.error, controller.status, dict)
    pages = replace(pages, html=html)
    reading = _reading(settings.current)

    def settings_changed() -> None:
        metrics.settings(bool(settings.error), bool(settings.pending))
        _changed(settings.current, _reading, reading, loop)

    tasks = [
        watcher.run(),
        leadership.run(),
        controller.edges.run(),
        settings.follow(settings_changed),
    ]
    # On the pod's own loopback address too: `kubectl port-forward` connects there. The pod has a network of its own.
    addresses = [ip_address(os.environ.get("POD_IP") or required("NODE_ADDRESS")), LOOPBACK]
    await until_terminated(loop, controller.pass_once, tasks, pages, settings.current.ports.controller, addresses)
    deployment = os.environ.get("DEPLOYMENT_NAME", "")
    if leadership.leads and deployment and await deployment_is_going(api, deployment, namespace) is True:
        await release_services(watcher.copy, settings.current, writer)
    await leadership.release()


def _shape(settings: AgentSettings) -> tuple[object, ...]:
    return (
        settings.pool_networks,
        settings.network,
        settings.health,
        settings.ports,
        settings.return_path,
        settings.via_edge,
        settings.xdp if settings.dataplane == "xdp" else None,
    )


def _shape_watch(outside: Outside, metrics: Metrics, loop: Loop) -> Callable[[], None]:
    """What to do when a node's settings changed, or were refused."""
    # Pools, MTU and the way of replies shape the sockets and the filter from the start: a change of them is a new agent, which kubelet or systemd makes.
    shaping = _shape(outside.settings)

    def told() -> None:
        metrics.settings(bool(outside.settings_error), bool(outside.settings_pending))

    def changed() -> None:
        told()
        _changed(outside.settings, _shape, shaping, loop)

    told()
    return changed


def _reading(settings: AgentSettings) -> tuple[object, ...]:
    return (settings.needs_namespaces,)


def _changed(
    settings: AgentSettings,
    shape: Callable[[AgentSettings], tuple[object, ...]],
    shaping: tuple[object, ...],
    loop: Loop,
) -> None:
    if shape(settings) != shaping:
        log.info(
            "settings.restart",
            text="pools, networks, probing, ports, the way of replies or what is watched changed: the agent starts anew; kernel and BIRD go on meanwhile",
        )
        loop.restart()
    loop.wake()
