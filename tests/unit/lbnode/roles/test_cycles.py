"""Reference cycles go, at the agent's own pace."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from lbnode.roles import cycles


class Knot:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.own: Any = self


async def _old_knot() -> weakref.ref[Knot]:
    knot = Knot()
    # Two looks: what outlives them is among the oldest.
    gc.collect()
    gc.collect()
    return weakref.ref(knot)


async def _make_objects_that_stay() -> list[list[int]]:
    return [[number] for number in range(200_000)]


@pytest.mark.parametrize("seldom", [True, False])
def test_many_new_objects_do_not_make_python_look_through_the_old_ones_while_the_agent_runs(seldom: bool) -> None:
    async def main() -> bool:
        task = asyncio.create_task(cycles.collect_seldom() if seldom else asyncio.sleep(3600))
        await asyncio.sleep(0)
        knot = await _old_knot()
        kept = await _make_objects_that_stay()
        task.cancel()
        return knot() is not None and bool(kept)

    assert asyncio.run(main()) is seldom


def test_an_old_cycle_goes_at_the_next_look_and_pythons_own_pace_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycles, "COLLECT_SECONDS", 0.05)
    usual = gc.get_threshold()

    async def main() -> weakref.ref[Knot]:
        task = asyncio.create_task(cycles.collect_seldom())
        knot = await _old_knot()
        assert knot() is not None
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return knot

    assert asyncio.run(main())() is None
    assert gc.get_threshold() == usual
