"""`python -m lab fault NAME [--undo]`: break one thing by hand, and see what samegate makes of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from lab import cluster, control_plane, netns, offloads, topology
from lab.machines import Machine, MachineError
from lab.report.bench import APPS, Bench, NotReached
from lab.report.broken import delete_pods
from lab.report.live_flows import LEAVER
from lab.report.path import NARROW_MTU_BYTES
from lab.report.steady import ECHO
from lab.report.tables import tables_of

EDGE, WORKER = LEAVER.name, topology.WORKERS[1].name
_REPLICAS = 4
"""Of the echo app, as its manifest has it."""
_COMMENT = ("-m", "comment", "--comment", "lab fault")
_ICMP = ("-p", "icmp", *_COMMENT, "-j", "DROP")
_WATCH_ROUTES = "python -m lab status --watch"
_WATCH_AGENT = f"python -m lab exec {EDGE} 'curl -s http://{LEAVER.address}:9474/v1/status'"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to break: `undo` is None when samegate is to mend it by itself."""

    name: str
    what: str
    expect: str
    watch: str
    apply: Callable[[], object]
    undo: Callable[[], object] | None = None


def _kill(node: str, command: str, signal: str = "KILL") -> None:
    """Signal the processes on a machine whose command line holds `command`.

    Raises NotReached when there are none.
    """
    pids = Bench().pids(node, command)
    if not pids:
        raise NotReached(f"no process with {command!r} runs on {node}: is samegate deployed? (python -m lab deploy)")
    Machine(node).run(f"kill -{signal} {' '.join(map(str, pids))}")


def _switch_on(node: str) -> None:
    machine = Machine(node)
    machine.start()
    if node in offloads.declared():
        # Its tap can be told only after its driver has spoken.
        machine.wait_ready()


def _scale(replicas: int) -> None:
    cluster.kubectl("scale", "deployment", "-n", APPS, ECHO, f"--replicas={replicas}")


def _set_client_mtu(mtu_bytes: int) -> None:
    link = topology.LINKS[2].left
    netns.run(link.namespace, ["ip", "link", "set", link.interface, "mtu", str(mtu_bytes)])


def source_check(verb: str) -> None:
    """Let the ToRs drop every packet of a worker with a VIP as its source, as clouds' network interfaces do (``verb`` `-I`), or no longer (`-D`)."""
    for version, pool in topology.VIP_POOLS.items():
        tool = "iptables" if version == 4 else "ip6tables"
        for router, worker in product(topology.TORS, topology.WORKERS):
            rule = ["-s", str(pool), "-m", "mac", "--mac-source", worker.mac, *_COMMENT, "-j", "DROP"]
            netns.run(router.namespace, [tool, "-w", "-t", "raw", verb, "PREROUTING", *rule])


FAULTS: tuple[Fault, ...] = (
    Fault(
        "kill-edge", f"SIGKILL to the whole machine {EDGE}", "both ToRs drop its routes within 1.5 s; no flow breaks", _WATCH_ROUTES,
        lambda: Machine(EDGE).kill(), lambda: _switch_on(EDGE),
    ),
    Fault(
        "drain-edge", f"annotate {EDGE} with samegate.dev/drain", "it withdraws and goes on forwarding; no flow breaks", _WATCH_ROUTES,
        lambda: Bench.drain(EDGE), lambda: Bench.undrain(EDGE),
    ),
    Fault(
        "kill-worker", f"SIGKILL to the whole machine {WORKER}", "new connections go to the other worker within 3 s", _WATCH_AGENT,
        lambda: Machine(WORKER).kill(), lambda: Machine(WORKER).start(),
    ),
    Fault(
        "drain-worker", f"annotate {WORKER} with samegate.dev/drain", "its weight becomes 0; its flows go on",
        f"python -m lab exec {EDGE} ipvsadm -Ln", lambda: Bench.drain(WORKER), lambda: Bench.undrain(WORKER),
    ),
    Fault(
        "kill-pods", f"end the echo pods of {WORKER} without grace", "their flows end; no other flow does, and new connections go to the other worker",
        _WATCH_AGENT, lambda: delete_pods(Bench(), WORKER, "--grace-period=0", "--force"),
    ),
    Fault(
        "clear-table", f"take every service out of the data plane of {EDGE}", "they are back, or the VIPs are withdrawn, within 3 s",
        _WATCH_AGENT, lambda: tables_of(Machine(EDGE)).clear(),
    ),
    Fault(
        "delete-tunnel", f"delete the tunnels of {WORKER}", "they are back, or its destinations are gone, within 3 s",
        f"python -m lab exec {WORKER} ip -d link show type ipip",
        lambda: Machine(WORKER).run("for d in $(ip -o link show type ipip | grep -o 'sgt-[0-9a-f]*' | sort -u); do ip link delete $d; done"),
    ),
    Fault(
        "stop-api", "end the API server", "nothing changes: no route moves, no connection fails", _WATCH_ROUTES,
        control_plane.stop_api_server, control_plane.start_api_server,
    ),
    Fault(
        "kill-agent", f"SIGKILL to the agent on {EDGE}", "kubelet starts it again; no route moves, nothing is written to the kernel", _WATCH_AGENT,
        lambda: _kill(EDGE, "lbnode run edge"),
    ),
    Fault(
        "pause-agent", f"SIGSTOP to the agent on {EDGE}", "forwarding and routes stay as they are; kubelet restarts it after a while", _WATCH_ROUTES,
        lambda: _kill(EDGE, "lbnode run edge", "STOP"), lambda: _kill(EDGE, "lbnode run edge", "CONT"),
    ),
    Fault(
        "kill-bird", f"SIGKILL to BIRD on {EDGE}", "its routes go for a moment; no flow breaks", _WATCH_ROUTES, lambda: _kill(EDGE, "bird -"),
    ),
    Fault(
        "no-endpoints", "scale the echo app to nothing", "its VIP is withdrawn within 3 s of the last endpoint", _WATCH_ROUTES,
        lambda: _scale(0), lambda: _scale(_REPLICAS),
    ),
    Fault(
        "filter-icmp", "drop all ICMP at the core router", "transfers of any size still complete", "python -m lab report --only upload_no_icmp",
        lambda: netns.run(topology.CORE, ["iptables", "-w", "-I", "FORWARD", *_ICMP]),
        lambda: netns.run(topology.CORE, ["iptables", "-w", "-D", "FORWARD", *_ICMP]),
    ),
    Fault(
        "narrow-path", f"MTU {NARROW_MTU_BYTES} between the core router and the clients", "downloads still complete", "python -m lab report --only icmp_errors",
        lambda: _set_client_mtu(NARROW_MTU_BYTES), lambda: _set_client_mtu(topology.MTU_BYTES),
    ),
    Fault(
        "source-check", "the ToRs drop what workers send with a VIP as source, as clouds do",
        "no connection is answered; after `python -m lab deploy --agent return=via-edge` everything is", "python -m lab report --only client_ip_preserved",
        lambda: source_check("-I"), lambda: source_check("-D"),
    ),
)  # fmt: skip

BY_NAME: Mapping[str, Fault] = {fault.name: fault for fault in FAULTS}


def main(arguments: list[str]) -> int:
    """`fault NAME [--undo]`, the command's name first; without a name, the list."""
    parser = argparse.ArgumentParser(prog="python -m lab fault", description="break one thing by hand")
    parser.add_argument(
        "name", nargs="?", choices=sorted(BY_NAME), metavar="NAME", help="one of the list that `fault` alone prints"
    )
    parser.add_argument("--undo", action="store_true", help="take the fault back")
    options = parser.parse_args(arguments[1:])
    if options.name is None:
        for fault in FAULTS:
            print(f"{fault.name:14} {fault.what}\n{'':14} expect: {fault.expect}")
        return 0
    fault = BY_NAME[options.name]
    try:
        if not options.undo:
            fault.apply()
            print(f"done: {fault.what}\nexpect: {fault.expect}\nwatch: {fault.watch}")
            print(f"undo: python -m lab fault {fault.name} --undo" if fault.undo else "it is mended by samegate itself")
        elif fault.undo is not None:
            fault.undo()
            print(f"undone: {fault.what}")
        else:
            print(f"nothing to undo: samegate mends {fault.name} by itself")
    except (netns.CommandError, NotReached, MachineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
