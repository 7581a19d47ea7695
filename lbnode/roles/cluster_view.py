"""The cluster as a role sees it: the API server's objects, parsed once per change, and where the other agents' pages are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lbnode.kube import Copy
from lbnode.model import IPAddress
from lbnode.objects import Snapshot, read_snapshot


class ClusterView:
    """Over a copy that a :class:`lbnode.kube.Watcher` keeps current."""

    def __init__(self, copy: Callable[[], Copy]) -> None:
        self._copy = copy
        self._parsed: tuple[int, Snapshot] | None = None

    @property
    def synced(self) -> bool:
        """Whether every kind was listed at least once."""
        return self._copy().synced

    @property
    def raw(self) -> Copy:
        """The objects as the API server sent them."""
        return self._copy()

    def snapshot(self) -> Snapshot:
        """The objects as values."""
        copy = self._copy()
        if self._parsed is None or self._parsed[0] != copy.version:
            raws = (*copy.services.values(), *copy.slices.values(), *copy.nodes.values())
            self._parsed = (copy.version, read_snapshot(raws))
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
