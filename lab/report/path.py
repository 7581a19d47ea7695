"""What single packets and bulk transfers meet on the way: segment sizes, ICMP errors, loops, forgeries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lab import netns, topology
from lab.report.bench import Bench, Target, wait_until
from lab.report.catalogue import TRANSFER_BYTES
from lab.report.live_flows import LEAVER, STAYER, echo_pods, routed_to, sysctl_held
from lab.report.measurement import Control, Measured
from lab.report.steady import ECHO
from lab.topology import Node
from lab.traffic import packets
from lab.traffic.transfer import Transfer

HANG_SECONDS = 6.0
NARROW_MTU_BYTES = 1300
UNUSED_VIP = str(topology.VIP_POOL[254])
FORGED_PORT = 40123
_ICMP_TABLE = 50


@contextmanager
def iptables_rules(namespace: str, *rules: list[str]) -> Iterator[None]:
    """Rules (`TABLE CHAIN MATCH...`) at the head of chains of a namespace, while the block runs."""
    done: list[list[str]] = []
    try:
        for table, chain, *match in rules:
            netns.run(namespace, ["iptables", "-w", "-t", table, "-I", chain, *match])
            done.append([table, chain, *match])
        yield
    finally:
        for table, chain, *match in reversed(done):
            netns.run(namespace, ["iptables", "-w", "-t", table, "-D", chain, *match], check=False)


@contextmanager
def filtered_icmp() -> Iterator[None]:
    """No ICMP passes the core router or reaches the client."""
    with (
        iptables_rules(topology.CORE, ["filter", "FORWARD", "-p", "icmp", "-j", "DROP"]),
        iptables_rules(topology.CLIENT, ["filter", "INPUT", "-p", "icmp", "-j", "DROP"]),
    ):
        yield


@contextmanager
def own_rules_gone(bench: Bench, nodes: tuple[Node, ...], match: str) -> Iterator[None]:
    """The samegate rules whose text fits `match` (grep -E) deleted from these machines; the agents, paused meanwhile, put them back."""
    names = tuple(node.name for node in nodes)
    with bench.paused_agents(*names):
        for name in names:
            script = (
                "for t in raw mangle filter nat; do iptables-legacy -t $t -S 2>/dev/null | grep -iE 'samegate|sgt-' "
                f"| grep -E -- '{match}' | grep '^-A' | sed 's/^-A/-D/' "
                '| while read -r rule; do echo "$t $rule"; eval iptables-legacy -w -t $t $rule; done; done'
            )
            gone = bench.machine(name).run(script).stdout
            if not gone.strip():
                raise LookupError(
                    f"{name} has no rule of ours that fits {match!r}; without it this control shows nothing"
                )
        yield


def measure_no_icmp(bench: Bench) -> Mapping[str, Measured]:
    """1 MiB each way while no ICMP passes. Control: without the clamp on the workers the upload hangs in the tunnel."""
    target = bench.target(ECHO)
    sources = bench.sources(4)
    with filtered_icmp():
        up = [bench.client.transfer(target.address, "put", TRANSFER_BYTES, source, HANG_SECONDS) for source in sources]
        down = [
            bench.client.transfer(target.address, "get", TRANSFER_BYTES, source, HANG_SECONDS) for source in sources
        ]
        with own_rules_gone(bench, topology.WORKERS, "TCPMSS"):
            (source,) = bench.sources(1)
            hung = bench.client.transfer(target.address, "put", TRANSFER_BYTES, source, HANG_SECONDS)
    control = Control("the upload without the MSS clamp", hung.error or hung.seconds, not hung.complete)
    return {
        "upload_no_icmp": Measured(_slowest(up), {"transfers": list(map(str, up)), "control": str(hung)}, control),
        "download_no_icmp": Measured(_slowest(down), {"transfers": list(map(str, down))}),
    }


def _slowest(transfers: list[Transfer]) -> float | None:
    """Seconds of the slowest transfer; None if any did not complete."""
    return max(t.seconds for t in transfers) if all(t.complete for t in transfers) else None


@contextmanager
def icmp_routed_to(target: Target, edge: Node) -> Iterator[None]:
    """Both ToRs send ICMP for the VIP to this edge node, whatever way other packets go."""
    try:
        for tor in topology.TORS:
            netns.run(
                tor.namespace,
                ["ip", "route", "add", f"{target.vip}/32", "via", str(edge.address), "table", str(_ICMP_TABLE)],
            )
            netns.run(
                tor.namespace,
                ["ip", "rule", "add", "ipproto", "icmp", "lookup", str(_ICMP_TABLE), "pref", str(_ICMP_TABLE)],
            )
        yield
    finally:
        for tor in topology.TORS:
            netns.run(tor.namespace, ["ip", "rule", "del", "pref", str(_ICMP_TABLE)], check=False)
            netns.run(tor.namespace, ["ip", "route", "flush", "table", str(_ICMP_TABLE)], check=False)


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
    (source,) = bench.sources(1)
    running = bench.client.start_transfer(target.address, "get", TRANSFER_BYTES, source, HANG_SECONDS, wait=1.0)
    wait_until("the flow is open", lambda: _connected(target, source), 5, 0.05)
    with narrow_path():
        return running.wait()


def _connected(target: Target, source: str) -> bool:
    shown = netns.run(topology.CLIENT, ["ss", "-Htn", "state", "established", "src", source, "dst", target.vip]).stdout
    return bool(shown.strip())


def measure_icmp_errors(bench: Bench) -> Mapping[str, Measured]:
    """TCP goes through one edge node, ICMP through the other. Control: schedule_icmp=0 there, and the download hangs."""
    target = bench.target(ECHO)
    with routed_to(target, STAYER), icmp_routed_to(target, LEAVER):
        result = _narrowed_download(bench, target)
        with sysctl_held(bench, "net.ipv4.vs.schedule_icmp", "0", LEAVER.name):
            hung = _narrowed_download(bench, target)
    control = Control("the same with schedule_icmp=0", hung.error or hung.seconds, not hung.complete)
    value = {"complete": result.complete, "seconds": result.seconds}
    return {"icmp_errors": Measured(value, {"download": str(result), "control": str(hung)}, control)}


@contextmanager
def counted(source: str, vip: str) -> Iterator[dict[str, int]]:
    """Packets from `source` to `vip` that each ToR forwards while the block runs; filled in at its end."""
    match = ["-s", f"{source}/32", "-d", f"{vip}/32"]
    counts: dict[str, int] = {}
    rule = ["mangle", "FORWARD", *match, "-m", "comment", "--comment", "counted by the lab"]
    with iptables_rules(topology.TOR1, rule), iptables_rules(topology.TOR2, rule):
        yield counts
        for tor in topology.TORS:
            table = netns.run(tor.namespace, ["iptables", "-w", "-t", "mangle", "-nvxL", "FORWARD"]).stdout
            counts[tor.name] = sum(int(line.split()[0]) for line in table.splitlines() if "counted by the lab" in line)


def _crossings(bench: Bench, vip: str, port: int) -> int:
    """How often one SYN to VIP:port crosses the ToRs."""
    (source,) = bench.sources(1)
    with counted(source, vip) as counts:
        bench.client.packet(
            packets.tcp_syn((source, FORGED_PORT), (vip, port)), listen=(source, FORGED_PORT), wait_seconds=1.0
        )
    return sum(counts.values())


@contextmanager
def vip_routed_by_hand(vip: str, edge: Node) -> Iterator[None]:
    """An address that no Service has, routed to an edge node all the way from the core, by either ToR if it comes back."""
    uplink = topology.LINKS[0].right.address
    if uplink is None:
        raise ValueError("the cable between core and tor1 has no addresses")
    hops = [(topology.CORE, str(uplink.ip)), *((tor.namespace, str(edge.address)) for tor in topology.TORS)]
    try:
        for namespace, hop in hops:
            netns.run(namespace, ["ip", "route", "add", f"{vip}/32", "via", hop])
        yield
    finally:
        for namespace, hop in hops:
            netns.run(namespace, ["ip", "route", "del", f"{vip}/32", "via", hop], check=False)


@contextmanager
def kube_proxy_forgot(bench: Bench, target: Target) -> Iterator[None]:
    """The workers' kube-proxy paused, and its rules for the VIP deleted, so that only the edge nodes know it."""
    paused: list[tuple[str, str]] = []
    try:
        for worker in topology.WORKERS:
            machine = bench.machine(worker.name)
            pids = " ".join(map(str, bench.pids(worker.name, "kube-proxy ")))
            machine.run(f"kill -STOP {pids}")
            paused.append((worker.name, pids))
            machine.run(
                f"iptables-legacy-save -t nat > /run/nat.before; iptables-legacy -t nat -S KUBE-SERVICES | grep -F '{target.vip}/32' "
                "| sed 's/^-A/-D/' | while read -r rule; do eval iptables-legacy -w -t nat $rule; done"
            )
        yield
    finally:
        for name, pids in paused:
            bench.machine(name).run(
                f"iptables-legacy-restore -T nat < /run/nat.before; rm -f /run/nat.before; kill -CONT {pids}",
                check=False,
            )


def measure_loops(bench: Bench) -> Mapping[str, Measured]:
    """A VIP that only the router knows, and one that the edge nodes know but the workers do not. Control: without our guards."""
    target = bench.target(ECHO)
    with vip_routed_by_hand(UNUSED_VIP, STAYER):
        router_only = _crossings(bench, UNUSED_VIP, target.port)
        with own_rules_gone(bench, (STAYER,), "DROP|blackhole|REJECT"):
            unguarded = _crossings(bench, UNUSED_VIP, target.port)
    with kube_proxy_forgot(bench, target), own_rules_gone(bench, topology.WORKERS, "DNAT"):
        edge_only = _crossings(bench, target.vip, target.port)
    value = max(router_only, edge_only) if min(router_only, edge_only) > 0 else 0
    samples = {"router_only": router_only, "edge_only": edge_only, "control": unguarded}
    return {"loops": Measured(value, samples, Control("without the guard on the edge node", unguarded, unguarded > 1))}


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
