"""An edge node's status: what its last pass found, why it is not ready, what its status page says, and what others read there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from lbnode.facts import Verdict
from lbnode.model import EdgeState, IPAddress, address_order
from lbnode.speaker.base import Session
from lbnode.translate.edge import EdgePlan

#: So long after its start an edge node is not ready until all its BGP sessions are up; later one will do.
SESSIONS_MUST_BE_UP_SECONDS = 30.0
#: Reasons for no announcement that lie in the node itself.
NODE_REASONS = (
    "Starting",
    "AllProbesFail",
    "DataPlaneDiffers",
    "FilterMissing",
    "TranslationMissing",
    "SysctlDiffers",
    "NodeUnknown",
)


@dataclass
class EdgeView:
    """What the last pass found; the status page shows it."""

    plan: EdgePlan | None = None
    observed: EdgeState | None = None
    verdicts: Mapping[IPAddress, Verdict] = field(default_factory=dict)
    announced: frozenset[IPAddress] = frozenset()
    sessions: Mapping[str, Session] = field(default_factory=dict)
    kernel_writes: int = 0


def not_ready(view: EdgeView, healthy: Set[IPAddress], age_seconds: float) -> list[str]:
    """Reasons why this node is not ready: something about *this node* keeps a VIP from being announced.

    A roll-out goes on to the next edge node only when this one is ready, so a Service that is broken for every edge node does not count.
    Missing sessions count while the process is young: a router that is down for good must not stop a roll-out for ever.
    """
    if view.plan is None:
        return ["Starting: no pass is complete yet"]
    if view.plan.blocked is not None:
        return [": ".join(view.plan.blocked)]
    links = view.observed.links if view.observed is not None else frozenset()
    reached = {w.version for w in healthy}
    reasons = [
        f"{a}: {v.reason} {v.detail}"
        for a, v in view.verdicts.items()
        if not v.announce and (v.reason in NODE_REASONS or (v.reason == "NoHealthyWorker" and a.version not in reached))
    ]
    reasons += [
        f"LinkMissing: {each.device} to {each.router_address} is not as desired"
        for each in sorted(view.plan.state.links - links, key=lambda each: each.name)
    ]
    wanted = {a for a, v in view.verdicts.items() if v.announce}
    reasons += [f"{a}: BIRD does not announce it yet" for a in sorted(wanted - view.announced, key=address_order)]
    sessions = list(view.sessions.values())
    up = [s for s in sessions if s.established]
    is_young = age_seconds < SESSIONS_MUST_BE_UP_SECONDS
    if wanted and (not up or (is_young and len(up) < len(sessions))):
        reasons += [f"BGP session {s.peer}: {s.state} {s.last_error}" for s in sessions if not s.established] or [
            "no BGP session"
        ]
    return reasons


def status_page(node_name: str, view: EdgeView, healthy: Set[IPAddress], terminating: bool) -> dict[str, Any]:
    """The status page: plain JSON values."""
    plan = view.plan
    vips = plan.vips if plan is not None else {}
    return {
        "node": node_name,
        "role": "edge",
        "draining": terminating or (plan is not None and plan.draining),
        "blocked": list(plan.blocked) if plan is not None and plan.blocked is not None else None,
        "vips": {
            str(a): {
                "announce": v.announce,
                "announced": a in view.announced,
                "reason": v.reason,
                "detail": v.detail,
                "service": str(vips[a].service) if a in vips else None,
                "sharing": [str(s.service) for s in vips[a].sharing] if a in vips else [],
                "attributes": str(vips[a].attributes) if a in vips else "",
            }
            for a, v in view.verdicts.items()
        },
        "sessions": {
            s.peer: {"state": s.state, "bfd": s.bfd, "exported": s.exported, "last_error": s.last_error}
            for s in view.sessions.values()
        },
        "healthy_workers": sorted(str(a) for a in healthy),
        "rejections": [
            {"service": str(r.service), "reason": r.reason, "message": r.message}
            for r in (plan.rejections if plan is not None else ())
        ],
        "warnings": list(plan.warnings) if plan is not None else [],
        "kernel_writes": view.kernel_writes,
    }


def families_reached(status: Mapping[str, Any]) -> set[int]:
    """The IP versions of the healthy workers in an edge node's status page; what cannot be read is left out."""
    found: set[int] = set()
    listed = status.get("healthy_workers")
    for text in listed if isinstance(listed, list) else ():
        # A number would be taken for an address.
        if isinstance(text, str):
            with suppress(ValueError):
                found.add(ip_address(text).version)
    return found


def announced_by(status: Mapping[str, Any]) -> dict[IPAddress, Verdict]:
    """The verdicts in an edge node's status page; what cannot be read is left out."""
    verdicts: dict[IPAddress, Verdict] = {}
    vips = status.get("vips")
    for text, said in vips.items() if isinstance(vips, Mapping) else ():
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if isinstance(said, Mapping):
            on_air = bool(said.get("announce")) and bool(said.get("announced"))
            reason, detail = str(said.get("reason", "Unknown")), str(said.get("detail", ""))
            if said.get("announce") and not on_air:
                reason, detail = "NotAnnouncedYet", "the BGP daemon has not taken it yet"
            verdicts[address] = Verdict(on_air, reason, detail)
    return verdicts
