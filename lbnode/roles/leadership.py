"""Holding the Lease: one task that looks, decides (:mod:`lbnode.lease`) and writes, every retry period."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from lbnode.errors import Retry
from lbnode.lease import LEASE_DURATION_SECONDS, RETRY_SECONDS, LeaseRecord, Sighting, decide, sight, still_leads

log = structlog.get_logger()


class LeaseStore(Protocol):
    """Where the lease lies: :class:`lbnode.kube.writer.Writer`, or a twin."""

    async def read_lease(self, name: str) -> tuple[LeaseRecord | None, str]: ...

    async def write_lease(self, name: str, holder: str, duration_seconds: int, resource_version: str) -> None: ...


class Leadership:
    """Whether this process may write now."""

    def __init__(
        self, store: LeaseStore, name: str, identity: str, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._name = name
        self._identity = identity
        self._clock = clock
        self._changed = changed
        self._seen: Sighting | None = None
        self._renewed_seconds: float | None = None

    @property
    def leads(self) -> bool:
        """True from a successful write of the lease until the renew deadline after it."""
        return still_leads(self._renewed_seconds, self._clock())

    async def run(self) -> None:
        """Keep trying until cancelled."""
        while True:
            before = self.leads
            await self.step()
            if self.leads != before:
                log.info("lease.leading" if self.leads else "lease.lost", identity=self._identity)
                self._changed()
            await asyncio.sleep(RETRY_SECONDS)

    async def step(self) -> None:
        """Look once, and write if that is due."""
        try:
            record, version = await self._store.read_lease(self._name)
            # The clock is read before the write: a slow answer must not lengthen the right to write.
            now = self._clock()
            self._seen = sight(self._seen, record, now)
            decision = decide(self._identity, self._seen, now)
            if decision.action == "wait":
                self._renewed_seconds = None
                return
            await self._store.write_lease(self._name, self._identity, LEASE_DURATION_SECONDS, version)
            self._renewed_seconds = now
        except Retry as error:
            log.warning("lease.retry", error=str(error))

    async def release(self) -> None:
        """Give the lease up, so that the other replica need not wait for it to expire."""
        if not self.leads:
            return
        self._renewed_seconds = None
        try:
            _, version = await self._store.read_lease(self._name)
            await self._store.write_lease(self._name, "", 1, version)
        except Retry as error:
            log.warning("lease.retry", error=str(error))
