"""`return: via-edge` on a fabric that drops every packet with a VIP as its source coming from a worker, as clouds do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import deploy
from lab.faults import source_check
from lab.report import run
from lab.report.bench import Bench, wait_until
from lab.report.steady import ECHO

pytestmark = pytest.mark.lab

CONNECTIONS = 20

KEYS = (
    "client_ip_preserved",
    "ipv6.client_ip_preserved",
    "upload_no_icmp",
    "download_no_icmp",
    "ipv6.upload_no_icmp",
    "ipv6.download_no_icmp",
    "flows.leave",
    "flows.join",
    "ipv6.flows.leave",
    "ipv6.flows.join",
    "edge_killed.route_gone_s",
    "edge_killed.new_failed_after_s",
    "edge_killed.flows_broken",
)


@pytest.fixture
def fabric_that_checks_sources(bench: Bench) -> Iterator[Bench]:
    source_check("-I")
    try:
        yield bench
    finally:
        source_check("-D")


@pytest.fixture
def returning_by_edges(fabric_that_checks_sources: Bench) -> Iterator[Bench]:
    image = str(deploy.outputs()["image"])
    deploy.keep_for_agent({"return": "via-edge"})
    try:
        deploy.deploy(image)
        # Agents hear of new settings when the kubelet has brought them, within a minute or two, and start anew.
        wait_until("replies return by edge nodes", lambda: answered(fabric_that_checks_sources) == CONNECTIONS, 180, 2)
        yield fabric_that_checks_sources
    finally:
        deploy.keep_for_agent({})
        deploy.deploy(image)


def answered(bench: Bench) -> int:
    return sum(sample.ok for sample in bench.connect(bench.target(ECHO), CONNECTIONS))


def test_what_workers_send_with_a_vip_as_source_is_dropped_there(fabric_that_checks_sources: Bench) -> None:
    assert answered(fabric_that_checks_sources) == 0


def test_by_an_edge_node_replies_arrive_flows_live_through_moves_and_transfers_fit(returning_by_edges: Bench) -> None:
    missed = {finding.key: finding.value for finding in run.run(KEYS) if not finding.met}
    assert missed == {}
