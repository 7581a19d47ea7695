"""The tables of an edge node with IPVS, as ipvsadm(8) shows and changes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from lab import topology
from lab.machines import Machine
from lab.report.repair import timed_repair

if TYPE_CHECKING:
    from lab.report.bench import Target

_HEAVY = 9
"""A weight that none of the lab's workers has."""


class IpvsTables:
    """:class:`lab.report.tables.Tables` of IPVS."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def dataplane(self) -> Literal["ipvs"]:
        return "ipvs"

    def table(self) -> dict[str, list[tuple[str, int]]]:
        return destinations(self._machine.run("ipvsadm -Sn").stdout)

    def picks(self) -> dict[str, object]:
        """The scheduler with its flags, and workers and weights in the order of the kernel's list."""
        return choices(self._machine.run("ipvsadm -Sn").stdout)

    def connections(self, target: Target) -> int:
        table = self._machine.run(f"ipvsadm -Ln --stats --exact {target.in_ipvs}").stdout
        return parse_connections(table, target.listed)

    def clear(self) -> None:
        self._machine.run("ipvsadm -C")

    def seconds_cleared(self, target: Target, limit_seconds: float) -> float | None:
        whole = f"ipvsadm -Ln | grep -A1 -F '{target.vip}:' | grep -q Tunnel"
        return timed_repair(self._machine, "ipvsadm -C", whole, limit_seconds)

    def pick_otherwise(self, *targets: Target) -> str:
        said = set()
        for target in targets:
            if target.transport == "udp":
                self._machine.run(f"ipvsadm -E {target.in_ipvs} -s rr")
                said.add("round robin")
            else:
                worker = topology.WORKERS[0].address_of(target.version)
                listed = worker if worker.version == 4 else f"[{worker}]"
                self._machine.run(f"ipvsadm -e {target.in_ipvs} -r {listed} -i -w {_HEAVY}")
                said.add("another weight")
        return " and ".join(sorted(said))


def destinations(table: str) -> dict[str, list[tuple[str, int]]]:
    """IPVS destinations (address, weight) by service, in the kernel's order, from what `ipvsadm -Sn` printed."""
    services: dict[str, list[tuple[str, int]]] = {}
    for line in table.splitlines():
        if added := re.match(r"-A -([tu]) (\S+)", line):
            services[f"{added[1]} {added[2]}"] = []
        elif found := re.match(r"-a -([tu]) (\S+) -r (\S+?):\d+ .*-w (\d+)", line):
            services[f"{found[1]} {found[2]}"].append((found[3], int(found[4])))
    return services


def choices(table: str) -> dict[str, object]:
    """By service how it schedules and its destinations, from what `ipvsadm -Sn` printed."""
    schedulers = {f"{m[1]} {m[2]}": m[3] for m in re.finditer(r"^-A -([tu]) (\S+) (.*?) *$", table, re.MULTILINE)}
    return {service: (schedulers[service], listed) for service, listed in destinations(table).items()}


def parse_connections(table: str, service: str) -> int:
    """The connection count of `service` (ADDRESS:PORT) in what `ipvsadm -Ln --stats --exact` printed; 0 if it is not there."""
    for line in table.splitlines():
        words = line.split()
        if len(words) >= 3 and words[1] == service:
            return int(words[2])
    return 0
