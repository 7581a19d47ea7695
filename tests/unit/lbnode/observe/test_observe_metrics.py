"""Metrics: what was set is on the page, what is gone is not, and names and units follow Prometheus' rules."""

from __future__ import annotations

import tomllib
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import lbnode
from lbnode.dataplane.xdp_records import Drop
from lbnode.facts import Rejection, Verdict
from lbnode.model import Counters, DestinationTraffic, Protocol, ServiceName, VirtualKey
from lbnode.observe import ControllerMetrics, EdgeMetrics, Metrics, WorkerMetrics
from lbnode.operations import AddAddress, RemoveFilter, SetSysctl
from lbnode.probe import ProbeResult
from lbnode.speaker.base import Session
from lbnode.traffic import Round, Seen

VIP, OTHER = ip_address("203.0.113.1"), ip_address("203.0.113.2")
WORKER, WORKER2 = ip_address("198.18.0.21"), ip_address("198.18.0.22")
ROLES = [EdgeMetrics, WorkerMetrics, ControllerMetrics]


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The page as Prometheus' own parser reads it."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for s in family.samples
    }


def of(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by label values, in the order of the label names."""
    return {tuple(v for _, v in labels): value for (n, labels), value in samples(metrics).items() if n == name}


def test_vips_carry_their_decision_and_their_one_reason() -> None:
    metrics = EdgeMetrics()
    metrics.verdicts({VIP: Verdict(True, "Announced"), OTHER: Verdict(False, "NoReadyEndpoints")})
    assert of(metrics, "samegate_vip_announced") == {("203.0.113.1",): 1, ("203.0.113.2",): 0}
    metrics.verdicts({OTHER: Verdict(False, "Draining")})
    assert of(metrics, "samegate_vip_announced") == {("203.0.113.2",): 0}
    assert of(metrics, "samegate_vip_reason_info") == {("Draining", "203.0.113.2"): 1}


def test_sessions_show_bfd_only_where_it_is_used() -> None:
    metrics = EdgeMetrics()
    metrics.sessions(
        [
            Session("tor1", "Established", "Up", 2),
            Session("tor2", "Active", "Down"),
            Session("wan", "Established", "", 2),
        ]
    )
    assert of(metrics, "samegate_bgp_session_up") == {("tor1",): 1, ("tor2",): 0, ("wan",): 1}
    assert of(metrics, "samegate_bfd_session_up") == {("tor1",): 1, ("tor2",): 0}
    assert of(metrics, "samegate_bgp_exported_routes") == {("tor1",): 2, ("tor2",): 0, ("wan",): 2}


def test_probes_are_counted_by_outcome_and_a_worker_that_left_is_forgotten() -> None:
    metrics = EdgeMetrics()
    for _ in range(3):
        metrics.probes([ProbeResult(WORKER, True, "Answered", 2.0), ProbeResult(WORKER2, False, "Timeout")])
    metrics.destinations({WORKER: True, WORKER2: False})
    assert of(metrics, "samegate_probe_results_total") == {("Answered", str(WORKER)): 3, ("Timeout", str(WORKER2)): 3}
    assert of(metrics, "samegate_probe_rtt_seconds_sum") == {(): pytest.approx(0.006)}
    metrics.destinations({WORKER: True})
    assert of(metrics, "samegate_probe_results_total") == {("Answered", str(WORKER)): 3}
    assert of(metrics, "samegate_worker_healthy") == {(str(WORKER),): 1}


def test_operations_and_rejections_are_counted() -> None:
    metrics = EdgeMetrics()
    metrics.operations([SetSysctl("net.ipv4.ip_forward", "1"), AddAddress(VIP), AddAddress(OTHER)])
    metrics.operations([RemoveFilter()])
    assert of(metrics, "samegate_kernel_operations_total") == {
        ("SetSysctl",): 1,
        ("AddAddress",): 2,
        ("RemoveFilter",): 1,
    }
    service = ServiceName("default", "web")
    metrics.rejections(
        [Rejection(service, "BadPort", ""), Rejection(service, "BadPort", ""), Rejection(service, "NoPool", "")]
    )
    assert of(metrics, "samegate_rejections") == {("BadPort",): 2, ("NoPool",): 1}
    metrics.rejections([])
    assert of(metrics, "samegate_rejections") == {}


def test_a_refused_settings_file_counts_once_however_often_it_is_looked_at() -> None:
    metrics = WorkerMetrics()
    for refused in (True, True, False, True):
        metrics.settings(refused)
    assert of(metrics, "samegate_settings_refused") == {(): 1}
    assert of(metrics, "samegate_config_errors_total") == {(): 2}


def test_settings_that_wait_for_the_next_agent_are_no_configuration_error() -> None:
    metrics = EdgeMetrics()
    metrics.settings(refused=False, pending=True)
    assert of(metrics, "samegate_settings_pending") == {(): 1}
    assert of(metrics, "samegate_settings_refused") == {(): 0}
    assert of(metrics, "samegate_config_errors_total") == {(): 0}
    metrics.settings(refused=False, pending=False)
    assert of(metrics, "samegate_settings_pending") == {(): 0}


def test_only_config_errors_count_as_such() -> None:
    metrics = WorkerMetrics()
    for kind in ("Retry", "ConfigError", "Bug"):
        metrics.reconcile_failed(kind)
    assert of(metrics, "samegate_config_errors_total") == {(): 1}
    assert of(metrics, "samegate_reconcile_failures_total") == {("Retry",): 1, ("ConfigError",): 1, ("Bug",): 1}


def test_the_controller_shows_pools_and_addresses() -> None:
    metrics = ControllerMetrics()
    metrics.pools({"public": (256, 3)})
    metrics.addresses([("default/web", VIP)])
    metrics.leader(True)
    metrics.wrote("status")
    assert of(metrics, "samegate_pool_addresses") == {("public",): 256}
    assert of(metrics, "samegate_pool_addresses_used") == {("public",): 3}
    assert of(metrics, "samegate_service_address_info") == {("203.0.113.1", "default/web"): 1}
    assert of(metrics, "samegate_leader") == {(): 1}
    assert of(metrics, "samegate_api_writes_total") == {("status",): 1}


def test_vips_are_counted_by_decision_and_reason() -> None:
    metrics = EdgeMetrics()
    held = Verdict(False, "NoReadyEndpoints")
    metrics.verdicts({VIP: Verdict(True, "Announced"), OTHER: held, ip_address("203.0.113.3"): held})
    assert of(metrics, "samegate_vips") == {("true", "Announced"): 1, ("false", "NoReadyEndpoints"): 2}


class Looks:
    """Rounds of looks, each after the last one."""

    def __init__(self) -> None:
        self.metrics = EdgeMetrics()
        self._seen: Seen | None = None

    def see(self, *looks: DestinationTraffic) -> None:
        whole = Round([], self._seen)
        whole.take(looks)
        self._seen = whole.seen
        self.metrics.traffic(whole.by_vip, whole.by_worker)


def test_traffic_adds_up_by_vip_and_by_worker_and_goes_with_them() -> None:
    web, dns = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(VIP, Protocol.UDP, 53)
    api = VirtualKey(OTHER, Protocol.TCP, 443)
    looks = Looks()
    metrics = looks.metrics
    for times in range(3):
        looks.see(
            DestinationTraffic(web, WORKER, Counters(1 * times, 10 * times, 100 * times), 4, 1),
            DestinationTraffic(dns, WORKER, Counters(2 * times, 20 * times, 200 * times), 0, 2),
            DestinationTraffic(api, WORKER2, Counters(3 * times, 30 * times, 300 * times), 8, 0),
        )
    assert of(metrics, "samegate_vip_connections_total") == {(str(VIP),): 6, (str(OTHER),): 6}
    assert of(metrics, "samegate_vip_received_packets_total") == {(str(VIP),): 60, (str(OTHER),): 60}
    assert of(metrics, "samegate_destination_received_bytes_total") == {(str(WORKER),): 600, (str(WORKER2),): 600}
    assert of(metrics, "samegate_vip_open_connections")[("active", str(VIP))] == 4
    assert of(metrics, "samegate_vip_open_connections")[("inactive", str(VIP))] == 3
    assert of(metrics, "samegate_destination_open_connections")[("active", str(WORKER2))] == 8
    looks.see(DestinationTraffic(web, WORKER, Counters(2, 20, 200), 4, 1))
    assert of(metrics, "samegate_vip_connections_total") == {(str(VIP),): 6}
    assert of(metrics, "samegate_destination_connections_total") == {(str(WORKER),): 6}


def test_hits_are_shown_for_what_xdp_serves_and_not_as_0_for_what_ipvs_serves() -> None:
    web, api = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(OTHER, Protocol.TCP, 443)
    looks = Looks()
    metrics = looks.metrics
    for times in range(3):
        looks.see(
            DestinationTraffic(web, WORKER, Counters(1 * times, 10 * times, 100 * times, 9 * times)),
            DestinationTraffic(api, WORKER2, Counters(1 * times, 10 * times, 100 * times)),
        )
    assert of(metrics, "samegate_vip_table_hits_total") == {(str(VIP),): 18}
    assert of(metrics, "samegate_destination_table_hits_total") == {(str(WORKER),): 18}


def test_drops_are_counted_by_reason_and_those_that_were_met_by_vip_too() -> None:
    web, dns = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(VIP, Protocol.UDP, 53)
    api = VirtualKey(OTHER, Protocol.TCP, 443)
    metrics = EdgeMetrics()
    metrics.drops(
        {(web, "NoRoute"): 2, (web, "TooBig"): 0, (dns, "NoRoute"): 1, (api, "TooBig"): 0, (None, "Source"): 4}
    )
    metrics.drops(
        {(web, "NoRoute"): 3, (web, "TooBig"): 0, (dns, "NoRoute"): 0, (api, "TooBig"): 7, (None, "Source"): 0}
    )
    assert of(metrics, "samegate_xdp_drops_total") == {("NoRoute",): 6, ("TooBig",): 7, ("Source",): 4}
    assert of(metrics, "samegate_vip_xdp_drops_total") == {("NoRoute", str(VIP)): 6, ("TooBig", str(OTHER)): 7}
    metrics.drops({(web, "NoRoute"): 0, (web, "TooBig"): 0})
    assert of(metrics, "samegate_vip_xdp_drops_total") == {("NoRoute", str(VIP)): 6}
    metrics.drops({})
    assert of(metrics, "samegate_xdp_drops_total") == of(metrics, "samegate_vip_xdp_drops_total") == {}


def test_drops_have_as_many_series_as_the_program_has_reasons() -> None:
    (described,) = [d for d in EdgeMetrics().descriptions if d.name == "samegate_xdp_drops_total"]
    assert described.series == str(len(Drop))


def test_a_kind_of_failure_has_its_series_before_it_ever_happens() -> None:
    assert of(WorkerMetrics(), "samegate_reconcile_failures_total") == {("Retry",): 0, ("ConfigError",): 0, ("Bug",): 0}


def test_a_replica_that_no_longer_leads_forgets_what_the_leader_tells() -> None:
    metrics = ControllerMetrics()
    metrics.leader(True)
    metrics.pools({"public": (256, 3)})
    metrics.addresses([("default/web", VIP)])
    metrics.rejections([Rejection(ServiceName("default", "web"), "BadPort", "")])
    metrics.leader(False)
    for name in ("samegate_pool_addresses", "samegate_service_address_info", "samegate_rejections"):
        assert of(metrics, name) == {}


def test_what_the_api_said_last_stands_there_by_kind() -> None:
    metrics = WorkerMetrics()
    metrics.api(True, {"services": 1.8e9, "nodes": 1.9e9})
    assert of(metrics, "samegate_api_synced") == {(): 1}
    assert of(metrics, "samegate_api_last_answer_timestamp_seconds") == {("services",): 1.8e9, ("nodes",): 1.9e9}


@pytest.mark.parametrize("role", ROLES)
def test_every_metric_on_the_page_is_described_with_its_kind_and_its_meaning(role: type[EdgeMetrics]) -> None:
    metrics = role()
    described = {d.name.removesuffix("_total"): (d.kind, d.meaning) for d in metrics.descriptions}
    shown = {
        f.name: (f.type, f.documentation)
        for f in text_string_to_metric_families(metrics.page().decode())
        if not f.name.startswith("process_")
    }
    assert described == shown


def test_a_worker_shows_its_tunnels() -> None:
    metrics = WorkerMetrics()
    metrics.tunnels({ip_address("198.18.0.11"): True, ip_address("198.18.0.12"): False})
    metrics.ready(True)
    assert of(metrics, "samegate_tunnel_ready") == {("198.18.0.11",): 1, ("198.18.0.12",): 0}
    assert of(metrics, "samegate_worker_ready") == {(): 1}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_tells_version_and_kernel_and_two_of_them_do_not_share_a_registry(role: type[EdgeMetrics]) -> None:
    role()
    (labels,) = of(role("6.1.0-test"), "samegate_build_info")
    assert labels == ("6.1.0-test", role.__name__.removesuffix("Metrics").lower(), lbnode.__version__)


@pytest.mark.parametrize("role", ROLES)
def test_names_are_ours_with_base_units_and_every_metric_is_explained(role: type[EdgeMetrics]) -> None:
    for family in text_string_to_metric_families(role().page().decode()):
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("samegate_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb"))


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    assert project["project"]["version"] == lbnode.__version__
