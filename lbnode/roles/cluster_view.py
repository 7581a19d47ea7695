"""The cluster as a role sees it: the objects, parsed once per change, and where the other agents' pages are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from lbnode.edge_nodes import with_outside_edges
from lbnode.model import IPAddress
from lbnode.objects import Snapshot
from lbnode.settings import AgentSettings


class Source(Protocol):
    """Where objects come from: the API server (:class:`lbnode.kube.watcher.Copy`) or a file (:class:`lbnode.roles.outside.FileObjects`)."""

    def away_seconds(self, now_seconds: float) -> float | None:
        """The event loop's time, of which ``now_seconds`` is now, at which an API server was last known to be away; ``None`` when it never was."""

    @property
    def answered(self) -> Mapping[str, float]:
        """Unix time in seconds at which something was last heard of each kind; of a file, nothing."""

    @property
    def version(self) -> int:
        """Changes with every change of the objects."""

    @property
    def synced(self) -> bool:
        """Whether every kind was there at least once."""

    def snapshot(self) -> Snapshot:
        """The objects as values."""


From = TypeVar("From", bound=Source)


class ClusterView(Generic[From]):
    """Over a source that somebody else keeps current, with the edge nodes that only the settings know."""

    def __init__(self, source: Callable[[], From], settings: Callable[[], AgentSettings]) -> None:
        self._source = source
        self._settings = settings
        self._parsed: tuple[object, Snapshot] | None = None

    @property
    def synced(self) -> bool:
        """Whether every kind was there at least once."""
        return self._source().synced

    @property
    def raw(self) -> From:
        """The source itself."""
        return self._source()

    def snapshot(self) -> Snapshot:
        """The objects as values."""
        source, settings = self._source(), self._settings()
        key = (source.version, settings.outside_edges, settings.edge_node_selector)
        if self._parsed is None or self._parsed[0] != key:
            self._parsed = (key, with_outside_edges(source.snapshot(), settings))
        return self._parsed[1]

    def status_pages(self, selector: Mapping[str, str], port: int, but: str = "") -> dict[str, str]:
        """URL of the status page on each node that matches the labels, by node name."""
        if not self.synced:
            return {}
        nodes = (n for n in self.snapshot().nodes.values() if n.name != but and n.matches(selector) and n.addresses)
        return {n.name: f"http://{_host(n.addresses[0])}:{port}/v1/status" for n in nodes}


def _host(address: IPAddress) -> str:
    """As in a URL (RFC 3986 section 3.2.2)."""
    return f"[{address}]" if address.version == 6 else str(address)
