"""Active probes on the rack: readiness stays as it is all the while, and only the probe tells that the pods do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import topology
from lab.report.bench import APPS, Bench, Target, addresses_of, wait_until
from lab.report.live_flows import echo_pods
from tests.lab.test_bad_input import NAME, echo, existing, is_served, service, status, wait_for_reason  # noqa: F401 - echo is a fixture

pytestmark = pytest.mark.lab

WORKER1, WORKER2 = topology.WORKERS
#: The echo app answers any datagram with its pod's name, which begins with the Deployment's.
PROBE = {
    "samegate.dev/probe": "udp",
    "samegate.dev/probe-payload": "x",
    "samegate.dev/probe-expect": "echo-",
    "samegate.dev/probe-interval-ms": "1000",
    "samegate.dev/probe-timeout-ms": "900",
}
PORTS = [
    {"name": "tcp", "port": 7000, "targetPort": "echo", "protocol": "TCP"},
    {"name": "udp", "port": 7000, "targetPort": "echo-udp", "protocol": "UDP"},
]
#: Three failures a second apart, what a status page is polled in, a pass, and a busy machine.
VERDICT_SECONDS = 15


@contextmanager
def deaf_to_its_node(bench: Bench, worker: str) -> Iterator[None]:
    """The pods of a worker hear no datagrams of the worker itself; those of clients are forwarded and pass."""
    pods, port = echo_pods(bench, "UDP")
    rules = [f"OUTPUT -p udp -d {address} --dport {port} -j DROP" for address in pods[worker]]
    machine = bench.machine(worker)
    machine.run("; ".join(f"iptables-legacy -w -I {rule}" for rule in rules))
    try:
        yield
    finally:
        machine.run("; ".join(f"iptables-legacy -w -D {rule}" for rule in rules), check=False)


def fit(bench: Bench, worker: str) -> Any:
    """What a worker says of the test's Service."""
    listed = status(bench, worker)["active_probes"]
    return next((entry["fit"] for entry in listed if entry["service"] == f"{APPS}/{NAME}"), None)


def serving(bench: Bench, target: Target) -> set[str]:
    """The workers that answer new connections."""
    return {str(sample.node) for sample in bench.connect(target, 60, sources=bench.sources(3)) if sample.ok}


def test_a_worker_whose_pods_do_not_answer_their_probe_gets_nothing_new_until_they_do(
    bench: Bench,
    echo: Target,  # noqa: F811
) -> None:
    with existing(service(PROBE, ports=PORTS)):
        wait_until("it has an address", lambda: addresses_of(bench.objects("service", "-n", APPS, NAME)), 20)
        target = Target(NAME, addresses_of(bench.objects("service", "-n", APPS, NAME))[0], 7000, "tcp")
        for worker in (WORKER1.name, WORKER2.name):
            wait_until(f"{worker} passes", lambda w=worker: fit(bench, w) is True, VERDICT_SECONDS)  # type: ignore[misc]
        bench.wait_announced(target.vip, bench.edges)
        assert serving(bench, target) == {WORKER1.name, WORKER2.name}
        with bench.open_flows(target, 50) as flows, deaf_to_its_node(bench, WORKER2.name):
            wait_until(f"{WORKER2.name} fails", lambda: fit(bench, WORKER2.name) is False, VERDICT_SECONDS)
            wait_until("nothing new goes there", lambda: serving(bench, target) == {WORKER1.name}, VERDICT_SECONDS)
            assert flows.check().broken == 0, "what was there before goes on"
            with deaf_to_its_node(bench, WORKER1.name):
                bench.wait_announced(target.vip, set(), VERDICT_SECONDS)
                reasons = {status(bench, e.name)["vips"][target.vip]["reason"] for e in topology.EDGES}
                assert reasons == {"ActiveProbesFail"}
            bench.wait_announced(target.vip, bench.edges, VERDICT_SECONDS)
        wait_until("both serve", lambda: serving(bench, target) == {WORKER1.name, WORKER2.name}, VERDICT_SECONDS)


def test_a_probe_that_cannot_be_understood_is_told_and_the_service_is_served(
    bench: Bench,
    echo: Target,  # noqa: F811
) -> None:
    with existing(service({"samegate.dev/probe": "https"}, ports=PORTS)):
        found = wait_for_reason(bench, "InvalidProbe")
        assert found["status"] == "True"
        assert "samegate.dev/probe = 'https'" in found["message"]
        vip = addresses_of(bench.objects("service", "-n", APPS, NAME))[0]
        bench.wait_announced(vip, bench.edges)
        assert is_served(bench, Target(NAME, vip, 7000, "tcp"))
