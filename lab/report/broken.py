"""Faults inside a node: kernel state lost, processes killed, pods gone."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lab import cluster, netns, topology
from lab.report.bench import APPS, Bench, NotReached, Target, wait_until
from lab.report.catalogue import CONNECTIONS, FLOWS
from lab.report.endpoint_watch import EndpointWatch
from lab.report.live_flows import LEAVER
from lab.report.measurement import Control, Measured
from lab.report.repair import LIMIT_SECONDS, timed_repair
from lab.report.route_watch import RouteEvent, RouteWatch, first_lost_at, gained_at, lost_at
from lab.report.steady import ECHO, counted_connections
from lab.topology import Node
from lab.traffic.connections import Sample

_LAST_POD_ENDED_SECONDS = 150
"""For pods of the echo app that hold connections of which an earlier fault swallowed the end: keepalive and linger last 55 s, grace 120 s."""
_TUNNELS = "ip -o link show type ipip | grep -o 'sgt-[0-9a-f]*' | sort -u"


def repaired_or_withdrawn(node: Node, vip: str, break_and_watch: Callable[[], float | None]) -> dict[str, Any]:
    """How long the node was not whole by what `break_and_watch` saw, or until the VIP was withdrawn by every router that had it; the sooner counts."""
    with RouteWatch("tor1") as tor1, RouteWatch("tor2") as tor2:
        began = time.monotonic()
        repaired = break_and_watch()
        gone = [lost_at(watch.events, vip, str(node.address), began) for watch in (tor1, tor2)]
    withdrawn = round(max(at for at in gone if at) - began, 2) if all(gone) else None
    return {
        "repaired_s": repaired,
        "withdrawn_s": withdrawn,
        "s": min((s for s in (repaired, withdrawn) if s is not None), default=None),
    }


def _wait_repaired(bench: Bench, target: Target) -> None:
    tables = bench.tables(LEAVER.name)
    wait_until(f"{LEAVER.name} forwards again", lambda: tables.table().get(target.key), 15)


def _tunnels_are(devices: str) -> str:
    return f"""[ "$({_TUNNELS} | tr '\\n' ' ')" = '{devices}' ]"""


def measure_dataplane_broken(bench: Bench) -> Mapping[str, Measured]:
    """An edge node's table cleared, tunnels deleted on one worker, then on both at once. Control: the agent paused, nothing repairs."""
    target = bench.target(ECHO)
    samples: dict[str, Any] = {}
    with bench.client.connections(bench.connections_plan(target, 20, timeout_seconds=3.0)) as load:
        tables = bench.tables(LEAVER.name)
        samples["table_cleared"] = repaired_or_withdrawn(
            LEAVER, target.vip, lambda: tables.seconds_cleared(target, LIMIT_SECONDS)
        )
        devices = {w.name: bench.machine(w.name).run(f"{_TUNNELS} | tr '\\n' ' '").stdout for w in topology.WORKERS}
        for workers in (topology.WORKERS[:1], topology.WORKERS):
            results: dict[str, Any] = {}

            def one(worker: Node, results: dict[str, Any] = results) -> None:
                breaking = f"for d in {devices[worker.name]}; do ip link delete $d; done"
                whole = _tunnels_are(devices[worker.name])
                results[worker.name] = timed_repair(bench.machine(worker.name), breaking, whole)

            threads = [threading.Thread(target=one, args=(worker,)) for worker in workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            missing = any(results.get(worker.name) is None for worker in workers)
            results["s"] = None if missing else max(results[worker.name] for worker in workers)
            samples["tunnels_deleted_on_" + "_and_".join(worker.name for worker in workers)] = results
            bench.wait_announced(target.vip, bench.edges)
        attempts = load.stop()
    seconds = [case["s"] for case in samples.values()]
    samples["connections"] = connection_summary(attempts)
    with bench.paused_agents(LEAVER.name):
        unrepaired = tables.seconds_cleared(target, 3)
    _wait_repaired(bench, target)
    control = Control("the table cleared while the agent is paused: seconds to repair", unrepaired, unrepaired is None)
    value = None if None in seconds else max(seconds)
    return {"dataplane_broken.withdrawn_s": Measured(value, samples, control)}


def connection_summary(samples: tuple[Sample, ...]) -> dict[str, Any]:
    """How many there were, how many failed and how, and the slowest."""
    failed = [sample for sample in samples if not sample.ok]
    return {
        "made": len(samples),
        "failed": len(failed),
        "errors": dict(Counter(str(sample.error) for sample in failed)),
        "slowest_ms": max((sample.milliseconds for sample in samples if sample.ok), default=None),
        "failed_at": [sample.at for sample in failed][:200],
    }


def operations_written(metrics: str) -> float:
    """The sum of samegate_kernel_operations_total in a page of metrics (Prometheus text format)."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if re.match(r"samegate_kernel_operations_total\b", line)
    )


@contextmanager
def kernel_events(node: Node) -> Iterator[list[str]]:
    """Changes of links, addresses, routes and rules that a machine's kernel announces while the block runs, as `ip monitor` prints them."""
    lines: list[str] = []
    # A terminal is forced so that the remote process ends with the connection.
    argv = Bench.machine(node.name).ssh("exec ip -o monitor link address route rule", "-tt", "-S", "none")
    process = netns.popen(topology.CONTROL, argv, stderr=subprocess.DEVNULL)
    output = process.stdout
    if output is None:
        raise RuntimeError("`ip monitor` was started without its output")
    thread = threading.Thread(target=lambda: lines.extend(line.strip() for line in output), daemon=True)
    thread.start()
    time.sleep(1)  # ssh gives no sign that the remote program has begun to listen
    try:
        yield lines
    finally:
        process.kill()
        process.wait()
        thread.join()
        output.close()


def ours(event: str) -> bool:
    """Whether a kernel event is about something that samegate owns."""
    networks = (topology.VIP_POOL, topology.PROBE_NETWORK, topology.VIP_POOL6, topology.PROBE_NETWORK6)
    marks = (str(network.network_address).removesuffix("0") for network in networks)
    return any(mark in event for mark in ("sgt-", "sgprobe", *marks))


def measure_agent_killed(bench: Bench) -> Mapping[str, Measured]:
    """SIGKILL of an edge node's agent under load, then of its BIRD with 400 flows open. Control: what the agent left in the kernel is gone too."""
    target = bench.target(ECHO)
    samples: dict[str, Any] = {}
    before = bench.agent_pids(LEAVER.name)
    counted = counted_connections(bench, target)
    with kernel_events(LEAVER) as events, RouteWatch("tor1") as watch:
        began = time.monotonic()
        with bench.client.connections(bench.connections_plan(target, 100, CONNECTIONS)) as load:
            time.sleep(2)  # so that the load is under way
            bench.machine(LEAVER.name).run(f"kill -KILL {' '.join(map(str, before))}")
            attempts = load.wait()
        wait_until("the agent is back", lambda: _restarted(bench, before), 60)
        wait_until("the agent has read the kernel", lambda: _settled(bench), 60)
        samples["withdrawals"] = [str(event) for event in watch.withdrawals(began)]
    written = operations_written(bench.page(LEAVER.name, "/metrics"))
    own_events = [event for event in events if ours(event)]
    still_counted = counted_connections(bench, target)
    recreated = still_counted[LEAVER.name] < counted[LEAVER.name]
    samples |= {
        "connections": connection_summary(attempts),
        "operations_metric": written,
        "kernel_events": own_events,
        "counters": {"before": counted, "after": still_counted, "service_recreated": recreated},
    }
    with bench.open_flows(target, FLOWS) as flows, RouteWatch("tor1") as watch:
        began = time.monotonic()
        birds = bench.pids(LEAVER.name, "bird -")
        bench.machine(LEAVER.name).run(f"kill -KILL {' '.join(map(str, birds))}")
        wait_until(
            "BIRD's route is gone",
            lambda: first_lost_at(watch.events, target.vip, str(LEAVER.address), began),
            15,
            0.05,
        )
        without = flows.check()
        bench.wait_announced(target.vip, bench.edges, 60)
        flows.check()
        ended = flows.stop()
        gone = first_lost_at(watch.events, target.vip, str(LEAVER.address), began)
        samples["bird"] = {
            "route_gone_s": _after(began, gone),
            "route_back_s": _after(began, gained_at(watch.events, target.vip, str(LEAVER.address), gone or began)),
            "without": without.summary,
            "ended": ended.summary,
        }
    value = {
        "new_failed": sum(1 for attempt in attempts if not attempt.ok) + len(samples["withdrawals"]),
        "kernel_writes": int(written) + len(own_events) + int(recreated),
        "bird_flows_broken": ended.broken,
    }
    with bench.paused_agents(LEAVER.name):
        bench.tables(LEAVER.name).clear()
        failed = sum(1 for attempt in bench.connect(target, 100) if not attempt.ok)
    _wait_repaired(bench, target)
    control = Control("no agent and an empty table: of 100 new connections failed", failed, failed > 0)
    return {"agent_killed": Measured(value, samples, control)}


def _after(began: float, at: float | None) -> float | None:
    return round(at - began, 3) if at is not None else None


def _restarted(bench: Bench, before: list[int]) -> bool:
    return bool(set(bench.agent_pids(LEAVER.name)) - set(before))


def _settled(bench: Bench) -> bool:
    """Whether the restarted agent says that it is ready: it has read the kernel and compared."""
    try:
        bench.page(LEAVER.name, "/readyz")
    except netns.CommandError:
        return False
    return True


def measure_no_endpoints(bench: Bench) -> Mapping[str, Measured]:
    """The echo app scaled to nothing and back: from the API's notice of the last (first) usable endpoint to the routers' kernels.

    Control: an edge node whose agent stands still meanwhile.
    """
    target = bench.target(ECHO)
    replicas = bench.objects("deployment", "-n", APPS, ECHO)["spec"]["replicas"]
    with bench.paused_agents(LEAVER.name), EndpointWatch(ECHO, APPS) as endpoints:
        wait_until("endpoints are known", lambda: endpoints.events, 15)
        began = time.monotonic()
        cluster.kubectl("scale", "deployment", "-n", APPS, ECHO, "--replicas=0")
        try:
            wait_until("the last endpoint is gone", lambda: endpoints.emptied_at(began), _LAST_POD_ENDED_SECONDS)
            time.sleep(3)
            still = sorted(set().union(*bench.announced_by(target.vip).values()))
        finally:
            cluster.kubectl("scale", "deployment", "-n", APPS, ECHO, f"--replicas={replicas}")
    bench.settle()
    control = Control(f"with the agent of {LEAVER.name} paused: announced by, after 3 s", still, still == [LEAVER.name])
    with RouteWatch("tor1") as tor1, RouteWatch("tor2") as tor2, EndpointWatch(ECHO, APPS) as endpoints:
        wait_until("endpoints are known", lambda: endpoints.events, 15)
        try:
            began = time.monotonic()
            cluster.kubectl("scale", "deployment", "-n", APPS, ECHO, "--replicas=0")
            wait_until("the last endpoint is gone", lambda: endpoints.emptied_at(began), _LAST_POD_ENDED_SECONDS)
            bench.wait_announced(target.vip, set(), 20)
            emptied = endpoints.emptied_at(began)
            gone = _once_seen(lost_at, (tor1, tor2), target.vip, began)
        finally:
            returned = time.monotonic()
            cluster.kubectl("scale", "deployment", "-n", APPS, ECHO, f"--replicas={replicas}")
        wait_until("the first endpoint is back", lambda: endpoints.filled_at(returned), 90)
        bench.wait_announced(target.vip, bench.edges, 20)
        filled = endpoints.filled_at(returned)
        back = _once_seen(gained_at, (tor1, tor2), target.vip, returned)
    cluster.kubectl("rollout", "status", "deployment", "-n", APPS, ECHO, "--timeout=120s")
    if emptied is None or filled is None:
        raise LookupError(f"a change of the endpoints was not seen: {endpoints.events}")
    value = {"withdrawn_s": round(max(gone) - emptied, 3), "announced_s": round(max(back) - filled, 3)}
    samples = {"emptied": emptied, "gone": gone, "filled": filled, "back": back, "endpoints": endpoints.events}
    return {"no_endpoints": Measured(value, samples, control)}


def _once_seen(
    change_at: Callable[[Sequence[RouteEvent], str, str, float], float | None],
    watches: Iterable[RouteWatch],
    vip: str,
    since: float,
) -> list[float]:
    """When the watches saw the route to each edge node change: a moment after it is in the routers' tables they tell of it."""

    def times() -> list[float | None]:
        return [change_at(watch.events, vip, str(e.address), since) for watch in watches for e in topology.EDGES]

    wait_until("the watches have seen it", lambda: None not in times(), 5, 0.05)
    return [at for at in times() if at is not None]


def measure_backend_drained(bench: Bench) -> Mapping[str, Measured]:
    """Every pod of one worker terminates with its flows open, under new connections. Control: the same pods without grace."""
    target = bench.target(ECHO)
    worker = topology.WORKERS[0].name
    with (
        bench.open_flows(target, FLOWS) as flows,
        bench.client.connections(bench.connections_plan(target, 50)) as load,
    ):
        leaving = delete_pods(bench, worker)
        _wait_not_ready(bench, leaving)
        time.sleep(2)  # flows on terminating pods are watched for two more of their exchanges
        flows.check()
        ended = flows.stop()
        cluster.kubectl("wait", "-n", APPS, "--for=delete", "--timeout=90s", *(f"pod/{name}" for name in leaving))
        attempts = load.stop()
    bench.settle()
    with bench.open_flows(target, 100, interval_seconds=0) as hurt:
        killed = delete_pods(bench, worker, "--grace-period=0", "--force")
        wait_until("the pods are gone", lambda: not _present(bench, killed), 30)
        time.sleep(1)  # forced deletion leaves the API before the kubelet has killed the containers
        broken = hurt.check().broken
    value = {"flows_broken": ended.broken, "new_failed": sum(1 for attempt in attempts if not attempt.ok)}
    samples = {"pods": leaving, "flows": ended.summary, "connections": connection_summary(attempts)}
    return {
        "backend_drained": Measured(
            value, samples, Control("pods of a worker killed without grace: of 100 flows broken", broken, broken > 0)
        )
    }


def _pods_on(bench: Bench, worker: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in bench.pods(f"app.kubernetes.io/name={ECHO}")
        if pod["spec"].get("nodeName") == worker
    ]


def delete_pods(bench: Bench, worker: str, *options: str) -> list[str]:
    """Delete the echo app's pods on a worker, without waiting; their names.

    Raises NotReached when there are none.
    """
    names = _pods_on(bench, worker)
    if not names:
        raise NotReached(f"no pod of {ECHO} runs on {worker}")
    cluster.kubectl("delete", "pod", "-n", APPS, "--wait=false", *options, *names)
    return names


def _present(bench: Bench, names: list[str]) -> bool:
    return bool({pod["metadata"]["name"] for pod in bench.pods(f"app.kubernetes.io/name={ECHO}")} & set(names))


def _wait_not_ready(bench: Bench, names: list[str]) -> None:
    def left() -> bool:
        endpoints = [
            e
            for piece in bench.objects("endpointslices", "-n", APPS, "-l", f"kubernetes.io/service-name={ECHO}")[
                "items"
            ]
            for e in piece["endpoints"]
        ]
        return not any(e.get("targetRef", {}).get("name") in names and e["conditions"].get("ready") for e in endpoints)

    wait_until("the pods' endpoints are no longer ready", left, 20)
