"""Case `endpoint-churn`: how soon a changed endpoint is in the data plane, in a large cluster, and what the agent needs for it."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bench import churn_objects
from bench.api_server import ApiServer, Writer, running
from bench.case import Case, Lines, Order
from bench.document import Measured
from bench.figures import Row, growth_per_minute, percentile
from lab import netns

SERVICES, ENDPOINTS = 1000, 100
QUICK_SERVICES, QUICK_ENDPOINTS = 50, 20
CHANGES_PER_SECOND = 50
MINUTES, QUICK_MINUTES = 10.0, 0.3
_SETTLE_SECONDS = 60.0
_SAMPLE_SECONDS = 5.0
_SYNC_SECONDS = 180.0
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_ROOT = Path(__file__).resolve().parent.parent


class AgentFailed(RuntimeError):
    """The agent ended, or did not come to know the cluster in time; the text holds what it said."""


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint of a Service that was told to be ready or not, at `sent_seconds` (monotonic), before the request went out."""

    sent_seconds: float
    vip: str
    worker: str
    drained: bool


@dataclass(frozen=True, slots=True)
class Applied:
    """A destination that changed in the data plane."""

    at_seconds: float
    vip: str
    worker: str
    drained: bool


def delays(changes: Iterable[Change], applied: Iterable[Applied]) -> tuple[list[tuple[Change, float]], list[Change]]:
    """Each change with the seconds until the data plane had it, and those that it never had.

    A change is there when its destination first becomes so after it was sent. Of two changes of one destination that follow each other before
    the first was there, the first may never be seen: it is then among the second list.
    """
    waiting: dict[tuple[str, str], deque[Change]] = defaultdict(deque)
    for change in sorted(changes, key=lambda c: c.sent_seconds):
        waiting[change.vip, change.worker].append(change)
    found = []
    missing = []
    for seen in sorted(applied, key=lambda a: a.at_seconds):
        queue = waiting[seen.vip, seen.worker]
        while queue and queue[0].sent_seconds <= seen.at_seconds:
            change = queue.popleft()
            if change.drained == seen.drained:
                found.append((change, seen.at_seconds - change.sent_seconds))
                break
            missing.append(change)
    return found, missing + [change for queue in waiting.values() for change in queue]


def read_log(text: str) -> tuple[float | None, list[Applied]]:
    """When the agent of :mod:`bench.churn_agent` was synced, and what it applied after that; a last line that is not complete is left out."""
    synced, found = None, []
    for line in text[: text.rfind("\n") + 1].splitlines():
        at, *rest = line.split()
        if rest == ["synced"]:
            synced = float(at)
        else:
            vip, worker, drained = rest
            found.append(Applied(float(at), vip, worker, drained == "1"))
    return synced, found


class Agent:
    """A process of :mod:`bench.churn_agent`."""

    def __init__(self, server: ApiServer, services: int, file: Path, processors: Set[int]) -> None:
        self.log = file
        self.started_seconds = time.monotonic()
        argv = [sys.executable, "-m", "bench.churn_agent", str(file), str(services)]
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "NODE_NAME": churn_objects.EDGE}
        with file.with_suffix(".err").open("w") as errors:
            self.process: subprocess.Popen[str] = netns.popen(
                None, argv, stdout=errors, stderr=errors, environment=environment
            )
        # Before it has threads, which run where their maker does (sched_setaffinity(2)).
        os.sched_setaffinity(self.process.pid, processors)

    def wait_synced(self) -> float:
        """Seconds from its start until every Service was in its data plane.

        Raises:
            AgentFailed: it ended before, or never was.
        """
        while True:
            synced = read_log(self.log.read_text() if self.log.exists() else "")[0]
            if synced is not None:
                return synced - self.started_seconds
            if self.process.poll() is not None or time.monotonic() - self.started_seconds > _SYNC_SECONDS:
                said = self.log.with_suffix(".err").read_text()[-2000:]
                raise AgentFailed(f"the agent did not come to know the cluster within {_SYNC_SECONDS:.0f} s: {said}")
            time.sleep(0.05)

    def resident_mib(self) -> float:
        """Its resident memory (proc(5), `statm`)."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_MIB

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def endless_pairs(services: int, endpoints: int, seed: int) -> Iterator[tuple[int, int]]:
    """Service and endpoint of each change: in an order by chance, every one before any comes again."""
    chance = random.Random(seed)
    pairs = [(s, e) for s in range(services) for e in range(endpoints)]
    while True:
        chance.shuffle(pairs)
        yield from pairs


async def _churn(
    server: ApiServer, agent: Agent, services: int, endpoints: int, seconds: float
) -> tuple[list[Change], list[tuple[float, float]]]:
    """Change endpoints at the rate for so long: the changes, and the agent's memory (seconds since the start, MiB)."""
    writer = Writer(server)
    changes: list[Change] = []
    memory: list[tuple[float, float]] = []
    ready: dict[tuple[int, int], bool] = defaultdict(lambda: True)
    pairs = endless_pairs(services, endpoints, seed=services)
    started = time.monotonic()

    async def change(service: int, endpoint: int) -> None:
        state = ready[service, endpoint] = not ready[service, endpoint]
        vip, worker = str(churn_objects.vip(service)), str(churn_objects.worker_address(endpoint))
        changes.append(Change(time.monotonic(), vip, worker, drained=not state))
        await writer.replace_value(churn_objects.slice_path(service), churn_objects.readiness_pointer(endpoint), state)

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * CHANGES_PER_SECOND)):
            # By the clock, not after the last answer: a slow server must not slow the load.
            await asyncio.sleep(max(0.0, started + number / CHANGES_PER_SECOND - time.monotonic()))
            group.create_task(change(*next(pairs)))
            if time.monotonic() - started >= len(memory) * _SAMPLE_SECONDS:
                memory.append((time.monotonic() - started, agent.resident_mib()))
    await writer.close()
    return changes, memory


def measure(order: Order) -> Measured:
    """One run of ten minutes, told in as many windows as there are rounds; then as many restarts."""
    services, endpoints = (QUICK_SERVICES, QUICK_ENDPOINTS) if order.quick else (SERVICES, ENDPOINTS)
    seconds = 60 * (QUICK_MINUTES if order.quick else MINUTES)
    samples: dict[str, list[float]] = defaultdict(list)
    agents, others = apart(os.sched_getaffinity(0))
    # What this process starts runs where it does.
    os.sched_setaffinity(0, others)
    with running(order.scratch) as server:
        order.say(f"kube-apiserver and etcd stand; writing {services} Services with {endpoints} endpoints each")
        asyncio.run(_fill(server, services, endpoints))
        agent = Agent(server, services, order.scratch / "agent.log", agents)
        order.say(
            f"the agent is synced after {agent.wait_synced():.1f} s; {CHANGES_PER_SECOND} changes a second for {seconds / 60:.1f} min"
        )
        changes, memory = asyncio.run(_churn(server, agent, services, endpoints, seconds))
        found, missing = _settled(agent, changes)
        for window in windows(found, order.rounds):
            waited = [delay * 1000 for _, delay in window]
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
                samples[f"delay_{name}"].append(percentile(waited, share))
        # The first minute fills caches.
        later = [(at, mib) for at, mib in memory if at >= min(60.0, seconds / 2)]
        samples["resident"] = [mib for _, mib in memory]
        samples["growth"] = [growth_per_minute(*zip(*later, strict=True)) * 10 / memory[0][1] * 100]
        samples["missing"] = [float(len(missing))]
        agent.kill()
        for number in range(order.rounds):
            again = Agent(server, services, order.scratch / f"again{number}.log", agents)
            samples["restart"].append(again.wait_synced())
            again.kill()
            order.say(f"restart {number + 1}: synced after {samples['restart'][-1]:.1f} s")
    begin = changes[0].sent_seconds
    curves = {
        "delay": [(change.sent_seconds - begin, delay * 1000) for change, delay in found[:: max(1, len(found) // 600)]],
        "resident": memory,
    }
    conditions = {
        "processors_of_the_agent": len(agents),
        "processors_of_the_rest": len(others),
        "services": services,
        "endpoints_each": endpoints,
        "changes": len(changes),
        "minutes": seconds / 60,
    }
    return Measured(samples, curves, conditions=conditions)


def apart(processors: Set[int]) -> tuple[Set[int], Set[int]]:
    """One of these processors for the agent, and the others for everything else; all for both where there is one only."""
    last = {max(processors)}
    return (last, processors - last) if len(processors) > 1 else (processors, processors)


async def _fill(server: ApiServer, services: int, endpoints: int) -> None:
    writer = Writer(server)
    await writer.create(churn_objects.cluster(services, endpoints))
    await writer.close()


def _settled(agent: Agent, changes: Sequence[Change]) -> tuple[list[tuple[Change, float]], list[Change]]:
    """What became of the changes, once the last of them is there, or has had the time to be."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        found, missing = delays(changes, read_log(agent.log.read_text())[1])
        if not missing or time.monotonic() > deadline:
            return sorted(found, key=lambda f: f[0].sent_seconds), missing
        time.sleep(1)


def windows(found: Sequence[tuple[Change, float]], count: int) -> list[Sequence[tuple[Change, float]]]:
    """As many parts of equal length, in order; what does not fill a part is in the last."""
    size = max(1, len(found) // count)
    starts = range(0, size * count, size)
    return [found[start : start + size if number < count - 1 else None] for number, start in enumerate(starts)]


_WHY_SLOW = (
    "A few times in ten minutes everything waits for 0.4 to 1 s, and windows in which that happens miss the target; others keep it. Whether the agent, the API server or "
    "the machine stands still then is not known. What comes during a pass waits for its end and for the next one: about 7 ms, and 2 to 3 ms more for each Service that "
    "changed meanwhile (measured in the agent's own pass without an API server)."
)
CASE = Case(
    name="endpoint-churn",
    title="Endpoints that change",
    question="How soon is a changed endpoint in the data plane with 1,000 Services of 100 endpoints and 50 changes a second, and what does the agent need?",
    method=(
        "A real kube-apiserver with etcd; the edge role as it is, with its watches, its pace of passes and its resync, over a data plane and a speaker in memory, "
        "and probes that always succeed. Each change makes one endpoint ready or unready by a JSON patch; the delay is from before the request goes out until "
        "the destination has changed in the data plane, so the API server's own time is in it. Ten minutes, told in five windows. Then the agent is killed and "
        "started five times: from exec until all Services are in an empty data plane, interpreter and imports included. The agent has a processor of its own, as an edge "
        "node is a machine of its own; API server, etcd and the load share the others. Nodes and EndpointSlices are "
        "written to the API directly, not by kwok: the agent reads nothing that kwok would add (heartbeats and pods), and 100,000 pods with the controllers "
        "that make slices of them would take two processors for themselves."
    ),
    rows=(
        Row(
            "endpoint-p99",
            "99 of 100 changes are in the data plane within",
            "ms",
            "delay_p99",
            target=50.0,
            why_missed=_WHY_SLOW,
        ),
        Row("endpoint-p50", "half of the changes are in the data plane within", "ms", "delay_p50"),
        Row("endpoint-slowest", "the slowest change", "ms", "delay_max"),
        Row(
            "endpoint-missing",
            "changes that the data plane never had",
            "",
            "missing",
            target=0.0,
            why_missed=(
                "One destination changed twice before it was applied once: the last state is applied, the one between is not."
            ),
        ),
        Row(
            "endpoint-resident",
            "resident memory of the agent",
            "MiB",
            "resident",
            target=300 * 1e6 / 2**20,
            why_missed=("The agent keeps every object twice: as the API server sent it, and as values."),
        ),
        Row(
            "endpoint-growth",
            "growth of resident memory in 10 minutes, by the line of least squares after the first minute",
            "%",
            "growth",
            target=2.0,
            why_missed="Not known. Objects that wait for the collector of reference cycles, which runs each ten minutes, count, too.",
        ),
        Row(
            "endpoint-restart",
            "from a restart to every Service in the data plane",
            "s",
            "restart",
            target=5.0,
            why_missed=(
                "Listing and reading the 100,000 endpoints takes most of it, the interpreter's start the rest."
            ),
        ),
    ),
    plots=(
        Lines(
            "endpoint-delay.svg",
            "From the change of an endpoint to the data plane",
            "seconds",
            "ms",
            {"delay": "delay"},
        ),
        Lines("endpoint-resident.svg", "Resident memory of the agent", "seconds", "MiB", {"resident": "resident"}),
    ),
    measure=measure,
    minutes=14,
)
