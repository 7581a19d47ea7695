"""Asking the other agents' status pages, round after round, and remembering the last answer of each.

An agent that does not answer keeps its last answer for a while (its pod may be rolled): only what it says counts, not its silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lbnode.errors import Retry

Status = Mapping[str, Any]
Fetch = Callable[[str, float], Awaitable[Status]]


@dataclass(frozen=True, slots=True)
class Heard:
    """The last answer of one agent and the monotonic second it came."""

    status: Status
    at_seconds: float


class Neighbours:
    """Polls status pages.

    Args:
        targets: the URL of each node's page, asked anew each round.
        fetch: :func:`lbnode.probe.fetch_status`, or a stand-in.
        changed: called when an answer differs from the one before.
        timeout_seconds: how long a request may take.
        pause: seconds from the start of a round to the next, given how many are asked; by default as long as a request may take.
    """

    def __init__(
        self,
        targets: Callable[[], Mapping[str, str]],
        fetch: Fetch,
        changed: Callable[[], None],
        timeout_seconds: float = 1.0,
        pause: Callable[[int], float] | None = None,
    ) -> None:
        self._targets = targets
        self._fetch = fetch
        self._changed = changed
        self._timeout_seconds = timeout_seconds
        self._pause = pause if pause is not None else lambda asked: timeout_seconds
        self._heard: dict[str, Heard] = {}

    def said(self, node: str, within_seconds: float | None = None) -> Status | None:
        """The node's last answer, if it came within so many seconds."""
        heard = self._heard.get(node)
        if heard is None:
            return None
        if within_seconds is not None and asyncio.get_running_loop().time() - heard.at_seconds > within_seconds:
            return None
        return heard.status

    async def run(self) -> None:
        """Poll until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            asked = await self.round()
            await asyncio.sleep(max(0.0, started + self._pause(asked) - loop.time()))

    async def round(self) -> int:
        """Ask every target once, all at the same time; how many there are."""
        targets = dict(self._targets())
        for gone in self._heard.keys() - targets.keys():
            del self._heard[gone]
        answers = await asyncio.gather(*(self._ask(node, url) for node, url in targets.items()))
        if any(answers):
            self._changed()
        return len(targets)

    async def _ask(self, node: str, url: str) -> bool:
        try:
            status = await self._fetch(url, self._timeout_seconds)
        except Retry:
            return False
        before = self._heard.get(node)
        self._heard[node] = Heard(status, asyncio.get_running_loop().time())
        return before is None or before.status != status
