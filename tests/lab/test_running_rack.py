"""The rack itself: what `python -m lab up` promises, on a lab that is up, and its repair after a crash.

These tests leave the rack as they found it: up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import cluster, control_plane, netns, network, node_settings, processes, routers, status, topology
from lab.machines import Machine

pytestmark = pytest.mark.lab

POD = "sg-rack-test"
STRANGERS_VIP = f"{topology.VIP_POOL[250]}/32"


def lab(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lab", *arguments]
    return subprocess.run(argv, cwd=topology.ROOT, capture_output=True, text=True, check=check, timeout=1200)


def steps_done(up: subprocess.CompletedProcess[str]) -> list[str]:
    return [step["name"] for step in json.loads(up.stdout)["steps"] if step["result"] == "done"]


@pytest.fixture(scope="module", autouse=True)
def rack() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("the lab makes network namespaces and needs root")
    completed = lab("up", check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    yield


def test_a_second_up_finds_nothing_to_do() -> None:
    assert steps_done(lab("up", "--json")) == []


def test_the_status_is_whole() -> None:
    found = status.collect()
    assert found.whole
    assert {machine.name for machine in found.machines} == {node.name for node in topology.NODES}


def test_core_and_tors_hold_bgp_and_bfd_on_both_sides() -> None:
    assert routers.sessions_trouble() is None


def test_clients_reach_every_machine_through_the_routers() -> None:
    for node in topology.NODES:
        netns.run(topology.CLIENT, ["ping", "-c", "1", "-W", "2", str(node.address)])


def test_an_address_of_the_pool_that_nobody_announces_is_unreachable_at_the_core() -> None:
    vip = str(topology.VIP_POOL[251])
    answer = netns.run(topology.CLIENT, ["ping", "-c", "1", "-W", "2", vip], check=False)
    assert answer.returncode != 0
    assert f"From {topology.CLIENT_GATEWAY}" in answer.stdout


def test_the_clocks_of_the_machines_are_right() -> None:
    for node in topology.NODES:
        before = time.time()
        there = float(Machine(node.name).run("date +%s.%N").stdout)
        assert before - 1 < there < time.time() + 1


def test_exec_keeps_the_exit_code() -> None:
    assert lab("exec", "worker1", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    assert lab("exec", "tor1", "exit 9", check=False).returncode == 9


def test_machines_have_what_the_load_balancer_needs_of_a_kernel() -> None:
    wanted = ["ip_vs", "ip_vs_mh", "ipip", "iptable_raw", "xt_TCPMSS", "xt_CT", "ip_set", "dummy"]
    for node in topology.NODES:
        Machine(node.name).run(["modprobe", "--all", *wanted])


def test_nodes_carry_the_racks_labels_taints_and_pod_ranges() -> None:
    for item in cluster.get("nodes")["items"]:
        node = topology.node(item["metadata"]["name"])
        assert item["metadata"]["labels"]["samegate.dev/role"] == node.role
        assert item["spec"]["podCIDR"] == str(node.pod_network)
        taints = {(taint["key"], taint["effect"]) for taint in item["spec"].get("taints", [])}
        assert taints == ({("samegate.dev/edge", "NoSchedule")} if node.role == "edge" else set())


@pytest.fixture(scope="module")
def pods() -> Iterator[dict[str, str]]:
    """A pod on each worker, of the image that every pod needs. Name to address."""
    image = f"{topology.REGISTRY}/pause:{node_settings.PAUSE_TAG}"
    names = {f"{POD}-{node.name}": node for node in topology.WORKERS}
    spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False}
    cluster.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default"},
                "spec": spec
                | {
                    "nodeName": node.name,
                    "containers": [{"name": "one", "image": image}],
                },
            }
            for name, node in names.items()
        ]
    )
    try:
        cluster.kubectl("wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=90s")
        yield {name: cluster.get("pod", name)["status"]["podIP"] for name in names}
    finally:
        cluster.kubectl("delete", "pod", *names, "--ignore-not-found", "--wait=true")


def test_pods_of_different_nodes_reach_each_other(pods: dict[str, str]) -> None:
    for name, address in pods.items():
        other = next(node for node in topology.WORKERS if node.name not in name)
        Machine(other.name).run(["ping", "-c", "1", "-W", "2", address])


def test_kubectl_exec_and_logs_reach_a_pod() -> None:
    where = ("--namespace=kube-system", "deployment/coredns")
    assert "CoreDNS-" in cluster.kubectl("exec", *where, "--", "/bin/coredns", "-version")
    assert "CoreDNS-" in cluster.kubectl("logs", *where)


def test_cluster_dns_knows_the_api_server() -> None:
    query = [
        "busybox",
        "nslookup",
        "-type=a",
        "kubernetes.default.svc.cluster.local",
        str(topology.DNS_SERVICE_ADDRESS),
    ]
    for node in topology.NODES:
        machine = Machine(node.name)
        assert str(topology.API_SERVICE_ADDRESS) in machine.run(query).stdout


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Path]:
    """A BIRD on the control address that tells both ToRs three routes. Gives its control socket."""
    routes = "".join(
        f"  route {prefix} blackhole;\n" for prefix in (STRANGERS_VIP, topology.VIP_POOL, "198.51.100.1/32")
    )
    sessions = "".join(
        f"""protocol bgp {tor.name} {{
  local {topology.CONTROL_ADDRESS} as {topology.EDGE_ASN}; neighbor {tor.router_id} as {tor.asn};
  hold time 9; connect delay time 1; connect retry time 2;
  ipv4 {{ import all; export all; }};
}}
"""
        for tor in topology.TORS
    )
    configuration, socket = tmp_path / "bird.conf", tmp_path / "bird.ctl"
    configuration.write_text(
        f"router id {topology.CONTROL_ADDRESS};\nprotocol device {{}}\n"
        f"protocol static own {{\n  ipv4;\n{routes}}}\n{sessions}"
    )
    argv = ("bird", "-f", "-c", str(configuration), "-s", str(socket))
    speaker = processes.Daemon("test-stranger", topology.CONTROL, argv)
    processes.start(speaker)
    yield socket
    processes.stop(speaker.name, grace_seconds=0)


def test_tors_take_host_routes_of_the_pool_only_and_tell_nothing(stranger: Path) -> None:
    def announced() -> bool:
        return all(routers.routes(tor.name, STRANGERS_VIP) == (str(topology.CONTROL_ADDRESS),) for tor in topology.TORS)

    assert eventually(announced, seconds=30)
    assert eventually(lambda: routers.routes("core", STRANGERS_VIP) == ("198.18.1.1", "198.18.1.3"), seconds=5)
    for router in topology.ROUTERS:
        assert routers.routes(router.name, str(topology.VIP_POOL)) == ()
        assert routers.routes(router.name, "198.51.100.1/32") == ()
    learnt = netns.run(topology.CONTROL, ["birdc", "-s", str(stranger), "show route protocol tor1"]).stdout
    learnt += netns.run(topology.CONTROL, ["birdc", "-s", str(stranger), "show route protocol tor2"]).stdout
    assert "via" not in learnt


def test_a_speaker_that_dies_takes_its_routes_along(stranger: Path) -> None:
    assert eventually(lambda: len(routers.routes("core", STRANGERS_VIP)) == 2, seconds=30)
    processes.stop("test-stranger", grace_seconds=0)
    assert eventually(lambda: routers.routes("core", STRANGERS_VIP) == (), seconds=5)


def eventually(holds: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_killed_router_daemon_is_repaired() -> None:
    pid = processes.pid_of("core-bgpd")
    assert pid is not None
    processes.kill_session(pid)
    assert "routers" in steps_done(lab("up", "--json"))
    assert routers.sessions_trouble() is None


def test_a_cut_cable_is_repaired() -> None:
    netns.run(topology.CORE, ["ip", "link", "delete", "clients"])
    assert network.cabling_trouble() is not None
    assert "cables and addresses" in steps_done(lab("up", "--json"))
    netns.run(topology.CLIENT, ["ping", "-c", "1", "-W", "2", str(topology.CLIENT_GATEWAY)])


def test_a_killed_control_plane_is_repaired_and_remembers() -> None:
    before = cluster.get("namespace", "kube-system")["metadata"]["uid"]
    for daemon in control_plane.daemons():
        pid = processes.pid_of(daemon.name)
        assert pid is not None
        processes.kill_session(pid)
    assert "control plane started" in steps_done(lab("up", "--json"))
    assert cluster.get("namespace", "kube-system")["metadata"]["uid"] == before


def test_a_machine_that_lost_its_power_comes_back_with_its_disk() -> None:
    machine = Machine("worker2")
    machine.run("echo kept > /var/tmp/rack-test; sync")
    boot = machine.run("cat /proc/sys/kernel/random/boot_id").stdout
    machine.kill()
    assert machine.pid() is None
    assert "machines started" in steps_done(lab("up", "--json"))
    assert machine.run("cat /var/tmp/rack-test; rm /var/tmp/rack-test").stdout == "kept\n"
    assert machine.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    assert cluster.nodes_not_ready() == []


def test_an_up_that_is_killed_half_way_is_finished_by_the_next() -> None:
    Machine("worker2").kill()
    argv = [sys.executable, "-m", "lab", "up"]
    for delay_seconds in (0.1, 0.4, 1.0):
        interrupted = subprocess.Popen(argv, cwd=topology.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay_seconds)
        interrupted.kill()
        interrupted.wait()
    lab("up")
    assert status.collect().whole


def test_of_runs_at_the_same_time_one_works_and_the_others_say_so() -> None:
    argv = [sys.executable, "-m", "lab", "up"]
    runs = [
        subprocess.Popen(argv, cwd=topology.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [(run.communicate(timeout=600)[1], run.returncode) for run in runs]
    assert [said for said, code in ends if code != 0 and "another `python -m lab`" not in said] == []
    assert any(code == 0 for _, code in ends)
