"""Which Services a worker's own pods can serve, by their active probes: pure steps over what was probed so far. Time is passed in, and monotonic.

A pod rises and falls as a worker does (:mod:`lbnode.health`). A Service is judged by the fraction of its pods on this worker that pass, between two
watermarks; in doubt (pods that are new, a prober that is stuck) nothing is said, and who listens keeps what it heard before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lbnode.active_probe import ActiveProbe, Backend
from lbnode.health import WorkerState, expire, step, watermark
from lbnode.model import IPAddress, ServiceName

#: Pods of one Service in one IP version: a worker is a destination in each family by itself.
Group = tuple[ServiceName, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """How many pods of a group pass, fail, or are undecided, and whether the worker is fit for it: ``None`` until that is known."""

    fit: bool | None
    passing: int = 0
    failing: int = 0
    undecided: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Each pod's state, and whether each group was fit when that was last known."""

    states: Mapping[Backend, WorkerState] = field(default_factory=dict)
    fit: Mapping[Group, bool] = field(default_factory=dict)


def probed(memory: Memory, backend: Backend, probe: ActiveProbe, ok: bool, now_seconds: float) -> Memory:
    """The memory after one result."""
    state = step(memory.states.get(backend, WorkerState()), ok, now_seconds, probe.pace)
    return Memory({**memory.states, backend: state}, memory.fit)


def failing(memory: Memory) -> frozenset[tuple[ServiceName, IPAddress]]:
    """The pods that are known to fail, by their Service; those of which nothing is known are not among them."""
    return frozenset((b.service, b.address) for b, state in memory.states.items() if state.healthy is False)


def judge(
    memory: Memory, wanted: Mapping[Backend, ActiveProbe], now_seconds: float
) -> tuple[Memory, dict[Group, Judgement]]:
    """A judgement of each group of ``wanted``, and the memory without what is no longer wanted.

    ``fit`` of a judgement is certain: what undecided pods turn out to be could not change it.
    """
    states = {b: expire(s, now_seconds, wanted[b].pace) for b, s in memory.states.items() if b in wanted}
    groups: dict[Group, list[Backend]] = {}
    for backend in wanted:
        groups.setdefault((backend.service, backend.address.version), []).append(backend)
    judgements: dict[Group, Judgement] = {}
    for group, backends in groups.items():
        pace = wanted[backends[0]].pace
        healths = [states[b].healthy if b in states else None for b in backends]
        passing, failing = healths.count(True), healths.count(False)
        undecided = len(healths) - passing - failing
        was_fit = memory.fit.get(group, True)
        fit: bool | None = None
        if watermark(was_fit, passing, len(backends), pace):
            fit = True
        elif not watermark(was_fit, passing + undecided, len(backends), pace):
            fit = False
        judgements[group] = Judgement(fit, passing, failing, undecided)
    known = {g: j.fit if j.fit is not None else memory.fit.get(g) for g, j in judgements.items()}
    return Memory(states, {g: fit for g, fit in known.items() if fit is not None}), judgements


def heard(before: frozenset[Group], said: Mapping[Group, bool | None]) -> frozenset[Group]:
    """The groups that a worker is unfit for, after what it said: ``None`` leaves one as it was, one that is not named is not probed."""
    return frozenset(g for g, fit in said.items() if fit is False or (fit is None and g in before))
