"""What the lab is doing now: machines, control plane, BGP and BFD sessions, VIPs and their next hops."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from lab import cluster, control_plane, netns, processes, registry, routers, topology
from lab.machines import Machine
from lab.routers import Session


@dataclass(frozen=True)
class MachineStatus:
    """One machine. `node`: Ready, NotReady, or why that is not known."""

    name: str
    role: str
    address: str
    pid: int | None
    resident_mib: int | None
    node: str


@dataclass(frozen=True)
class ProgramStatus:
    """One program of the control plane or of a router; `trouble` is None when it runs as wanted."""

    name: str
    pid: int | None
    trouble: str | None


@dataclass(frozen=True)
class Status:
    """The whole lab. `tors`: what the ToRs run. `vips`: VIP to router to next hops."""

    machines: tuple[MachineStatus, ...]
    programs: tuple[ProgramStatus, ...]
    sessions: tuple[Session, ...]
    vips: dict[str, dict[str, tuple[str, ...]]]
    bfd_downs: int | None
    tors: str = routers.DEFAULT

    @property
    def whole(self) -> bool:
        """Whether everything that `up` makes is there."""
        nodes = all(machine.node == "Ready" for machine in self.machines)
        return nodes and all(program.trouble is None for program in self.programs) and bool(self.sessions)

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self) | {"whole": self.whole}, indent=2)


def collect() -> Status:
    """Look at everything; what cannot be asked is said so, not raised."""
    nodes = _node_conditions()
    return Status(
        machines=tuple(_machine(Machine(node.name), nodes) for node in topology.NODES),
        programs=tuple(_programs()),
        sessions=tuple(_sessions()),
        vips=_vips(),
        bfd_downs=_bfd_downs(),
        tors=routers.chosen(),
    )


def _node_conditions() -> dict[str, str]:
    try:
        items = cluster.get("nodes", "--request-timeout=3s")["items"]
    except (netns.CommandError, LookupError, OSError, ValueError):
        return {}
    states = {}
    for item in items:
        conditions = {entry["type"]: entry["status"] for entry in item.get("status", {}).get("conditions", [])}
        states[item["metadata"]["name"]] = "Ready" if conditions.get("Ready") == "True" else "NotReady"
    return states


def _machine(machine: Machine, nodes: dict[str, str]) -> MachineStatus:
    pid = machine.pid()
    return MachineStatus(
        name=machine.name,
        role=machine.node.role,
        address=str(machine.node.address),
        pid=pid,
        resident_mib=resident_mib(pid) if pid is not None else None,
        node=nodes.get(machine.name, "API server does not answer" if not nodes else "no Node object"),
    )


def resident_mib(pid: int) -> int | None:
    """Memory of a process that is in RAM, MiB (statm, second field, pages); None when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") // (1 << 20)


def _programs() -> list[ProgramStatus]:
    try:
        wanted = [*control_plane.daemons(), registry.daemon()]
    except LookupError:  # a tool is missing
        wanted = [registry.daemon()]
    for router in topology.ROUTERS:
        wanted += routers.daemons(router)
    return [ProgramStatus(one.name, processes.pid_of(one.name), processes.trouble(one)) for one in wanted]


def _sessions() -> list[Session]:
    found: list[Session] = []
    for router in topology.ROUTERS:
        try:
            found += routers.sessions(router.name)
        except (netns.CommandError, OSError, ValueError):
            continue
    return found


def _vips() -> dict[str, dict[str, tuple[str, ...]]]:
    vips: dict[str, dict[str, tuple[str, ...]]] = {}
    for router in topology.ROUTERS:
        try:
            routes = routers.pool_routes(router.name)
        except (netns.CommandError, ValueError):
            continue
        for vip, hops in routes.items():
            vips.setdefault(vip, {})[router.name] = hops
    return dict(sorted(vips.items()))


def _bfd_downs() -> int | None:
    try:
        return routers.bfd_down_count()
    except (netns.CommandError, OSError, ValueError):
        return None


_NAMES = {str(address): node.name for node in topology.NODES for address in (node.address, node.address6)} | {
    str(address.ip): link.right.namespace.removeprefix(topology.PREFIX)
    for link in topology.LINKS[:2]
    for address in link.right.addresses
}


def render(status: Status) -> RenderableType:
    """The tables that `status` shows."""
    machines = Table("machine", "role", "address", "pid", "MiB", "node", title="Machines", title_justify="left")
    for machine in status.machines:
        machines.add_row(
            machine.name,
            machine.role,
            machine.address,
            str(machine.pid or "off"),
            str(machine.resident_mib or "-"),
            _coloured(machine.node, good=machine.node == "Ready"),
        )
    programs = Table("program", "pid", "state", title="Programs", title_justify="left")
    for program in status.programs:
        state = _coloured(program.trouble or "running", good=program.trouble is None)
        programs.add_row(program.name, str(program.pid or "-"), state)
    sessions = Table(
        "router",
        "peer",
        "AS",
        "BGP",
        "BFD",
        "prefixes",
        title=f"Sessions; the ToRs run {status.tors}",
        title_justify="left",
    )
    for session in status.sessions:
        sessions.add_row(
            session.router,
            f"{session.peer} {_NAMES.get(session.peer, '')}".strip(),
            str(session.asn),
            _coloured(session.bgp, good=session.bgp == "Established"),
            _coloured(session.bfd, good=session.bfd == "up"),
            str(session.prefixes),
        )
    names = [router.name for router in topology.ROUTERS]
    vips = Table("VIP", *names, title="Addresses and their next hops", title_justify="left")
    for vip, hops in status.vips.items():
        vips.add_row(vip, *(", ".join(_NAMES.get(hop, hop) for hop in hops.get(name, ())) or "-" for name in names))
    if not status.vips:
        vips.add_row("none announced", *("-" for _ in names))
    downs = "unknown" if status.bfd_downs is None else str(status.bfd_downs)
    return Group(machines, programs, sessions, vips, f"BFD sessions gone down since the lab was made: {downs}")


def _coloured(text: str, *, good: bool) -> str:
    return f"[green]{text}[/green]" if good else f"[red]{text}[/red]"
