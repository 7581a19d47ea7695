"""Rows of docs/scorecard.md that the report does not measure: agents that stand still, a dependency that all lose."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
