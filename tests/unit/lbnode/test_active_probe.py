"""Active probes: what annotations ask for, and which pods are asked."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.active_probe import (
    ActiveProbe,
    Backend,
    HttpGet,
    TcpConnect,
    UdpExchange,
    local_backends,
    read_active_probe,
)
from lbnode.model import Protocol, ServiceName
from lbnode.object_reader import read_service
from lbnode.objects import Snapshot
from lbnode.settings import ActiveProbes
from lbnode.translate.edge import translate_edge
from lbnode.translate.worker import translate_worker
from tests.unit.lbnode.kube_objects import EDGES, WORKERS, endpoint, endpoint_slice, service, settings, snapshot

WEB = ServiceName("default", "web")
DNS_PORTS = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}]
TWO_PORTS = [{"name": "http", "port": 80}, {"name": "admin", "port": 8443}]


def read(annotations: dict[str, str], **spec: Any) -> tuple[ActiveProbe | None, str]:
    """The probe, and the text of the rejection."""
    found, _ = read_service(service(annotations=annotations, **spec))
    assert found is not None
    probe, refused = read_active_probe(found, ActiveProbes())
    assert refused is None or (refused.service, refused.reason) == (WEB, "InvalidProbe")
    return probe, refused.message if refused is not None else ""


def test_a_service_without_annotations_has_no_probe() -> None:
    assert read({"samegate.dev/address": "203.0.113.9"}) == (None, "")


def test_a_probe_takes_what_the_settings_say() -> None:
    probe, _ = read({"samegate.dev/probe": "tcp"})
    assert probe is not None
    assert probe.question == TcpConnect()
    assert (probe.port_name, probe.protocol) == ("http", Protocol.TCP)
    # GLB director: 2 s, 1 s, 3 strikes.
    assert (probe.pace.interval_ms, probe.pace.timeout_ms, probe.pace.fall) == (2000, 1000, 3)


def test_annotations_take_the_place_of_settings() -> None:
    probe, _ = read(
        {
            "samegate.dev/probe": "http",
            "samegate.dev/probe-port": "admin",
            "samegate.dev/probe-path": "/healthz?deep=1",
            "samegate.dev/probe-status": "200, 204-206",
            "samegate.dev/probe-interval-ms": "5000",
            "samegate.dev/probe-timeout-ms": "400",
            "samegate.dev/probe-rise": "1",
            "samegate.dev/probe-fall": "5",
            "samegate.dev/probe-low-watermark": "0.25",
            "samegate.dev/probe-high-watermark": "0.5",
        },
        ports=TWO_PORTS,
    )
    assert probe is not None
    assert probe.question == HttpGet("/healthz?deep=1", ((200, 200), (204, 206)))
    assert probe.port_name == "admin"
    assert probe.pace == ActiveProbes(
        interval_ms=5000, timeout_ms=400, rise=1, fall=5, low_watermark=0.25, high_watermark=0.5
    )
    assert str(probe) == "http GET /healthz?deep=1 on port admin each 5000 ms, timeout 400 ms, rise 1, fall 5"


def test_a_port_may_be_named_by_its_number() -> None:
    probe, _ = read({"samegate.dev/probe": "tcp", "samegate.dev/probe-port": "8443"}, ports=TWO_PORTS)
    assert probe is not None
    assert probe.port_name == "admin"


@pytest.mark.parametrize(
    ("payload", "expect", "question"),
    [
        ("ping", None, UdpExchange(b"ping")),
        ("hex:0a 0B", "hex:ff", UdpExchange(b"\x0a\x0b", b"\xff")),
        ("é", "pong", UdpExchange(b"\xc3\xa9", b"pong")),
    ],
)
def test_a_datagram_is_text_or_hexadecimal(payload: str, expect: str | None, question: UdpExchange) -> None:
    annotations = {"samegate.dev/probe": "UDP", "samegate.dev/probe-payload": payload}
    if expect is not None:
        annotations["samegate.dev/probe-expect"] = expect
    probe, _ = read(annotations, ports=DNS_PORTS)
    assert probe is not None
    assert (probe.question, probe.protocol, probe.port_name) == (question, Protocol.UDP, "dns")


HTTP = {"samegate.dev/probe": "http"}


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({"samegate.dev/probe": "icmp"}, "samegate.dev/probe = 'icmp': there is no such probe. Use tcp, http or udp"),
        ({"samegate.dev/probe": ""}, "Use tcp, http or udp"),
        ({"samegate.dev/probe-path": "/"}, "samegate.dev/probe-path does nothing without samegate.dev/probe"),
        (HTTP | {"samegate.dev/probe-pth": "/"}, "samegate.dev/probe-pth is no annotation of ours"),
        ({"samegate.dev/probe": "tcp", "samegate.dev/probe-path": "/"}, "belongs to a probe of type http"),
        (HTTP | {"samegate.dev/probe-path": "healthz"}, "samegate.dev/probe-path = 'healthz': not a path"),
        (HTTP | {"samegate.dev/probe-path": "/a b"}, "not a path"),
        (HTTP | {"samegate.dev/probe-path": "/\r\nX: y"}, "not a path"),
        (HTTP | {"samegate.dev/probe-path": "/" + "a" * 1024}, "at most 1024"),
        (HTTP | {"samegate.dev/probe-status": "2xx"}, "samegate.dev/probe-status = '2xx': not a list"),
        (HTTP | {"samegate.dev/probe-status": "300-200"}, "not a list"),
        (HTTP | {"samegate.dev/probe-status": "99"}, "not a list"),
        (HTTP | {"samegate.dev/probe-status": ""}, "not a list"),
        (HTTP | {"samegate.dev/probe-interval-ms": "fast"}, "samegate.dev/probe-interval-ms = 'fast': not a number"),
        (HTTP | {"samegate.dev/probe-interval-ms": "1_000"}, "not a number"),
        (HTTP | {"samegate.dev/probe-interval-ms": "99"}, "samegate.dev/probe-interval-ms = '99'"),
        (HTTP | {"samegate.dev/probe-interval-ms": "500"}, "timeoutMs 1000 is above intervalMs 500"),
        (HTTP | {"samegate.dev/probe-rise": "0"}, "samegate.dev/probe-rise = '0'"),
        (HTTP | {"samegate.dev/probe-low-watermark": "nan"}, "samegate.dev/probe-low-watermark = 'nan'"),
        (HTTP | {"samegate.dev/probe-low-watermark": "0.5"}, "lowWatermark 0.5 is above highWatermark 0.0"),
        (HTTP | {"samegate.dev/probe-port": "metrics"}, "no TCP port of the Service has this name or number"),
        ({"samegate.dev/probe": "udp", "samegate.dev/probe-payload": "x"}, "the Service has no UDP port to probe"),
    ],
)
def test_a_mistake_is_told_and_costs_only_the_probe(annotations: dict[str, str], told: str) -> None:
    probe, message = read(annotations)
    assert probe is None
    assert told in message
    assert message.endswith("The Service is served without an active probe until then")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "Give samegate.dev/probe-payload"),
        ({"samegate.dev/probe-payload": "hex:0"}, "not hexadecimal digits in pairs"),
        ({"samegate.dev/probe-payload": "x" * 1025}, "1025 bytes are more than 1024"),
    ],
)
def test_a_datagram_that_cannot_be_sent_is_refused(more: dict[str, str], told: str) -> None:
    assert told in read({"samegate.dev/probe": "udp"} | more, ports=DNS_PORTS)[1]


def test_a_probe_beside_cluster_policy_is_refused_because_it_could_not_act() -> None:
    probe, message = read(HTTP, externalTrafficPolicy="Cluster")
    assert probe is None
    assert "Set externalTrafficPolicy to Local" in message


def test_a_service_with_a_bad_probe_is_served_like_one_without() -> None:
    web = endpoint_slice([endpoint("198.18.131.5", "worker1")])
    bad = snapshot(service(annotations={"samegate.dev/probe": "icmp"}), web, *EDGES, *WORKERS)
    plain = snapshot(service(), web, *EDGES, *WORKERS)
    plan = translate_edge(bad, settings(), "edge1")
    assert [r.reason for r in plan.rejections] == ["InvalidProbe"]
    assert plan.state == translate_edge(plain, settings(), "edge1").state
    assert translate_worker(bad, settings(), "worker1").backends == {}


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "samegate.dev/probe",
                "samegate.dev/probe-port",
                "samegate.dev/probe-path",
                "samegate.dev/probe-status",
                "samegate.dev/probe-payload",
                "samegate.dev/probe-expect",
                "samegate.dev/probe-interval-ms",
                "samegate.dev/probe-fall",
                "samegate.dev/probe-high-watermark",
            ]
        ),
        st.one_of(st.sampled_from(["tcp", "http", "udp", "hex:", "1000", "0.5", "-1", "1e999", "/"]), st.text()),
    )
)
def test_any_annotations_give_a_probe_or_a_rejection_or_nothing(annotations: dict[str, str]) -> None:
    probe, message = read(annotations)
    assert (probe is None or message == "") and (bool(annotations) == bool(probe or message))
    if probe is not None and isinstance(probe.question, HttpGet):
        assert "\n" not in probe.question.path and " " not in probe.question.path


def local(*endpoints: dict[str, Any], node: str = "worker1", **slice_parts: Any) -> set[str]:
    cluster: Snapshot = snapshot(service(annotations=HTTP), endpoint_slice(list(endpoints), **slice_parts))
    probe = ActiveProbe(HttpGet(), "http", Protocol.TCP, ActiveProbes())
    return {str(b.address) for b in local_backends(WEB, probe, cluster.slices, node)}


def test_ready_pods_of_this_node_are_asked() -> None:
    pods = (
        endpoint("198.18.131.5", "worker1"),
        endpoint("198.18.131.6", "worker1", "unready"),
        endpoint("198.18.132.5", "worker2"),
        endpoint("198.18.131.7", "worker1", "terminating"),
    )
    assert local(*pods) == {"198.18.131.5"}


def test_while_no_pod_is_ready_those_that_may_still_be_delivered_to_are_asked() -> None:
    pods = (
        endpoint("198.18.131.6", "worker1", "unready"),
        endpoint("198.18.131.7", "worker1", "terminating"),
        endpoint("198.18.131.8", "worker1", "gone"),
    )
    assert local(*pods) == {"198.18.131.6", "198.18.131.7"}


def test_only_the_port_of_the_probe_is_asked() -> None:
    ports = [{"name": "other", "port": 9, "protocol": "TCP"}, {"name": "http", "port": 9, "protocol": "UDP"}]
    assert local(endpoint("198.18.131.5", "worker1"), ports=ports) == set()


def test_a_worker_plans_the_probes_of_its_own_pods_at_their_own_port() -> None:
    cluster = snapshot(
        service(annotations=HTTP),
        service("plain", vip="203.0.113.11"),
        service("foreign", vip="203.0.113.12", annotations=HTTP, loadBalancerClass="other.example/x"),
        endpoint_slice([endpoint("198.18.131.5", "worker1"), endpoint("198.18.132.5", "worker2")]),
        endpoint_slice([endpoint("198.18.131.6", "worker1")], service="plain"),
        endpoint_slice([endpoint("198.18.131.7", "worker1")], service="foreign"),
        *EDGES,
        *WORKERS,
    )
    found = translate_worker(cluster, settings(), "worker1").backends
    assert set(found) == {Backend(WEB, ip_address("198.18.131.5"), 8080)}
