"""The metrics of each role. Each method that takes a set takes the full set: what is no longer in it disappears from the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from lbnode import __version__
from lbnode.model import IPAddress, Operation, Rejection, Verdict

#: From a pass that finds nothing to do to one that stalls for the longest deadline of a withdrawal (3 s).
RECONCILE_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0)
#: From one rack to the health check's timeout.
RTT_BUCKETS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)


class SessionView(Protocol):
    """What a session must tell to be measured: :class:`lbnode.speaker.base.Session` does."""

    @property
    def peer(self) -> str: ...
    @property
    def established(self) -> bool: ...
    @property
    def bfd(self) -> str: ...
    @property
    def exported(self) -> int: ...


class ProbeView(Protocol):
    """What a probe must tell to be measured: :class:`lbnode.probe.ProbeResult` does."""

    @property
    def worker(self) -> IPAddress: ...
    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def rtt_ms(self) -> float | None: ...


class JudgementView(Protocol):
    """What a judgement of a Service's pods must tell to be measured: :class:`lbnode.backends.Judgement` does."""

    @property
    def fit(self) -> bool | None: ...
    @property
    def passing(self) -> int: ...
    @property
    def failing(self) -> int: ...
    @property
    def undecided(self) -> int: ...


class Metrics:
    """What all roles measure, in a registry of its own."""

    def __init__(self, role: str, kernel_release: str | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge(
            "samegate_build_info",
            "Version of the agent and kernel it runs on; always 1.",
            ["version", "role", "kernel_release"],
            registry=self.registry,
        )
        build.labels(__version__, role, kernel_release or os.uname().release).set(1)
        self.reconcile_seconds = Histogram(
            "samegate_reconcile_seconds",
            "Time of one pass of the loop.",
            buckets=RECONCILE_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._reconcile_failures = Counter(
            "samegate_reconcile_failures_total",
            "Passes that ended in an error, by its kind: ConfigError, Retry or Bug.",
            ["kind"],
            registry=self.registry,
        )
        self._config_errors = Counter(
            "samegate_config_errors_total",
            "Settings or objects of the operator that were refused.",
            registry=self.registry,
        )
        self._settings_refused = Gauge(
            "samegate_settings_refused",
            "1 while the settings file is refused and the last good settings are in force.",
            registry=self.registry,
        )
        self._rejections = Gauge(
            "samegate_rejections",
            "Services or ports that are not served, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._operations = Counter(
            "samegate_kernel_operations_total",
            "Changes made to the kernel, by operation.",
            ["operation"],
            registry=self.registry,
        )

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def reconcile_failed(self, kind: str) -> None:
        """Count a pass that ended in an error; a ``ConfigError`` counts among the configuration errors too."""
        self._reconcile_failures.labels(kind).inc()
        if kind == "ConfigError":
            self._config_errors.inc()

    def settings_refused(self, refused: bool) -> None:
        """Tell whether the settings file is refused now; each new refusal counts as a configuration error."""
        if refused and not _value(self._settings_refused):
            self._config_errors.inc()
        self._settings_refused.set(refused)

    def operations(self, operations: Iterable[Operation]) -> None:
        """Count operations that were applied."""
        for operation in operations:
            self._operations.labels(type(operation).__name__).inc()

    def rejections(self, rejections: Iterable[Rejection]) -> None:
        """The full set of rejections."""
        counts: dict[tuple[str, ...], float] = {}
        for rejection in rejections:
            counts[(rejection.reason,)] = counts.get((rejection.reason,), 0) + 1
        _replace(self._rejections, counts)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)


class EdgeMetrics(Metrics):
    """What an edge node measures."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("edge", kernel_release)
        self._announced = self._gauge("samegate_vip_announced", "1 when this node announces the VIP.", ["vip"])
        self._reason = self._gauge(
            "samegate_vip_reason_info", "Why the VIP is announced or not; always 1.", ["vip", "reason"]
        )
        self._healthy = self._gauge("samegate_destination_healthy", "1 when the worker counts as healthy.", ["worker"])
        self._probes = Counter(
            "samegate_probe_results_total",
            "Probes by worker and outcome.",
            ["worker", "reason"],
            registry=self.registry,
        )
        self._rtt = Histogram(
            "samegate_probe_rtt_seconds",
            "Round trip of answered probes.",
            buckets=RTT_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._session = self._gauge("samegate_bgp_session_up", "1 when the BGP session is established.", ["peer"])
        self._bfd = self._gauge(
            "samegate_bfd_session_up", "1 when the BFD session is up; absent where BFD is not used.", ["peer"]
        )
        self._exported = self._gauge("samegate_bgp_exported_routes", "Host routes sent to the peer.", ["peer"])
        self._draining = self._gauge("samegate_draining", "1 while this node drains.")
        self._alarm = self._gauge(
            "samegate_probe_alarm",
            "1 when all probes fail and no other edge node does better: the prober or the fabric is the suspect.",
        )
        self._probe_children: set[tuple[str, str]] = set()

    def verdicts(self, verdicts: Mapping[IPAddress, Verdict]) -> None:
        """The full set of decisions."""
        _replace(self._announced, {(str(a),): float(v.announce) for a, v in verdicts.items()})
        _replace(self._reason, {(str(a), v.reason): 1 for a, v in verdicts.items()})

    def destinations(self, healthy: Mapping[IPAddress, bool]) -> None:
        """The full set of probed workers; counters of others go."""
        _replace(self._healthy, {(str(a),): float(up) for a, up in healthy.items()})
        workers = {str(a) for a in healthy}
        for child in [c for c in self._probe_children if c[0] not in workers]:
            self._probes.remove(*child)
            self._probe_children.discard(child)

    def probes(self, results: Iterable[ProbeView]) -> None:
        """Count one round of probes."""
        for result in results:
            child = (str(result.worker), result.reason)
            self._probe_children.add(child)
            self._probes.labels(*child).inc()
            if result.ok and result.rtt_ms is not None:
                self._rtt.observe(result.rtt_ms / 1000)

    def sessions(self, sessions: Iterable[SessionView]) -> None:
        """The full set of sessions."""
        listed = list(sessions)
        _replace(self._session, {(s.peer,): float(s.established) for s in listed})
        _replace(self._bfd, {(s.peer,): float(s.bfd == "Up") for s in listed if s.bfd})
        _replace(self._exported, {(s.peer,): s.exported for s in listed})

    def draining(self, draining: bool) -> None:
        """Whether this node drains."""
        self._draining.set(draining)

    def probe_alarm(self, raised: bool) -> None:
        """Whether every probe fails everywhere."""
        self._alarm.set(raised)


class WorkerMetrics(Metrics):
    """What a worker measures."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("worker", kernel_release)
        self._tunnels = self._gauge(
            "samegate_tunnel_ready", "1 when the tunnel device for the edge node is as it must be.", ["edge"]
        )
        self._ready = self._gauge(
            "samegate_worker_ready", "1 when everything is in place and the probe address answers."
        )
        self._backend_probes = Counter(
            "samegate_backend_probe_results_total",
            "Active probes of this node's pods, by Service and outcome.",
            ["service", "reason"],
            registry=self.registry,
        )
        self._backends = self._gauge(
            "samegate_backends",
            "Pods of this node that have an active probe, by what it says: passing, failing or undecided.",
            ["service", "family", "state"],
        )
        self._fit = self._gauge(
            "samegate_active_probe_fit",
            "1 when enough of this node's pods pass the Service's active probe, 0 when not; absent while that is open.",
            ["service", "family"],
        )
        self._backend_children: set[tuple[str, str]] = set()

    def tunnels(self, ready: Mapping[IPAddress, bool]) -> None:
        """The full set of tunnels by edge node."""
        _replace(self._tunnels, {(str(a),): float(up) for a, up in ready.items()})

    def ready(self, ready: bool) -> None:
        """Whether the probe address is held."""
        self._ready.set(ready)

    def backend_probe(self, service: str, reason: str) -> None:
        """Count one active probe."""
        self._backend_children.add((service, reason))
        self._backend_probes.labels(service, reason).inc()

    def backends(self, judgements: Mapping[tuple[str, int], JudgementView]) -> None:
        """The full set of judgements by Service and IP version; counters of other Services go."""
        states: dict[tuple[str, ...], float] = {}
        fit: dict[tuple[str, ...], float] = {}
        for (service, family), judgement in judgements.items():
            for state in ("passing", "failing", "undecided"):
                states[(service, str(family), state)] = getattr(judgement, state)
            if judgement.fit is not None:
                fit[(service, str(family))] = float(judgement.fit)
        _replace(self._backends, states)
        _replace(self._fit, fit)
        services = {service for service, _ in judgements}
        for child in [c for c in self._backend_children if c[0] not in services]:
            self._backend_probes.remove(*child)
            self._backend_children.discard(child)


class ControllerMetrics(Metrics):
    """What the controller measures."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("controller", kernel_release)
        self._leader = self._gauge("samegate_leader", "1 when this replica holds the Lease.")
        self._size = self._gauge("samegate_pool_addresses", "Addresses of the pool.", ["pool"])
        self._used = self._gauge("samegate_pool_addresses_used", "Addresses of the pool that Services hold.", ["pool"])
        self._addresses = self._gauge(
            "samegate_service_address_info", "Address of a Service; always 1.", ["service", "address"]
        )
        self._writes = Counter(
            "samegate_api_writes_total",
            "Writes to the Kubernetes API, by what was written.",
            ["object"],
            registry=self.registry,
        )

    def leader(self, leads: bool) -> None:
        """Whether this replica leads."""
        self._leader.set(leads)

    def pools(self, size_and_used: Mapping[str, tuple[int, int]]) -> None:
        """The full set of pools: number of addresses and how many are held."""
        _replace(self._size, {(name,): size for name, (size, _) in size_and_used.items()})
        _replace(self._used, {(name,): used for name, (_, used) in size_and_used.items()})

    def addresses(self, addresses: Iterable[tuple[str, IPAddress]]) -> None:
        """The full set of (namespace/name, address)."""
        _replace(self._addresses, {(service, str(address)): 1 for service, address in addresses})

    def wrote(self, what: str) -> None:
        """Count a write, e.g. ``status``, ``finalizer``, ``event``."""
        self._writes.labels(what).inc()


def _replace(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    # Scrapes run in the same event loop, so nobody sees the gauge while it is empty.
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


def _value(gauge: Gauge) -> float:
    return next((s.value for m in gauge.collect() for s in m.samples), 0.0)
