"""Who may write: a pure step of leader election over a ``coordination.k8s.io/v1`` Lease.

As in client-go, another holder's lease counts as lost only when *this* process has seen no change of it for its whole duration
by its own monotonic clock: clocks of two machines are never compared. It is no fence: two leaders may overlap for a moment, so
only idempotent writes of deterministic values stand behind it (addresses are a function of names), never an announcement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: client-go's defaults: lease 15 s, retry every 2 s. A leader renews each retry and gives up after two thirds of the lease.
LEASE_DURATION_SECONDS = 15
RETRY_SECONDS = 2.0
RENEW_DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What stands in the Lease object. ``renewed`` is its renewTime as text; it is compared, never read as a time."""

    holder: str
    renewed: str
    duration_seconds: int = LEASE_DURATION_SECONDS


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last record seen and the monotonic second at which it was first seen in that form."""

    record: LeaseRecord | None
    since_seconds: float


@dataclass(frozen=True, slots=True)
class LeaseDecision:
    action: Literal["create", "renew", "take", "wait"]
    reason: str


def sight(before: Sighting | None, record: LeaseRecord | None, now_seconds: float) -> Sighting:
    """Note a record; the time stays when the record is the one seen before."""
    if before is not None and before.record == record:
        return before
    return Sighting(record, now_seconds)


def decide(identity: str, seen: Sighting, now_seconds: float) -> LeaseDecision:
    """What ``identity`` does about the lease now."""
    record = seen.record
    if record is None:
        return LeaseDecision("create", "NoLease")
    if record.holder == identity:
        return LeaseDecision("renew", "Leading")
    if record.holder == "":
        return LeaseDecision("take", "Released")
    if now_seconds - seen.since_seconds > record.duration_seconds:
        return LeaseDecision("take", "Expired")
    return LeaseDecision("wait", "HeldByOther")


def still_leads(last_renewal_seconds: float | None, now_seconds: float) -> bool:
    """A leader that could not renew for the renew deadline stops writing before another may start."""
    return last_renewal_seconds is not None and now_seconds - last_renewal_seconds < RENEW_DEADLINE_SECONDS
