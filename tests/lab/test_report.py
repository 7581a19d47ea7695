"""Every promise of the issue, measured once on the rack, and each judged here again, independently of the report's own verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.lab.conftest import CHECKOUT

pytestmark = pytest.mark.lab

EDGES = {"": ["198.18.0.11", "198.18.0.12"], "ipv6.": ["2001:db8:0:1::11", "2001:db8:0:1::12"]}
TORS = {"": ["198.18.1.1", "198.18.1.3"], "ipv6.": ["2001:db8:0:11::2", "2001:db8:0:12::2"]}
REPORT_SECONDS = 1800


@pytest.fixture(scope="session")
def report(deployed_lab: None) -> dict[str, Any]:
    """`python -m lab report --json`, run once."""
    done = subprocess.run(
        [sys.executable, "-m", "lab", "report", "--json"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=REPORT_SECONDS,
        check=False,
    )
    print(done.stderr, file=sys.stderr)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        pytest.fail(f"the report printed no JSON (code {done.returncode}): {(done.stdout + done.stderr)[-4000:]}")
    return found


#: What the keys of a family begin with.
each_family = pytest.mark.parametrize("over", ["", "ipv6."], ids=["ipv4", "ipv6"])


def measured(report: dict[str, Any], key: str) -> Any:
    verdict = report["verdicts"][key]
    assert verdict["error"] is None, f"{key} could not be measured: {verdict['error']}"
    value: Any = report
    for part in key.split("."):
        value = value[part]
    return value


def control(report: dict[str, Any], key: str) -> Any:
    found = report["verdicts"][key]["control"]
    assert found is not None, f"{key} has no control"
    return found["value"]


@each_family
def test_every_vip_has_both_edge_nodes_on_both_tors(report: dict[str, Any], over: str) -> None:
    vips = measured(report, f"{over}routes")
    assert len(vips) >= 2, "the web and the echo app have an address each"
    for routers in vips.values():
        assert sorted(routers["tor1"]) == sorted(routers["tor2"]) == EDGES[over]
        assert sorted(routers["core"]) == TORS[over]


@each_family
def test_the_app_sees_the_clients_address(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}client_ip_preserved") is True


@each_family
def test_with_cluster_policy_the_app_does_not_see_the_clients_address(report: dict[str, Any], over: str) -> None:
    assert control(report, f"{over}client_ip_preserved") is False


@each_family
def test_no_node_gets_less_than_seven_tenths_of_its_fair_share(report: dict[str, Any], over: str) -> None:
    spread = measured(report, f"{over}spread")
    assert sum(spread["workers"].values()) == 1000
    assert set(spread["workers"]) == {"worker1", "worker2"}
    assert min(spread["workers"].values()) >= 350
    assert set(spread["edges"]) == {"edge1", "edge2"}
    assert min(spread["edges"].values()) >= 350


@pytest.mark.parametrize("event", ["leave", "join", "join_after_change"])
def test_no_live_flow_breaks_when_an_edge_node_comes_or_goes(report: dict[str, Any], event: str) -> None:
    assert measured(report, f"flows.{event}") == 0


@pytest.mark.parametrize("event", ["leave", "join"])
def test_no_live_ipv6_flow_breaks_when_an_edge_node_comes_or_goes(report: dict[str, Any], event: str) -> None:
    assert measured(report, f"ipv6.flows.{event}") == 0


@each_family
@pytest.mark.parametrize("event", ["leave", "join"])
def test_without_sloppy_tcp_more_than_a_hundred_flows_break(report: dict[str, Any], over: str, event: str) -> None:
    assert control(report, f"{over}flows.{event}") > 100


def test_flows_break_when_the_edge_nodes_tables_differ(report: dict[str, Any]) -> None:
    assert control(report, "flows.join_after_change") > 0


def test_a_roll_out_breaks_no_flow_and_fails_no_connection(report: dict[str, Any]) -> None:
    assert measured(report, "rollout") == {"new_failed": 0, "flows_broken": 0}


def test_edge_pods_killed_all_at_once_do_fail_connections(report: dict[str, Any]) -> None:
    assert control(report, "rollout") > 0


@each_family
def test_routers_forget_a_dead_edge_node_in_time(report: dict[str, Any], over: str) -> None:
    assert 0 < measured(report, f"{over}edge_killed.route_gone_s") < 1.5


@each_family
def test_new_connections_succeed_soon_after_an_edge_nodes_death(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}edge_killed.new_failed_after_s") < 2


@each_family
def test_new_connections_do_meet_the_dead_edge_node_at_first(report: dict[str, Any], over: str) -> None:
    assert control(report, f"{over}edge_killed.new_failed_after_s") > 0


@each_family
def test_an_edge_nodes_death_breaks_no_flow(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}edge_killed.flows_broken") == 0


def test_a_workers_death_hurts_its_own_flows_only_and_not_for_long(report: dict[str, Any]) -> None:
    value = measured(report, "worker_killed")
    assert value["new_failed_for_s"] < 3
    assert value["other_flows_broken"] == 0
    assert control(report, "worker_killed") > 0


def test_terminating_pods_finish_their_flows(report: dict[str, Any]) -> None:
    assert measured(report, "backend_drained") == {"flows_broken": 0, "new_failed": 0}


def test_pods_killed_without_grace_do_break_flows(report: dict[str, Any]) -> None:
    assert control(report, "backend_drained") > 0


def test_a_broken_data_plane_is_repaired_or_withdrawn_in_time(report: dict[str, Any]) -> None:
    assert measured(report, "dataplane_broken.withdrawn_s") < 3


def test_nobody_else_repairs_the_data_plane(report: dict[str, Any]) -> None:
    assert control(report, "dataplane_broken.withdrawn_s") is None


def test_an_api_outage_changes_nothing(report: dict[str, Any]) -> None:
    value = measured(report, "api_down")
    assert value["withdrawals"] == 0
    assert value["failed_connections"] == 0
    assert value["reconciled_s"] <= 5


def test_killing_the_agent_or_bird_hurts_nobody(report: dict[str, Any]) -> None:
    assert measured(report, "agent_killed") == {"new_failed": 0, "kernel_writes": 0, "bird_flows_broken": 0}


def test_without_what_the_agent_left_in_the_kernel_connections_fail(report: dict[str, Any]) -> None:
    assert control(report, "agent_killed") > 0


def test_nobody_but_the_agent_withdraws_a_vip_without_endpoints(report: dict[str, Any]) -> None:
    assert control(report, "no_endpoints") == ["edge2"]


def test_a_vip_without_endpoints_is_withdrawn_and_comes_back_in_time(report: dict[str, Any]) -> None:
    value = measured(report, "no_endpoints")
    assert value["withdrawn_s"] < 3
    assert value["announced_s"] < 3


@pytest.mark.parametrize("key", ["upload_no_icmp", "download_no_icmp", "ipv6.upload_no_icmp", "ipv6.download_no_icmp"])
def test_a_mebibyte_passes_while_icmp_is_filtered(report: dict[str, Any], key: str) -> None:
    assert 0 < measured(report, key) < 2


@each_family
def test_without_the_clamp_the_upload_hangs(report: dict[str, Any], over: str) -> None:
    assert control(report, f"{over}upload_no_icmp") == "timeout"


@each_family
def test_an_icmp_error_at_the_other_edge_node_reaches_its_worker(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}icmp_errors")["complete"] is True


@each_family
def test_without_schedule_icmp_the_download_hangs(report: dict[str, Any], over: str) -> None:
    assert control(report, f"{over}icmp_errors") == "timeout"


@each_family
def test_no_port_answers_that_is_not_announced(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}exposed_ports") == []
    assert control(report, f"{over}exposed_ports") > 0


@each_family
def test_no_packet_loops(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}loops") == 1
    assert control(report, f"{over}loops") > 1


def test_forged_tunnel_packets_are_never_delivered(report: dict[str, Any]) -> None:
    assert measured(report, "spoofed") == 0
    assert any(control(report, "spoofed").values())


@each_family
def test_udp_flows_keep_their_pod(report: dict[str, Any], over: str) -> None:
    assert measured(report, f"{over}udp") == {"flows": 300, "same_pod_on_leave": 300, "same_pod_on_join": 300}


@each_family
def test_udp_flows_change_their_pod_when_one_edge_node_picks_in_turn(report: dict[str, Any], over: str) -> None:
    assert control(report, f"{over}udp") > 0


def test_a_client_with_affinity_meets_one_pod(report: dict[str, Any]) -> None:
    assert measured(report, "affinity") == 1
    assert control(report, "affinity") > 1


def test_source_ranges_refuse_strangers_and_keep_the_vip(report: dict[str, Any]) -> None:
    assert measured(report, "source_ranges") == {"refused": True, "announced": True, "inside_served": True}


def test_bfd_never_cries_wolf(report: dict[str, Any]) -> None:
    assert measured(report, "bfd_false_downs") == 0


def test_a_second_up_changes_nothing(report: dict[str, Any]) -> None:
    assert measured(report, "second_up_changes") == 0


def test_destroy_leaves_nothing_on_the_machines(report: dict[str, Any]) -> None:
    assert measured(report, "leftovers")["machines"] == []
