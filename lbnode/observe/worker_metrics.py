"""The metrics of a worker. Each method that takes a set takes the full set: what is no longer in it disappears from the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lbnode.model import IPAddress
from lbnode.observe.registry import Metrics, replace


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


class WorkerMetrics(Metrics):
    """What a worker measures."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("worker", kernel_release)
        self._tunnels = self.gauge(
            "samegate_tunnel_ready",
            "1 when the tunnel device for the edge node is as it must be.",
            ["edge"],
            series="edge nodes",
        )
        self._returns = self.gauge(
            "samegate_return_path_edge",
            "1 while the edge node takes replies of this worker, 0 while it does not answer or drains; only with return: via-edge.",
            ["edge"],
            series="edge nodes",
        )
        self._ready = self.gauge(
            "samegate_worker_ready", "1 when everything is in place and the probe address answers."
        )
        self._backend_probes = self.counter(
            "samegate_backend_probe_results_total",
            "Active probes of this node's pods, by Service and outcome.",
            ["service", "reason"],
            series="probed Services x outcomes seen (at most 11)",
            unit="probes",
        )
        self._backends = self.gauge(
            "samegate_backends",
            "Pods of this node that have an active probe, by what it says: passing, failing or undecided.",
            ["service", "family", "state"],
            series="3 x probed Services x IP versions",
            unit="pods",
        )
        self._fit = self.gauge(
            "samegate_active_probe_fit",
            "1 when enough of this node's pods pass the Service's active probe, 0 when not; absent while that is open.",
            ["service", "family"],
            series="probed Services x IP versions",
        )
        self._backend_children: set[tuple[str, str]] = set()

    def tunnels(self, ready: Mapping[IPAddress, bool]) -> None:
        """The full set of tunnels by edge node."""
        replace(self._tunnels, {(str(a),): float(up) for a, up in ready.items()})

    def returns(self, takes: Mapping[IPAddress, bool]) -> None:
        """The full set of edge nodes that may take replies, and whether each does."""
        replace(self._returns, {(str(a),): float(does) for a, does in takes.items()})

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
        replace(self._backends, states)
        replace(self._fit, fit)
        services = {service for service, _ in judgements}
        for child in [c for c in self._backend_children if c[0] not in services]:
            self._backend_probes.remove(*child)
            self._backend_children.discard(child)
