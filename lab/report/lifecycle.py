"""What happens over the life of a deployment: roll-outs, API outages, a second `up`, the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import yaml

from lab import cluster, control_plane, deploy, leftovers, topology
from lab.report.bench import APPS, SYSTEM_NAMESPACE, Bench, Target, wait_until
from lab.report.broken import connection_summary
from lab.report.catalogue import FLOWS
from lab.report.live_flows import BY_HAND, by_hand, echo_pods, ready_endpoints
from lab.report.measurement import Control, Measured
from lab.report.path import iptables_rules
from lab.report.route_watch import RouteWatch
from lab.report.steady import ECHO, has_address

OUTAGE_SECONDS = 60.0
UNKNOWN_TIMEOUT_SECONDS = 120.0
"""A Node is Unknown 50 s after its last heartbeat (kube-controller-manager's node-monitor-grace-period)."""


def apps_pinned(image: str) -> dict[str, Any]:
    """Stack configuration that keeps the apps' pods on `image`, whatever the load balancer's own is."""
    apps = yaml.safe_load(deploy.COMMITTED.read_text())["config"]["samegate:apps"]
    return {"samegate:apps": [{**app, "images": {**app.get("images", {}), "samegate": image}} for app in apps]}


def measure_rollout(bench: Bench) -> Mapping[str, Measured]:
    """The load balancer's image rolled to another digest of the same code and back by `pulumi up`, under flows and new connections.

    Control: the edge nodes' pods taken away all at once rather than one after the other.
    """
    target = bench.target(ECHO)
    image = str(deploy.outputs()["image"])
    other = deploy.build_and_push({"dev.samegate.lab.rollout": "another"})
    if other == image:
        raise LookupError(f"the labelled image has the digest of the plain one, {image}: nothing would be rolled")
    # What the checkout changed since the last deploy goes first, so that the roll-out rolls the image and nothing else.
    deploy.deploy(image, apps_pinned(image))
    bench.settle(300)
    seconds: dict[str, float] = {}
    with (
        RouteWatch("tor1") as watch,
        bench.open_flows(target, FLOWS, interval_seconds=2.0) as flows,
        bench.client.connections(bench.connections_plan(target, 40)) as load,
    ):
        for way, wanted in (("forward", other), ("back", image)):
            began = time.monotonic()
            deploy.deploy(wanted, apps_pinned(image))
            bench.settle(300)
            seconds[way] = round(time.monotonic() - began, 1)
            flows.check()
        ended = flows.stop()
        attempts = load.stop()
        moves = len(watch.events)
    value = {"new_failed": sum(1 for attempt in attempts if not attempt.ok), "flows_broken": ended.broken}
    samples = {
        "images": {"from": image, "to": other},
        "seconds": seconds,
        "route_events_on_tor1": moves,
        "connections": connection_summary(attempts),
        "flows": ended.summary,
        "raw_flows": ended.samples,
    }
    failed = _all_edges_at_once(bench, target)
    control = Control("both edge pods killed at once: new connections failed", failed, failed > 0)
    return {"rollout": Measured(value, samples, control)}


def _all_edges_at_once(bench: Bench, target: Target) -> int:
    """New connections that fail when nothing orders the restart of the edge pods."""
    with bench.client.connections(bench.connections_plan(target, 20)) as load:
        time.sleep(1)  # so that the load is under way
        edge_pods = ("-n", SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/component=edge")
        cluster.kubectl("delete", "pod", *edge_pods, "--grace-period=0", "--force")
        bench.settle(180)
        attempts = load.stop()
    return sum(1 for attempt in attempts if not attempt.ok)


def _reconciled(bench: Bench, pods: Mapping[str, list[str]], port: int, since: float) -> dict[str, float]:
    """Seconds from `since` until a Service that is created now has its address and is programmed on both edge nodes; and until it is announced.

    Its endpoints are written by hand, because kube-controller-manager's watches come back only after up to 30 s (client-go's
    backoff). kube-proxy's do too, and a VIP is announced only once kube-proxy delivers it: so that time is told, and is not samegate's own.
    """
    with bench.applied("echo-by-hand.yaml"):
        try:
            bench.apply(by_hand(ready_endpoints(pods), port))
            wait_until("it has an address", lambda: has_address(bench, BY_HAND), 30, 0.1)
            target = bench.target(BY_HAND)
            for edge in topology.EDGES:
                wait_until(f"{edge.name} has it", partial(_programmed, bench, edge.name, target, len(pods)), 30, 0.1)
            programmed = round(time.monotonic() - since, 2)
            bench.wait_announced(target.vip, bench.edges, 90)
            return {"programmed": programmed, "announced": round(time.monotonic() - since, 2)}
        finally:
            cluster.kubectl("delete", "endpointslice", "-n", APPS, f"{BY_HAND}-1", "--ignore-not-found")


def _programmed(bench: Bench, edge: str, target: Target, workers: int) -> bool:
    return len(bench.tables(edge).table().get(target.key, ())) == workers


@contextmanager
def nodes_cut_off() -> Iterator[None]:
    """The API server refuses the nodes, but not the control plane itself, so that their Nodes become Unknown."""
    match = ["-s", str(topology.RACK_NETWORK), "-p", "tcp", "--dport", str(topology.API_PORT)]
    own = ["-s", f"{topology.CONTROL_ADDRESS}/32", "-p", "tcp", "--dport", str(topology.API_PORT)]
    reject = ["filter", "INPUT", *match, "-j", "REJECT", "--reject-with", "tcp-reset"]
    # Inserted at the head one after the other: the exception, coming last, is asked first.
    with iptables_rules(topology.CONTROL, reject, ["filter", "INPUT", *own, "-j", "ACCEPT"]):
        yield


def nodes_ready(bench: Bench) -> dict[str, str]:
    """The status of each Node's Ready condition."""
    return {
        node["metadata"]["name"]: next(c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready")
        for node in bench.objects("nodes")["items"]
    }


def measure_api_down(bench: Bench) -> Mapping[str, Measured]:
    """No API server for a minute; then one that the nodes cannot reach until they are Unknown. New connections all the while."""
    target = bench.target(ECHO)
    pods, port = echo_pods(bench)
    reconciled: dict[str, dict[str, float]] = {}
    with (
        RouteWatch("tor1") as tor1,
        RouteWatch("tor2") as tor2,
        bench.client.connections(bench.connections_plan(target, 20)) as load,
    ):
        began = time.monotonic()
        control_plane.stop_api_server()
        try:
            time.sleep(OUTAGE_SECONDS)
        finally:
            control_plane.start_api_server()
        wait_until("the API server is back", control_plane.ready, 60, 0.1)
        reconciled["stopped"] = _reconciled(bench, pods, port, time.monotonic())
        during_first = [
            event for watch in (tor1, tor2) for event in watch.withdrawals(began) if event.prefix == target.vip
        ]
        bench.settle()
        again = time.monotonic()
        with nodes_cut_off():
            unknown_after = wait_until(
                "all nodes are Unknown",
                lambda: set(nodes_ready(bench).values()) == {"Unknown"},
                UNKNOWN_TIMEOUT_SECONDS,
                1,
            )
            time.sleep(5)  # the endpoints controller has marked the endpoints by then; nothing may follow from it
        returned = time.monotonic()
        reconciled["unknown"] = _reconciled(bench, pods, port, returned)
        bench.settle()
        during_second = [
            event for watch in (tor1, tor2) for event in watch.withdrawals(again) if event.prefix == target.vip
        ]
        attempts = load.stop()
    value = {
        "withdrawals": len(during_first) + len(during_second),
        "failed_connections": sum(1 for attempt in attempts if not attempt.ok),
        "reconciled_s": max(times["programmed"] for times in reconciled.values()),
    }
    samples = {
        "reconciled_s": reconciled,
        "unknown_after_s": round(unknown_after, 1),
        "withdrawals": [str(event) for event in during_first + during_second],
        "connections": connection_summary(attempts),
    }
    return {"api_down": Measured(value, samples)}


def measure_second_up(bench: Bench) -> Mapping[str, Measured]:
    """`pulumi up` with nothing changed."""
    result = deploy.deploy(str(deploy.outputs()["image"]))
    return {"second_up_changes": Measured(result.changed, {"operations": dict(result.operations)})}


def measure_leftovers(bench: Bench) -> Mapping[str, Measured]:
    """`pulumi destroy`, the machines compared with what they were before the first `up`, then `up` again. The host's part needs `down`."""
    image = str(deploy.outputs()["image"])
    before = leftovers.remembered()
    if before is None:
        raise LookupError(
            "nobody looked at the machines before the first deploy; run `python -m lab down` and begin anew"
        )
    began = time.monotonic()
    deploy.destroy()
    destroyed = round(time.monotonic() - began, 1)
    wait_until(
        "the apps' namespaces are gone",
        lambda: not cluster.kubectl("get", "namespace", "samegate-system", "--ignore-not-found"),
        60,
    )
    after = leftovers.snapshot()
    found = leftovers.differences(before, after)
    with_agents = time.monotonic()
    deploy.deploy(image)
    bench.settle(180)
    samples = {
        "before": before,
        "after": after,
        "destroy_s": destroyed,
        "deploy_s": round(time.monotonic() - with_agents, 1),
    }
    return {"leftovers": Measured({"machines": found, "host": None}, samples)}
