"""What becomes of live flows when the set of edge nodes changes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lab import cluster, netns, topology
from lab.report.bench import APPS, Bench, NotReached, Target, wait_until
from lab.report.catalogue import FLOWS, UDP_FLOWS, over
from lab.report.measurement import Control, Measured
from lab.report.steady import ECHO, FAMILIES, ready_target
from lab.report.tables import Table
from lab.traffic.client import FlowsState, RunningFlows

LEAVER, STAYER = topology.EDGES[1], topology.EDGES[0]
BY_HAND = "echo-by-hand"
CHANGES = 20
CHANGES_SEED = 20260101
CONTROL_BREAKS = 100
"""The control has to break more flows than this."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Flows when they were open, when an edge node had left, when it had joined again, and at the end."""

    opened: FlowsState
    leave: FlowsState
    join: FlowsState
    ended: FlowsState


def over_leave_and_join(
    bench: Bench, targets: Mapping[int, Target], count: int, interval_seconds: float
) -> dict[int, Moved]:
    """`count` flows to each target (by IP version), all open while one edge node drains, is gone, and returns."""
    with ExitStack() as stack:
        flows = {
            version: stack.enter_context(bench.open_flows(target, count, interval_seconds=interval_seconds))
            for version, target in targets.items()
        }
        with left(bench, *targets.values()):
            leave = {version: each.check() for version, each in flows.items()}
        join = {version: each.check() for version, each in flows.items()}
        return {
            version: Moved(each.opened, leave[version], join[version], each.stop()) for version, each in flows.items()
        }


def measure_udp(bench: Bench) -> Mapping[str, Measured]:
    """300 UDP flows of each family over the leave and the join of an edge node. Control: the node that stays picks workers otherwise."""
    targets = {version: bench.target(ECHO, "udp", version=version) for version in FAMILIES}
    measured = {}
    for version, seen in over_leave_and_join(bench, targets, UDP_FLOWS, interval_seconds=2.0).items():
        target = targets[version]
        value = {
            "flows": seen.opened.opened,
            "same_pod_on_leave": seen.leave.opened - seen.leave.broken,
            "same_pod_on_join": seen.join.opened - seen.join.broken,
        }
        samples = {"opened": seen.opened.summary, "ended": seen.ended.summary, "flows": seen.ended.samples}
        how, broken = moved_to_another_choice(bench, target, UDP_FLOWS)
        control = Control(f"with {how} on one edge node: flows with another pod after a move", broken, broken > 0)
        measured[over(version, "udp")] = Measured(value, samples, control)
    return measured


def broken_by_move(bench: Bench, target: Target, count: int, start: topology.Node, end: topology.Node) -> int:
    """Of `count` flows that opened through one edge node, those broken when all move to another one."""
    with routed_to(target, start):
        flows = bench.open_flows(target, count, interval_seconds=0, exchange_timeout_seconds=3.0)
    with routed_to(target, end):
        broken = flows.check().broken
    flows.stop()
    return broken


@contextmanager
def picking_otherwise(bench: Bench, edge: topology.Node, *targets: Target) -> Iterator[str]:
    """An edge node picks workers for the targets otherwise than the others while the block runs, its agent paused; yields how. Its agent mends that."""
    tables = bench.tables(edge.name)
    with bench.paused_agents(edge.name):
        yield tables.pick_otherwise(*targets)
    others = [bench.tables(other.name) for other in topology.EDGES if other is not edge]
    wait_until("the edge nodes pick alike again", lambda: all(o.picks() == tables.picks() for o in others), 15)


def moved_to_another_choice(bench: Bench, target: Target, count: int) -> tuple[str, int]:
    """Of `count` flows, those broken when they move to an edge node that picks otherwise, and how it does."""
    with picking_otherwise(bench, STAYER, target) as how:
        return how, broken_by_move(bench, target, count, LEAVER, STAYER)


@contextmanager
def left(bench: Bench, *targets: Target) -> Iterator[None]:
    """One edge node has left by drain while the block runs, and has joined again after it."""
    bench.drain(LEAVER.name)
    try:
        for target in targets:
            bench.wait_announced(target.vip, {STAYER.name})
        yield
    finally:
        bench.undrain(LEAVER.name)
    for target in targets:
        bench.wait_announced(target.vip, bench.edges)


@contextmanager
def routed_to(target: Target, edge: topology.Node) -> Iterator[None]:
    """Both ToRs send the VIP to one edge node while the block runs, whatever is announced: a lower metric beats BGP's 20."""
    # In IPv6 metric 0 means the default, 1024.
    metric = "0" if target.version == 4 else "1"
    route = [topology.host_route(target.vip), "via", str(edge.address_of(target.version)), "metric", metric]
    try:
        for tor in topology.TORS:
            netns.run(tor.namespace, ["ip", f"-{target.version}", "route", "add", *route])
        yield
    finally:
        for tor in topology.TORS:
            netns.run(tor.namespace, ["ip", f"-{target.version}", "route", "del", *route], check=False)


@contextmanager
def sysctl_held(bench: Bench, name: str, value: str, *nodes: str) -> Iterator[None]:
    """A sysctl changed by hand on some machines, agents paused so that they do not repair it; put back afterwards."""
    with bench.paused_agents(*nodes):
        before = {node: bench.machine(node).run(f"sysctl -n {name}").stdout.strip() for node in nodes}
        try:
            for node in nodes:
                bench.machine(node).run(f"sysctl -qw {name}={value}")
            yield
        finally:
            for node in nodes:
                bench.machine(node).run(f"sysctl -qw {name}={before[node]}")


@contextmanager
def losing_moved_flows(bench: Bench, *targets: Target) -> Iterator[str]:
    """Edge nodes among which moved flows do not find their worker while the block runs; yields why.

    IPVS picks up no flow that it never saw open. XDP has nothing that forbids it that: there one edge node picks otherwise.
    """
    if bench.tables(STAYER.name).dataplane == "ipvs":
        with sysctl_held(bench, "net.ipv4.vs.sloppy_tcp", "0", *sorted(bench.edges)):
            yield "sloppy_tcp=0"
    else:
        with picking_otherwise(bench, STAYER, *targets) as how:
            yield f"{how} on one edge node"


def over_moves_that_lose_flows(bench: Bench, targets: Mapping[int, Target]) -> tuple[str, dict[int, dict[str, int]]]:
    """Broken flows by IP version on the same leave and join in :func:`losing_moved_flows`, and what that was."""

    def open_all(stack: ExitStack) -> dict[int, RunningFlows]:
        return {
            version: stack.enter_context(
                bench.open_flows(target, FLOWS, interval_seconds=0, exchange_timeout_seconds=3.0)
            )
            for version, target in targets.items()
        }

    with ExitStack() as stack:
        how = stack.enter_context(losing_moved_flows(bench, *targets.values()))
        flows = open_all(stack)
        with ExitStack() as routes:
            for target in targets.values():
                routes.enter_context(routed_to(target, STAYER))
            leave = {version: each.check().broken for version, each in flows.items()}
            for each in flows.values():
                each.stop()
            late = open_all(stack)
        join = {version: each.check().broken for version, each in late.items()}
    return how, {version: {"leave": leave[version], "join": join[version]} for version in targets}


def measure_flows(bench: Bench) -> Mapping[str, Measured]:
    """400 flows of each family that exchange lines while an edge node drains, is gone, and returns."""
    targets = {version: bench.target(ECHO, version=version) for version in FAMILIES}
    # Two families at 1.5 s make little more work than one at 1 s.
    moved = over_leave_and_join(bench, targets, FLOWS, interval_seconds=1.5)
    how, controls = over_moves_that_lose_flows(bench, targets)
    measured = {}
    for version, seen in moved.items():
        samples = {
            "opened": seen.opened.summary,
            "leave": seen.leave.summary,
            "join": seen.join.summary,
            "flows": seen.ended.samples,
        }
        broken = {"leave": seen.leave.broken, "join": seen.ended.broken - seen.leave.broken}
        for event, value in broken.items():
            without = controls[version][event]
            control = Control(f"with {how}", without, without > CONTROL_BREAKS)
            measured[over(version, f"flows.{event}")] = Measured(value, samples, control)
    return measured


def random_endpoints(chance: random.Random, pods: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Endpoints of a slice: each node's pods are ready, or terminating but serving, or absent; at least one is ready.

    `pods` are pod addresses by node. More or fewer of them change the node's weight where weights count endpoints.
    """
    while True:
        endpoints: list[dict[str, Any]] = []
        anyone_ready = False
        for node, addresses in pods.items():
            fate = chance.choice(("ready", "ready", "terminating", "absent"))
            if fate == "absent":
                continue
            ready = fate == "ready"
            endpoints += [
                {
                    "addresses": [address],
                    "nodeName": node,
                    "conditions": {"ready": ready, "serving": True, "terminating": not ready},
                }
                for address in chance.sample(addresses, chance.randint(1, len(addresses)))
            ]
            anyone_ready = anyone_ready or ready
        if anyone_ready:
            return endpoints


def ready_endpoints(pods: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """All pods (addresses by node) as ready endpoints."""
    return [
        {"addresses": [address], "nodeName": node, "conditions": {"ready": True}}
        for node, found in pods.items()
        for address in found
    ]


def node_states(endpoints: list[dict[str, Any]]) -> dict[str, str]:
    """Whether each node that has endpoints has a ready one, or only terminating ones."""
    states: dict[str, str] = {}
    for endpoint in endpoints:
        ready = endpoint["conditions"]["ready"]
        states[endpoint["nodeName"]] = (
            "ready" if ready or states.get(endpoint["nodeName"]) == "ready" else "terminating"
        )
    return states


def by_hand(endpoints: list[dict[str, Any]], port: int) -> str:
    """The slice of the Service without selector, as a manifest."""
    return json.dumps(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{BY_HAND}-1",
                "namespace": APPS,
                "labels": {
                    "kubernetes.io/service-name": BY_HAND,
                    "endpointslice.kubernetes.io/managed-by": "lab.samegate.dev",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "tcp", "protocol": "TCP", "port": port}],
            "endpoints": endpoints,
        }
    )


def echo_pods(bench: Bench, protocol: str = "TCP") -> tuple[dict[str, list[str]], int]:
    """The IPv4 addresses of the echo app's pods by node, and the port they listen on with this protocol."""
    pieces = bench.objects("endpointslices", "-n", APPS, "-l", f"kubernetes.io/service-name={ECHO}")["items"]
    piece = next(piece for piece in pieces if piece["addressType"] == "IPv4")
    pods: dict[str, list[str]] = {}
    for endpoint in piece["endpoints"]:
        pods.setdefault(endpoint["nodeName"], []).extend(endpoint["addresses"])
    port = next(port["port"] for port in piece["ports"] if port.get("protocol", "TCP") == protocol)
    return {node: sorted(addresses) for node, addresses in sorted(pods.items())}, port


def measure_join_after_change(bench: Bench) -> Mapping[str, Measured]:
    """An edge node that forgot everything joins one with a long history; flows opened after the last of 20 changes stay whole.
    Control: one edge node picks otherwise.

    The changes are made to a Service whose EndpointSlice is written by hand, so that they are exact and touch no other Service.
    """
    chance = random.Random(CHANGES_SEED)
    pods, port = echo_pods(bench)
    history: list[dict[str, Any]] = []
    with bench.applied("echo-by-hand.yaml"):
        try:
            bench.apply(by_hand(ready_endpoints(pods), port))
            target = ready_target(bench, BY_HAND)
            bench.drain(LEAVER.name)
            bench.wait_announced(target.vip, {STAYER.name})
            states = node_states(ready_endpoints(pods))
            for number in range(1, CHANGES + 1):
                before, former = bench.tables(STAYER.name).table(), states
                endpoints = random_endpoints(chance, pods)
                states = node_states(endpoints)
                bench.apply(by_hand(endpoints, port))
                # Another number of pods on the same nodes alters nothing where weights are equal.
                seen = _changed(bench, before) if states != former else False
                history.append({"change": number, "nodes": states, "table_changed": seen})
            # The joining node starts from nothing, the staying one from all of that.
            joining, staying = bench.tables(LEAVER.name), bench.tables(STAYER.name)
            joining.clear()
            wait_until("the edge nodes pick alike", lambda: joining.picks() == staying.picks(), 10)
            tables = tables_now(bench)
            with bench.open_flows(target, FLOWS) as flows:
                bench.undrain(LEAVER.name)
                bench.wait_announced(target.vip, bench.edges)
                flows.check()
                ended = flows.stop()
            bench.apply(by_hand(ready_endpoints(pods), port))
            wait_until("both workers serve", lambda: _even(tables_now(bench), target, len(pods)), 10)
            how, broken = moved_to_another_choice(bench, target, FLOWS)
        finally:
            bench.undrain(LEAVER.name)
            cluster.kubectl("delete", "endpointslice", "-n", APPS, f"{BY_HAND}-1", "--ignore-not-found")
    samples = {
        "seed": CHANGES_SEED,
        "history": history,
        "tables": tables,
        "ended": ended.summary,
        "flows": ended.samples,
    }
    control = Control(f"with {how} on one edge node: flows broken by a move", broken, broken > 0)
    return {"flows.join_after_change": Measured(ended.broken, samples, control)}


def tables_now(bench: Bench) -> dict[str, Table]:
    """What each edge node forwards by."""
    return {edge.name: bench.tables(edge.name).table() for edge in topology.EDGES}


def _even(tables: Mapping[str, Table], target: Target, workers: int) -> bool:
    """Whether every edge node sends the target's connections to this many workers alike."""
    return all([weight for _, weight in table.get(target.key, [])] == [1] * workers for table in tables.values())


def _changed(bench: Bench, before: Table) -> bool:
    """Whether the staying edge node's table became another one within the time that a change takes (some changes alter no weight)."""
    try:
        wait_until("the change is seen", lambda: bench.tables(STAYER.name).table() != before, 2, 0.05)
    except NotReached:
        return False
    return True
