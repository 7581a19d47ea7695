"""How long 10,000 destinations take into an empty kernel, and 100 changes of them: the agent against ``ipvsadm -R``.

Both run in the same throw-away machine, in turn. The agent's time is from the state that it wants and the one that it read to the last
answer of the kernel (:func:`lbnode.diff.diff_edge` and the netlink batches); ipvsadm's is that of the whole command. After each the
kernel's table is read by ``ipvsadm -Sn`` and compared: what was not loaded is not measured.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from bench.figures import Case, orders
from lab import throwaway
from lbnode.dataplane.ipvs import Ipvs
from lbnode.diff import diff_edge
from lbnode.model import Destination, EdgeState, Protocol, VirtualKey, VirtualService

SERVICES, WORKERS, CHANGED = 100, 100, 100
VIP = IPv4Address("203.0.113.7")
POOLS = (ip_network("203.0.113.0/24"),)
FIRST_WORKER = IPv4Address("198.18.32.1")
_MODULES = ("ip_vs", "ip_vs_mh")
_TIMEOUT_SECONDS = 900.0
_TARGET = 0.5


class NotLoaded(Exception):
    """The kernel does not hold what was loaded; the message says by whom and how the tables differ."""


def wanted(drained: frozenset[tuple[int, int]] = frozenset()) -> EdgeState:
    """The services with all workers each; ``drained`` are pairs of service and worker number."""
    return EdgeState(
        services=tuple(
            VirtualService(
                VirtualKey(VIP, Protocol.TCP, 1000 + s),
                tuple(Destination(FIRST_WORKER + w, drained=(s, w) in drained) for w in range(WORKERS)),
            )
            for s in range(SERVICES)
        )
    )


def chosen(seed: int) -> frozenset[tuple[int, int]]:
    """``CHANGED`` destinations over all services."""
    chance = random.Random(seed)
    return frozenset(chance.sample([(s, w) for s in range(SERVICES) for w in range(WORKERS)], CHANGED))


def changes(drained: frozenset[tuple[int, int]]) -> str:
    """The same changes as input of ``ipvsadm -R``."""
    return "".join(f"-e -t {VIP}:{1000 + s} -r {FIRST_WORKER + w} -i -w 0\n" for s, w in sorted(drained))


def saved() -> str:
    return subprocess.run(["ipvsadm", "-Sn"], capture_output=True, text=True, check=True).stdout


def restore(text: str) -> None:
    subprocess.run(["ipvsadm", "-R"], input=text, text=True, check=True, capture_output=True)


def clear() -> None:
    subprocess.run(["ipvsadm", "-C"], check=True)


def timed(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by case and party. Runs inside the machine."""
    ipvs = Ipvs(POOLS)

    def observed() -> EdgeState:
        return EdgeState(services=ipvs.services())

    def agent(state: EdgeState, seen: EdgeState) -> None:
        ipvs.apply([o for o in diff_edge(state, None, seen) if hasattr(o, "key") or hasattr(o, "service")])  # type: ignore[misc]

    clear()
    agent(wanted(), observed())
    full = saved()
    found: dict[str, dict[str, list[float]]] = {case: {"agent": [], "ipvsadm": []} for case in ("load", "change")}
    for number, order in enumerate(orders(rounds, ("agent", "ipvsadm"))):
        drained = chosen(number)
        after: dict[str, str] = {}
        for party in order:
            clear()
            seen = observed()
            load = partial(agent, wanted(), seen) if party == "agent" else partial(restore, full)
            found["load"][party].append(timed(load))
            if sorted(saved().splitlines()) != sorted(full.splitlines()):
                raise NotLoaded(f"round {number}: what {party} loaded is not what was asked for")
            seen = observed()
            change = partial(agent, wanted(drained), seen) if party == "agent" else partial(restore, changes(drained))
            found["change"][party].append(timed(change))
            after[party] = saved()
        if sorted(after["agent"].splitlines()) != sorted(after["ipvsadm"].splitlines()) or after["agent"] == full:
            raise NotLoaded(f"round {number}: after the same changes the tables differ")
    ipvs.close()
    return found


def run(rounds: int, checkout: Path) -> tuple[list[Case], dict[str, Any]]:
    """Boot, measure, halt. Raises NotLoaded with what the machine said when it brought no figures."""
    with tempfile.TemporaryDirectory(prefix="sgb-") as exchange:
        result = throwaway.run(
            [sys.executable, "-m", "bench.ipvs_load", str(rounds)],
            Path(exchange),
            modules=_MODULES,
            cwd=checkout,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
        figures = Path(exchange) / "figures.json"
        if not figures.exists():
            raise NotLoaded(f"the machine brought no figures: {result.output[-2000:]}{result.console[-1000:]}")
        found = json.loads(figures.read_text())
    load = Case(
        "ipvs-load-10000",
        f"{SERVICES} Services of {WORKERS} workers into an empty kernel",
        "s",
        tuple(found["load"]["agent"]),
        "ipvsadm -R",
        tuple(found["load"]["ipvsadm"]),
        _TARGET,
    )
    change = replace(
        load,
        name="ipvs-change-100",
        what=f"{CHANGED} of the {SERVICES * WORKERS} destinations drained",
        samples=tuple(found["change"]["agent"]),
        rival_samples=tuple(found["change"]["ipvsadm"]),
    )
    part = Case(
        "ipvs-change-in-proportion",
        f"the agent's {CHANGED} changes against its own load of {SERVICES * WORKERS}",
        "s",
        tuple(found["change"]["agent"]),
        "load of 10,000",
        tuple(found["load"]["agent"]),
        note=f"{CHANGED / SERVICES / WORKERS:.0%} of the destinations",
    )
    return [load, change, part], {"machine": "User-Mode Linux, one processor", "services": SERVICES, "workers": WORKERS}


if __name__ == "__main__":
    (throwaway.EXCHANGE / "figures.json").write_text(json.dumps(measure(int(sys.argv[1]))))
