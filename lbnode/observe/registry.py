"""What all roles measure, and how a metric is declared: once, with its unit and with how many series it can have.

``docs/metrics.md`` is written from these declarations.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from lbnode import __version__
from lbnode.facts import Rejection
from lbnode.operations import Operation

#: From a pass that finds nothing to do to one that stalls for the longest deadline of a withdrawal (3 s).
RECONCILE_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0)
#: How a pass can end badly: the names of :mod:`lbnode.errors`.
FAILURES = ("ConfigError", "Retry", "Bug")

Kind = Literal["counter", "gauge", "histogram"]
Counted = TypeVar("Counted", bound=Hashable)

# A second series beside each counter, telling when it began, would be half of the page; nobody asked for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Description:
    """What people need to know of a metric. ``name`` is as it stands on the page; ``series`` bounds how many series a page has of it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    meaning: str
    series: str


class Metrics:
    """What all roles measure, in a registry of its own."""

    def __init__(self, role: str, kernel_release: str | None = None) -> None:
        self.registry = CollectorRegistry()
        self.descriptions: list[Description] = []
        ProcessCollector(registry=self.registry)
        build = self.gauge(
            "samegate_build_info",
            "Version of the agent and the kernel it runs on; always 1.",
            ["version", "role", "kernel_release"],
            unit="always 1",
        )
        build.labels(__version__, role, kernel_release or os.uname().release).set(1)
        self.reconcile_seconds = self.histogram(
            "samegate_reconcile_duration_seconds", "Time of one pass of the loop.", RECONCILE_BUCKETS_SECONDS
        )
        self._last_success = self.gauge(
            "samegate_reconcile_last_success_timestamp_seconds",
            "When a pass last ended without an error, in Unix time; 0 before the first.",
            unit="seconds since 1970",
        )
        self._reconcile_failures = self.counter(
            "samegate_reconcile_failures_total",
            "Passes that ended in an error, by its kind: ConfigError, Retry or Bug.",
            ["kind"],
            series="3",
            unit="passes",
        )
        for kind in FAILURES:
            # A series that first appears with its first failure hides that failure from `increase()`.
            self._reconcile_failures.labels(kind)
        self._config_errors = self.counter(
            "samegate_config_errors_total", "Settings or objects of the operator that were refused.", unit="findings"
        )
        self._settings_refused = self.gauge(
            "samegate_settings_refused",
            "1 while the settings file is refused and the last good settings are in force.",
        )
        self._settings_pending = self.gauge(
            "samegate_settings_pending",
            "1 while the settings file asks for another data plane, which the next agent on this node takes, and earlier settings are in force.",
        )
        self._rejections = self.gauge(
            "samegate_rejections",
            "Services, ports and active probes that are refused, by reason.",
            ["reason"],
            series="reasons (some 20)",
            unit="refusals",
        )
        self._operations = self.counter(
            "samegate_kernel_operations_total",
            "Changes made to the kernel, by operation. An unchanged world makes none.",
            ["operation"],
            series=f"operations (at most {len(get_args(Operation))})",
            unit="operations",
        )
        self._api_synced = self.gauge(
            "samegate_api_synced", "1 once every kind of object was listed from the Kubernetes API since the start."
        )
        self._api_answers = self.gauge(
            "samegate_api_last_answer_timestamp_seconds",
            "When the Kubernetes API last said something about this kind, in Unix time. A quiet one is asked anew each minute.",
            ["kind"],
            series="3",
            unit="seconds since 1970",
        )

    def page(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def reconcile_succeeded(self) -> None:
        """Note a pass that ended without an error."""
        self._last_success.set(time.time())

    def reconcile_failed(self, kind: str) -> None:
        """Count a pass that ended in an error; a ``ConfigError`` counts among the configuration errors too."""
        self._reconcile_failures.labels(kind).inc()
        if kind == "ConfigError":
            self._config_errors.inc()

    def settings(self, refused: bool, pending: bool = False) -> None:
        """Tell whether the settings file is refused now, or waits for the next agent; each new refusal counts as a configuration error."""
        if refused and not _value(self._settings_refused):
            self._config_errors.inc()
        self._settings_refused.set(refused)
        self._settings_pending.set(pending)

    def operations(self, operations: Iterable[Operation]) -> None:
        """Count operations that were applied."""
        for operation in operations:
            self._operations.labels(type(operation).__name__).inc()

    def rejections(self, rejections: Iterable[Rejection]) -> None:
        """The full set of rejections."""
        replace(self._rejections, counted((r.reason,) for r in rejections))

    def api(self, synced: bool, answered: Mapping[str, float]) -> None:
        """Whether every kind was listed, and when each last was heard of (Unix time in seconds)."""
        self._api_synced.set(synced)
        replace(self._api_answers, {(kind,): at for kind, at in answered.items()})

    def gauge(
        self, name: str, text: str, labels: Sequence[str] = (), *, unit: str = "0 or 1", series: str = "1"
    ) -> Gauge:
        """A gauge of this role."""
        self._describe(name, "gauge", labels, unit, text, series)
        return Gauge(name, text, labels, registry=self.registry)

    def counter(self, name: str, text: str, labels: Sequence[str] = (), *, unit: str, series: str = "1") -> Counter:
        """A counter of this role."""
        self._describe(name, "counter", labels, unit, text, series)
        return Counter(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        """A histogram of seconds of this role."""
        # One series a bucket and one for those above, and the sum and the count of all.
        self._describe(name, "histogram", (), "seconds", text, str(len(buckets) + 3))
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def _describe(self, name: str, kind: Kind, labels: Sequence[str], unit: str, text: str, series: str) -> None:
        self.descriptions.append(Description(name, kind, tuple(labels), unit, text, series))


def replace(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """Set the gauge to exactly these samples, by label values."""
    # Scrapes run in the same event loop, so nobody sees the gauge while it is empty.
    gauge.clear()
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


def counted(values: Iterable[Counted]) -> dict[Counted, float]:
    """How often each of these values comes, for a gauge by what they are labelled."""
    counts: dict[Counted, float] = {}
    for one in values:
        counts[one] = counts.get(one, 0) + 1
    return counts


def _value(gauge: Gauge) -> float:
    return next((s.value for m in gauge.collect() for s in m.samples), 0.0)
