"""What the controller says on a Service: two conditions, and the events that go with their changes.

``samegate.dev/Accepted`` says whether the Service has its addresses, or why not. ``samegate.dev/Announced`` says whether routers
hear of them: it is built from what the edge nodes report, VIP by VIP, each with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lbnode.facts import Rejection, Verdict
from lbnode.model import IPAddress, address_order

ACCEPTED = "samegate.dev/Accepted"
ANNOUNCED = "samegate.dev/Announced"
#: Limit of a condition's message in the Kubernetes API.
MESSAGE_LIMIT = 32768

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without its times."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Happening:
    """An event to create. ``kind`` is Normal or Warning."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def accepted(addresses: Sequence[IPAddress], rejections: Sequence[Rejection], notes: Sequence[str]) -> Condition:
    """Whether the Service is served. Rejections of single ports leave the others accepted and are told in the message."""
    told = [r.message for r in rejections]
    if not addresses:
        reason = rejections[0].reason if rejections else "NoAddress"
        return Condition(ACCEPTED, "False", reason, " ".join(told)[:MESSAGE_LIMIT] or "No address was allocated yet.")
    listed = ", ".join(str(a) for a in sorted(addresses, key=address_order))
    message = " ".join([f"Served at {listed}.", *told, *notes])
    return Condition(ACCEPTED, "True", rejections[0].reason if rejections else "Accepted", message[:MESSAGE_LIMIT])


def announced(addresses: Sequence[IPAddress], reports: Mapping[str, Mapping[IPAddress, Verdict] | None]) -> Condition:
    """Whether routers hear of the addresses.

    Args:
        addresses: the Service's VIPs.
        reports: what each edge node says of each VIP; ``None`` for an edge node that did not answer.
    """
    if not addresses:
        return Condition(ANNOUNCED, "False", "NoAddress", "There is no address to announce.")
    if not reports:
        return Condition(
            ANNOUNCED, "False", "NoEdgeNode", "No node has the edge node labels. Label one, or change edgeNodeSelector."
        )
    silent = sorted(node for node, report in reports.items() if report is None)
    speaking = {node: report for node, report in sorted(reports.items()) if report is not None}
    told: list[str] = []
    reasons: list[str] = []
    everywhere = True
    for address in sorted(addresses, key=address_order):
        by: list[str] = []
        for node, report in speaking.items():
            verdict = report.get(address, Verdict(False, "NotProgrammed", "the edge node has not seen the Service yet"))
            if verdict.announce:
                by.append(node)
            else:
                told.append(
                    f"{address} not by {node}: {verdict.reason}"
                    + (f" ({verdict.detail})" if verdict.detail else "")
                    + "."
                )
                reasons.append(verdict.reason)
        if by:
            told.insert(0, f"{address} by {', '.join(by)}.")
        else:
            everywhere = False
    told += [f"{node} does not answer." for node in silent]
    message = " ".join(told)[:MESSAGE_LIMIT]
    if everywhere:
        return Condition(ANNOUNCED, "True", "Announced", message)
    if not speaking:
        return Condition(ANNOUNCED, "Unknown", "EdgeNodesSilent", message)
    return Condition(ANNOUNCED, "False", reasons[0] if reasons else "NotProgrammed", message)


def merge(
    before: Sequence[Raw], wanted: Sequence[Condition], generation: int, now: str
) -> tuple[list[Raw], list[Happening]]:
    """Conditions to write and events to create; both empty when nothing would change.

    Only the conditions wanted are returned: a strategic merge patch merges them by type and leaves others alone. The transition time stays
    while the status stays. An event is due when a condition's status or reason changes.

    Args:
        before: ``status.conditions`` as read.
        generation: the Service's ``metadata.generation``.
        now: RFC 3339 time.
    """
    known = {c.get("type"): c for c in before if isinstance(c, dict)}
    patches: list[Raw] = []
    happenings: list[Happening] = []
    for condition in wanted:
        old = known.get(condition.type, {})
        same = all(old.get(k) == getattr(condition, k) for k in ("status", "reason", "message"))
        if same and old.get("observedGeneration", 0) == generation:
            continue
        turned = old.get("status") != condition.status
        patches.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": now if turned else old.get("lastTransitionTime", now),
            }
        )
        if turned or old.get("reason") != condition.reason:
            happenings.append(
                Happening("Normal" if condition.status == "True" else "Warning", condition.reason, condition.message)
            )
    return patches, happenings
