"""Runs the measurements in an order in which none disturbs the next, and counts what went on beside them."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from lab import netns, routers, topology
from lab.deploy import DeployError
from lab.machines import MachineError
from lab.processes import write_text
from lab.report import broken, killed, lifecycle, live_flows, path, steady
from lab.report.bench import Bench, NotReached
from lab.report.catalogue import BY_KEY, both, nested
from lab.report.measurement import Finding, Measured, Measurement, failed, judge
from lab.routers import BfdDown
from lab.traffic.client import TrafficFailed

REPORT = topology.STATE / "report.json"
SAMPLES = topology.STATE / "report-samples"
BFD_KEY = "bfd_false_downs"

_EDGES = tuple(edge.name for edge in topology.EDGES)
_LEAVER = (live_flows.LEAVER.name,)
MEASUREMENTS: tuple[Measurement, ...] = (
    # First what changes nothing.
    Measurement(both("routes"), steady.measure_routes),
    Measurement(both("spread"), steady.measure_spread),
    Measurement(both("client_ip_preserved"), steady.measure_client_ip_preserved),
    Measurement(("affinity",), steady.measure_affinity),
    Measurement(("source_ranges",), steady.measure_source_ranges),
    Measurement(both("exposed_ports"), steady.measure_exposed_ports),
    Measurement(("spoofed",), path.measure_spoofed),
    Measurement(both("loops"), path.measure_loops),
    Measurement(both("upload_no_icmp", "download_no_icmp"), path.measure_no_icmp),
    Measurement(both("icmp_errors"), path.measure_icmp_errors),
    # Then what moves flows, then what breaks things, the gentlest first.
    Measurement(both("udp"), live_flows.measure_udp),
    Measurement(both("flows.leave", "flows.join"), live_flows.measure_flows),
    Measurement(("flows.join_after_change",), live_flows.measure_join_after_change),
    Measurement(("dataplane_broken.withdrawn_s",), broken.measure_dataplane_broken),
    Measurement(("agent_killed",), broken.measure_agent_killed, loses=_LEAVER),
    Measurement(("no_endpoints",), broken.measure_no_endpoints),
    Measurement(("backend_drained",), broken.measure_backend_drained),
    Measurement(("worker_killed",), killed.measure_worker_killed),
    Measurement(
        both("edge_killed.route_gone_s", "edge_killed.new_failed_after_s", "edge_killed.flows_broken"),
        killed.measure_edge_killed,
        loses=_LEAVER,
    ),
    Measurement(("api_down",), lifecycle.measure_api_down),
    Measurement(("rollout",), lifecycle.measure_rollout, loses=_EDGES),
    Measurement(("second_up_changes",), lifecycle.measure_second_up),
    Measurement(("leftovers",), lifecycle.measure_leftovers, loses=_EDGES),
)

_EXPECTED = (
    NotReached, LookupError, TrafficFailed, DeployError, MachineError, netns.CommandError, subprocess.SubprocessError, OSError, ValueError,
)  # fmt: skip
"""What a broken rack makes of a measurement: told in its row, the others go on."""


def new_downs(before: Iterable[BfdDown], after: Iterable[BfdDown], on_purpose: Iterable[str]) -> list[BfdDown]:
    """What is in `after` and was not in `before`, but sessions with the peers (addresses) in `on_purpose`."""
    excused = set(on_purpose)
    return [down for down in (Counter(after) - Counter(before)).elements() if down.peer not in excused]


class BfdLedger:
    """BFD sessions that went down over the run without anybody wanting it."""

    def __init__(self) -> None:
        self._last = routers.bfd_downs()
        self.false: list[dict[str, Any]] = []

    def close(self, measurement: str, loses: Iterable[str]) -> None:
        """Account for what happened since the last time."""
        now = routers.bfd_downs()
        purposely = [str(topology.node(name).address) for name in loses]
        self.false += [{"during": measurement, **asdict(down)} for down in new_downs(self._last, now, purposely)]
        self._last = now

    def measured(self) -> Measured:
        return Measured(len(self.false), {"false_downs": self.false})


def run(
    keys: Iterable[str],
    each: Callable[[Finding], None] = lambda finding: None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Finding]:
    """Make the measurements that yield any of `keys`; `each` sees a finding as soon as there is one. All findings, in the catalogue's order."""
    wanted = set(keys)
    bench = Bench(say)
    say("waiting for a settled rack")
    bench.settle(180)
    ledger = BfdLedger()
    findings: list[Finding] = []
    for measurement in MEASUREMENTS:
        if not wanted & set(measurement.keys):
            continue
        say(measurement.name)
        for finding in _one(bench, measurement):
            findings.append(finding)
            each(finding)
        try:
            bench.settle(180)
        except _EXPECTED as error:
            say(f"the rack did not settle after {measurement.name}: {error}")
        ledger.close(measurement.name, measurement.loses)
    if BFD_KEY in wanted:
        findings.append(judge(BFD_KEY, ledger.measured(), 0.0, _keep(BFD_KEY, ledger.measured())))
        each(findings[-1])
    order = list(BY_KEY)
    findings = sorted((f for f in findings if f.key in wanted), key=lambda finding: order.index(finding.key))
    write_text(REPORT, json.dumps(as_json(findings), indent=1))
    return findings


def _one(bench: Bench, measurement: Measurement) -> list[Finding]:
    began = time.monotonic()
    try:
        results = measurement.function(bench)
    except _EXPECTED as error:
        seconds = round(time.monotonic() - began, 1)
        return [failed(key, f"{type(error).__name__}: {error}", seconds) for key in measurement.keys]
    seconds = round(time.monotonic() - began, 1)
    return [judge(key, results[key], seconds, _keep(key, results[key])) for key in measurement.keys]


def _keep(key: str, measured: Measured) -> str:
    """Write the raw samples down; the file's name relative to the checkout."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    path = SAMPLES / f"{key}.json"
    write_text(path, json.dumps({"value": measured.value, "samples": measured.samples}, default=str))
    return str(path.relative_to(topology.ROOT))


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """The values under the catalogue's keys, and under `verdicts` how each was judged."""
    listed = list(findings)
    verdicts = {
        finding.key: {
            "what": finding.what,
            "must": finding.must,
            "met": finding.met,
            "control": asdict(finding.control) if finding.control else None,
            "error": finding.error,
            "seconds": finding.seconds,
            "samples": finding.samples,
        }
        for finding in listed
    }
    return {
        **nested({finding.key: finding.value for finding in listed}),
        "verdicts": verdicts,
        "met": all(f.met for f in listed),
    }
