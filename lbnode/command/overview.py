"""``samegate status``: each VIP and who announces it, each session, each agent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Table, listed, row, toned
from lbnode.command.pages import Agent, VipLine, of_role
from lbnode.command.view import View
from lbnode.conditions import ACCEPTED
from lbnode.model import IPAddress, ServiceName, address_order
from lbnode.objects import ServiceObject, is_ours

#: An edge node's page does not have the VIP: the reason that the Service's condition gives too (lbnode.conditions).
NOT_PROGRAMMED = VipLine(announce=False, reason="NotProgrammed", detail="the edge node has not seen the Service yet")

#: The pool's ``nodes`` and ``nodeSelector`` choose other edge nodes (lbnode.translate).
NOT_CHOSEN = "NodeNotSelected"


@dataclass(frozen=True, slots=True)
class Announcing:
    """One VIP: its Services where it has any, the edge nodes that announce it, the others with their lines, and those that are silent."""

    vip: IPAddress
    services: tuple[ServiceName, ...]
    by: tuple[str, ...]
    withheld: tuple[tuple[str, VipLine], ...]
    silent: tuple[str, ...]

    @property
    def is_missed(self) -> bool:
        """Whether an edge node that should announce it does not. Those that its pool does not choose should not."""
        return bool(self.silent) or any(line.reason != NOT_CHOSEN for _, line in self.withheld)


def announcing(view: View, vip: IPAddress) -> Announcing:
    """Who announces ``vip``, and why not where not."""
    by: list[str] = []
    withheld: list[tuple[str, VipLine]] = []
    silent: list[str] = []
    for edge in of_role(view.agents, "edge"):
        if edge.status is None:
            silent.append(edge.node)
            continue
        line = edge.status.vips.get(vip, NOT_PROGRAMMED)
        if line.on_air:
            by.append(edge.node)
        elif line.announce:
            waiting = {"reason": "NotAnnouncedYet", "detail": "the BGP daemon has not taken it yet"}
            withheld.append((edge.node, line.model_copy(update=waiting)))
        else:
            withheld.append((edge.node, line))
    return Announcing(vip, tuple(s.name for s in view.services_of(vip)), tuple(by), tuple(withheld), tuple(silent))


def vips_of(view: View) -> list[IPAddress]:
    """All VIPs: those of our Services, and those that an edge node still knows."""
    found = {a for s in ours(view) for a in s.addresses}
    found |= {a for edge in of_role(view.agents, "edge") if edge.status is not None for a in edge.status.vips}
    return sorted(found, key=address_order)


def ours(view: View) -> list[ServiceObject]:
    """Our Services by name."""
    return [s for _, s in sorted(view.snapshot.services.items()) if is_ours(s, view.settings)]


def destinations(view: View) -> dict[IPAddress, dict[str, bool | None]]:
    """By VIP, the workers behind it over all its ports, as the edge nodes have them: ``True`` takes new flows everywhere, ``False`` nowhere, else ``None``."""
    said: dict[IPAddress, dict[str, set[bool]]] = {}
    for edge in of_role(view.agents, "edge"):
        for service in edge.node_page.services if edge.node_page is not None else ():
            workers = said.setdefault(service.vip, {})
            for destination in service.destinations:
                workers.setdefault(view.node_of(destination.address), set()).add(not destination.drained)
    return {
        vip: {name: next(iter(s)) if len(s) == 1 else None for name, s in sorted(workers.items())}
        for vip, workers in said.items()
    }


def status(view: View) -> Answer:
    """The answer; its exit code says whether every VIP is announced by every edge node of its pool and every Service has its address."""
    lines = [announcing(view, vip) for vip in vips_of(view)]
    workers = destinations(view)
    without = [s for s in ours(view) if not s.addresses]
    edges = of_role(view.agents, "edge")
    whole = not without and all(a.by and not a.is_missed for a in lines) and bool(edges)
    parts = [_vips(lines, workers), *([_without(without)] if without else []), _sessions(edges), _agents(view.agents)]
    data: dict[str, Any] = {
        "vips": [
            {
                "vip": str(a.vip),
                "service": str(a.services[0]) if a.services else None,
                "sharing": [str(name) for name in a.services[1:]],
                "announced_by": list(a.by),
                "withheld": [{"node": n, "reason": v.reason, "detail": v.detail} for n, v in a.withheld],
                "silent": list(a.silent),
                "destinations": workers.get(a.vip, {}),
            }
            for a in lines
        ],
        "services_without_address": [
            dict(zip(("service", "reason", "message"), _refusal(s), strict=True)) for s in without
        ],
        "sessions": [
            {"node": e.node, "peer": peer, **s.model_dump()}
            for e in edges
            if e.status is not None
            for peer, s in sorted(e.status.sessions.items())
        ],
        "agents": [
            {
                "role": a.role,
                "node": a.node,
                "pod": a.pod,
                "version": a.status.version if a.status is not None else None,
                "answers": a.status is not None,
                "through": a.through,
                "state": _state(a)[0],
            }
            for a in view.agents
        ],
    }
    return Answer(data, tuple(parts), view.notes, FINE if whole else FOUND_SOMETHING)


def _vips(lines: Sequence[Announcing], workers: Mapping[IPAddress, Mapping[str, bool | None]]) -> Table:
    rows = []
    for a in lines:
        why = [f"{node}: {line.reason}{f' ({line.detail})' if line.detail else ''}" for node, line in a.withheld]
        why += [f"{node}: does not answer" for node in a.silent]
        behind = [
            n + {True: "", False: " (drained)", None: " (drained on some)"}[s]
            for n, s in workers.get(a.vip, {}).items()
        ]
        rows.append(
            row(
                str(a.vip),
                listed(a.services, "no Service"),
                toned(listed(a.by, "nobody"), bool(a.by)),
                toned(listed(why), None if a.by else False) if why else "-",
                listed(behind),
            )
        )
    return Table("Addresses", ("vip", "service", "announced by", "why not elsewhere", "workers"), tuple(rows))


def _refusal(service: ServiceObject) -> tuple[str, str, str]:
    said = next((c for c in service.conditions if c.type == ACCEPTED), None)
    if said is None:
        return str(service.name), "NotSeen", "no controller has written its condition: does one lead?"
    return str(service.name), said.reason, said.message


def _without(services: Sequence[ServiceObject]) -> Table:
    rows = tuple(row(name, toned(reason, False), message) for name, reason, message in map(_refusal, services))
    return Table("Services without an address", ("service", "reason", "message"), rows)


def _sessions(edges: Sequence[Agent]) -> Table:
    rows = tuple(
        row(
            edge.node,
            peer,
            toned(s.state, s.established),
            toned(s.bfd, s.bfd == "Up") if s.bfd else "-",
            str(s.exported),
            s.last_error,
        )
        for edge in edges
        if edge.status is not None
        for peer, s in sorted(edge.status.sessions.items())
    )
    return Table("BGP sessions", ("edge node", "router", "bgp", "bfd", "routes sent", "error"), rows)


def _agents(agents: Sequence[Agent]) -> Table:
    rows = []
    for agent in agents:
        text, good = _state(agent)
        rows.append(row(agent.role, agent.called, toned(text, good), (agent.status and agent.status.version) or "-"))
    return Table("Agents", ("role", "node or pod", "state", "version"), tuple(rows), "no node has the labels of a role")


def _state(agent: Agent) -> tuple[str, bool | None]:
    said = agent.status
    if said is None:
        return f"does not answer: {agent.silence}", False
    if agent.role == "controller":
        return ("leads", True) if said.leads else ("stands by", True)
    if agent.role == "worker":
        return (listed(said.not_ready), False) if said.not_ready else ("ready", True)
    if said.draining:
        return "drains", None
    if said.blocked:
        return ": ".join(said.blocked), False
    return "serves", True
