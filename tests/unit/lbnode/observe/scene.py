"""A load balancer with a bit of everything that the status page must show, as the controller's own functions see it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from lbnode.object_reader import read_snapshot
from lbnode.overview import EventRow, Overview, condition_rows, edge_rows, vip_rows, worker_rows
from lbnode.roles.edge_status import announced_by
from lbnode.settings import parse
from tests.unit.lbnode.roles.world import SETTINGS, node, service

WEB, API, NAMES = (ip_address(f"203.0.113.{n}") for n in (7, 29, 53))
#: What a hostile or merely odd text may hold: markup, quotes, an entity, half of a surrogate pair.
HOSTILE = "</td><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">&amp;'\"\ud800"


def verdict(announced: bool, reason: str, detail: str = "") -> dict[str, Any]:
    return {"announce": announced, "announced": announced, "reason": reason, "detail": detail}


def condition(kind: str, status: str, reason: str, message: str, since: str) -> dict[str, str]:
    return {
        "type": f"samegate.dev/{kind}",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


def session(state: str, bfd: str = "Up", exported: int = 2, last_error: str = "") -> dict[str, Any]:
    return {"state": state, "bfd": bfd, "exported": exported, "last_error": last_error}


def statuses() -> dict[str, dict[str, Any] | None]:
    """What three edge nodes say; the third says nothing."""
    yes = verdict(True, "Announced")
    return {
        "edge1": {
            "vips": {str(WEB): yes, str(API): yes, str(NAMES): verdict(False, "NoReadyEndpoints", "0 of 3 pods ready")},
            "sessions": {"tor1": session("Established"), "tor2": session("Established")},
            "healthy_workers": ["198.51.100.21"],
        },
        "edge2": {
            "draining": True,
            "vips": {a: verdict(False, "Draining", "samegate.dev/drain is set") for a in map(str, (WEB, API, NAMES))},
            "sessions": {
                "tor1": session("Established", exported=0),
                "tor2": session("Active", "Down", 0, "no answer from 198.51.100.3 port 179"),
            },
            "healthy_workers": ["198.51.100.21", "198.51.100.22"],
            "warnings": ["fabricMtuBytes 1500 is above the device's 1450"],
        },
        "edge3": None,
    }


def overview(leads: bool = True, said: dict[str, dict[str, Any] | None] | None = None, text: str = "") -> Overview:
    """The page's values. ``text`` goes wherever somebody else's words stand."""
    settings = parse(SETTINGS)
    web, api, names = service("web", WEB), service("api", API), service("names", NAMES)
    web["status"]["conditions"] = [
        condition("Accepted", "True", "Accepted", f"Served at {WEB}. {text}", "2026-11-20T08:00:00Z"),
        condition("Announced", "True", "Announced", f"{WEB} by edge1.", "2026-11-28T03:00:01Z"),
    ]
    names["status"]["conditions"] = [
        condition(
            "Announced", "False", "NoReadyEndpoints", f"{NAMES} not by edge1: NoReadyEndpoints.", "2026-11-28T03:14:07Z"
        )
    ]
    workers = [node(f"worker{n}", ip_address(f"198.51.100.{20 + n}"), "worker", drain=n == 3) for n in (1, 2, 3)]
    snapshot = read_snapshot([web, api, names, *workers])
    heard = statuses() if said is None else said
    reports = {n: announced_by(s) if s is not None else None for n, s in heard.items()}
    return Overview(
        "samegate-controller-7f9c8-x2x4p",
        leads,
        True,
        "2026-11-28T03:15:07Z",
        vip_rows(snapshot, settings, reports),
        edge_rows(heard, reports),
        worker_rows(snapshot.nodes.values(), settings, heard),
        condition_rows(snapshot.services.values()),
        (
            EventRow("2026-11-28T03:14:07Z", "shop/names", "Warning", "NoReadyEndpoints", f"{NAMES} not by edge1."),
            EventRow("2026-11-28T03:00:01Z", "shop/web", "Normal", "Announced", f"{WEB} by edge1. {text}"),
        ),
    )
