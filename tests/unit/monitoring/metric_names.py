"""Which metrics and labels an agent's page really has, read from the pages and not from what describes them."""

from __future__ import annotations

import re
from functools import cache

from prometheus_client.parser import text_string_to_metric_families

from lbnode.observe import ControllerMetrics, EdgeMetrics, WorkerMetrics

#: Of the client library, for which the page on this machine may lack some.
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
#: What a scrape adds.
TARGET_LABELS = {"job", "instance", "component"}
_NAME = re.compile(r"\b(?:samegate_\w+|process_\w+|up(?=\{))")
_SELECTOR = re.compile(r"\b((?:samegate|process)_\w+)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


@cache
def on_the_pages() -> frozenset[str]:
    """Names of samples that can come up."""
    names = set()
    for role in (EdgeMetrics(), WorkerMetrics(), ControllerMetrics()):
        for family in text_string_to_metric_families(role.page().decode()):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return frozenset(names)


def unknown_names(expression: str) -> set[str]:
    """Metrics in a PromQL expression that no agent has."""
    return set(_NAME.findall(expression)) - on_the_pages() - FOREIGN


def unknown_labels(expression: str) -> set[tuple[str, str]]:
    """Labels by which a PromQL expression selects and that the metric does not have."""
    labels = {
        d.name: {*d.labels, *TARGET_LABELS, "le"}
        for role in (EdgeMetrics(), WorkerMetrics(), ControllerMetrics())
        for d in role.descriptions
    }
    return {
        (name, label)
        for name, inside in _SELECTOR.findall(expression)
        for label in _LABEL.findall(inside)
        if label not in labels.get(re.sub(r"_(bucket|sum|count)$", "", name), TARGET_LABELS)
    }
