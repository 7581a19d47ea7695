"""Rows of docs/scorecard.md that the report does not measure: agents that stand still, a dependency that all lose, ports that are used again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import pytest

from lab import netns, topology
from lab.report.bench import Bench, Target, wait_until
from lab.report.lifecycle import nodes_cut_off
from lab.report.live_flows import LEAVER, STAYER
from lab.report.route_watch import RouteWatch
from lab.report.steady import ECHO

pytestmark = pytest.mark.lab

STOPPED_SECONDS = 60.0
#: Three failures a second apart, an edge node that asks the other, and a busy machine.
LOST_SECONDS = 20.0
WORKER2 = topology.WORKERS[1]
CONNECT_SECONDS = 0.1
#: A SYN that got no answer is sent again after a second (RFC 6298, section 2).
RETRANSMITTED_SECONDS = 0.9
#: Several connections from one port, each ended by a reset, so that the client too may use the port at once. Prints of each the pod's node and
#: how long the handshake took.
RECONNECT = """
import json, socket, struct, sys, time
source, port, vip, vip_port, rounds = sys.argv[1], *map(lambda w: int(w) if w.isdigit() else w, sys.argv[2:])
told = []
for _ in range(rounds):
    with socket.socket() as flow:
        flow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        flow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        flow.settimeout(5)
        flow.bind((source, port))
        began = time.monotonic()
        flow.connect((vip, vip_port))
        seconds = time.monotonic() - began
        told.append((flow.makefile().readline().split()[2], seconds))
print(json.dumps(told))
"""


@contextmanager
def routes_watched(target: Target) -> Iterator[list[Any]]:
    """Withdrawals of the VIP at either ToR while the block runs, there after it."""
    lost: list[Any] = []
    with ExitStack() as stack:
        watches = [stack.enter_context(RouteWatch(tor.name)) for tor in topology.TORS]
        began = time.monotonic()
        yield lost
        lost += [e for watch in watches for e in watch.withdrawals(began) if e.prefix == target.vip]


def test_an_agent_that_stands_still_for_a_minute_loses_no_route_and_fails_no_connection(bench: Bench) -> None:
    target = bench.target(ECHO)
    with routes_watched(target) as lost, bench.client.connections(bench.connections_plan(target, 20)) as load:
        with bench.paused_agents(LEAVER.name):
            with pytest.raises(netns.CommandError):
                bench.page(LEAVER.name, "/readyz")
            time.sleep(STOPPED_SECONDS)
        time.sleep(5)
        attempts = load.stop()
    assert len(attempts) >= 1000
    assert [a for a in attempts if not a.ok] == []
    assert lost == []


@contextmanager
def no_probe_answers(bench: Bench, *edges: str) -> Iterator[None]:
    """No worker's answer to a probe reaches these edge nodes; flows do."""
    rules = [
        ("iptables-legacy", f"INPUT -s {topology.PROBE_NETWORK} -j DROP"),
        ("ip6tables-legacy", f"INPUT -s {topology.PROBE_NETWORK6} -j DROP"),
    ]
    try:
        for edge in edges:
            bench.machine(edge).run("; ".join(f"{tool} -w -I {rule}" for tool, rule in rules))
        yield
    finally:
        for edge in edges:
            bench.machine(edge).run("; ".join(f"{tool} -w -D {rule}" for tool, rule in rules), check=False)


def reason(bench: Bench, edge: str, vip: str) -> str:
    page: dict[str, Any] = json.loads(bench.page(edge, "/v1/status"))
    return str(page["vips"][vip]["reason"])


def test_what_all_edge_nodes_lose_together_withdraws_nothing_and_what_one_loses_withdraws_that_one(
    bench: Bench,
) -> None:
    target = bench.target(ECHO)
    with routes_watched(target) as lost, nodes_cut_off(), no_probe_answers(bench, *sorted(bench.edges)):
        for edge in sorted(bench.edges):
            wait_until(
                f"{edge} has lost every worker",
                lambda e=edge: reason(bench, e, target.vip) == "AllProbesFail",  # type: ignore[misc]
                LOST_SECONDS,
            )
        time.sleep(10)
        assert all(sample.ok for sample in bench.connect(target, 50, per_second=50))
    assert lost == []
    bench.settle(180)
    with no_probe_answers(bench, LEAVER.name):
        bench.wait_announced(target.vip, {STAYER.name}, LOST_SECONDS)


def reconnect(target: Target, source: str, port: int, rounds: int = 1) -> list[tuple[str, float]]:
    """The nodes that answered connections from one port, one after the other, and the seconds of each handshake."""
    words = [source, str(port), target.vip, str(target.port), str(rounds)]
    shown = netns.run(topology.CLIENT, [sys.executable, "-c", RECONNECT, *words]).stdout
    return [(node, seconds) for node, seconds in json.loads(shown)]


def test_a_port_that_is_used_again_connects_at_once_and_leaves_a_worker_that_drains(bench: Bench) -> None:
    target = bench.target(ECHO)
    (source,) = bench.sources(1)
    seconds = [took for _, took in reconnect(target, source, 40000, rounds=50)]
    assert median(seconds) < CONNECT_SECONDS
    assert max(seconds) < RETRANSMITTED_SECONDS

    def on_edges(command: str) -> None:
        for edge in sorted(bench.edges):
            bench.machine(edge).run(command)

    # By hand and within the ten seconds for which the kernel keeps a connection that was reset.
    settings = ("net.ipv4.vs.conn_reuse_mode", "net.ipv4.vs.expire_nodest_conn")
    with bench.paused_agents(*sorted(bench.edges)):
        try:
            on_edges(f"sysctl -qw {' '.join(f'{name}=0' for name in settings)}")
            port = next(p for p in range(40001, 40100) if reconnect(target, source, p)[0][0] == WORKER2.name)
            on_edges(f"ipvsadm -e {target.in_ipvs} -r {WORKER2.address} -i -w 0")
            kept, _ = reconnect(target, source, port)[0]
        finally:
            on_edges(f"sysctl -qw {' '.join(f'{name}=1' for name in settings)}")
        moved, took = reconnect(target, source, port)[0]
    assert kept == WORKER2.name, "the control: with neither setting the kernel takes the new connection for the old one"
    assert moved != WORKER2.name
    assert took < RETRANSMITTED_SECONDS
