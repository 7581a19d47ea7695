"""What the machine of :mod:`bench.ipvs_load` runs. Arguments: rounds, services, workers. Writes seconds by series to the exchange directory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

from bench.ipvs_load import SAMPLES
from bench.schedule import turns
from lab import throwaway
from lbnode.dataplane.base import BalancerOperation
from lbnode.dataplane.ipvs import Ipvs
from lbnode.diff import diff_edge
from lbnode.model import Destination, EdgeState, Protocol, VirtualKey, VirtualService

POOLS = (ip_network("203.0.113.0/24"),)
FIRST_VIP, FIRST_WORKER = IPv4Address("203.0.113.1"), IPv4Address("198.18.0.1")


def table(services: int, workers: int) -> tuple[VirtualService, ...]:
    """That many services on port 80, each with all workers behind it."""
    behind = tuple(Destination(FIRST_WORKER + number) for number in range(workers))
    return tuple(VirtualService(VirtualKey(FIRST_VIP + number, Protocol.TCP, 80), behind) for number in range(services))


def drained(services: Sequence[VirtualService], share: int, seed: int) -> tuple[VirtualService, ...]:
    """One in `share` of all destinations drained, spread over the services by chance."""
    places = [(s, d) for s, service in enumerate(services) for d in range(len(service.destinations))]
    chosen = frozenset(random.Random(seed).sample(places, len(places) // share))
    return tuple(
        replace(
            service,
            destinations=tuple(
                replace(d, drained=(s, place) in chosen) for place, d in enumerate(service.destinations)
            ),
        )
        for s, service in enumerate(services)
    )


def as_ipvsadm(services: Sequence[VirtualService]) -> str:
    """The drained destinations among them as changes, in the language of ipvsadm(8)."""
    return "".join(
        f"-e -t {s.key.address}:{s.key.port} -r {d.address}:{s.key.port} -i -w 0\n"
        for s in services
        for d in s.destinations
        if d.drained
    )


def middle_gone(services: Sequence[VirtualService]) -> tuple[VirtualService, ...]:
    """The worker in the middle of each service taken out."""
    return tuple(
        replace(s, destinations=tuple(d for i, d in enumerate(s.destinations) if i != len(s.destinations) // 2))
        for s in services
    )


class Bench:
    """The kernel's table, by our way and by ipvsadm's."""

    def __init__(self, services: int, workers: int) -> None:
        self._plane = Ipvs(POOLS)
        self._whole = table(services, workers)
        self._drained = drained(self._whole, workers, seed=services)
        self._saved = self._saved_drained = ""
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def samegate(self) -> None:
        """Load, change three times, read."""
        _ipvsadm("-C")
        self._bring("samegate_load", self._whole)
        shown = _ipvsadm("-Sn")
        if self._saved and shown != self._saved:
            raise SystemExit("the table is not the one that was loaded in the first round")
        self._saved = shown
        self._bring("samegate_drain", self._drained)
        self._saved_drained = _ipvsadm("-Sn")
        self._bring("samegate_remove", middle_gone(self._whole))
        self._bring("samegate_add", self._whole)
        if _ipvsadm("-Sn") != self._saved:
            raise SystemExit("drained, gone and back again is not the table from before")
        self._timed("samegate_read", self._plane.services)

    def ipvsadm(self) -> None:
        """Load the table that `samegate` has shown before."""
        _ipvsadm("-C")
        self._timed("ipvsadm_load", lambda: _ipvsadm("-R", self._saved))
        if sorted(_ipvsadm("-Sn").splitlines()) != sorted(self._saved.splitlines()):
            raise SystemExit("`ipvsadm -R` left another table than it was given")
        self._timed("ipvsadm_drain", lambda: _ipvsadm("-R", as_ipvsadm(self._drained)))
        if sorted(_ipvsadm("-Sn").splitlines()) != sorted(self._saved_drained.splitlines()):
            raise SystemExit("the same changes by `ipvsadm -R` left another table than ours")

    def _bring(self, series: str, wanted: Sequence[VirtualService]) -> None:
        observed = EdgeState(services=self._plane.services())
        desired = EdgeState(services=tuple(wanted))

        def bring() -> None:
            operations = [o for o in diff_edge(desired, None, observed) if isinstance(o, BalancerOperation)]
            self._plane.apply(operations)

        self._timed(series, bring)

    def _timed(self, series: str, act: Callable[[], object]) -> None:
        started = time.perf_counter()
        act()
        self.seconds[series].append(time.perf_counter() - started)


def _ipvsadm(option: str, stdin: str | None = None) -> str:
    return subprocess.run(["ipvsadm", option], input=stdin, capture_output=True, text=True, check=True).stdout


def main(rounds: int, services: int, workers: int) -> None:
    """Measure and write."""
    bench = Bench(services, workers)
    # What ipvsadm is to load is what we loaded: so we go first, once, and uncounted.
    bench.samegate()
    bench.seconds.clear()
    for _, contender in turns((bench.samegate, bench.ipvsadm), rounds):
        contender()
    (throwaway.EXCHANGE / SAMPLES).write_text(json.dumps(bench.seconds))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
