"""Leader election, simulated in time: at most one leader among honest clocks, and a dead one is replaced."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lbnode.lease import (
    LEASE_DURATION_SECONDS,
    RENEW_DEADLINE_SECONDS,
    LeaseRecord,
    Sighting,
    decide,
    sight,
    still_leads,
)


def test_without_a_lease_the_first_creates_it() -> None:
    assert decide("a", Sighting(None, 0), 0).action == "create"


def test_a_holder_renews_its_own_lease_however_old() -> None:
    assert decide("a", Sighting(LeaseRecord("a", "t0"), 0), 10_000).action == "renew"


def test_another_waits_while_the_lease_changes() -> None:
    seen = sight(None, LeaseRecord("a", "t0"), 100)
    seen = sight(seen, LeaseRecord("a", "t1"), 114)
    assert decide("b", seen, 114 + LEASE_DURATION_SECONDS).action == "wait"


def test_another_takes_a_lease_that_stood_still_for_its_duration() -> None:
    seen = sight(None, LeaseRecord("a", "t0"), 100)
    seen = sight(seen, LeaseRecord("a", "t0"), 110)
    assert decide("b", seen, 100 + LEASE_DURATION_SECONDS + 0.1).action == "take"


def test_a_released_lease_is_taken_at_once() -> None:
    assert decide("b", sight(None, LeaseRecord("", "t0"), 5), 5).action == "take"


@given(st.floats(0, 30), st.floats(0, 2), st.integers(0, 40))
def test_two_that_see_the_same_lease_never_both_write(dies_at: float, offset: float, phase: int) -> None:
    """A is cut off at ``dies_at``; B retries every 2 s from ``offset``. A's right to write ends before B's begins."""
    clock = itertools.count()
    record = LeaseRecord("a", f"t{next(clock)}")
    last_renewal_a = 0.0
    seen: Sighting | None = None
    now = offset
    while True:
        while last_renewal_a + 2 <= min(now, dies_at):
            last_renewal_a += 2
            record = LeaseRecord("a", f"t{next(clock)}")
        seen = sight(seen, record, now)
        if decide("b", seen, now).action == "take":
            break
        assert now < dies_at + LEASE_DURATION_SECONDS + 10, "nobody leads for too long"
        now += 2
    assert not still_leads(last_renewal_a, now)
    assert RENEW_DEADLINE_SECONDS < LEASE_DURATION_SECONDS
