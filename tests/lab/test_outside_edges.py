"""An edge node outside the cluster, set up as docs/outside-edges.md says, beside one that is a pod of the DaemonSet: both serve.

One of the rack's edge machines stops being a Node: no kubelet, no kube-proxy, no object. The image unpacked there and its units take the pod's place.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cluster, credentials, deploy, netns, topology
from lab.machines import Machine, share_of
from lab.node_settings import HERE
from lab.report.bench import SYSTEM_NAMESPACE, Bench, NotReached, wait_until
from lab.report.catalogue import FLOWS
from lab.report.live_flows import LEAVER, STAYER, routed_to
from lab.report.steady import ECHO, FAMILIES, clients_seen
from tests.lab.conftest import CHECKOUT

pytestmark = pytest.mark.lab

INSIDE, OUTSIDE = STAYER, LEAVER
PAGE = (CHECKOUT / "docs/outside-edges.md").read_text()
UNITS = CHECKOUT / "image/systemd"
ACCOUNT = "edge-vm"
ROOT_DIRECTORY = "/var/lib/machines/samegate"
"""Where the units look for the image's file system."""
INSTALLED = {
    **{f"/etc/systemd/system/{name}": UNITS / name for name in ("samegate-bird.service", "samegate-edge.service")},
    "/etc/modules-load.d/samegate.conf": UNITS / "modules-load.conf",
    "/etc/tmpfiles.d/samegate.conf": UNITS / "tmpfiles.conf",
}
DROP_IN = "/etc/systemd/system/samegate-edge.service.d/outside.conf"
KUBECONFIG = "/etc/samegate/kubeconfig"


def command() -> str:
    """The page's own command for the agent, with this machine's name."""
    found = re.search(r"^(python3 -m lbnode run edge --kubeconfig \S+ --node) vm1\b", PAGE, re.MULTILINE)
    assert found is not None, "the page no longer says how the agent is run"
    assert KUBECONFIG in found[1]
    return f"/usr/bin/{found[1]} {OUTSIDE.name}"


def rights() -> list[dict[str, Any]]:
    """The page's own objects, bound to a service account, whose token is one of the credentials that a kubeconfig can hold."""
    block = next(b for b in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "RoleBinding" in b)
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(block))
    for subject in (s for o in objects for s in o.get("subjects", ())):
        # What the API server calls a service account (Kubernetes documentation, authentication).
        subject["name"] = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{ACCOUNT}"
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "namespace": SYSTEM_NAMESPACE},
    }
    return [account, *objects]


def take_rights_away() -> None:
    document = yaml.safe_dump_all(rights())
    cluster.kubectl("delete", "--ignore-not-found", "--wait=true", "-f", "-", input=document)


def kubeconfig() -> str:
    token = cluster.kubectl("create", "token", ACCOUNT, f"--namespace={SYSTEM_NAMESPACE}").strip()
    return credentials.kubeconfig(token, credentials.CA.read_text())


def edge_pods() -> list[str]:
    """The nodes that have a pod of the edge DaemonSet, one that ends included."""
    pods = Bench.objects("pods", "-n", SYSTEM_NAMESPACE)["items"]
    return [p["spec"]["nodeName"] for p in pods if p["metadata"]["name"].startswith("samegate-edge-")]


def leave_cluster() -> None:
    """Its pod ends as in a rollout, and leaves the kernel as it is; only then may the kubelet stop."""
    cluster.kubectl("label", "node", OUTSIDE.name, f"{topology.ROLE_LABEL}-")
    wait_until(f"no edge pod on {OUTSIDE.name}", lambda: OUTSIDE.name not in edge_pods(), 60)
    Machine(OUTSIDE.name).run(["systemctl", "stop", "kubelet", "kube-proxy"])
    cluster.kubectl("delete", "node", OUTSIDE.name)


def join_cluster() -> None:
    # As `up` makes it: labels and taint before the kubelet comes.
    cluster.apply([cluster.node_object(OUTSIDE)])
    Machine(OUTSIDE.name).run(["systemctl", "start", "kubelet", "kube-proxy"])
    wait_until(f"{OUTSIDE.name} is a Node again", lambda: OUTSIDE.name in cluster.ready_boots(), 90)
    Bench().settle(180)


def write(path: str, text: str, mode: str = "644") -> None:
    Machine(OUTSIDE.name).run(["install", "-D", "-m", mode, "/dev/stdin", path], input=text)


def install(scratch: Path) -> None:
    """The image and its units on the machine, nothing of it started."""
    unpack = [sys.executable, "-m", "image", "unpack", str(deploy.IMAGE_ARCHIVE), str(scratch / "root")]
    netns.run(None, unpack, cwd=CHECKOUT, timeout_seconds=120)
    # The share is what the machine sees of this host.
    packed = share_of(OUTSIDE) / "outside-edge.tar"
    try:
        netns.run(None, ["tar", "-C", str(scratch / "root"), "-cf", str(packed), "."], timeout_seconds=120)
        there = f"mkdir -p {ROOT_DIRECTORY} && tar -C {ROOT_DIRECTORY} -xf {HERE}/{packed.name}"
        Machine(OUTSIDE.name).run(there, timeout_seconds=180)
    finally:
        packed.unlink(missing_ok=True)
    for path, source in INSTALLED.items():
        write(path, source.read_text())
    # The capability: the machines' kernel has the legacy packet filter alone (docs/standalone.md).
    write(DROP_IN, f"[Service]\nExecStart=\nExecStart={command()}\nCapabilityBoundingSet=CAP_NET_RAW\n")
    write(KUBECONFIG, kubeconfig(), "600")
    Machine(OUTSIDE.name).run("systemd-tmpfiles --create samegate.conf && systemctl daemon-reload")


def remove() -> None:
    """Stopped and deleted; what the kernel holds is the pod's to go on with."""
    files = " ".join([*INSTALLED, DROP_IN, KUBECONFIG, "/var/lib/samegate/settings.json"])
    machine = Machine(OUTSIDE.name)
    machine.run("systemctl stop samegate-edge samegate-bird", check=False)
    machine.run(f"rm -rf {ROOT_DIRECTORY} {files} && systemctl daemon-reload", timeout_seconds=120)


def start_agent() -> None:
    Machine(OUTSIDE.name).run(["systemctl", "start", "samegate-edge"])


def stop_agent() -> None:
    """It withdraws, forwards for `drain.withdrawSeconds`, and ends."""
    Machine(OUTSIDE.name).run(["systemctl", "stop", "samegate-edge"])


def wait_announced_by_both(bench: Bench, vip: str) -> None:
    try:
        bench.wait_announced(vip, bench.edges, 60)
    except NotReached as error:
        said = Machine(OUTSIDE.name).run("journalctl --no-pager -n 60 -u samegate-edge -u samegate-bird").stdout
        pytest.fail(f"{error}; what the units said:\n{said}")


@pytest.fixture(scope="module", autouse=True)
def outside_edge(deployed_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One edge machine runs the edge role as no Node; afterwards the rack is as it was."""
    bench = Bench()
    bench.settle(180)
    image = str(deploy.outputs()["image"])
    itself = {"name": OUTSIDE.name, "addresses": [str(OUTSIDE.address), str(OUTSIDE.address6)]}
    with ExitStack() as undo:
        undo.callback(deploy.deploy, image)
        # As long as there is a Node of that name, that one counts.
        deploy.deploy(image, {"samegate:agent": {"outsideEdges": [itself]}})
        undo.callback(take_rights_away)
        cluster.apply(rights())
        undo.callback(join_cluster)
        leave_cluster()
        undo.callback(remove)
        install(tmp_path_factory.mktemp("image"))
        vip = bench.target(ECHO).vip
        # Without the agent the machine is nobody's next hop: whatever is announced later, it announces.
        bench.wait_announced(vip, {INSIDE.name})
        start_agent()
        wait_announced_by_both(bench, vip)
        yield


def test_every_vip_has_both_as_next_hops_though_the_cluster_knows_one_of_them_only(bench: Bench) -> None:
    nodes = {node["metadata"]["name"] for node in bench.objects("nodes")["items"]}
    assert nodes == {node.name for node in topology.NODES} - {OUTSIDE.name}
    assert edge_pods() == [INSIDE.name]
    for version in FAMILIES:
        bench.wait_announced(bench.target(ECHO, version=version).vip, {INSIDE.name, OUTSIDE.name})


@pytest.mark.parametrize("version", FAMILIES)
@pytest.mark.parametrize("edge", [INSIDE, OUTSIDE], ids=["inside", "outside"])
def test_connections_through_either_reach_every_worker_and_the_app_sees_the_clients(
    bench: Bench, edge: topology.Node, version: int
) -> None:
    target, sources = bench.target(ECHO, version=version), bench.sources(3, version)
    with routed_to(target, edge):
        samples = bench.connect(target, 60, sources=sources)
    assert clients_seen(samples) == {source: [source] for source in sources}
    assert {sample.node for sample in samples} == {worker.name for worker in topology.WORKERS}


def test_without_its_agent_the_outside_route_is_gone_and_no_flow_breaks_when_either_edge_node_leaves(
    bench: Bench,
) -> None:
    target = bench.target(ECHO)
    with bench.open_flows(target, FLOWS, interval_seconds=1.5) as flows:
        try:
            stop_agent()
            bench.wait_announced(target.vip, {INSIDE.name})
            flows.check()
        finally:
            start_agent()
        wait_announced_by_both(bench, target.vip)
        try:
            bench.drain(INSIDE.name)
            bench.wait_announced(target.vip, {OUTSIDE.name})
            flows.check()
        finally:
            bench.undrain(INSIDE.name)
        wait_announced_by_both(bench, target.vip)
        flows.check()
        ended = flows.stop()
    assert ended.broken == 0, ended.summary
