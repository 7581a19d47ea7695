"""What an edge node reads in a worker's status page. Pages of other versions, and of whoever else answers there, say nothing and break nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lbnode.backends import Group
from lbnode.model import ServiceName

Page = Mapping[str, Any]


def without_endpoints(page: Page) -> tuple[ServiceName, ...]:
    """The Services that the worker's kube-proxy has no endpoint for."""
    return tuple(name for text in _list(page, "without_endpoints") if (name := _service(text)) is not None)


def active_probes(page: Page) -> dict[Group, bool | None]:
    """For each Service that the worker probes, by IP version: whether it is fit, or ``None`` while that is open."""
    said: dict[Group, bool | None] = {}
    for entry in _list(page, "active_probes"):
        if not isinstance(entry, Mapping):
            continue
        name, family, fit = _service(entry.get("service")), entry.get("family"), entry.get("fit")
        # JSON's true equals 1 in Python, but is no IP version.
        if name is not None and type(family) is int and family in (4, 6) and (fit is None or isinstance(fit, bool)):
            said[(name, family)] = fit
    return said


def _list(page: Page, key: str) -> Iterator[object]:
    listed = page.get(key)
    yield from listed if isinstance(listed, list) else ()


def _service(text: object) -> ServiceName | None:
    if not isinstance(text, str) or text.count("/") != 1:
        return None
    return ServiceName(*text.split("/"))
