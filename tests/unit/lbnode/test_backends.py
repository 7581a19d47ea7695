"""A worker's pods in simulated time: who passes, and when the worker counts as unfit."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.active_probe import ActiveProbe, Backend, TcpConnect
from lbnode.backends import Group, Judgement, Memory, heard, judge, probed
from lbnode.model import Protocol, ServiceName
from lbnode.settings import ActiveProbes

WEB, DNS = ServiceName("shop", "web"), ServiceName("shop", "dns")
PODS = [Backend(WEB, ip_address(f"10.244.1.{n}"), 8080) for n in range(1, 11)]
POD6 = Backend(WEB, ip_address("fd00:244::1"), 8080)


def probe(**pace: float) -> ActiveProbe:
    return ActiveProbe(TcpConnect(), "http", Protocol.TCP, ActiveProbes.model_validate(pace))


class Simulation:
    """Pods that answer or not, each asked once an interval; ``now_seconds`` is the simulated clock."""

    def __init__(self, *pods: Backend, **pace: float) -> None:
        self.probe = probe(**pace)
        self.alive = dict.fromkeys(pods, True)
        self.memory = Memory()
        self.now_seconds = 0.0

    def judge(self) -> dict[Group, Judgement]:
        self.memory, found = judge(self.memory, dict.fromkeys(self.alive, self.probe), self.now_seconds)
        return found

    def rounds(self, number: int) -> bool | None:
        """So many rounds of probes; whether the worker is fit for IPv4 after them."""
        for _ in range(number):
            self.now_seconds += self.probe.pace.interval_ms / 1000
            for pod, ok in self.alive.items():
                self.memory = probed(self.memory, pod, self.probe, ok, self.now_seconds)
        return self.judge()[(WEB, 4)].fit


def test_nothing_is_said_before_the_first_decision() -> None:
    world = Simulation(PODS[0])
    assert world.judge() == {(WEB, 4): Judgement(None, undecided=1)}
    assert world.rounds(1) is None
    assert world.rounds(1) is True


def test_a_pod_that_dies_makes_its_worker_unfit_after_fall_probes_and_fit_again_after_rise() -> None:
    world = Simulation(PODS[0], rise=2, fall=3)
    world.rounds(5)
    world.alive[PODS[0]] = False
    assert [world.rounds(1) for _ in range(4)] == [True, True, False, False]
    world.alive[PODS[0]] = True
    assert [world.rounds(1) for _ in range(3)] == [False, True, True]


def test_one_pod_that_passes_keeps_the_worker_fit_without_watermarks() -> None:
    world = Simulation(*PODS)
    world.rounds(3)
    world.alive |= dict.fromkeys(PODS[1:], False)
    assert world.rounds(10) is True
    assert world.judge()[(WEB, 4)] == Judgement(True, passing=1, failing=9)


def test_between_the_watermarks_a_worker_stays_what_it_was() -> None:
    world = Simulation(*PODS, low_watermark=0.4, high_watermark=0.8)
    world.rounds(3)
    seen = []
    for failing in (5, 6, 7, 5, 3, 2, 5):
        world.alive = {p: n >= failing for n, p in enumerate(PODS)}
        seen.append(world.rounds(5))
    # Of ten pods 5, 4, 3, 5, 7, 8, 5 pass: out below 4, in again from 8.
    assert seen == [True, True, False, False, False, True, True]


def test_a_new_pod_on_an_unfit_worker_does_not_make_it_fit_until_it_passes() -> None:
    world = Simulation(PODS[0], rise=2, fall=3)
    world.alive[PODS[0]] = False
    assert world.rounds(3) is False
    world.alive = {PODS[1]: True}
    assert world.judge()[(WEB, 4)].fit is None
    assert [world.rounds(1) for _ in range(2)] == [None, True]


def test_a_prober_that_is_stuck_says_nothing() -> None:
    world = Simulation(PODS[0], interval_ms=2000, timeout_ms=1000, fall=3)
    world.rounds(3)
    world.now_seconds += 4 * 2.0 + 1.0
    assert world.judge()[(WEB, 4)].fit is True
    world.now_seconds += 0.1
    assert world.judge()[(WEB, 4)] == Judgement(None, undecided=1)


def test_families_and_services_are_judged_by_themselves() -> None:
    other = Backend(DNS, PODS[0].address, 5353)
    world = Simulation(PODS[0], POD6, other)
    world.alive[POD6] = False
    world.rounds(5)
    assert {g: j.fit for g, j in world.judge().items()} == {(WEB, 4): True, (WEB, 6): False, (DNS, 4): True}


def test_pods_that_are_gone_are_forgotten() -> None:
    world = Simulation(*PODS)
    world.rounds(5)
    world.alive = {}
    assert world.judge() == {}
    assert world.memory == Memory()


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=8), st.booleans())
def test_a_judgement_is_certain_or_not_given(healths: list[bool | None], was_fit: bool) -> None:
    """The oracle tries every way in which the undecided pods could turn out."""
    pace = probe(rise=1, fall=1, low_watermark=0.3, high_watermark=0.6)
    memory = Memory(fit={(WEB, 4): was_fit})
    for pod, ok in zip(PODS, healths, strict=False):
        memory = memory if ok is None else probed(memory, pod, pace, ok, 0.0)
    _, found = judge(memory, dict.fromkeys(PODS[: len(healths)], pace), 0.0)
    passing = sum(h is True for h in healths)
    possible = {
        up > 0 and up / len(healths) >= (0.3 if was_fit else 0.6)
        for up in range(passing, passing + healths.count(None) + 1)
    }
    assert found[(WEB, 4)].fit is (possible.pop() if len(possible) == 1 else None)


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        (set(), {(WEB, 4): False}, {(WEB, 4)}),
        ({(WEB, 4)}, {(WEB, 4): True}, set()),
        ({(WEB, 4)}, {(WEB, 4): None}, {(WEB, 4)}),
        (set(), {(WEB, 4): None}, set()),
        ({(WEB, 4)}, {}, set()),
        ({(WEB, 4)}, {(WEB, 6): None}, set()),
    ],
)
def test_who_listens_keeps_what_it_heard_while_a_worker_is_undecided(
    before: set[Group], said: dict[Group, bool | None], after: set[Group]
) -> None:
    assert heard(frozenset(before), said) == after
