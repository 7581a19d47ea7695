"""What the controller knows of the whole load balancer, as rows for people: VIPs, edge nodes, workers, conditions, events.

Everything here was said by somebody else: by the API server, or by an edge node on its status page, which may be of another version. What does
not have the expected shape is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lbnode.conditions import ACCEPTED, ANNOUNCED
from lbnode.facts import Verdict
from lbnode.model import IPAddress, address_order
from lbnode.objects import NodeObject, ServiceObject, Snapshot, is_ours
from lbnode.settings import AgentSettings

#: A quiet watch is asked anew each minute; an API server that says nothing for twice as long is away.
LONGEST_API_SILENCE_SECONDS = 120.0

Status = Mapping[str, Any]
Reports = Mapping[str, Mapping[IPAddress, Verdict] | None]


@dataclass(frozen=True, slots=True)
class Withheld:
    """Edge nodes that do not announce a VIP for the same reason."""

    reason: str
    detail: str
    edges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VipRow:
    """One VIP: who announces it, and why the others do not. ``service`` names all that share it. ``silent`` edge nodes say nothing at all."""

    address: IPAddress
    service: str
    announced_by: tuple[str, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One BGP session of an edge node, in the BGP daemon's words; ``bfd`` is empty where unused."""

    peer: str
    state: str
    bfd: str = ""
    exported: int = 0
    last_error: str = ""

    @property
    def up(self) -> bool:
        return self.state == "Established" and self.bfd in ("", "Up")


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """One edge node. Where it does not answer, only its name is known."""

    name: str
    answers: bool
    draining: bool = False
    announces: int = 0
    sessions: tuple[SessionRow, ...] = ()
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker: what the API says of its Node, and which edge nodes reach it through their tunnels."""

    name: str
    addresses: tuple[IPAddress, ...]
    ready: str
    draining: bool = False
    reached_by: tuple[str, ...] = ()
    missed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """One condition of ours. ``since`` is RFC 3339 text, empty where unknown."""

    service: str
    type: str
    status: str
    reason: str
    message: str
    since: str = ""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event that this replica created; ``at`` is RFC 3339 text."""

    at: str
    service: str
    kind: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Overview:
    """One moment. ``synced`` is false until the API server has answered, which it last did ``api_silence_seconds`` ago; ``last_error`` is the
    controller's own."""

    replica: str
    leads: bool
    synced: bool
    at: str
    vips: tuple[VipRow, ...] = ()
    edges: tuple[EdgeRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    conditions: tuple[ConditionRow, ...] = ()
    events: tuple[EventRow, ...] = ()
    last_error: str = ""
    api_silence_seconds: float = 0.0

    @property
    def troubles(self) -> tuple[str, ...]:
        """What asks for somebody's attention, the worst first: one sentence each."""
        silent = self.api_silence_seconds > LONGEST_API_SILENCE_SECONDS
        return (
            *([] if self.synced else ["The Kubernetes API has not answered yet: what is below may be incomplete."]),
            *([f"The Kubernetes API has been silent for {self.api_silence_seconds:.0f} s."] if silent else []),
            *([f"The controller's last pass failed: {self.last_error}"] if self.last_error else []),
            *(f"{v.address} ({v.service}) is announced by no edge node." for v in self.vips if not v.announced_by),
            *(f"Edge node {e.name} does not answer." for e in self.edges if not e.answers),
            *(f"{s.peer} at {e.name}: {_words(s)}." for e in self.edges for s in e.sessions if not s.up),
            *(f"{e.name}: {t}" for e in self.edges for t in e.troubles),
            *(f"No edge node reaches worker {w.name}." for w in self.workers if w.missed_by and not w.reached_by),
            *(f"{c.service}: {c.message}" for c in self.conditions if c.type == ACCEPTED and c.status != "True"),
        )


def _words(session: SessionRow) -> str:
    if session.state == "Established":
        return f"BFD is {session.bfd}"
    return f"the BGP session is {session.state}" + (f", {session.last_error}" if session.last_error else "")


def vip_rows(snapshot: Snapshot, settings: AgentSettings, reports: Reports) -> tuple[VipRow, ...]:
    """A row for each address of our Services that lies in a pool, and for each that an edge node still announces without one."""
    owners: dict[IPAddress, str] = {}
    for service in sorted(snapshot.services.values(), key=lambda s: s.name):
        for address in service.addresses if is_ours(service, settings) else ():
            if any(address in network for network in settings.pool_networks):
                owners[address] = f"{owners[address]}, {service.name}" if address in owners else str(service.name)
    left = {a for report in reports.values() for a, v in (report or {}).items() if v.announce} - owners.keys()
    silent = tuple(sorted(node for node, report in reports.items() if report is None))
    return tuple(
        _vip_row(address, owners.get(address, "no Service"), reports, silent)
        for address in sorted(owners.keys() | left, key=address_order)
    )


def _vip_row(address: IPAddress, service: str, reports: Reports, silent: tuple[str, ...]) -> VipRow:
    by: list[str] = []
    withheld: dict[tuple[str, str], list[str]] = {}
    for node, report in sorted(reports.items()):
        if report is None:
            continue
        verdict = report.get(address, Verdict(False, "NotProgrammed", "the edge node has not seen the Service yet"))
        if verdict.announce:
            by.append(node)
        else:
            withheld.setdefault((verdict.reason, verdict.detail), []).append(node)
    return VipRow(
        address,
        service,
        tuple(by),
        tuple(Withheld(reason, detail, tuple(nodes)) for (reason, detail), nodes in withheld.items()),
        silent,
    )


def edge_rows(statuses: Mapping[str, Status | None], reports: Reports) -> tuple[EdgeRow, ...]:
    """A row for each edge node, from its status page; ``None`` for one that does not answer."""
    return tuple(_edge_row(n, s, reports.get(n) or {}) for n, s in sorted(statuses.items()))


def _edge_row(name: str, status: Status | None, verdicts: Mapping[IPAddress, Verdict]) -> EdgeRow:
    if status is None:
        return EdgeRow(name, answers=False)
    blocked = [t for t in _list(status.get("blocked")) if isinstance(t, str)]
    troubles = [
        *([": ".join(blocked)] if blocked else []),
        *([_text(status.get("last_error"))] if _text(status.get("last_error")) else []),
        *(t for t in _list(status.get("warnings")) if isinstance(t, str)),
    ]
    sessions = status.get("sessions")
    return EdgeRow(
        name,
        answers=True,
        draining=status.get("draining") is True,
        announces=sum(v.announce for v in verdicts.values()),
        sessions=tuple(
            SessionRow(
                str(peer),
                _text(said.get("state")) or "unknown",
                _text(said.get("bfd")),
                exported if isinstance(exported := said.get("exported"), int) else 0,
                _text(said.get("last_error")),
            )
            for peer, said in sorted(sessions.items() if isinstance(sessions, Mapping) else (), key=lambda p: str(p[0]))
            if isinstance(said, Mapping)
        ),
        troubles=tuple(troubles),
    )


def worker_rows(
    nodes: Iterable[NodeObject], settings: AgentSettings, statuses: Mapping[str, Status | None]
) -> tuple[WorkerRow, ...]:
    """A row for each worker node. Edge nodes that do not answer count neither way."""
    healthy = {
        edge: {a for a in _list(status.get("healthy_workers")) if isinstance(a, str)}
        for edge, status in sorted(statuses.items())
        if status is not None
    }
    return tuple(
        WorkerRow(
            node.name,
            node.addresses,
            node.ready,
            node.draining,
            tuple(edge for edge, workers in healthy.items() if workers & {str(a) for a in node.addresses}),
            tuple(edge for edge, workers in healthy.items() if not workers & {str(a) for a in node.addresses}),
        )
        for node in sorted(nodes, key=lambda n: n.name)
        if node.matches(settings.worker_node_selector)
    )


def condition_rows(services: Iterable[ServiceObject]) -> tuple[ConditionRow, ...]:
    """Our conditions of all Services, those that changed last first."""
    rows = [
        ConditionRow(str(service.name), c.type, c.status, c.reason, c.message, c.since)
        for service in sorted(services, key=lambda s: s.name)
        for c in service.conditions
        if c.type in (ACCEPTED, ANNOUNCED)
    ]
    # RFC 3339 in UTC sorts by time as text.
    return tuple(sorted(rows, key=lambda r: r.since, reverse=True))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
