"""One broken rack for each fault that doctor should name: it is found, on the right node, with its way out, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from lbnode.command.doctor import CHECKS, doctor
from lbnode.command.pages import Agent
from tests.unit.lbnode.command.rack import (
    EDGES,
    WORKERS,
    agent,
    controller_status,
    edge_page,
    edge_status,
    machine,
    nodes,
    settings,
    view,
    web,
    web_slice,
    worker_page,
    worker_status,
)


def edge1(status: dict[str, Any] | None = None, clock: float = 0.0, **facts: Any) -> dict[str, Agent]:
    page = edge_page(machine=machine("edge", **facts))
    return {"edge1": agent("edge", "edge1", edge_status("edge1", **(status or {})), page, clock_seconds=clock)}


def worker1(status: dict[str, Any] | None = None, **facts: Any) -> dict[str, Agent]:
    page = worker_page(machine=machine("worker", **facts))
    return {"worker1": agent("worker", "worker1", worker_status("worker1", **(status or {})), page)}


def without(sysctl: str) -> dict[str, str]:
    return {k: v for k, v in machine("edge")["sysctls"].items() if k != sysctl}


SLOPPY = "net.ipv4.vs.sloppy_tcp"
SESSION = {"state": "Established", "bfd": "Up", "exported": 1, "last_error": ""}

UNREACHED = {"name": "worker2", "address": WORKERS["worker2"], "healthy": False, "probe": "TooBig"}

#: What is broken, the check that has to find it, where, a part of what is said, and a part of the way out.
FAULTS: dict[str, tuple[dict[str, Agent], str, str, str, str]] = {
    "module of an edge node": (
        edge1(modules={"ip_vs": "loaded", "ip_vs_mh": "absent", "ipip": "built in"}),
        "kernel modules",
        "edge1",
        "ip_vs_mh",
        "modprobe ip_vs_mh",
    ),
    "module of a worker": (worker1(modules={"ipip": "absent"}), "kernel modules", "worker1", "ipip", "modprobe ipip"),
    "sysctl with another value": (
        edge1(sysctls=machine("edge")["sysctls"] | {SLOPPY: "0"}),
        "sysctls",
        "edge1",
        f"{SLOPPY} is 0, wanted 1",
        f"sysctl -w {SLOPPY}=1",
    ),
    "sysctl that is not there": (edge1(sysctls=without(SLOPPY)), "sysctls", "edge1", "is not there", SLOPPY),
    "worker that does not forward": (
        worker1(sysctls={"net.ipv4.ip_forward": "0"}),
        "sysctls",
        "worker1",
        "no packet reaches a pod",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "MTU from an edge node": (
        edge1(path_mtu_bytes={WORKERS["worker2"]: 1400}),
        "mtu",
        "edge1",
        "worker2 may be 1400 bytes long, fabricMtuBytes says 1500",
        "fabricMtuBytes to 1400",
    ),
    "MTU from a worker": (worker1(path_mtu_bytes={EDGES["edge2"]: 1280}), "mtu", "worker1", "packets to edge2", "1280"),
    "a worker that does not answer probes": (
        {"edge1": agent("edge", "edge1", edge_status("edge1"), edge_page(workers=[UNREACHED]))},
        "tunnels",
        "edge1",
        "worker2 through the tunnel fail: TooBig",
        "IP protocol 4",
    ),
    "kube-proxy in ipvs mode on an edge node": (
        edge1(proxy_mode="ipvs"),
        "service proxy",
        "edge1",
        "KubeProxyIpvs",
        "iptables or nftables mode",
    ),
    "its device left behind": (
        edge1(proxy_devices=["kube-ipvs0"]),
        "service proxy",
        "edge1",
        "KubeProxyIpvs",
        "delete the device kube-ipvs0",
    ),
    "eBPF Service proxy on a worker": (
        worker1(proxy_mode=None, proxy_devices=["cilium_host"]),
        "service proxy",
        "worker1",
        "EbpfServiceProxy",
        "kube-proxy beside it",
    ),
    "no kube-proxy on a worker": (
        worker1(proxy_mode=None),
        "service proxy",
        "worker1",
        "does not answer on 127.0.0.1:10249",
        "metricsBindAddress",
    ),
    "another BGP speaker": (edge1(other_speaker=True), "port 179", "edge1", "TCP port 179", "ss -ltnp sport = :179"),
    "clock that is ahead": (edge1(clock=40.0), "clocks", "edge1", "40.0 s ahead of the other nodes'", "NTP"),
    "clock that is behind": (edge1(clock=-3.5), "clocks", "edge1", "3.5 s behind", "chronyc"),
    "BGP session down": (
        edge1({"sessions": {"tor1": SESSION | {"state": "Active", "last_error": "no answer from 198.18.0.2"}}}),
        "bgp sessions",
        "edge1",
        "tor1 is Active: no answer from 198.18.0.2",
        "TCP 179",
    ),
    "BFD session down": (
        edge1({"sessions": {"tor1": SESSION | {"bfd": "Down"}}}),
        "bgp sessions",
        "edge1",
        "BFD session to tor1 is Down",
        "UDP 3784",
    ),
    "connection tracking almost full": (
        worker1(conntrack={"count": 950, "max": 1000}),
        "connection tracking",
        "worker1",
        "950 of 1000",
        "nf_conntrack_max=2000",
    ),
    "another data plane": (
        edge1(dataplane="xdp"),
        "data planes",
        "edge1",
        "its data plane is xdp, the settings have ipvs",
        "rollout status daemonset samegate-edge",
    ),
    "another kernel release": (
        edge1(kernel_release="6.12.0-1-amd64"),
        "kernel builds",
        "cluster",
        "edge1: 6.12.0-1-amd64",
        "samegate drain NODE",
    ),
    "silent agent": ({"edge1": agent("edge", "edge1")}, "agents", "edge1", "connection refused", "get pods"),
    "node without a pod of ours": (
        {"worker1": agent("worker", "worker1", pod="")},
        "agents",
        "worker1",
        "does not answer",
        "describe daemonset samegate-worker",
    ),
    "agent that is too old": (
        {"edge1": agent("edge", "edge1", edge_status("edge1"))},
        "agents",
        "edge1",
        "too old",
        "Roll the agents' image forward",
    ),
    "nobody leads": (
        {"controller": agent("controller", "worker1", controller_status(leads=False), {}, clock_seconds=None)},
        "agents",
        "cluster",
        "no controller leads",
        "lease samegate-controller",
    ),
    "settings refused": (
        edge1({"settings_error": "settings.bgp.localAsn = 23456: RFC 6793 reserves it"}),
        "agents' errors",
        "edge1",
        "RFC 6793",
        "pulumi up",
    ),
    "a pass that fails": (
        edge1({"last_error": "kernel: no IPVS. Run `modprobe ip_vs`"}),
        "agents' errors",
        "edge1",
        "modprobe ip_vs",
        "log",
    ),
    "a worker that is not ready": (
        worker1({"not_ready": ["TunnelMissing: sgt-1 from 127.0.0.11"]}),
        "agents' errors",
        "worker1",
        "TunnelMissing",
        "runbook",
    ),
}


def test_a_rack_in_which_all_is_well_has_no_finding() -> None:
    answer = doctor(view())
    assert (answer.data["findings"], answer.code) == ([], 0)
    assert [c["check"] for c in answer.data["checks"]] == [name for name, _ in CHECKS]


@pytest.mark.parametrize(("change", "check", "where", "what", "way_out"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_found_where_it_is_with_its_way_out_and_nothing_else_is(
    change: dict[str, Agent], check: str, where: str, what: str, way_out: str
) -> None:
    answer = doctor(view(change=change))
    assert answer.code == 1
    (finding,) = answer.data["findings"]
    assert (finding["check"], finding["where"]) == (check, where)
    assert what in finding["what"]
    assert way_out in finding["way_out"]


def test_every_check_has_a_fault_here() -> None:
    elsewhere = {"nodes"}
    assert {fault[1] for fault in FAULTS.values()} | elsewhere == {name for name, _ in CHECKS}


def test_a_node_that_is_not_ready_is_found() -> None:
    objects = nodes()
    objects[0]["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    (finding,) = doctor(view(web(), web_slice(), *objects)).data["findings"]
    assert (finding["check"], finding["where"]) == ("nodes", "edge1")


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_a_role_without_a_node_says_how_to_label_one(role: str) -> None:
    objects = [n for n in nodes() if n["metadata"]["labels"]["samegate.dev/role"] != role]
    findings = doctor(view(web(), web_slice(), *objects)).data["findings"]
    assert [f["way_out"] for f in findings if f["check"] == "nodes"] == [
        f"Label one: kubectl label node NODE samegate.dev/role={role}"
    ]


def test_the_same_release_built_twice_is_two_kernels() -> None:
    """The table's size is a build option, so the release alone does not tell."""
    (finding,) = doctor(view(change=edge1(kernel_build="#2 SMP our own"))).data["findings"]
    assert finding["check"] == "kernel builds"
    assert "#2 SMP our own" in finding["what"]


def test_of_three_kernels_the_one_that_differs_is_named() -> None:
    names = ("edge1", "edge2", "edge3")
    pages = {
        n: edge_page(machine=machine("edge", **({"kernel_release": "6.2"} if n == "edge2" else {}))) for n in names
    }
    change = {n: agent("edge", n, edge_status(n), page) for n, page in pages.items()}
    (finding,) = doctor(view(change=change)).data["findings"]
    assert finding["where"] == "edge2"


def xdp(node: str, **facts: Any) -> Agent:
    """An edge node with XDP: nothing of IPVS is there."""
    own = {"dataplane": "xdp", "sysctls": {"net.ipv4.conf.all.rp_filter": "2"}, "modules": {"ipip": "loaded"}}
    return agent("edge", node, edge_status(node), edge_page(machine=machine("edge", **(own | facts))))


def test_nothing_of_ipvs_is_missed_with_xdp_and_its_kernels_may_differ() -> None:
    in_force = settings(dataplane="xdp", xdp={"devices": ["eth0"]})
    change = {"edge1": xdp("edge1"), "edge2": xdp("edge2", kernel_release="6.12.0-1-amd64")}
    assert doctor(view(change=change, settings_in_force=in_force)).data["findings"] == []


def test_a_sysctl_that_xdp_needs_is_missed_with_xdp() -> None:
    in_force = settings(dataplane="xdp", xdp={"devices": ["eth0"]})
    change = {"edge1": xdp("edge1", sysctls={}), "edge2": xdp("edge2")}
    (finding,) = doctor(view(change=change, settings_in_force=in_force)).data["findings"]
    assert (finding["check"], finding["where"]) == ("sysctls", "edge1")
    assert "rp_filter" in finding["what"]


def test_this_machines_own_wrong_clock_is_not_blamed_on_the_nodes() -> None:
    change = {n: agent("edge", n, edge_status(n), edge_page(), clock_seconds=60.0) for n in EDGES}
    change |= {n: agent("worker", n, worker_status(n), worker_page(), clock_seconds=60.2) for n in WORKERS}
    (finding,) = doctor(view(change=change)).data["findings"]
    assert finding["where"] == "this machine"


def test_a_slow_answer_is_no_wrong_clock() -> None:
    late = agent("edge", "edge1", edge_status("edge1"), edge_page(), clock_seconds=3.0, clock_error_seconds=2.0)
    assert doctor(view(change={"edge1": late})).code == 0


def test_an_mtu_above_the_settings_is_no_fault_and_one_byte_below_is() -> None:
    jumbo = settings(network={"nodeCidrs": ["127.0.0.0/24"], "fabricMtuBytes": 1400})
    assert doctor(view(settings_in_force=jumbo)).code == 0
    assert doctor(view(change=edge1(path_mtu_bytes={WORKERS["worker1"]: 1499}))).code == 1


def test_a_new_agent_that_tells_no_facts_breaks_no_check() -> None:
    change = {"edge1": agent("edge", "edge1", edge_status("edge1"), edge_page(machine={"of the future": 1}))}
    change |= {"worker1": agent("worker", "worker1", worker_status("worker1"), worker_page(machine={}))}
    assert doctor(view(change=change)).data["findings"] == []
