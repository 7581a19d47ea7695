"""What a plan found, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lbnode.facts import Rejection, RouteAttributes, Verdict
from lbnode.maglev import table
from lbnode.model import IPAddress, IPNetwork, ServiceName, VirtualService


@dataclass(frozen=True, slots=True)
class VipReport:
    """One address of a Service: its pool, who else has it, and how routers hear of it."""

    address: IPAddress
    pool: str
    attributes: RouteAttributes
    shared_with: tuple[ServiceName, ...] = ()
    aggregate: IPNetwork | None = None
    host_route: bool = True


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """One Service: why it is not ours, or its addresses, its ports with destinations, and a verdict per edge node and VIP."""

    name: ServiceName
    ignored: str = ""
    addresses: tuple[IPAddress, ...] = ()
    allocated: bool = False
    active_probe: str = ""
    vips: tuple[VipReport, ...] = ()
    programmed: tuple[VirtualService, ...] = ()
    verdicts: tuple[tuple[str, IPAddress, Verdict], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A plan. ``rejections`` make it a failure, ``warnings`` and ``notes`` do not."""

    services: tuple[ServiceReport, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    node_names: Mapping[IPAddress, str] | None = None


def service_lines(service: ServiceReport, report: Report) -> list[str]:
    """One Service for people, an empty line at the end."""
    if service.ignored:
        return [f"{service.name}: left alone: {service.ignored}", ""]
    shown = ", ".join(map(str, service.addresses)) or "no address"
    lines = [f"{service.name}: {shown}{' (allocated)' if service.allocated else ''}"]
    if service.active_probe:
        lines.append(f"  workers probe its pods: {service.active_probe}")
    lines += [f"  {line}" for line in map(_vip_line, service.vips)]
    for virtual in service.programmed:
        flags = [] if virtual.hash_source_port else ["by client address"]
        flags += ["one packet"] if virtual.one_packet else []
        shown = f" ({', '.join(flags)})" if flags else ""
        lines.append(f"  {virtual.key}{shown}")
        lines += [f"    -> {line}" for line in _destination_lines(virtual, report)] or ["    -> nobody"]
    for edge, address, verdict in service.verdicts:
        does = "announces" if verdict.announce else "does not announce"
        lines.append(f"  {edge} {does} {address}: {verdict.reason}, {verdict.detail}")
    return [*lines, ""]


def _vip_line(vip: VipReport) -> str:
    parts = [f"{vip.address} is of pool {vip.pool}"]
    parts += [f"shared with {', '.join(map(str, vip.shared_with))}"] if vip.shared_with else []
    if vip.aggregate is not None:
        parts.append(f"announced as {vip.aggregate}{' too' if vip.host_route else ' alone'}")
    parts += [str(vip.attributes)] if str(vip.attributes) else []
    return "; ".join(parts)


def _destination_lines(virtual: VirtualService, report: Report) -> list[str]:
    names = report.node_names or {}
    lines = []
    for destination, share in zip(virtual.destinations, _shares(virtual), strict=True):
        what = "drained" if destination.drained else f"weight {destination.weight}"
        pod = "" if destination.nat_port is None else f":{destination.nat_port} by nat"
        who = "pod" if pod and destination.address not in names else names.get(destination.address, "?")
        lines.append(f"{who} {destination.address}{pod}, {what}, {share:.1%} of the table")
    return lines


def _shares(virtual: VirtualService) -> list[float]:
    slots = table(virtual.destinations, virtual.key.port)
    return [slots.count(i) / len(slots) if slots else 0.0 for i in range(len(virtual.destinations))]


def findings(report: Report) -> list[str]:
    """What is refused, warned of and noted, a line each."""
    return [
        *(f"refused: {_about(r)}: {r.reason}: {r.message}" for r in report.rejections),
        *(f"warning: {w}" for w in report.warnings),
        *(f"note: {n}" for n in report.notes),
    ]


def _about(rejection: Rejection) -> str:
    return str(rejection.service) if rejection.service.namespace else f"Node {rejection.service.name}"


def as_json_text(report: Report) -> str:
    """The whole report for machines."""
    names = report.node_names or {}
    services = [
        {
            "service": str(s.name),
            "ignored": s.ignored or None,
            "addresses": [str(a) for a in s.addresses],
            "allocated": s.allocated,
            "activeProbe": s.active_probe or None,
            "vips": [
                {
                    "vip": str(v.address),
                    "pool": v.pool,
                    "sharedWith": [str(n) for n in v.shared_with],
                    "communities": v.attributes.communities,
                    "localPreference": v.attributes.local_preference,
                    "med": v.attributes.med,
                    "prepend": v.attributes.prepend,
                    "aggregate": str(v.aggregate) if v.aggregate is not None else None,
                    "hostRoute": v.host_route,
                }
                for v in s.vips
            ],
            "programmed": [
                {
                    "vip": str(v.key.address),
                    "protocol": v.key.protocol.value,
                    "port": v.key.port,
                    "hashSourcePort": v.hash_source_port,
                    "onePacket": v.one_packet,
                    "destinations": [
                        {
                            "node": names.get(d.address),
                            "address": str(d.address),
                            "natPort": d.nat_port,
                            "weight": d.weight,
                            "drained": d.drained,
                            "share": round(share, 4),
                        }
                        for d, share in zip(v.destinations, _shares(v), strict=True)
                    ],
                }
                for v in s.programmed
            ],
            "verdicts": [
                {"edge": e, "vip": str(a), "announce": v.announce, "reason": v.reason, "detail": v.detail}
                for e, a, v in s.verdicts
            ],
        }
        for s in report.services
    ]
    findings: dict[str, Sequence[object]] = {
        "rejections": [{"object": _about(r), "reason": r.reason, "message": r.message} for r in report.rejections],
        "warnings": report.warnings,
        "notes": report.notes,
    }
    return json.dumps({"services": services, **findings}, indent=2)
