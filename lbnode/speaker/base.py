"""What a BGP speaker is: it is told the full set of addresses to announce, and it is asked what it announces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lbnode.model import IPAddress


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
    """What the daemon does now: the host routes that it announces and its sessions by peer name."""

    announced: frozenset[IPAddress] = frozenset()
    sessions: Mapping[str, Session] = field(default_factory=dict)


class Speaker(Protocol):
    """A BGP daemon on this node."""

    async def set(self, announced: frozenset[IPAddress]) -> None:
        """Announce exactly these host routes.

        Raises:
            ConfigError: the daemon refused the configuration; the former one stays in force.
            Retry: the daemon does not answer.
        """

    async def read(self) -> SpeakerState:
        """What the daemon announces now. Raises :class:`lbnode.errors.Retry` when it does not answer."""
