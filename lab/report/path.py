"""What single packets and bulk transfers meet on the way: segment sizes, ICMP errors, loops, forgeries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Literal

from lab import netns, topology
from lab.report.bench import Bench, Target, wait_until
from lab.report.catalogue import TRANSFER_BYTES, over
from lab.report.live_flows import LEAVER, STAYER, echo_pods, picking_otherwise, routed_to, sysctl_held
from lab.report.measurement import Control, Measured
from lab.report.steady import ECHO, FAMILIES
from lab.topology import Node
from lab.traffic import packets
from lab.traffic.transfer import Transfer

HANG_SECONDS = 6.0
NARROW_MTU_BYTES = 1300
UNUSED_VIPS = {version: str(pool[254]) for version, pool in topology.VIP_POOLS.items()}
ICMPV6_ERROR_TYPES = ("destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem")
FORGED_PORT = 40123
_ICMP_TABLE = 50


def iptables(version: int) -> str:
    """The program for an IP version."""
    return "iptables" if version == 4 else "ip6tables"


@contextmanager
def iptables_rules(namespace: str, *rules: list[str], version: int = 4) -> Iterator[None]:
    """Rules (`TABLE CHAIN MATCH...`) at the head of chains of a namespace, while the block runs."""
    tool = iptables(version)
    done: list[list[str]] = []
    try:
        for table, chain, *match in rules:
            netns.run(namespace, [tool, "-w", "-t", table, "-I", chain, *match])
            done.append([table, chain, *match])
        yield
    finally:
        for table, chain, *match in reversed(done):
            netns.run(namespace, [tool, "-w", "-t", table, "-D", chain, *match], check=False)


@contextmanager
def filtered_icmp() -> Iterator[None]:
    """No ICMP passes the core router, and none reaches the client but what an IPv6 neighbour is found by."""
    errors = [["filter", "INPUT", "-p", "icmpv6", "--icmpv6-type", kind, "-j", "DROP"] for kind in ICMPV6_ERROR_TYPES]
    with (
        iptables_rules(topology.CORE, ["filter", "FORWARD", "-p", "icmp", "-j", "DROP"]),
        iptables_rules(topology.CLIENT, ["filter", "INPUT", "-p", "icmp", "-j", "DROP"]),
        iptables_rules(topology.CORE, ["filter", "FORWARD", "-p", "icmpv6", "-j", "DROP"], version=6),
        iptables_rules(topology.CLIENT, *errors, version=6),
    ):
        yield


@contextmanager
def own_rules_gone(bench: Bench, nodes: tuple[Node, ...], match: str) -> Iterator[None]:
    """The samegate rules whose text fits `match` (grep -E) deleted from these machines; the agents, paused meanwhile, put them back."""
    names = tuple(node.name for node in nodes)
    with bench.paused_agents(*names):
        for name in names:
            script = (
                "for c in iptables-legacy ip6tables-legacy; do for t in raw mangle filter nat; do "
                f"$c -t $t -S 2>/dev/null | grep -iE 'samegate|sgt-' | grep -E -- '{match}' | grep '^-A' | sed 's/^-A/-D/' "
                '| while read -r rule; do echo "$t $rule"; eval $c -w -t $t $rule; done; done; done'
            )
            gone = bench.machine(name).run(script).stdout
            if not gone.strip():
                raise LookupError(
                    f"{name} has no rule of ours that fits {match!r}; without it this control shows nothing"
                )
        yield


def measure_no_icmp(bench: Bench) -> Mapping[str, Measured]:
    """1 MiB each way while no ICMP passes. Control: without the clamp on the workers the upload hangs in the tunnel."""
    targets = {version: bench.target(ECHO, version=version) for version in FAMILIES}

    def transfers(direction: Literal["get", "put"], version: int, count: int = 4) -> list[Transfer]:
        address = targets[version].address
        return [
            bench.client.transfer(address, direction, TRANSFER_BYTES, source, HANG_SECONDS)
            for source in bench.sources(count, version)
        ]

    with filtered_icmp():
        up = {version: transfers("put", version) for version in FAMILIES}
        down = {version: transfers("get", version) for version in FAMILIES}
        with own_rules_gone(bench, topology.WORKERS, "TCPMSS"):
            without = {version: transfers("put", version, 1)[0] for version in FAMILIES}
    measured = {}
    for version, hung in without.items():
        control = Control("the upload without the MSS clamp", hung.error or hung.seconds, not hung.complete)
        samples = {"transfers": list(map(str, up[version])), "control": str(hung)}
        measured[over(version, "upload_no_icmp")] = Measured(_slowest(up[version]), samples, control)
        measured[over(version, "download_no_icmp")] = Measured(
            _slowest(down[version]), {"transfers": list(map(str, down[version]))}
        )
    return measured


def _slowest(transfers: list[Transfer]) -> float | None:
    """Seconds of the slowest transfer; None if any did not complete."""
    return max(t.seconds for t in transfers) if all(t.complete for t in transfers) else None


@contextmanager
def icmp_routed_to(target: Target, edge: Node) -> Iterator[None]:
    """Both ToRs send ICMP for the VIP to this edge node, whatever way other packets go."""
    table, ip = str(_ICMP_TABLE), ["ip", f"-{target.version}"]
    route = [topology.host_route(target.vip), "via", str(edge.address_of(target.version)), "table", table]
    protocol = "1" if target.version == 4 else "58"  # IANA protocol numbers
    try:
        for tor in topology.TORS:
            netns.run(tor.namespace, [*ip, "route", "add", *route])
            netns.run(tor.namespace, [*ip, "rule", "add", "ipproto", protocol, "lookup", table, "pref", table])
        yield
    finally:
        for tor in topology.TORS:
            netns.run(tor.namespace, [*ip, "rule", "del", "pref", table], check=False)
            netns.run(tor.namespace, [*ip, "route", "flush", "table", table], check=False)


@contextmanager
def narrow_path() -> Iterator[None]:
    """The core router's way to the clients takes only small packets."""
    link = topology.LINKS[2].left
    try:
        netns.run(link.namespace, ["ip", "link", "set", link.interface, "mtu", str(NARROW_MTU_BYTES)])
        yield
    finally:
        netns.run(link.namespace, ["ip", "link", "set", link.interface, "mtu", str(topology.MTU_BYTES)])


def _narrowed_download(bench: Bench, target: Target) -> Transfer:
    """A download whose path becomes narrow after it is connected, so that only an ICMP error can tell the worker."""
    (source,) = bench.sources(1, target.version)
    running = bench.client.start_transfer(target.address, "get", TRANSFER_BYTES, source, HANG_SECONDS, wait=1.0)
    wait_until("the flow is open", lambda: _connected(target, source), 5, 0.05)
    with narrow_path():
        return running.wait()


def _connected(target: Target, source: str) -> bool:
    ends = [f"[{end}]" if target.version == 6 else end for end in (source, target.vip)]
    shown = netns.run(topology.CLIENT, ["ss", "-Htn", "state", "established", "src", ends[0], "dst", ends[1]]).stdout
    return bool(shown.strip())


@contextmanager
def losing_icmp_errors(bench: Bench, target: Target) -> Iterator[str]:
    """The edge node that gets the ICMP errors does not send them to the flow's worker while the block runs; yields why.

    IPVS schedules none for connections that it does not have. XDP has nothing that forbids it that: there it picks otherwise.
    """
    if bench.tables(LEAVER.name).dataplane == "ipvs":
        with sysctl_held(bench, "net.ipv4.vs.schedule_icmp", "0", LEAVER.name):
            yield "schedule_icmp=0"
    else:
        with picking_otherwise(bench, LEAVER, target) as how:
            yield how


def measure_icmp_errors(bench: Bench) -> Mapping[str, Measured]:
    """TCP goes through one edge node, ICMP through the other. Control: that one picks no worker for ICMP, or another one, and the download hangs."""
    return {over(version, "icmp_errors"): _icmp_errors(bench, version) for version in FAMILIES}


def _icmp_errors(bench: Bench, version: int) -> Measured:
    target = bench.target(ECHO, version=version)
    with routed_to(target, STAYER), icmp_routed_to(target, LEAVER):
        result = _narrowed_download(bench, target)
        with losing_icmp_errors(bench, target) as how:
            hung = _narrowed_download(bench, target)
    control = Control(f"the same with {how}", hung.error or hung.seconds, not hung.complete)
    value = {"complete": result.complete, "seconds": result.seconds}
    return Measured(value, {"download": str(result), "control": str(hung)}, control)


@contextmanager
def counted(source: str, vip: str) -> Iterator[dict[str, int]]:
    """Packets from `source` to `vip` that each ToR forwards while the block runs; filled in at its end."""
    version = topology.version_of(vip)
    match = ["-s", source, "-d", vip]
    counts: dict[str, int] = {}
    rule = ["mangle", "FORWARD", *match, "-m", "comment", "--comment", "counted by the lab"]
    with iptables_rules(topology.TOR1, rule, version=version), iptables_rules(topology.TOR2, rule, version=version):
        yield counts
        for tor in topology.TORS:
            table = netns.run(tor.namespace, [iptables(version), "-w", "-t", "mangle", "-nvxL", "FORWARD"]).stdout
            counts[tor.name] = sum(int(line.split()[0]) for line in table.splitlines() if "counted by the lab" in line)


def _crossings(bench: Bench, vip: str, port: int) -> int:
    """How often one SYN to VIP:port crosses the ToRs."""
    (source,) = bench.sources(1, topology.version_of(vip))
    with counted(source, vip) as counts:
        bench.client.packet(
            packets.tcp_syn((source, FORGED_PORT), (vip, port)), listen=(source, FORGED_PORT), wait_seconds=1.0
        )
    return sum(counts.values())


@contextmanager
def vip_routed_by_hand(vip: str, edge: Node) -> Iterator[None]:
    """An address that no Service has, routed to an edge node all the way from the core, by either ToR if it comes back."""
    version = topology.version_of(vip)
    ip, prefix = ["ip", f"-{version}", "route"], topology.host_route(vip)
    uplink = next(str(a.ip) for a in topology.LINKS[0].right.addresses if a.version == version)
    hops = [(topology.CORE, uplink), *((tor.namespace, str(edge.address_of(version))) for tor in topology.TORS)]
    try:
        for namespace, hop in hops:
            netns.run(namespace, [*ip, "add", prefix, "via", hop])
        yield
    finally:
        for namespace, hop in hops:
            netns.run(namespace, [*ip, "del", prefix, "via", hop], check=False)


@contextmanager
def kube_proxy_forgot(bench: Bench, *targets: Target) -> Iterator[None]:
    """The workers' kube-proxy paused, and its rules for the VIPs deleted, so that only the edge nodes know them."""
    paused: list[tuple[str, str]] = []
    try:
        for worker in topology.WORKERS:
            machine = bench.machine(worker.name)
            pids = " ".join(map(str, bench.pids(worker.name, "kube-proxy ")))
            machine.run(f"kill -STOP {pids}")
            paused.append((worker.name, pids))
            for target in targets:
                tool = f"{iptables(target.version)}-legacy"
                machine.run(
                    f"{tool}-save -t nat > /run/nat{target.version}.before; "
                    f"{tool} -t nat -S KUBE-SERVICES | grep -F '{topology.host_route(target.vip)}' "
                    f"| sed 's/^-A/-D/' | while read -r rule; do eval {tool} -w -t nat $rule; done"
                )
        yield
    finally:
        for name, pids in paused:
            put_back = "; ".join(
                f"{iptables(target.version)}-legacy-restore -T nat < /run/nat{target.version}.before"
                for target in targets
            )
            bench.machine(name).run(f"{put_back}; rm -f /run/nat?.before; kill -CONT {pids}", check=False)


def measure_loops(bench: Bench) -> Mapping[str, Measured]:
    """A VIP that only the router knows, and one that the edge nodes know but the workers do not. Control: without our guards."""
    targets = {version: bench.target(ECHO, version=version) for version in FAMILIES}
    with ExitStack() as stack:
        for vip in UNUSED_VIPS.values():
            stack.enter_context(vip_routed_by_hand(vip, STAYER))
        router_only = {v: _crossings(bench, vip, targets[v].port) for v, vip in UNUSED_VIPS.items()}
        with own_rules_gone(bench, (STAYER,), "DROP|blackhole|REJECT"):
            unguarded = {v: _crossings(bench, vip, targets[v].port) for v, vip in UNUSED_VIPS.items()}
    with kube_proxy_forgot(bench, *targets.values()), own_rules_gone(bench, topology.WORKERS, "DNAT"):
        edge_only = {v: _crossings(bench, target.vip, target.port) for v, target in targets.items()}
    measured = {}
    for version in FAMILIES:
        seen = (router_only[version], edge_only[version])
        samples = {"router_only": seen[0], "edge_only": seen[1], "control": unguarded[version]}
        control = Control("without the guard on the edge node", unguarded[version], unguarded[version] > 1)
        measured[over(version, "loops")] = Measured(max(seen) if min(seen) > 0 else 0, samples, control)
    return measured


def _forgeries(bench: Bench, outer_source: str) -> dict[str, bool]:
    """Whether IPIP to a worker in the name of `outer_source` reached what it is aimed at, by name of the aim."""
    worker = topology.WORKERS[0]
    pods, port = echo_pods(bench, "UDP")
    (source,) = bench.sources(1)
    listen = (source, FORGED_PORT)
    delivered = {}
    for aim, inner_destination in (("pod", pods[worker.name][0]), ("node", str(worker.address))):
        inner = packets.udp(listen, (inner_destination, port), b"x\n")
        with bench.counting(worker.name, source, inner_destination) as reached:
            heard = bench.client.packet(
                packets.ipip(outer_source, str(worker.address), inner), listen, wait_seconds=0.8
            )
        delivered[aim] = bool(heard) or reached() > 0
    return delivered


def measure_spoofed(bench: Bench) -> Mapping[str, Measured]:
    """Datagrams in IPIP, aimed at a pod and at the node, from a stranger's and from an edge node's address. Control: without our guard."""
    (stranger,) = bench.sources(1)
    aims = {"stranger": _forgeries(bench, stranger), "edge node": _forgeries(bench, str(STAYER.address))}
    with own_rules_gone(bench, topology.WORKERS[:1], "DROP"):
        unguarded = _forgeries(bench, str(STAYER.address))
    delivered = sum(reached for by_aim in aims.values() for reached in by_aim.values())
    control = Control("in an edge node's name, without the guard on the worker", unguarded, any(unguarded.values()))
    return {"spoofed": Measured(delivered, {"delivered": aims, "control": unguarded}, control)}
