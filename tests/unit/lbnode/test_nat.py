"""``forwarding: nat``: pods as destinations, what announces them, and what is refused or told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbnode.announce import EdgeFacts, announce
from lbnode.errors import ConfigError
from lbnode.facts import Verdict, WorkerHealth
from lbnode.model import Destination, IPAddress, Protocol, VirtualKey
from lbnode.plan import plan_file
from lbnode.settings import Health
from lbnode.standalone import parse as parse_standalone
from lbnode.translate.edge import EdgePlan, retain_announced, translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, node, service, settings, snapshot
from tests.unit.lbnode.standalone_file import text_of, with_value

VIP, VIP6 = ip_address("203.0.113.10"), ip_address("2001:db8:113::10")
WEB = VirtualKey(VIP, Protocol.TCP, 80)
POD1, POD2 = ip_address("198.18.131.5"), ip_address("198.18.132.5")
NAT = {"samegate.dev/forwarding": "nat"}


def both(first: str = "ready", second: str = "ready", on: str = "worker2") -> dict[str, Any]:
    return endpoint_slice([endpoint(str(POD1), "worker1", first), endpoint(str(POD2), on, second)])


def plan(*items: Any, health: WorkerHealth | None = None, nodes: list[Any] | None = None, **changes: Any) -> EdgePlan:
    cluster = snapshot(*EDGES, *(nodes or WORKERS), *items)
    return translate_edge(cluster, settings(**changes), "edge1", health or WorkerHealth())


def destinations(result: EdgePlan) -> tuple[Destination, ...]:
    [found] = [s for s in result.state.services if s.key == WEB]
    return found.destinations


def test_pods_are_the_destinations_at_their_own_ports() -> None:
    assert destinations(plan(service(annotations=NAT), both())) == (
        Destination(POD1, nat_port=8080),
        Destination(POD2, nat_port=8080),
    )


def test_a_pod_needs_no_worker_under_it() -> None:
    elsewhere = node("other", "198.18.0.31", role="none")
    result = plan(service(annotations=NAT), both(on="other"), nodes=[*WORKERS, elsewhere])
    assert [d.address for d in destinations(result)] == [POD1, POD2]
    assert not [w for w in result.warnings if "no worker" in w]


@pytest.mark.parametrize(
    ("default", "annotation", "nat"),
    [("tunnel", None, False), ("nat", None, True), ("nat", "tunnel", False), ("tunnel", " NAT ", True)],
)
def test_the_annotation_wins_over_the_setting(default: str, annotation: str | None, nat: bool) -> None:
    annotations = {} if annotation is None else {"samegate.dev/forwarding": annotation}
    result = plan(service(annotations=annotations), both(), forwarding=default)
    assert all((d.nat_port is not None) is nat for d in destinations(result))
    assert (result.translation is not None) is nat


def test_services_that_share_an_address_are_forwarded_one_way() -> None:
    key = {"samegate.dev/sharing-key": "front"}
    ports = [{"name": "p", "port": 81, "protocol": "TCP", "targetPort": 8080}]
    first = service(annotations=NAT | key)
    alike = plan(first, service("younger", ports=ports, annotations=NAT | key), both())
    assert alike.rejections == ()
    assert {s.key.port for s in alike.state.services} == {80, 81}
    result = plan(first, service("younger", ports=ports, annotations=key), both())
    [rejection] = result.rejections
    assert (str(rejection.service), rejection.reason) == ("default/younger", "SharingForwardingDiffers")
    assert {s.key.port for s in result.state.services} == {80}


@pytest.mark.parametrize("word", ["", "masquerade", "tunnel,nat"])
def test_an_unknown_word_is_refused_and_other_services_go_on(word: str) -> None:
    bad = service("bad", vip="203.0.113.11", annotations={"samegate.dev/forwarding": word})
    result = plan(bad, service(), both())
    [rejection] = result.rejections
    assert (str(rejection.service), rejection.reason) == ("default/bad", "InvalidForwarding")
    assert repr(word) in rejection.message and "Write one of them" in rejection.message
    assert [s.key for s in result.state.services] == [WEB]


@pytest.mark.parametrize(
    ("states", "drained"),
    [
        (("ready", "unready"), [False, True]),
        (("ready", "terminating"), [False, True]),
        (("ready", "gone"), [False, True]),
        (("terminating", "terminating"), [False, False]),
        (("unready", "unready"), [True, True]),
    ],
)
def test_readiness_drains_a_pod_as_it_drains_a_worker(states: tuple[str, str], drained: list[bool]) -> None:
    assert [d.drained for d in destinations(plan(service(annotations=NAT), both(*states)))] == drained


def test_udp_flows_leave_a_pod_that_no_longer_serves() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}]
    pieces = endpoint_slice(
        [endpoint(str(POD1), "worker1"), endpoint(str(POD2), "worker2", "unready")],
        ports=[{"name": "dns", "port": 5353, "protocol": "UDP"}],
    )
    [dns] = plan(service(annotations=NAT, ports=ports), pieces).state.services
    assert dns.destinations == (Destination(POD1, nat_port=5353),)


def test_a_node_that_drains_drains_its_pods() -> None:
    nodes = [node("worker1", "198.18.0.21", annotations={"samegate.dev/drain": "true"}), WORKERS[1]]
    assert [d.drained for d in destinations(plan(service(annotations=NAT), both(), nodes=nodes))] == [True, False]


def test_tunnel_probes_say_nothing_about_pods() -> None:
    everyone_fails = WorkerHealth(unhealthy=frozenset({ip_address("198.18.0.21"), ip_address("198.18.0.22")}))
    assert not any(d.drained for d in destinations(plan(service(annotations=NAT), both(), health=everyone_fails)))


def test_the_vip_is_tracked_and_translated_and_others_are_not() -> None:
    other = service("other", vip="203.0.113.11")
    result = plan(
        service(annotations=NAT), both(), other, endpoint_slice([endpoint("198.18.131.9", "worker1")], "other")
    )
    assert result.filter.translated == {VIP}
    assert result.translation is not None and result.translation.vips == {VIP}
    assert result.state.translation_digest == result.translation.digest
    sysctls = {"net.ipv4.vs.conntrack": "1", "net.ipv4.ip_forward": "1"}
    assert sysctls.items() <= dict(result.state.sysctls).items()
    plain = plan(other)
    assert plain.state.translation_digest is None
    assert sysctls.keys().isdisjoint(plain.state.sysctls)


@pytest.mark.parametrize(
    ("addresses", "translated"),
    [("198.18.0.11,2001:db8::11", {VIP, VIP6}), ("198.18.0.11", {VIP}), ("2001:db8::11", {VIP6})],
)
def test_a_family_that_the_edge_node_lacks_is_not_translated(addresses: str, translated: set[IPAddress]) -> None:
    """A kernel without that family would refuse its sysctl or its rules, and with them the other family."""
    cluster = snapshot(
        node("edge1", addresses, role="edge"),
        *WORKERS,
        service(annotations=NAT, vip=f"{VIP},{VIP6}", loadBalancerSourceRanges=["192.0.2.0/24", "2001:db8:9::/64"]),
        both(),
        endpoint_slice([endpoint("2001:db8:1::5", "worker1")], name="web-6", family="IPv6"),
    )
    pools = [{"name": "public", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}]
    result = translate_edge(cluster, settings(pools=pools), "edge1")
    assert result.filter.translated == translated
    assert result.translation is not None and result.translation.vips == translated
    assert {s.key.address for s in result.state.services} == translated
    assert {key.address for key, _ in result.filter.limited} == translated
    forwarding = {"net.ipv4.ip_forward": VIP, "net.ipv6.conf.all.forwarding": VIP6}
    assert {vip for name, vip in forwarding.items() if name in result.state.sysctls} == translated


def test_source_ranges_are_the_edge_nodes_to_enforce() -> None:
    ranges = ["192.0.2.0/24", "198.51.100.0/24"]
    result = plan(service(annotations=NAT, loadBalancerSourceRanges=ranges), both())
    assert result.filter.limited == {(WEB, ip_network(r)) for r in ranges}
    tunnelled = plan(service(loadBalancerSourceRanges=ranges), both())
    assert tunnelled.filter.limited == frozenset(), "kube-proxy does it there"


def test_ranges_of_the_other_family_alone_let_nobody_in() -> None:
    result = plan(service(annotations=NAT, loadBalancerSourceRanges=["2001:db8::/32"]), both())
    assert result.filter.served == frozenset()


def test_one_packet_together_with_nat_is_refused_for_that_port_alone() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 80, "targetPort": 8080}]
    result = plan(service(annotations=NAT | {"samegate.dev/udp-one-packet": "true"}, ports=ports), both())
    [rejection] = result.rejections
    assert rejection.reason == "OnePacketWithNat"
    assert [s.key for s in result.state.services] == [WEB]


def test_workers_have_no_part_in_it() -> None:
    cluster = snapshot(*EDGES, *WORKERS, service(annotations=NAT, healthCheckNodePort=32100), both())
    found = translate_worker(cluster, settings(), "worker1")
    assert (found.delivery.deliveries, found.checks) == ((), ())


def test_a_service_that_is_gone_keeps_nothing_open_behind_it() -> None:
    before = plan(service(annotations=NAT), both())
    after = retain_announced(plan(), before.state, frozenset({VIP}))
    assert (after.state.services, after.state.vips, after.filter.served) == ((), frozenset(), frozenset())


# Announcing


def verdict(result: EdgePlan, **changes: Any) -> Verdict:
    facts = EdgeFacts(result.vips, result.workers, result.state, result.state, WorkerHealth())
    return announce(replace(facts, **changes), Health())[VIP]


def test_readiness_alone_announces_it_though_no_worker_answers() -> None:
    result = plan(service(annotations=NAT), both())
    everyone_fails = WorkerHealth(unhealthy=frozenset(w.address for w in result.workers))
    for health in (WorkerHealth(), everyone_fails):
        said = verdict(result, health=health)
        assert (said.announce, said.reason) == (True, "Announced")
        assert "2 pods by translation" in said.detail


def test_without_a_ready_pod_it_is_not_announced() -> None:
    said = verdict(plan(service(annotations=NAT), both("unready", "unready")))
    assert (said.announce, said.reason) == (False, "NoReadyEndpoints")


def test_without_its_translation_it_is_not_announced_because_kube_proxy_would_take_it() -> None:
    result = plan(service(annotations=NAT), both())
    said = verdict(result, observed=replace(result.state, translation_digest=None))
    assert (said.announce, said.reason) == (False, "TranslationMissing")


def test_a_missing_sysctl_keeps_it_back() -> None:
    result = plan(service(annotations=NAT), both())
    untracked = {**result.state.sysctls, "net.ipv4.vs.conntrack": "0"}
    said = verdict(result, observed=replace(result.state, sysctls=untracked))
    assert (said.announce, said.reason) == (False, "SysctlDiffers")


# What is told


def test_the_losses_are_told_by_plan(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(yaml.safe_dump_all([*EDGES, *WORKERS, service(annotations=NAT, vip="203.0.113.10"), both()]))
    text, code = plan_file(path)
    assert code == 0
    assert f"    -> pod {POD1}:8080 by nat, weight 1, " in text
    assert "warning: default/web: forwarding nat: the app sees an edge node's address instead of the client's" in text
    assert "connections end when their edge node leaves" in text


def test_a_standalone_service_goes_to_its_workers_own_ports() -> None:
    file = parse_standalone(text_of(with_value("nat", "services", 0, "forwarding")), "file")
    result = translate_edge(file.snapshot(), file.agent_settings(), "edge1")
    [web] = [s for s in result.state.services if s.key.port == 80]
    assert [(str(d.address), d.nat_port) for d in web.destinations] == [
        ("198.51.100.21", 8080),
        ("198.51.100.22", 8080),
    ]
    with pytest.raises(ConfigError, match="dns has onePacket together with forwarding nat"):
        parse_standalone(text_of(with_value("nat", "settings", "forwarding")), "file")
