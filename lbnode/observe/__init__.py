"""What people and machines see of the agent: logs, metrics, and the pages that carry readiness and status."""

from lbnode.observe.log import configure_logging, redact
from lbnode.observe.machine import Machine
from lbnode.observe.metrics import ControllerMetrics, EdgeMetrics
from lbnode.observe.pages import Pages, PageServer
from lbnode.observe.registry import Description, Metrics
from lbnode.observe.worker_metrics import WorkerMetrics

__all__ = [
    "ControllerMetrics",
    "Description",
    "EdgeMetrics",
    "Machine",
    "Metrics",
    "PageServer",
    "Pages",
    "WorkerMetrics",
    "configure_logging",
    "redact",
]
