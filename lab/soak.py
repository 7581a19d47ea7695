"""`python -m lab soak --minutes N --seed S`: one fault after the other on a settled rack, with live flows and new connections beside them.
With `--calm` nothing is broken: what goes wrong then goes wrong by itself.

What is done and when is a schedule, a pure function of seed and minutes: a run that found something is made again by its seed. What it counts: live
flows that broke though the fault should spare them, and memory and descriptors of the agents and of BIRD that grew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lab import netns, routers, topology
from lab.faults import BY_NAME, WORKER, Fault
from lab.processes import write_text
from lab.report.bench import Bench, NotReached, Target
from lab.report.route_watch import RouteWatch
from lab.report.steady import ECHO
from lab.traffic.client import RunningFlows, TrafficFailed
from lab.traffic.connections import Sample

RESULT = topology.STATE / "soak.json"
FLOWS = 100
NEW_PER_SECOND = 10.0
CALM_NEW_PER_SECOND = 2.0
CALM_LOOK_SECONDS = 60.0
SHORTEST_HOLD_SECONDS = 2.0
QUIET_SECONDS = (5.0, 20.0)
"""Between two faults, so that each meets a rack of its own."""
SETTLING_SECONDS = 30.0
"""What a step is reckoned to take beside quiet and hold; a machine that boots takes longer, and the run then makes fewer steps."""
LEAD_SECONDS = 1.0
"""So that the new connections are under way when the fault comes."""
WATCHED_SECONDS = 8.0
"""From the end of a fault until the rack is asked whether it has settled: a pod whose process was killed counts as Ready until its kubelet has looked."""
SETTLE_TIMEOUT_SECONDS = 300.0
WARM_UP_SECONDS = 60.0
MOST_GROWTH = 0.10
"""Of resident memory; docs/scorecard.md row 14 allows 10 % in 10 minutes."""
LEAST_GROWTH_KIB = 2048
"""Of BIRD's few MiB a tenth is what one more buffer takes; a leak goes on and passes this too."""
MOST_NEW_DESCRIPTORS = 16
"""Descriptors come and go: an agent asks each other node's page at once, and each page may be asked by all others."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """A fault of `lab.faults` that a soak may choose: how long at most it is held before it is undone, and whose flows it may break."""

    fault: str
    longest_hold_seconds: float
    may_break: Literal["none", "of its worker", "all"]


HAZARDS: tuple[Hazard, ...] = (
    Hazard("kill-edge", 20, "none"),
    Hazard("drain-edge", 20, "none"),
    Hazard("drain-worker", 20, "none"),
    Hazard("kill-agent", 0, "none"),
    Hazard("pause-agent", 60, "none"),
    Hazard("kill-bird", 0, "none"),
    Hazard("stop-api", 60, "none"),
    Hazard("filter-icmp", 20, "none"),
    Hazard("narrow-path", 20, "none"),
    Hazard("kill-worker", 20, "of its worker"),
    Hazard("kill-pods", 0, "of its worker"),
    # Between the fault and its repair, within 3 s, a packet may meet a kernel that knows nothing of its flow.
    Hazard("clear-table", 0, "all"),
    Hazard("delete-tunnel", 0, "of its worker"),
    Hazard("no-endpoints", 20, "all"),
    Hazard("source-check", 20, "all"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """After `quiet_seconds` the fault is made, held for `hold_seconds` where it can be undone, undone, and the rack left to settle."""

    number: int
    quiet_seconds: float
    hazard: Hazard
    hold_seconds: float


def schedule(seed: int, minutes: float, hazards: Sequence[Hazard] = HAZARDS) -> tuple[Step, ...]:
    """What a soak does: never the same fault twice in a row, at least one step, reckoned to end within `minutes`."""
    chance = random.Random(seed)
    steps: list[Step] = []
    seconds = 0.0
    last: Hazard | None = None
    while True:
        last = chance.choice([h for h in hazards if h is not last] or list(hazards))
        quiet = round(chance.uniform(*QUIET_SECONDS), 1)
        hold = (
            round(chance.uniform(SHORTEST_HOLD_SECONDS, last.longest_hold_seconds), 1)
            if last.longest_hold_seconds
            else 0.0
        )
        seconds += quiet + hold + SETTLING_SECONDS
        if steps and seconds > minutes * 60:
            return tuple(steps)
        steps.append(Step(len(steps) + 1, quiet, last, hold))


def wrongly_broken(hazard: Hazard, broken_flows: Iterable[Mapping[str, Any]], worker: str) -> list[Mapping[str, Any]]:
    """The broken flows that the fault should have spared; `worker` is the node whose flows it may break."""
    if hazard.may_break == "all":
        return []
    return [flow for flow in broken_flows if hazard.may_break == "none" or flow["node"] != worker]


@dataclass(frozen=True, slots=True)
class Usage:
    """A process at one moment: resident memory in KiB, and open descriptors."""

    at_seconds: float
    node: str
    program: str
    pid: int
    resident_kib: int
    descriptors: int


def usage(at_seconds: float, node: str, program: str, text: str) -> list[Usage]:
    """From lines of process id, resident KiB and descriptors; a process that ended meanwhile leaves a line with less, which is left out."""
    return [
        Usage(at_seconds, node, program, int(pid), int(resident), int(descriptors))
        for pid, resident, descriptors in re.findall(r"^(\d+) (\d+) (\d+)$", text, re.MULTILINE)
    ]


def grown(samples: Iterable[Usage]) -> list[str]:
    """What grew in the life of one process, from its first minute on to its last sample, one sentence each.

    A process that was started anew by a fault begins anew, and one that has not lived long enough says nothing.
    """
    lives: dict[tuple[str, str, int], list[Usage]] = {}
    for sample in samples:
        lives.setdefault((sample.node, sample.program, sample.pid), []).append(sample)
    found = []
    for (node, program, pid), life in lives.items():
        warm = [s for s in life if s.at_seconds - life[0].at_seconds >= WARM_UP_SECONDS]
        if len(warm) < 2:
            continue
        first, last = warm[0], warm[-1]
        seconds = last.at_seconds - first.at_seconds
        if last.resident_kib - first.resident_kib > max(first.resident_kib * MOST_GROWTH, LEAST_GROWTH_KIB):
            found.append(
                f"{program} on {node} ({pid}): {first.resident_kib} to {last.resident_kib} KiB in {seconds:.0f} s"
            )
        if last.descriptors > first.descriptors + MOST_NEW_DESCRIPTORS:
            found.append(
                f"{program} on {node} ({pid}): {first.descriptors} to {last.descriptors} descriptors in {seconds:.0f} s"
            )
    return found


def make_and_undo(fault: Fault, hold_seconds: float, sleep: Callable[[float], object] = time.sleep) -> None:
    """Make the fault, hold it, and undo it whatever happens meanwhile, Ctrl-C included.

    An undo that finds nothing to undo is no error: the kubelet may have been quicker. Whether the rack is whole again is asked afterwards.
    """
    fault.apply()
    try:
        sleep(hold_seconds)
    finally:
        if fault.undo is not None:
            with contextlib.suppress(NotReached, netns.CommandError):
                fault.undo()


TROUBLE = (NotReached, netns.CommandError, TrafficFailed, subprocess.SubprocessError, OSError)
"""What a broken rack makes of a step: it ends the run, is told, and what was seen until then is kept."""

# The edge: everything below touches the rack.


def look_at_processes(bench: Bench, began: float) -> list[Usage]:
    """Agents and BIRD on all machines now."""
    found: list[Usage] = []
    for node in topology.NODES:
        for program, command in (("agent", "lbnode run "), ("BIRD", "bird -")):
            pids = " ".join(map(str, bench.pids(node.name, command)))
            if pids:
                script = f"for p in {pids}; do echo $p $(awk '/^VmRSS:/ {{print $2}}' /proc/$p/status) $(ls /proc/$p/fd | wc -l); done 2>/dev/null"
                shown = bench.machine(node.name).run(script, check=False).stdout
                found += usage(round(time.monotonic() - began, 1), node.name, program, shown)
    return found


def soak(bench: Bench, steps: Sequence[Step], minutes: float) -> dict[str, Any]:
    """Make the steps, as many as the time allows, on a rack that has to be settled. What happened, as JSON values."""
    began = time.monotonic()
    bench.settle(SETTLE_TIMEOUT_SECONDS)
    target = bench.target(ECHO)
    told: list[dict[str, Any]] = []
    usages: list[Usage] = []
    trouble = ""
    flows = bench.open_flows(target, FLOWS)
    try:
        for step in steps:
            if told and time.monotonic() - began > minutes * 60:
                break
            usages += look_at_processes(bench, began)
            time.sleep(step.quiet_seconds)
            bench.say(f"step {step.number} of {len(steps)}: {step.hazard.fault}, held for {step.hold_seconds:g} s")
            told.append(make(bench, target, flows, step))
            bench.say(f"  {_told_of_step(told[-1])}")
            if told[-1]["trouble"]:
                break
            if told[-1]["flows_broken"]:
                flows.stop()
                flows = bench.open_flows(target, FLOWS)
        usages += look_at_processes(bench, began)
    except TROUBLE as error:
        trouble = f"{type(error).__name__}: {error}"
    finally:
        # After Ctrl-C it has ended by itself.
        with contextlib.suppress(TrafficFailed):
            flows.stop()
    return {"steps": told, "trouble": trouble, "grown": grown(usages), "usage": [asdict(u) for u in usages]}


def make(bench: Bench, target: Target, flows: RunningFlows, step: Step) -> dict[str, Any]:
    """One step and what became of flows and new connections, until the rack has settled again or does not."""
    settled, trouble = None, ""
    with bench.client.connections(bench.connections_plan(target, NEW_PER_SECOND)) as load:
        time.sleep(LEAD_SECONDS)
        try:
            make_and_undo(BY_NAME[step.hazard.fault], step.hold_seconds)
            time.sleep(WATCHED_SECONDS)
            settled = round(bench.settle(SETTLE_TIMEOUT_SECONDS), 1)
        except TROUBLE as error:
            trouble = f"{type(error).__name__}: {error}"
        attempts = load.stop()
    state = flows.check()
    return {
        **asdict(step),
        "settled_s": settled,
        "trouble": trouble,
        "flows_broken": state.broken,
        "wrongly_broken": wrongly_broken(step.hazard, state.broken_flows, WORKER),
        **connections(attempts),
    }


def connections(attempts: Sequence[Sample]) -> dict[str, Any]:
    """How many new connections were tried and failed, and by what."""
    failed = [a for a in attempts if not a.ok]
    return {
        "new_connections": len(attempts),
        "new_failed": len(failed),
        "new_failed_by": dict(Counter(str(a.error) for a in failed)),
    }


def calm(bench: Bench, minutes: float) -> dict[str, Any]:
    """Leave the rack alone, and look at it once a minute. What happened, as JSON values."""
    bench.settle(SETTLE_TIMEOUT_SECONDS)
    began = time.monotonic()
    target = bench.target(ECHO)
    usages: list[Usage] = []
    trouble: list[str] = []
    downs, restarts = routers.bfd_down_count(), bench.restarts()
    with (
        RouteWatch(topology.TORS[0].name) as one,
        RouteWatch(topology.TORS[1].name) as other,
        bench.open_flows(target, FLOWS) as flows,
        bench.client.connections(bench.connections_plan(target, CALM_NEW_PER_SECOND)) as load,
    ):
        while time.monotonic() - began < minutes * 60:
            usages += look_at_processes(bench, began)
            if found := bench.trouble():
                bench.say(found)
                trouble.append(f"{time.monotonic() - began:.0f} s: {found}")
            time.sleep(CALM_LOOK_SECONDS)
        attempts = load.stop()
        state = flows.check()
        withdrawals = [asdict(e) for watch in (one, other) for e in watch.withdrawals(began)]
    return {
        "trouble": trouble,
        "flows_broken": state.broken,
        **connections(attempts),
        "withdrawals": [{**w, "next_hops": sorted(w["next_hops"])} for w in withdrawals],
        "bfd_downs": routers.bfd_down_count() - downs,
        "restarts": bench.restarts() - restarts,
        "grown": grown(usages),
        "usage": [asdict(u) for u in usages],
    }


def stayed_calm(result: Mapping[str, Any]) -> bool:
    """Whether nothing at all happened on a rack that was left alone."""
    quiet = ("trouble", "flows_broken", "new_failed", "withdrawals", "bfd_downs", "restarts", "grown")
    return not any(result[key] for key in quiet)


def holds(result: Mapping[str, Any]) -> bool:
    """Whether no flow broke that should live, the rack settled after each fault, and nothing grew."""
    quiet = not result["grown"] and not result["trouble"] and bool(result["steps"])
    return quiet and not any(s["wrongly_broken"] or s["trouble"] for s in result["steps"])


def main(arguments: list[str]) -> int:
    """`soak [--minutes N] [--seed S] [--schedule]`, the command's name first: 0 when everything held, 1 when not, 2 without a settled rack."""
    parser = argparse.ArgumentParser(prog="python -m lab soak", description="random faults under load, by a seed")
    parser.add_argument(
        "--minutes", type=float, default=30.0, metavar="N", help="how long (30); at least one fault is made"
    )
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="do what a run with this seed did")
    parser.add_argument("--calm", action="store_true", help="break nothing: show that the rack is stable by itself")
    parser.add_argument("--schedule", action="store_true", help="show what would be done, and do nothing")
    options = parser.parse_args(arguments[1:])
    if not 0 < options.minutes <= 24 * 60:
        parser.error(f"--minutes {options.minutes:g}: a soak takes more than 0 minutes and at most a day")
    began = time.monotonic()
    bench = Bench(lambda text: print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True))
    if options.calm:
        return _tell(lambda: calm(bench, options.minutes), {"minutes": options.minutes}, _told_of_calm, stayed_calm)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    steps = schedule(seed, options.minutes)
    print(
        f"seed {seed}: {len(steps)} steps; again: python -m lab soak --minutes {options.minutes:g} --seed {seed}",
        flush=True,
    )
    if options.schedule:
        for step in steps:
            print(
                f"{step.number:4}  after {step.quiet_seconds:4.1f} s  {step.hazard.fault:14} held {step.hold_seconds:4.1f} s"
            )
        return 0

    conditions = {"seed": seed, "minutes": options.minutes}
    return _tell(
        lambda: soak(bench, steps, options.minutes), conditions, lambda result: _told_of_faults(result, steps), holds
    )


def _tell(
    run: Callable[[], dict[str, Any]],
    conditions: Mapping[str, Any],
    told: Callable[[Mapping[str, Any]], str],
    good: Callable[[Mapping[str, Any]], bool],
) -> int:
    try:
        result = run()
    except TROUBLE as error:
        print(f"error: {error}. See `python -m lab status`", file=sys.stderr)
        return 2
    write_text(RESULT, json.dumps({**conditions, **result}, indent=1))
    print(told(result))
    return 0 if good(result) else 1


def _told_of_step(step: Mapping[str, Any]) -> str:
    wrong = len(step["wrongly_broken"])
    return (
        f"{wrong} flows broken that should live, {step['flows_broken'] - wrong} excused; "
        f"{step['new_failed']} of {step['new_connections']} new connections failed"
        + (f"; {step['trouble']}" if step["trouble"] else "")
    )


def _told_of_faults(result: Mapping[str, Any], steps: Sequence[Step]) -> str:
    wrong = sum(len(s["wrongly_broken"]) for s in result["steps"])
    return (
        f"{len(result['steps'])} of {len(steps)} steps: {wrong} flows broken that should live; grown: {', '.join(result['grown']) or 'nothing'}"
        + (f"; ended by {result['trouble']}" if result["trouble"] else "")
    )


def _told_of_calm(result: Mapping[str, Any]) -> str:
    return (
        f"{result['flows_broken']} of {FLOWS} flows broken, {result['new_failed']} of {result['new_connections']} new connections failed, "
        f"{len(result['withdrawals'])} withdrawals, {result['bfd_downs']} BFD sessions down, {result['restarts']} restarts, "
        f"{len(result['trouble'])} times in trouble; grown: {', '.join(result['grown']) or 'nothing'}"
    )
