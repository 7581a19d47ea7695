"""When a router's kernel gained or lost a next hop, by the kernel's own notifications."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType

from lab import netns, topology

_ADDRESS = r"(?:\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f:.]*)"
_LINE = re.compile(
    rf"^(?P<deleted>Deleted )?(?:(?:unicast|blackhole|unreachable) )?(?P<prefix>{_ADDRESS})(?:/32|/128)? "
)
_HOP = re.compile(rf"\bvia (?:inet6? )?({_ADDRESS})")


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """At `at` (CLOCK_MONOTONIC, seconds) the router's route to `prefix` got these next hops; none: it went."""

    at: float
    prefix: str
    next_hops: frozenset[str]


def parse(at: float, line: str) -> RouteEvent | None:
    """An event from one line of `ip -o monitor route`; None for lines about anything but host routes."""
    found = _LINE.match(line)
    if not found:
        return None
    hops = frozenset() if found["deleted"] else frozenset(_HOP.findall(line))
    return RouteEvent(at, found["prefix"], hops)


def lost_at(events: Iterable[RouteEvent], prefix: str, next_hop: str, since: float) -> float | None:
    """When, from `since` on, the route to `prefix` was for good without `next_hop`; None if it still has it or never changed."""
    lost: float | None = None
    for event in events:
        if event.prefix != prefix or event.at < since:
            continue
        if next_hop in event.next_hops:
            lost = None
        elif lost is None:
            lost = event.at
    return lost


def first_lost_at(events: Iterable[RouteEvent], prefix: str, next_hop: str, since: float) -> float | None:
    """When, from `since` on, the route to `prefix` was first without `next_hop`, even if it came back."""
    return next((e.at for e in events if e.prefix == prefix and e.at >= since and next_hop not in e.next_hops), None)


def gained_at(events: Iterable[RouteEvent], prefix: str, next_hop: str, since: float) -> float | None:
    """When, from `since` on, the route to `prefix` first had `next_hop`."""
    return next((e.at for e in events if e.prefix == prefix and e.at >= since and next_hop in e.next_hops), None)


class RouteWatch:
    """Follows the host routes of the VIP pools on one router while the `with` block runs."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.events: list[RouteEvent] = []

    def __enter__(self) -> RouteWatch:
        namespace = topology.router(self.router).namespace
        self._process = netns.popen(namespace, ["ip", "-o", "monitor", "route"], stderr=subprocess.DEVNULL)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def _read(self) -> None:
        if self._process.stdout is None:
            raise RuntimeError("`ip monitor` was started without its output")
        for line in self._process.stdout:
            event = parse(time.monotonic(), line)
            if event is not None and any(ip_address(event.prefix) in pool for pool in topology.VIP_POOLS.values()):
                self.events.append(event)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def withdrawals(self, since: float) -> list[RouteEvent]:
        """Events from `since` on after which a VIP had fewer next hops than before."""
        return withdrawals(self.events, since)


def withdrawals(events: Iterable[RouteEvent], since: float) -> list[RouteEvent]:
    """Events from `since` on that took a next hop from a route. What was known before `since` counts as the state then.

    A route not heard of before is taken to have lost something only if the event leaves it with less than two next hops: on a
    settled rack every VIP has two.
    """
    known: dict[str, frozenset[str]] = {}
    lost = []
    for event in events:
        before = known.get(event.prefix)
        less = len(event.next_hops) < 2 if before is None else bool(before - event.next_hops)
        if event.at >= since and less:
            lost.append(event)
        known[event.prefix] = event.next_hops
    return lost
