"""Whole machines that die, as if their power were cut."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from lab import topology
from lab.report.bench import Bench
from lab.report.broken import connection_summary
from lab.report.catalogue import FLOWS, over
from lab.report.live_flows import LEAVER
from lab.report.measurement import Control, Measured
from lab.report.route_watch import RouteWatch, lost_at
from lab.report.steady import ECHO, FAMILIES
from lab.traffic.client import FlowsState
from lab.traffic.connections import Sample

SAMPLED_AFTER_SECONDS = 8.0
"""How long new connections are sampled after a kill: far beyond the deadlines of 2 and 3 s."""
VICTIM_WORKER = topology.WORKERS[1]


def last_failed_after(samples: Iterable[Sample], since: float) -> float:
    """Seconds from `since` to the beginning of the last connection that failed; 0 if none did."""
    return round(max((s.at - since for s in samples if not s.ok and s.at >= since), default=0.0), 3)


def slowest_after(samples: Iterable[Sample], since: float) -> float:
    """Milliseconds of the slowest connection that succeeded, of those begun from `since` on."""
    return max((s.milliseconds for s in samples if s.ok and s.at >= since), default=0.0)


def measure_edge_killed(bench: Bench) -> Mapping[str, Measured]:
    """An edge node dies under 400 flows and 100 new connections a second of each family. Control: some of the flows were its own."""
    targets = {version: bench.target(ECHO, version=version) for version in FAMILIES}
    machine = bench.machine(LEAVER.name)
    with ExitStack() as stack:
        watches = [stack.enter_context(RouteWatch(tor.name)) for tor in topology.TORS]
        flows = {v: stack.enter_context(bench.open_flows(t, FLOWS, interval_seconds=1.5)) for v, t in targets.items()}
        load = {
            version: stack.enter_context(bench.client.connections(bench.connections_plan(target, 100)))
            for version, target in targets.items()
        }
        time.sleep(1)  # so that the load is under way
        killed = time.monotonic()
        machine.kill()
        try:
            for target in targets.values():
                bench.wait_announced(target.vip, {topology.EDGES[0].name}, 20)
            time.sleep(max(0.0, killed + SAMPLED_AFTER_SECONDS - time.monotonic()))
            for each in flows.values():
                each.check()
            ended = {version: each.stop() for version, each in flows.items()}
            attempts = {version: each.stop() for version, each in load.items()}
        finally:
            machine.start()
    machine.wait_ready()
    back = bench.settle(180)
    measured: dict[str, Measured] = {}
    for version, target in targets.items():
        hop = str(LEAVER.address_of(version))
        gone = {watch.router: lost_at(watch.events, target.vip, hop, killed) for watch in watches}
        found = _edge_killed(killed, gone, ended[version], attempts[version], back)
        measured |= {over(version, f"edge_killed.{key}"): value for key, value in found.items()}
    return measured


def _edge_killed(
    killed: float,
    gone: Mapping[str, float | None],
    ended: FlowsState,
    attempts: tuple[Sample, ...],
    back: float,
) -> dict[str, Measured]:
    # A route that went unseen by the watch is no result.
    gone_s = None if None in gone.values() else round(max(at for at in gone.values() if at) - killed, 3)
    slow = [s for s in attempts if s.milliseconds > 900]
    samples = {
        "route_gone_s": {router: round(at - killed, 3) if at else None for router, at in gone.items()},
        "connections": connection_summary(attempts) | {"slowest_ok_ms_after_kill": slowest_after(attempts, killed)},
        "flows": ended.summary,
        "raw_flows": ended.samples,
        "settled_again_s": round(back, 1),
    }
    moved = Control(
        "new connections that met the dead node first (answered only after a retransmission)", len(slow), len(slow) > 0
    )
    return {
        "route_gone_s": Measured(gone_s, samples),
        "new_failed_after_s": Measured(last_failed_after(attempts, killed), samples, moved),
        "flows_broken": Measured(ended.broken, samples),
    }


def measure_worker_killed(bench: Bench) -> Mapping[str, Measured]:
    """A worker dies: its own flows are lost, nobody else's; new connections go elsewhere soon. Control: its own flows did break."""
    target = bench.target(ECHO)
    machine = bench.machine(VICTIM_WORKER.name)
    with (
        bench.open_flows(target, FLOWS) as flows,
        bench.client.connections(bench.connections_plan(target, 100)) as load,
    ):
        time.sleep(1)  # so that the load is under way
        killed = time.monotonic()
        machine.kill()
        try:
            time.sleep(SAMPLED_AFTER_SECONDS)
            flows.check()
            ended = flows.stop()
            attempts = load.stop()
            hops = bench.announced_by(target.vip)
        finally:
            machine.start()
    machine.wait_ready()
    back = bench.settle(180)
    value = {
        "new_failed_for_s": last_failed_after(attempts, killed),
        "other_flows_broken": ended.broken_except(node=VICTIM_WORKER.name),
    }
    own = ended.broken - ended.broken_except(node=VICTIM_WORKER.name)
    samples = {
        "connections": connection_summary(attempts) | {"slowest_ok_ms_after_kill": slowest_after(attempts, killed)},
        "flows": ended.summary,
        "raw_flows": ended.samples,
        "announced_meanwhile": {tor: sorted(edges) for tor, edges in hops.items()},
        "settled_again_s": round(back, 1),
    }
    return {"worker_killed": Measured(value, samples, Control("flows of the killed worker broken", own, own > 0))}
