"""An API server that is away for ten minutes, and one that is ill: the edge role with the client that it really has, over the loopback, in simulated
time. Kernel, speaker and workers are twins that go on working.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster, User

from lbnode.kube.client import REQUEST_TIMEOUT_SECONDS
from lbnode.kube.watcher import Watcher
from lbnode.roles.loop import Loop
from lbnode.roles.start import RESYNC_SECONDS
from tests.unit.lbnode.api_server import ApiServer
from tests.unit.lbnode.roles.world import EDGES, VIP, WORKERS, World, endpoints, node, service
from tests.unit.lbnode.simulated_time import SimulatedLoop, simulate

#: Of docs/scorecard.md, rows 12 and 13.
AWAY_SECONDS = 600.0
RECONCILED_SECONDS = 5.0
LIST_INTERVAL_SECONDS = 5.0


def objects() -> list[dict[str, Any]]:
    nodes = [node(n, a, "worker" if n in WORKERS else "edge") for n, a in (WORKERS | EDGES).items()]
    return [*nodes, service(), endpoints(worker1="ready", worker2="ready")]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[World, ApiServer]]:
    """An edge node and its API server, once the VIP is announced."""
    api, world, now = ApiServer(*objects()), World(), asyncio.get_running_loop().time
    await api.start()
    loop = Loop(RESYNC_SECONDS)
    config = KubeConfig.from_one(cluster=Cluster(server=f"http://127.0.0.1:{api.port}"), user=User(token="t"))
    client = AsyncClient(config=config, timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS), trust_env=False)
    watcher = Watcher(client, loop.wake)
    world.copy = watcher.copy

    async def pass_once() -> None:
        world.now_seconds = now()
        await world.edge.pass_once()

    async def probing() -> None:
        while True:
            await asyncio.sleep(0.5)
            world.now_seconds = now() - 0.5
            world.probe()

    tasks = [asyncio.create_task(t) for t in (watcher.run(), loop.run(pass_once), probing())]
    try:
        await until(lambda: bool(world.speaker.history), 10)
        yield world, api
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await api.stop()
        await asyncio.sleep(0.1)


async def until(condition: Any, seconds: float) -> float:
    """Simulated seconds until the condition holds, which must be within ``seconds``."""
    now = asyncio.get_running_loop().time
    started = now()
    while not condition():
        assert now() - started <= seconds, f"not within {seconds} s"
        await asyncio.sleep(0.05)
    return now() - started


def most_above_the_pace(seconds: list[float], at_once: int) -> float:
    """By how many the fullest window exceeds ``at_once`` and one for each interval: counted in every window from one LIST to another."""
    return max(
        (last - first + 1) - at_once - (seconds[last] - seconds[first]) / LIST_INTERVAL_SECONDS
        for first in range(len(seconds))
        for last in range(first, len(seconds))
    )


def ports(world: World) -> set[int]:
    return {key.port for key in world.kernel.services}


def other_port() -> dict[str, Any]:
    changed = service()
    changed["spec"]["ports"] = [{"name": "http", "port": 81, "protocol": "TCP", "targetPort": 8080}]
    return changed


def test_an_api_server_that_is_away_for_ten_minutes_changes_nothing_and_is_caught_up_with_in_five_seconds() -> None:
    async def main() -> None:
        async with running() as (world, api):
            await asyncio.sleep(30)
            writes, before = world.kernel.writes, len(api.lists)
            api.fall_silent()
            await asyncio.sleep(AWAY_SECONDS / 2)
            await api.stop()
            await asyncio.sleep(AWAY_SECONDS / 2)
            assert world.kernel.writes == writes
            assert world.speaker.history == [{VIP}]
            assert len(api.lists) - before <= 3, "one LIST of each kind found out, and none asked in vain after that"
            api.put(other_port())
            await api.start()
            took = await until(lambda: ports(world) == {81}, RECONCILED_SECONDS)
            print(f"reconciled after {took:.2f} s, {len(api.lists)} LISTs")
            assert world.speaker.history == [{VIP}], "never withdrawn"
            assert most_above_the_pace(api.lists, 3) <= 1e-6

    simulate(main())


def withdrawn_by_late_slices(outage: bool) -> bool:
    """Whether the VIP is withdrawn when slices are unready from 69 s after the API server's return on, and ready again 68 s later, as they were in a
    rack whose endpoint controller came back slowly; meanwhile, from 95 s on, the API server is away a second time."""

    async def main() -> bool:
        async with running() as (world, api):
            if outage:
                await api.stop()
                await asyncio.sleep(60)
                await api.start()
            await asyncio.sleep(69)
            api.put(endpoints(worker1="unready", worker2="unready"))
            await asyncio.sleep(26)
            if outage:
                await api.stop()
            await asyncio.sleep(42)
            api.put(endpoints(worker1="ready", worker2="ready"))
            if outage:
                await api.start()
            await asyncio.sleep(10)
            return world.speaker.history != [{VIP}]

    found: bool = simulate(main())
    return found


def test_slices_that_are_mended_late_after_an_outage_withdraw_nothing() -> None:
    assert not withdrawn_by_late_slices(outage=True)


def test_without_an_outage_the_same_slices_do_withdraw() -> None:
    assert withdrawn_by_late_slices(outage=False)


def test_one_watch_that_is_cut_is_no_outage() -> None:
    async def main() -> None:
        async with running() as (world, api):
            api.cut()
            # LISTs go at their pace.
            await asyncio.sleep(3 * LIST_INTERVAL_SECONDS)
            api.put(endpoints(worker1="unready", worker2="unready"))
            await until(lambda: world.speaker.history[-1] == frozenset(), 3)

    simulate(main())


def test_an_api_server_that_says_that_the_service_is_gone_is_believed() -> None:
    """The control: in the same rig a withdrawal does show, and so do changes of the kernel."""

    async def main() -> None:
        async with running() as (world, api):
            writes = world.kernel.writes
            api.remove(service())
            await until(lambda: world.speaker.history[-1] == frozenset(), 3)
            await until(lambda: world.kernel.writes > writes, 10)

    simulate(main())


def lists_of_a_minute_of_cut_watches() -> list[float]:
    """When a node sends LISTs to an API server behind a proxy that breaks each watch off."""

    async def main() -> list[float]:
        async with running() as (world, api):
            api.cuts_watches = True
            await api.stop()
            await api.start()
            await asyncio.sleep(60)
            assert world.speaker.history == [{VIP}]
            return api.lists

    lists: list[float] = simulate(main())
    return lists


def test_a_node_whose_watches_are_all_cut_lists_once_in_five_seconds() -> None:
    assert most_above_the_pace(lists_of_a_minute_of_cut_watches(), 3) <= 1e-6


def test_without_the_pace_it_would_list_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the test above."""
    monkeypatch.setattr("lbnode.kube.watcher.LIST_INTERVAL_SECONDS", 0.0)
    assert most_above_the_pace(lists_of_a_minute_of_cut_watches(), 3) > 10


#: One for each second and kind of the time that the tests below take, and far more.
ENDED_WATCHES = 600


def shortest_time_between_watches(watches_ended: int) -> float:
    """Simulated seconds, while a proxy ends so many watches at once as they should end. The node sees a change within seconds all the while."""

    async def main() -> float:
        async with running() as (world, api):
            api.ends_watches = watches_ended
            await api.stop()
            await api.start()
            await asyncio.sleep(100)
            api.put(other_port())
            await until(lambda: ports(world) == {81}, RECONCILED_SECONDS)
            assert world.speaker.history == [{VIP}]
            return min(b - a for each in api.watches.values() for a, b in itertools.pairwise(each))

    seconds: float = simulate(main())
    return seconds


def test_a_node_whose_watches_end_at_once_asks_for_them_once_a_second() -> None:
    assert shortest_time_between_watches(ENDED_WATCHES) >= 1 - 1e-6


def test_without_that_pace_it_would_ask_in_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the test above."""
    monkeypatch.setattr("lbnode.kube.watcher.WATCH_INTERVAL_SECONDS", 0.0)
    assert shortest_time_between_watches(ENDED_WATCHES) < 1e-3


def test_a_clock_on_the_wall_that_jumps_by_an_hour_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jumped_seconds = 0.0
    genuine = time.time
    monkeypatch.setattr(time, "time", lambda: genuine() + jumped_seconds)

    async def main() -> None:
        nonlocal jumped_seconds
        async with running() as (world, api):
            writes, lists = world.kernel.writes, len(api.lists)
            for seconds in (3600.0, -3600.0, 0.0):
                jumped_seconds = seconds
                await asyncio.sleep(10)
                assert (world.kernel.writes, len(api.lists)) == (writes, lists)
                assert world.speaker.history == [{VIP}]
                assert world.edge.view.verdicts[VIP].reason == "Announced"

    simulate(main())


def test_the_clock_that_it_does_go_by_shows_when_it_jumps() -> None:
    """The control for the test above: after an hour without a word every watch is taken for half-open. Still nothing is withdrawn."""

    async def main() -> None:
        async with running() as (world, api):
            lists = len(api.lists)
            await asyncio.sleep(1)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimulatedLoop)
            loop.jump(3600)
            await asyncio.sleep(15)
            assert len(api.lists) > lists
            assert world.speaker.history == [{VIP}]

    simulate(main())
