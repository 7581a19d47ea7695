"""What the dashboard shows: rows of panels, each with its question, its PromQL and its unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

#: What the reader chose to see; every query of an agent's metric is limited to it.
CHOSEN = 'instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how its series are named (Grafana's ``{{label}}``)."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``unit`` is Grafana's word for it. A number turns red from ``bad_from`` on, or below ``bad_below``."""

    title: str
    question: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    columns: int = 8
    bad_from: float | None = None
    bad_below: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A heading with the panels below it."""

    title: str
    panels: tuple[Panel, ...]


def _graph(title: str, question: str, *queries: tuple[str, str], unit: str = "short", columns: int = 8) -> Panel:
    return Panel(title, question, tuple(Query(*q) for q in queries), unit, columns=columns)


def _number(
    title: str, question: str, expression: str, *, bad_from: float | None = None, bad_below: float | None = None
) -> Panel:
    return Panel(title, question, (Query(expression),), "short", "stat", 4, bad_from, bad_below)


NOW = Row(
    "Now",
    (
        _number(
            "VIPs announced",
            "By at least one edge node.",
            "count(sum by (vip) (samegate_vip_announced) > 0) or vector(0)",
        ),
        _number(
            "VIPs announced by nobody",
            "Clients of these are turned away.",
            "count(sum by (vip) (samegate_vip_announced) == 0) or vector(0)",
            bad_from=1,
        ),
        _number(
            "BGP sessions down", "Of all edge nodes.", "count(samegate_bgp_session_up == 0) or vector(0)", bad_from=1
        ),
        _number(
            "Workers reached by nobody",
            "No edge node's probe is answered.",
            "count(sum by (worker) (samegate_worker_healthy) == 0) or vector(0)",
            bad_from=1,
        ),
        _number(
            "Agents that do not answer", "Of all roles.", 'count(up{job="samegate"} == 0) or vector(0)', bad_from=1
        ),
        _number("Controllers that lead", "Must be one.", "sum(samegate_leader)", bad_from=2, bad_below=1),
    ),
)

VIPS = Row(
    "VIPs",
    (
        _graph(
            "Edge nodes that announce a VIP",
            "Does each VIP have as many as it should?",
            ("sum by (vip) (samegate_vip_announced)", "{{vip}}"),
        ),
        _graph(
            "Withheld VIPs by reason",
            "Why not? Each reason is in docs/runbook.md.",
            (f'sum by (instance, reason) (samegate_vips{{announced="false", {CHOSEN}}})', "{{instance}} {{reason}}"),
        ),
        _graph(
            "Routes sent",
            "Does each peer get all of them?",
            (f"samegate_bgp_exported_routes{{{CHOSEN}}}", "{{instance}} to {{peer}}"),
        ),
    ),
)

TRAFFIC = Row(
    "Traffic from clients (replies go past the edge nodes)",
    (
        _graph(
            "New connections by VIP",
            "Who is asked for what?",
            (f"sum by (vip) (rate(samegate_vip_connections_total{{{CHOSEN}}}[$__rate_interval]))", "{{vip}}"),
            unit="cps",
        ),
        _graph(
            "Bits received by VIP",
            "How much comes in?",
            (f"8 * sum by (vip) (rate(samegate_vip_received_bytes_total{{{CHOSEN}}}[$__rate_interval]))", "{{vip}}"),
            unit="bps",
        ),
        _graph(
            "Packets received by VIP",
            "What the edge nodes' processors pay for.",
            (f"sum by (vip) (rate(samegate_vip_received_packets_total{{{CHOSEN}}}[$__rate_interval]))", "{{vip}}"),
            unit="pps",
        ),
        _graph(
            "New connections by edge node",
            "Do the routers spread the flows?",
            (f"sum by (instance) (rate(samegate_vip_connections_total{{{CHOSEN}}}[$__rate_interval]))", "{{instance}}"),
            unit="cps",
        ),
        _graph(
            "New connections by worker",
            "Does the hash spread them?",
            (
                f"sum by (worker) (rate(samegate_destination_connections_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{worker}}",
            ),
            unit="cps",
        ),
        _graph(
            "Bits sent to a worker",
            "Which worker's link is full?",
            (
                f"8 * sum by (worker) (rate(samegate_destination_received_bytes_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{worker}}",
            ),
            unit="bps",
        ),
        _graph(
            "Packets sent to a worker",
            "Which worker is flooded?",
            (
                f"sum by (worker) (rate(samegate_destination_received_packets_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{worker}}",
            ),
            unit="pps",
        ),
        _graph(
            "Open connections by VIP",
            "How many would a failure meet?",
            (f"sum by (vip, state) (samegate_vip_open_connections{{{CHOSEN}}})", "{{vip}} {{state}}"),
        ),
        _graph(
            "Open connections by worker",
            "Has a drained worker come to its end?",
            (f"sum by (worker, state) (samegate_destination_open_connections{{{CHOSEN}}})", "{{worker}} {{state}}"),
        ),
    ),
)

XDP = Row(
    "XDP (edge nodes with dataplane: xdp)",
    (
        _graph(
            "Packets dropped by reason",
            "What went nowhere, and why? Each reason is in docs/runbook.md.",
            (
                f"sum by (instance, reason) (rate(samegate_xdp_drops_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{instance}} {{reason}}",
            ),
            unit="pps",
        ),
        _graph(
            "Packets dropped by VIP",
            "Whose clients wait?",
            (
                f"sum by (vip, reason) (rate(samegate_vip_xdp_drops_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{vip}} {{reason}}",
            ),
            unit="pps",
        ),
        _graph(
            "Packets found in the table, by VIP",
            "Of a VIP with long connections nearly all are; those of one that is flooded go by the ring.",
            (
                f"sum by (vip) (rate(samegate_vip_table_hits_total{{{CHOSEN}}}[$__rate_interval]))"
                f" / sum by (vip) (rate(samegate_vip_received_packets_total{{{CHOSEN}}}[$__rate_interval])"
                " and on (instance, vip) samegate_vip_table_hits_total)",
                "{{vip}}",
            ),
            unit="percentunit",
        ),
        _graph(
            "Packets found in the table, by worker",
            "Does one worker get what is new, and the others what they have?",
            (
                f"sum by (worker) (rate(samegate_destination_table_hits_total{{{CHOSEN}}}[$__rate_interval]))"
                f" / sum by (worker) (rate(samegate_destination_received_packets_total{{{CHOSEN}}}[$__rate_interval])"
                " and on (instance, worker) samegate_destination_table_hits_total)",
                "{{worker}}",
            ),
            unit="percentunit",
        ),
    ),
)

ROUTERS = Row(
    "Routers",
    (
        _graph("BGP sessions", "1 is up.", (f"samegate_bgp_session_up{{{CHOSEN}}}", "{{instance}} with {{peer}}")),
        _graph("BFD sessions", "1 is up.", (f"samegate_bfd_session_up{{{CHOSEN}}}", "{{instance}} with {{peer}}")),
        _graph(
            "Session changes in an hour",
            "Which one flaps?",
            (f"changes(samegate_bgp_session_up{{{CHOSEN}}}[1h])", "{{instance}} with {{peer}}"),
        ),
    ),
)

WORKERS = Row(
    "Workers",
    (
        _graph(
            "Edge nodes that reach a worker",
            "Do all edge nodes agree?",
            ("sum by (worker) (samegate_worker_healthy)", "{{worker}}"),
        ),
        _graph(
            "Failed probes",
            "Which way do they fail?",
            (
                f'sum by (worker, reason) (rate(samegate_probe_results_total{{reason!="Answered", {CHOSEN}}}[$__rate_interval]))',
                "{{worker}} {{reason}}",
            ),
            unit="ops",
        ),
        _graph(
            "Round trip of probes",
            "Half of them, and all but one of a hundred, take less than this.",
            (
                f"histogram_quantile(0.5, sum by (instance, le) (rate(samegate_probe_rtt_seconds_bucket{{{CHOSEN}}}[$__rate_interval])))",
                "{{instance}} half",
            ),
            (
                f"histogram_quantile(0.99, sum by (instance, le) (rate(samegate_probe_rtt_seconds_bucket{{{CHOSEN}}}[$__rate_interval])))",
                "{{instance}} 99 of 100",
            ),
            unit="s",
        ),
        _graph(
            "Worker agents that are ready",
            "1 is ready.",
            (f"samegate_worker_ready{{{CHOSEN}}}", "{{instance}}"),
            columns=8,
        ),
        _graph(
            "Workers without pods that pass",
            "Which Service's active probe fails, and on how many workers?",
            (
                f"count by (service, family) (samegate_active_probe_fit{{{CHOSEN}}} == 0)",
                "{{service}} IPv{{family}}",
            ),
            columns=8,
        ),
        _graph(
            "Tunnels that are missing",
            "By worker.",
            (f"count by (instance) (samegate_tunnel_ready{{{CHOSEN}}} == 0)", "{{instance}}"),
            columns=8,
        ),
    ),
)

AGENTS = Row(
    "Agents",
    (
        _graph(
            "Duration of a pass",
            "All but one of a hundred take less than this.",
            (
                f"histogram_quantile(0.99, sum by (instance, le) (rate(samegate_reconcile_duration_seconds_bucket{{{CHOSEN}}}[$__rate_interval])))",
                "{{instance}}",
            ),
            unit="s",
        ),
        _graph(
            "Failed passes",
            "ConfigError: the operator's. Retry: the surroundings'. Bug: ours.",
            (
                f"sum by (instance, kind) (rate(samegate_reconcile_failures_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{instance}} {{kind}}",
            ),
            unit="ops",
        ),
        _graph(
            "Changes to the kernel",
            "An unchanged world makes none; a steady stream means that somebody else writes there.",
            (
                f"sum by (instance, operation) (rate(samegate_kernel_operations_total{{{CHOSEN}}}[$__rate_interval]))",
                "{{instance}} {{operation}}",
            ),
            unit="ops",
        ),
        _graph(
            "Silence of the Kubernetes API",
            "Longer than a minute or so is an outage.",
            (
                f"max by (instance) (time() - samegate_api_last_answer_timestamp_seconds{{{CHOSEN}}})",
                "{{instance}}",
            ),
            unit="s",
        ),
        _graph(
            "Processor",
            "Of one.",
            (f'rate(process_cpu_seconds_total{{job="samegate", {CHOSEN}}}[$__rate_interval])', "{{instance}}"),
            unit="percentunit",
        ),
        _graph(
            "Memory",
            "Does it grow?",
            (f'process_resident_memory_bytes{{job="samegate", {CHOSEN}}}', "{{instance}}"),
            unit="bytes",
        ),
    ),
)

ADDRESSES = Row(
    "Addresses",
    (
        _graph(
            "Pools",
            "When is a new network due?",
            ("max by (pool) (samegate_pool_addresses_used / samegate_pool_addresses)", "{{pool}}"),
            unit="percentunit",
        ),
        _graph("Refused Services and ports", "Why?", ("max by (reason) (samegate_rejections)", "{{reason}}")),
        _graph(
            "Writes to the Kubernetes API",
            "An unchanged world makes none.",
            ("sum by (object) (rate(samegate_api_writes_total[$__rate_interval]))", "{{object}}"),
            unit="ops",
        ),
    ),
)

ROWS = (NOW, VIPS, TRAFFIC, XDP, ROUTERS, WORKERS, AGENTS, ADDRESSES)


def expressions(rows: Iterable[Row] = ROWS) -> tuple[str, ...]:
    """Every PromQL expression of the dashboard, with Grafana's variables still in it."""
    return tuple(q.expression for row in rows for panel in row.panels for q in panel.queries)
