"""What a BGP speaker is: it is told the full set of routes with their attributes, and it is asked what it announces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lbnode.address import with_hash
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Session:
    """One BGP session. ``state`` is the daemon's word (``Established``, ``Active`` ...); ``bfd`` is ``Up``, ``Down`` or ``""`` where unused."""

    peer: str
    state: str
    bfd: str = ""
    exported: int = 0
    last_error: str = ""

    @property
    def established(self) -> bool:
        return self.state == "Established"


@dataclass(frozen=True, slots=True)
class SpeakerState:
    """What the daemon does now: its routes with their attributes, covered ones included, and its sessions by peer name."""

    routes: Mapping[IPNetwork, RouteAttributes] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict)

    @property
    def announced(self) -> frozenset[IPAddress]:
        """The VIPs that routers reach by these routes: each has its host route, if only a covered one."""
        return frozenset(with_hash(n.network_address) for n in self.routes if n.prefixlen == n.max_prefixlen)


class Speaker(Protocol):
    """A BGP daemon on this node."""

    async def set(self, routes: Mapping[IPNetwork, RouteAttributes]) -> None:
        """Hold exactly these routes, and announce those that are not covered.

        Raises:
            ConfigError: the daemon refused the configuration; the former one stays in force.
            Retry: the daemon does not answer.
        """

    async def read(self) -> SpeakerState:
        """What the daemon announces now. Raises :class:`lbnode.errors.Retry` when it does not answer."""
