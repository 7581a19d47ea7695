from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from lbnode.health import WorkerState, expire, lost_since, step, summary
from lbnode.model import ServiceName
from lbnode.settings import Health

SETTINGS = Health(rise=2, fall=3, interval_ms=500, timeout_ms=450)


def after(results: list[bool], settings: Health = SETTINGS) -> WorkerState:
    state = WorkerState()
    for number, ok in enumerate(results):
        state = step(state, ok, float(number), settings)
    return state


def test_a_family_is_lost_since_its_last_worker_fell_and_not_while_one_is_well_or_unknown() -> None:
    def fell(at: float) -> WorkerState:
        return WorkerState(False, since_seconds=at)

    one, two, other = IPv4Address("198.18.0.21"), IPv4Address("198.18.0.22"), IPv6Address("2001:db8::21")
    assert lost_since({one: fell(5), two: fell(7), other: WorkerState(True)}, 4) == 7
    assert lost_since({one: fell(5), two: WorkerState(True, since_seconds=1)}, 4) is None
    assert lost_since({one: fell(5), two: WorkerState()}, 4) is None
    assert lost_since({other: fell(5)}, 4) is None


def test_a_worker_is_undecided_until_it_rose_or_fell() -> None:
    assert after([]).healthy is None
    assert after([True]).healthy is None
    assert after([True, True]).healthy is True
    assert after([False, False]).healthy is None
    assert after([False, False, False]).healthy is False


def test_a_healthy_worker_survives_fewer_failures_than_fall() -> None:
    assert after([True, True, False, False, True, False, False]).healthy is True
    assert after([True, True, False, False, False]).healthy is False


def test_an_unhealthy_worker_needs_rise_successes_in_a_row() -> None:
    down = [False] * 3
    assert after([*down, True, False, True]).healthy is False
    assert after([*down, True, True]).healthy is True


def test_the_time_of_the_last_change_is_kept() -> None:
    assert after([True, True, True, False]).since_seconds == 1.0
    assert after([True, True, False, False, False]).since_seconds == 4.0


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4))
def test_the_state_is_the_last_run_that_was_long_enough(results: list[bool], rise: int, fall: int) -> None:
    """The oracle looks at the whole history as runs, where the step looks at one result."""
    expected = None
    for ok, run in groupby(results):
        if len(list(run)) >= (rise if ok else fall):
            expected = ok
    assert after(results, Health(rise=rise, fall=fall)).healthy is expected


def test_a_worker_without_results_becomes_undecided_and_not_unhealthy() -> None:
    state = after([True, True])
    assert expire(state, 1.0 + 2.4, SETTINGS) == state
    assert expire(state, 1.0 + 2.5, SETTINGS).healthy is None


def test_the_summary_names_only_decided_workers() -> None:
    one, two, three = (IPv4Address(f"198.18.0.{n}") for n in (1, 2, 3))
    pair = (ServiceName("default", "web"), one)
    found = summary({one: after([True] * 2), two: after([False] * 3), three: after([])}, [pair])
    assert found.healthy == {one}
    assert found.unhealthy == {two}
    assert found.without_endpoints == {pair}
