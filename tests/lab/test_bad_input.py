"""Bad input on a live rack: each is told with value, rule and way out, and everything else stays in force."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import cluster, netns, processes, routers, topology
from lab.report.bench import APPS, SYSTEM_NAMESPACE, Bench, Target, addresses_of, wait_until
from lab.report.steady import ECHO
from lab.routers import frr

pytestmark = pytest.mark.lab

EDGE1, EDGE2 = topology.EDGES
NAME = "bad-input"
CONDITION_SECONDS = 20
RECONNECT_SECONDS = 60
FOLLOW_SECONDS = 120
"""The kubelet brings a changed ConfigMap to its pods within a minute or so."""


def service(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A Service on the echo app's pods, with something wrong."""
    wanted = {
        "type": "LoadBalancer",
        "loadBalancerClass": "samegate.dev/lb",
        "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": False,
        "selector": {"app.kubernetes.io/name": "echo"},
        "ports": [{"name": "tcp", "port": 7000, "targetPort": "echo"}],
    }
    metadata = {
        "name": NAME,
        "namespace": APPS,
        "labels": {"samegate.dev/test-only": "true"},
        "annotations": annotations or {},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wanted | spec}


@contextmanager
def existing(manifest: dict[str, Any]) -> Iterator[None]:
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    try:
        yield
    finally:
        cluster.kubectl("delete", "service", "-n", APPS, NAME, "--ignore-not-found")


def condition(bench: Bench, kind: str = "samegate.dev/Accepted") -> dict[str, Any]:
    conditions = bench.objects("service", "-n", APPS, NAME).get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind), {})


def wait_for_reason(bench: Bench, reason: str) -> dict[str, Any]:
    wait_until(f"the condition says {reason}", lambda: condition(bench).get("reason") == reason, CONDITION_SECONDS)
    return condition(bench)


def events(bench: Bench, reason: str) -> list[str]:
    items = bench.objects("events", "-n", APPS, "--field-selector", f"involvedObject.name={NAME}")["items"]
    return [e["message"] for e in items if e["reason"] == reason]


def is_served(bench: Bench, target: Target) -> bool:
    return all(sample.ok for sample in bench.connect(target, 20, sources=bench.sources(2)))


def status(bench: Bench, node: str) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(bench.page(node, "/v1/status"))
    return page


@pytest.fixture
def echo(bench: Bench) -> Iterator[Target]:
    """The echo app, which has to be served by both edge nodes before and after, whatever happens."""
    target = bench.target(ECHO)
    assert is_served(bench, target)
    yield target
    assert is_served(bench, target)


REFUSED: list[tuple[str, Callable[[Target], dict[str, str]], str, tuple[str, ...]]] = [
    (
        "outside the pool",
        lambda echo: {"samegate.dev/address": "198.51.100.7"},
        "AddressOutsidePool",
        ("198.51.100.7", "203.0.113.0/24"),
    ),
    ("taken", lambda echo: {"samegate.dev/address": echo.vip}, "AddressTaken", ("echo/echo", "Ask for a free one")),
    (
        "of the wrong family",
        lambda echo: {"samegate.dev/address": "2001:db8::7"},
        "WrongAddressFamily",
        ("2001:db8::7",),
    ),
    (
        "no address",
        lambda echo: {"samegate.dev/address": "next to the other"},
        "InvalidAddress",
        ("next to the other", "Write one like"),
    ),
]


@pytest.mark.parametrize(
    ("annotations", "reason", "told"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_an_address_that_cannot_be_given_is_told_and_hurts_nobody(
    bench: Bench, echo: Target, annotations: Callable[[Target], dict[str, str]], reason: str, told: tuple[str, ...]
) -> None:
    with existing(service(annotations(echo))):
        found = wait_for_reason(bench, reason)
        assert found["status"] == "False"
        assert all(part in found["message"] for part in told), found["message"]
        wait_until("there is an event", lambda: events(bench, reason), CONDITION_SECONDS)
        assert addresses_of(bench.objects("service", "-n", APPS, NAME)) == []
        assert bench.announced_by(echo.vip) == {"tor1": bench.edges, "tor2": bench.edges}


def test_one_unknown_named_port_is_told_and_the_other_port_is_served(bench: Bench, echo: Target) -> None:
    ports = [
        {"name": "good", "port": 7000, "targetPort": "echo"},
        {"name": "bad", "port": 7001, "targetPort": "no-such-port"},
    ]
    with existing(service(ports=ports)):
        found = wait_for_reason(bench, "UnknownNamedPort")
        assert found["status"] == "True"
        assert "no-such-port" in found["message"]
        vip = addresses_of(bench.objects("service", "-n", APPS, NAME))[0]
        bench.wait_announced(vip, bench.edges)
        assert is_served(bench, Target(NAME, vip, 7000, "tcp"))
        assert bench.client.ports("tcp", vip, [7001])[7001] != "open"


def test_a_service_of_another_class_is_not_touched(bench: Bench, echo: Target) -> None:
    with existing(service(loadBalancerClass="example.com/other")):
        marker = service()
        marker["metadata"]["name"] = "bad-input-marker"
        # Once a Service that came later has its address, the foreign one was seen and passed over.
        cluster.kubectl("apply", "-f", "-", input=json.dumps(marker))
        try:
            wait_until(
                "the later Service has an address",
                lambda: addresses_of(bench.objects("service", "-n", APPS, "bad-input-marker")),
                CONDITION_SECONDS,
            )
            foreign = bench.objects("service", "-n", APPS, NAME)
        finally:
            cluster.kubectl("delete", "service", "-n", APPS, "bad-input-marker", "--ignore-not-found")
    assert foreign["status"] == {"loadBalancer": {}}
    assert "finalizers" not in foreign["metadata"]


@contextmanager
def settings_text(change: Callable[[str], str]) -> Iterator[None]:
    """The agents' ConfigMap with another text, put back afterwards."""
    get = ("get", "configmap", "-n", SYSTEM_NAMESPACE, "samegate-settings", "-o", "json")
    before = json.loads(cluster.kubectl(*get))["data"]["settings.json"]

    def put(text: str) -> None:
        patch = json.dumps({"data": {"settings.json": text}})
        cluster.kubectl("patch", "configmap", "-n", SYSTEM_NAMESPACE, "samegate-settings", "--type=merge", "-p", patch)

    put(change(before))
    try:
        yield
    finally:
        put(before)


def metric(page: str, name: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name) and "_created" not in line
    )


def test_malformed_settings_after_good_ones_leave_the_good_ones_in_force(bench: Bench, echo: Target) -> None:
    routes = bench.next_hops(echo.vip)
    with settings_text(lambda text: text.replace('"localAsn": 65010', '"localAsn": 23456')):
        wait_until(
            "an edge node complains of its settings",
            lambda: (
                "RFC 6793"
                in cluster.kubectl(
                    "logs", "-n", SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/component=edge", "--tail=400"
                )
            ),
            FOLLOW_SECONDS,
            2,
        )
        assert bench.next_hops(echo.vip) == routes
        assert is_served(bench, echo)
    wait_until(
        "the good settings are back",
        lambda: all(not _complains(bench, node.name) for node in topology.EDGES),
        FOLLOW_SECONDS,
        2,
    )


def _complains(bench: Bench, node: str) -> bool:
    return metric(bench.page(node, "/metrics"), "samegate_settings_refused") > 0


def test_an_exhausted_pool_is_told_and_hurts_nobody(bench: Bench, echo: Target) -> None:
    held = sorted(vip for s in bench.services() for vip in addresses_of(s))

    def exactly_these(text: str) -> str:
        settings = json.loads(text)
        settings["pools"][0]["cidrs"] = [topology.host_route(vip) for vip in held]
        return json.dumps(settings)

    with settings_text(exactly_these), existing(service()):
        wait_until(
            "the condition says PoolExhausted",
            lambda: condition(bench).get("reason") == "PoolExhausted",
            FOLLOW_SECONDS,
            1,
        )
        of_its_family = [vip for vip in held if topology.version_of(vip) == 4]
        assert f"all {len(of_its_family)} addresses" in condition(bench)["message"]
        assert is_served(bench, echo)
    wait_until("the pool is whole again", lambda: bench.trouble() is None, FOLLOW_SECONDS, 2)


def _needs_frr() -> None:
    if routers.chosen() != "frr":
        pytest.skip(f"the ToRs of this lab run {routers.chosen()}: only FRR's settings are changed while it runs")


@contextmanager
def tor1_configured(commands: list[str], undo: list[str]) -> Iterator[None]:
    """The first ToR, which has to run FRR, with other BGP settings; a route-map EVERYTHING is there (FRR sends nothing to an external peer without a policy)."""
    _needs_frr()
    enter = ["configure terminal", f"router bgp {topology.TOR1_ROUTER.asn}"]
    routers.vtysh("tor1", "configure terminal", "route-map EVERYTHING permit 10")
    routers.vtysh("tor1", *enter, *commands)
    try:
        yield
    finally:
        routers.vtysh("tor1", *enter, *undo)
        routers.vtysh("tor1", "configure terminal", "no route-map EVERYTHING")


@contextmanager
def tor1_with_key(key: str) -> Iterator[None]:
    """The first ToR with a TCP-MD5 key for the edge nodes. FRR keeps the key of a listening range when it is taken back: so it starts anew.

    Only the edge nodes' sessions are cleared: without the one to the core the ToR would lose the replies of half of the connections.
    """
    _needs_frr()
    enter = ["configure terminal", f"router bgp {topology.TOR1_ROUTER.asn}"]
    routers.vtysh("tor1", *enter, f"neighbor SAMEGATE-EDGES password {key}")
    for edge in topology.EDGES:
        routers.vtysh("tor1", f"clear bgp {edge.address}")
    try:
        yield
    finally:
        processes.stop("tor1-bgpd")
        routers.start()


def test_a_bgp_key_on_one_side_only_is_seen_and_the_other_router_serves(bench: Bench, echo: Target) -> None:
    with tor1_with_key("another-key"):
        wait_until("tor1 has lost the VIP", lambda: not bench.announced_by(echo.vip)["tor1"], 30)
        wait_until("edge1 sees its session down", lambda: session_state(bench, "tor1") != "Established", 30)
        assert bench.announced_by(echo.vip)["tor2"] == bench.edges
        assert is_served(bench, echo)
        assert session_state(bench, "tor2") == "Established"
    bench.settle(RECONNECT_SECONDS)


def session_state(bench: Bench, peer: str) -> str:
    return str(status(bench, EDGE1.name)["sessions"][peer]["state"])


def host_routes(bench: Bench, node: str) -> str:
    return bench.machine(node).run("ip route show table all | grep -v -e ' dev veth' -e cni0").stdout


def test_a_default_route_and_a_table_of_routes_from_a_router_are_not_learnt(bench: Bench, echo: Target) -> None:
    before = {edge.name: host_routes(bench, edge.name) for edge in topology.EDGES}
    tor = topology.TOR1_ROUTER.namespace
    prefixes = [f"100.{64 + n // 256}.{n % 256}.0/24" for n in range(1000)]
    netns.run(
        tor, ["ip", "-batch", "-"], input="".join(f"route add blackhole {prefix} metric 4000\n" for prefix in prefixes)
    )
    family = "address-family ipv4 unicast"
    try:
        with tor1_configured(
            [
                family,
                "neighbor SAMEGATE-EDGES route-map EVERYTHING out",
                "neighbor SAMEGATE-EDGES default-originate",
                "redistribute kernel",
            ],
            [
                family,
                "no redistribute kernel",
                "no neighbor SAMEGATE-EDGES default-originate",
                "neighbor SAMEGATE-EDGES route-map SAMEGATE-NOTHING out",
            ],
        ):
            wait_until("tor1 sends the routes", lambda: _sent(str(EDGE1.address)) > 1000, 30)
            assert {edge.name: host_routes(bench, edge.name) for edge in topology.EDGES} == before
            assert bench.announced_by(echo.vip) == {"tor1": bench.edges, "tor2": bench.edges}
            assert is_served(bench, echo)
    finally:
        netns.run(
            tor,
            ["ip", "-batch", "-"],
            input="".join(f"route del blackhole {prefix} metric 4000\n" for prefix in prefixes),
        )
    bench.wait_announced(echo.vip, bench.edges, RECONNECT_SECONDS)


def _sent(peer: str) -> int:
    return int(frr.bgp_peers(topology.TOR1_ROUTER).get(peer, {}).get("pfxSnt", 0))


def test_an_edge_node_with_kube_proxy_in_ipvs_mode_is_refused_and_the_other_serves(bench: Bench, echo: Target) -> None:
    machine = bench.machine(EDGE2.name)
    machine.run("ip link add kube-ipvs0 type dummy")
    try:
        bench.wait_announced(echo.vip, {EDGE1.name}, 30)
        verdict = status(bench, EDGE2.name)["vips"][echo.vip]
        assert verdict["reason"] == "KubeProxyIpvs"
        assert "iptables or nftables mode" in verdict["detail"]
        assert is_served(bench, echo)
    finally:
        machine.run("ip link delete kube-ipvs0")
    bench.wait_announced(echo.vip, bench.edges, 30)


def test_a_worker_with_an_ebpf_service_proxy_gets_nothing_and_the_other_serves(bench: Bench, echo: Target) -> None:
    worker = bench.machine(topology.WORKERS[0].name)
    pids = " ".join(map(str, bench.pids(worker.name, "kube-proxy ")))
    # Such a proxy has its own devices and no kube-proxy beside it that would answer.
    worker.run(f"ip link add cilium_host type dummy && kill -STOP {pids}")
    try:
        wait_until("the worker says why", lambda: "EbpfServiceProxy" in bench.page(worker.name, "/v1/status"), 30)
        wait_until("only the other worker serves", lambda: _serving(bench, echo) == {topology.WORKERS[1].name}, 15, 0.5)
        assert bench.announced_by(echo.vip) == {"tor1": bench.edges, "tor2": bench.edges}
    finally:
        worker.run(f"kill -CONT {pids}; ip link delete cilium_host")
    wait_until("both workers serve", lambda: _serving(bench, echo) == {w.name for w in topology.WORKERS}, 40, 0.5)


def _serving(bench: Bench, target: Target) -> set[str | None]:
    return {sample.node for sample in bench.connect(target, 30, sources=bench.sources(1))}
