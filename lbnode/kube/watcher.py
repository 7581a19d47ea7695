"""A copy of the cluster's objects, kept current.

:class:`Watcher` keeps a copy of the Services, EndpointSlices and Nodes (and, if asked to, Namespaces), by list and watch. An outage changes nothing: the last
copy stays. lightkube's own retry of a watch reuses an expired resource version, so any error here ends the watch and lists anew, after
:data:`RETRY_PAUSE_SECONDS`; a watch that stays silent for :data:`SILENCE_SECONDS` is taken for half-open and ended likewise. One that ends as it should
is asked for anew from where it was, but no kind more often than each :data:`WATCH_INTERVAL_SECONDS`.

A LIST is the dear request, and a whole rack sends it at once when an API server comes back. So no node sends more than one of each kind at once and then
one in :data:`LIST_INTERVAL_SECONDS`; and after an error none goes out before the API server has answered a single GET. That keeps the whole
share for the moment of its return.
A list replaces the copy in one step and never clears it first. One that has lost more than half of what was there is believed only when the next
one has lost as much: a server that has just started, or was restored from a backup, may know little for a moment.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import structlog
from lightkube import AsyncClient, operators
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Namespace, Node, Service
from lightkube.resources.discovery_v1 import EndpointSlice

from lbnode.kube.client import API_ERRORS, Raw
from lbnode.model import ServiceName
from lbnode.object_reader import SnapshotReader
from lbnode.objects import Snapshot
from lbnode.pace import Pace

#: A watch without any event for so long is ended and listed anew: finds half-open connections within a minute.
SILENCE_SECONDS = 50.0
#: From the end of a watch to the next try, with as much jitter on top, so that a returning API server is not trampled. While it is away a try is a
#: GET of one object, so most of the five seconds in which a change has to be caught up with are left for the LISTs.
RETRY_PAUSE_SECONDS = 1.0
#: One LIST in so many seconds for all kinds together, once each kind had its first.
LIST_INTERVAL_SECONDS = 5.0
#: From one WATCH of a kind to the next. lightkube sends it in the moment in which the last one ends, and a proxy may end each at once.
WATCH_INTERVAL_SECONDS = 1.0
#: What is asked for to see whether an API server answers at all: its own Service, which it keeps itself.
ITS_OWN_SERVICE = ServiceName("default", "kubernetes")

log = structlog.get_logger()
#: lightkube looks into the metadata of each watched object without asking whether there is any.
WATCH_ERRORS = (*API_ERRORS, AttributeError)


@dataclass
class Copy:
    """What the API server said last. ``synced`` once every one of ``kinds`` was listed; ``returned_seconds`` is the event loop's time at which it last
    answered after it had been away, ``unanswered`` are the kinds for which it is away now: two tries in a row failed, for one watch that is cut is no
    outage. ``answered`` is the Unix time in seconds at which it last said anything of each kind."""

    services: dict[ServiceName, Raw] = field(default_factory=dict)
    slices: dict[ServiceName, Raw] = field(default_factory=dict)
    nodes: dict[ServiceName, Raw] = field(default_factory=dict)
    namespaces: dict[ServiceName, Raw] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset({"services", "slices", "nodes"})
    listed: set[str] = field(default_factory=set)
    version: int = 0
    returned_seconds: float | None = None
    unanswered: set[str] = field(default_factory=set)
    answered: dict[str, float] = field(default_factory=dict)
    _reader: SnapshotReader = field(default_factory=SnapshotReader, repr=False, compare=False)

    @property
    def synced(self) -> bool:
        return self.kinds <= self.listed

    def away_seconds(self, now_seconds: float) -> float | None:
        """As :meth:`lbnode.roles.cluster_view.Source.away_seconds`."""
        return now_seconds if self.unanswered else self.returned_seconds

    def snapshot(self) -> Snapshot:
        """The objects as values."""
        return self._reader.read(
            (*self.services.values(), *self.slices.values(), *self.nodes.values(), *self.namespaces.values())
        )


def _name(raw: Raw) -> ServiceName:
    metadata = raw.get("metadata", {})
    return ServiceName(metadata.get("namespace", ""), metadata.get("name", ""))


def lost_suddenly(before: Mapping[ServiceName, Raw], after: Mapping[ServiceName, Raw]) -> bool:
    """Whether more than half of the objects are gone."""
    return len(before.keys() - after.keys()) * 2 > len(before)


class Watcher:
    """Keeps a :class:`Copy` current and calls ``changed`` after every change of it."""

    #: kind -> (resource, labels): headless Services have slices that no load balancer wants.
    KINDS: Mapping[str, tuple[Any, Mapping[str, Any] | None]] = {
        "services": (Service, None),
        "slices": (
            EndpointSlice,
            {
                "kubernetes.io/service-name": operators.exists(),
                "service.kubernetes.io/headless": operators.not_exists(),
            },
        ),
        "nodes": (Node, None),
        "namespaces": (Namespace, None),
    }

    def __init__(self, api: AsyncClient, changed: Callable[[], None], with_namespaces: bool = False) -> None:
        self._api = api
        self._changed = changed
        self.copy = Copy(kinds=frozenset(k for k in self.KINDS if with_namespaces or k != "namespaces"))
        self._failing: set[str] = set()
        self._doubted: set[str] = set()
        self._pace = Pace(len(self.copy.kinds), LIST_INTERVAL_SECONDS)
        self._turn = asyncio.Lock()
        self._watch_paces: dict[str, Pace] = {}
        # Between two watches lightkube says nothing to who iterates over their events; its HTTP client sees each.
        http: Any = api._client._client
        http.event_hooks = {**http.event_hooks, "request": [*http.event_hooks["request"], self._my_turn_to_watch]}

    async def run(self) -> None:
        """Follow all kinds until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in sorted(self.copy.kinds):
                tasks.create_task(self._follow(kind), name=f"watch-{kind}")

    async def _follow(self, kind: str) -> None:
        failures = 0
        while True:
            try:
                if kind in self._failing:
                    await self._ask_whether_it_answers()
                await self._list_and_watch(kind)
            except WATCH_ERRORS as error:
                if kind in self._failing:
                    self.copy.unanswered.add(kind)
                self._failing.add(kind)
                failures += 1
                log.warning("api.unreachable", kind=kind, error=str(error) or type(error).__name__, failures=failures)
            pause = RETRY_PAUSE_SECONDS * (1 + random.random())  # noqa: S311 jitter, not a secret
            await asyncio.sleep(pause)

    async def _ask_whether_it_answers(self) -> None:
        try:
            await self._api.get(Service, ITS_OWN_SERVICE.name, namespace=ITS_OWN_SERVICE.namespace)
        except ApiError as error:
            # Where somebody deleted it, that is an answer too.
            if error.status.code != 404:
                raise

    async def _my_turn_to_list(self) -> None:
        """Waits by the pace that all kinds share; in the order of asking."""
        now = asyncio.get_running_loop().time
        async with self._turn:
            while (wait_seconds := self._pace.wait_seconds(now())) > 0:
                await asyncio.sleep(wait_seconds)
            self._pace = self._pace.taken(now())

    async def _my_turn_to_watch(self, request: httpx2.Request) -> None:
        """Holds a WATCH back until its kind's turn has come; other requests pass."""
        if request.url.params.get("watch") != "true":
            return
        now = asyncio.get_running_loop().time
        pace = self._watch_paces.get(request.url.path, Pace(1, WATCH_INTERVAL_SECONDS))
        await asyncio.sleep(pace.wait_seconds(now()))
        self._watch_paces[request.url.path] = pace.taken(now())

    async def _list_and_watch(self, kind: str) -> None:
        resource, labels = self.KINDS[kind]
        loop = asyncio.get_running_loop()
        api: Any = self._api  # its overloads tell namespaced kinds from global ones; KINDS holds both
        where = {} if resource in (Node, Namespace) else {"namespace": "*"}
        await self._my_turn_to_list()
        listing = api.list(resource, labels=labels, **where)
        objects = {_name(raw): raw async for raw in _as_raw(listing)}
        store: dict[ServiceName, Raw] = getattr(self.copy, kind)
        if lost_suddenly(store, objects) and kind not in self._doubted:
            self._doubted.add(kind)
            log.warning("api.sudden_loss", kind=kind, before=len(store), after=len(objects))
            return
        self._doubted.discard(kind)
        differs = store != objects or kind not in self.copy.listed
        # What did not change stays the very object that it was: it need not be read again.
        objects = {name: store[name] if store.get(name) == raw else raw for name, raw in objects.items()}
        setattr(self.copy, kind, objects)
        self.copy.listed.add(kind)
        self.copy.answered[kind] = time.time()
        self._failing.discard(kind)
        if kind in self.copy.unanswered:
            self.copy.unanswered.discard(kind)
            self.copy.returned_seconds = loop.time()
        if differs:
            self._note_change()
        events = api.watch(
            resource,
            labels=labels,
            resource_version=listing.resourceVersion,
            **where,
        ).__aiter__()
        try:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS * (1 + random.random() / 5)):  # noqa: S311 jitter, not a secret
                        change, found = await events.__anext__()
                except TimeoutError:
                    return
                except StopAsyncIteration:
                    return
                self.copy.answered[kind] = time.time()
                self._take(getattr(self.copy, kind), change, _kept(found))
        finally:
            await events.aclose()

    def _take(self, store: dict[ServiceName, Raw], change: str, raw: Raw) -> None:
        name = _name(raw)
        if change in ("ADDED", "MODIFIED"):
            if store.get(name) == raw:
                return
            store[name] = raw
        elif change == "DELETED":
            if store.pop(name, None) is None:
                return
        else:
            return
        self._note_change()

    def _note_change(self) -> None:
        self.copy.version += 1
        self._changed()


async def _as_raw(listing: Any) -> Any:
    async for found in listing:
        yield _kept(found)


def _kept(found: Any) -> Raw:
    """What is kept of an object. Who wrote which field is a third of it and of use to nobody here."""
    raw: Raw = found.to_dict()
    raw.get("metadata", {}).pop("managedFields", None)
    return raw
