"""`samegate` against the live rack: what it says is what routers, pods and kernels do, also when something is broken."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cluster, netns, topology
from lab.report.bench import APPS, SYSTEM_NAMESPACE, Bench, NotReached, Target, addresses_of, wait_until
from lab.report.steady import ECHO
from lab.traffic import answer
from tests.lab.test_bad_input import NAME, existing, service

pytestmark = pytest.mark.lab

EDGE1, EDGE2 = topology.EDGES
WORKER1, WORKER2 = topology.WORKERS
FIND_SECONDS = 60
"""What agents look at now and then (each 10 s), and the command itself on a busy machine."""
CLOCK_AHEAD_SECONDS = 30
FLOWS = 8
CONNECT = """
import socket, sys
vip, port, source, source_port = sys.argv[1:]
with socket.create_connection((vip, int(port)), 5, (source, int(source_port))) as connection:
    print(connection.makefile().readline().strip())
"""


def samegate(*arguments: str, kubeconfig: Path = cluster.kubeconfig) -> subprocess.CompletedProcess[str]:
    """The command from the machine of the control plane, which reaches the API server and the nodes."""
    command = [sys.executable, "-m", "lbnode.command", *arguments, f"--kubeconfig={kubeconfig}"]
    return netns.run(topology.CONTROL, command, check=False, timeout_seconds=120, cwd=topology.ROOT)


def told(*arguments: str) -> dict[str, Any]:
    """What it answers as JSON, whether all is well (code 0) or not (code 1)."""
    done = samegate(*arguments, "--json")
    assert done.returncode in (0, 1), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def wait_for_findings(*expected: tuple[str, str]) -> None:
    """Until doctor finds these by check and node, whatever else; nothing at all when none is expected."""
    seen: list[dict[str, Any]] = []

    def as_expected() -> bool:
        seen[:] = told("doctor")["findings"]
        found = {(f["check"], f["where"]) for f in seen}
        return found >= set(expected) if expected else not found

    try:
        wait_until(f"doctor finds {expected}", as_expected, FIND_SECONDS, 1)
    except NotReached as error:
        pytest.fail(f"{error}; it finds {seen}")


@contextmanager
def undone_by(undo: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        undo()


@pytest.fixture
def echo(bench: Bench) -> Target:
    return bench.target(ECHO)


def test_status_and_routes_say_what_the_routers_have(bench: Bench, echo: Target) -> None:
    vips = {v["vip"]: v for v in told("status")["vips"]}
    announced = bench.announced_by(echo.vip)
    assert set(vips[echo.vip]["announced_by"]) == announced["tor1"] == announced["tor2"]
    hops = {r["next_hop"] for r in told("routes")["routes"] if r["prefix"] == f"{echo.vip}/32"}
    assert hops == {str(e.address) for e in topology.EDGES}


def test_nothing_is_wrong_with_a_settled_rack(bench: Bench, echo: Target) -> None:
    wait_for_findings()
    assert samegate("why", echo.vip).returncode == 0


def test_explain_names_the_worker_that_really_answers_each_source_port(bench: Bench, echo: Target) -> None:
    (source,) = bench.sources(1)
    explained, answered = [], []
    for port in range(42000, 42000 + FLOWS):
        explained.append(told("explain", f"{source}:{port}", f"{echo.vip}:{echo.port}", "--protocol", "tcp")["worker"])
        line = netns.run(
            topology.CLIENT, [sys.executable, "-c", CONNECT, echo.vip, str(echo.port), source, str(port)]
        ).stdout
        answered.append(answer.parse(line.encode()).node)
    assert explained == answered
    # With one worker for all of them the comparison would show nothing: two workers share the ports about equally.
    assert set(answered) == {WORKER1.name, WORKER2.name}


def test_explain_follows_the_fallback_of_a_drained_worker(bench: Bench, echo: Target) -> None:
    (source,) = bench.sources(1)
    with undone_by(lambda: samegate("undrain", WORKER1.name, "--wait")):
        assert told("drain", WORKER1.name, "--wait")["done"]
        for port in (43000, 43001, 43002):
            said = told("explain", f"{source}:{port}", f"{echo.vip}:{echo.port}", "--protocol", "tcp")
            assert said["worker"] == WORKER2.name
            assert {p["node"] for p in said["pods"]} == {WORKER2.name}


def test_drain_waits_until_the_edge_node_announces_nothing_and_undrain_until_it_serves(
    bench: Bench, echo: Target
) -> None:
    with undone_by(lambda: samegate("undrain", EDGE2.name, "--wait")):
        assert told("drain", EDGE2.name, "--wait")["done"]
        bench.wait_announced(echo.vip, {EDGE1.name}, 5)
        (failure,) = told("why", echo.vip)["first_failures"]
        assert (failure["where"], failure["condition"]) == (EDGE2.name, "the node does not drain")
        # The last one is kept from going by mistake.
        assert samegate("drain", EDGE1.name).returncode == 2
    bench.wait_announced(echo.vip, bench.edges, 10)


def test_why_says_that_a_service_has_no_ready_endpoint(bench: Bench) -> None:
    with existing(service(selector={"app.kubernetes.io/name": "nobody"})):
        wait_until("it has an address", lambda: addresses_of(bench.objects("service", "-n", APPS, NAME)), 20)
        wait_until("both edge nodes say why", lambda: _failures() == {"ready endpoints on a worker"}, FIND_SECONDS, 1)


def _failures() -> set[str]:
    return {f["condition"] for f in told("why", f"{APPS}/{NAME}")["first_failures"]}


def test_why_and_doctor_name_a_kube_proxy_in_ipvs_mode(bench: Bench, echo: Target) -> None:
    machine = bench.machine(EDGE2.name)
    machine.run("ip link add kube-ipvs0 type dummy")
    with undone_by(lambda: machine.run("ip link delete kube-ipvs0")):
        wait_for_findings(("service proxy", EDGE2.name))
        (failure,) = told("why", echo.vip)["first_failures"]
        assert failure["said"].startswith("KubeProxyIpvs")
    bench.wait_announced(echo.vip, bench.edges, 30)


def test_doctor_finds_another_speaker_on_port_179(bench: Bench) -> None:
    machine = bench.machine(EDGE1.name)
    pid = machine.run("setsid socat TCP-LISTEN:179 /dev/null >/dev/null 2>&1 </dev/null & echo $!").stdout.strip()
    with undone_by(lambda: machine.run(f"kill {pid}", check=False)):
        wait_for_findings(("port 179", EDGE1.name))


def test_doctor_finds_a_path_that_is_too_narrow(bench: Bench) -> None:
    machine, edge = bench.machine(WORKER2.name), EDGE1.address
    device = machine.run(f"ip -o route get {edge} | sed 's/.* dev \\([^ ]*\\).*/\\1/'").stdout.strip()
    machine.run(f"ip route add {edge}/32 dev {device} mtu 1400")
    with undone_by(lambda: machine.run(f"ip route delete {edge}/32 dev {device}")):
        wait_for_findings(("mtu", WORKER2.name))


def test_doctor_finds_a_worker_that_does_not_forward(bench: Bench) -> None:
    machine = bench.machine(WORKER2.name)
    machine.run("sysctl -qw net.ipv4.ip_forward=0")
    with undone_by(lambda: machine.run("sysctl -qw net.ipv4.ip_forward=1")):
        wait_for_findings(("sysctls", WORKER2.name))


def test_doctor_finds_a_wrong_clock(bench: Bench) -> None:
    machine = bench.machine(EDGE2.name)
    machine.run(f"date --set='+{CLOCK_AHEAD_SECONDS} seconds'")
    with undone_by(lambda: machine.run(f"date --set='-{CLOCK_AHEAD_SECONDS} seconds'")):
        wait_for_findings(("clocks", EDGE2.name))


def test_doctor_and_status_tell_of_an_agent_that_stands_still(bench: Bench, echo: Target) -> None:
    with bench.paused_agents(EDGE1.name):
        (vip,) = [v for v in told("status")["vips"] if v["vip"] == echo.vip]
        assert vip["silent"] == [EDGE1.name]
        wait_for_findings(("agents", EDGE1.name))


def test_the_api_server_passes_questions_on_to_every_agent(bench: Bench) -> None:
    """The way of an operator whose machine does not reach the nodes."""
    for role, port in (("edge", 9474), ("worker", 9475), ("controller", 9476)):
        pod = bench.pods(f"app.kubernetes.io/component={role}", SYSTEM_NAMESPACE)[0]["metadata"]["name"]
        path = f"/api/v1/namespaces/{SYSTEM_NAMESPACE}/pods/{pod}:{port}/proxy/v1/status"
        assert json.loads(cluster.kubectl("get", "--raw", path))["role"] == role


def test_rights_that_the_api_server_refuses_are_named(bench: Bench, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "default", "-n", SYSTEM_NAMESPACE).strip()
    for user in config["users"]:
        user["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    done = samegate("status", kubeconfig=path)
    assert done.returncode == 2
    for right in ("get configmaps in namespace samegate-system", "list nodes", "list services", "list endpointslices"):
        assert right in done.stderr


def test_a_bundle_of_the_rack_holds_every_agent_and_no_key(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    assert told("bundle", "--output", str(path))["lacking"] == []
    with tarfile.open(path) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames()}
        text = b"".join(file.read() for m in tar.getmembers() if (file := tar.extractfile(m)) is not None)
    for node in topology.NODES:
        assert f"agents/{node.name}-{node.role}/node.json" in names
        assert f"agents/{node.name}-{node.role}/agent.log" in names
    assert b"PRIVATE KEY-----\n" not in text
