"""One run that makes everything be there: Debian packages, Python environment, tools, the engine's plugin."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools import debian, golang, pulumi_engine, python_environment
from tools.cache import Cache, Record
from tools.pins import Pins, Tool
from tools.progress import Progress
from tools.ways import Search, ToolError

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Report:
    """What a run did. `changed` is empty when everything was there."""

    tools: tuple[Record, ...]
    changed: tuple[str, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "tools": [asdict(record) for record in self.tools],
            "changed": list(self.changed),
            "seconds": self.seconds,
        }


def chosen(pins: Pins, names: Sequence[str]) -> list[Tool]:
    """The tools of those names, or all, each after the one it comes with; ToolError for an unknown name."""
    unknown = [name for name in names if name not in pins.tools]
    if unknown:
        raise ToolError(f"no tool named {unknown[0]!r} is pinned; there are: {', '.join(pins.tools)}")
    wanted = {tool.beside for tool in pins.tools.values() if tool.name in names and tool.beside} | set(names)
    return [tool for tool in pins.tools.values() if not names or tool.name in wanted]


def lacking(pins: Pins, cache: Cache, tools: Sequence[Tool]) -> list[Tool]:
    """Those of `tools` that are not in the cache as pinned."""
    return [tool for tool in tools if cache.in_use(tool.name, tool.version, tool.digest) is None]


def base(pins: Pins, cache: Cache, progress: Progress, root: Path = ROOT) -> list[str]:
    """What comes before any tool: Debian packages and the Python environment; names what was changed."""
    changed = list(debian.ensure(pins.debian_packages, pins.idle_units, progress))
    if python_environment.ensure(root, pins, cache, progress):
        changed.append("Python environment")
    return changed


def fetch(pins: Pins, cache: Cache, progress: Progress, tools: Sequence[Tool], root: Path = ROOT) -> Report:
    """Every one of `tools`, and the engine's plugin with its provider; ToolError at the first that no way leads to."""
    started = time.monotonic()
    with cache.locked():
        cache.sweep()
        missing = lacking(pins, cache, tools)
        search = Search(pins, cache, progress)
        _bootstrap_go(search, missing, progress)
        records = tuple(_obtain(search, tools))
        changed = [tool.label for tool in missing]
        names = {tool.name for tool in tools}
        if {"pulumi", pulumi_engine.PROVIDER} <= names and pulumi_engine.install_plugin(pins, cache, progress, root):
            changed.append("Pulumi plugin kubernetes")
    return Report(records, tuple(changed), round(time.monotonic() - started, 3))


def _obtain(search: Search, tools: Sequence[Tool]) -> Iterator[Record]:
    """Each of `tools`, source by source, without letting Go's caches pile up."""
    for _, group in itertools.groupby(tools, key=lambda tool: tool.source):
        yield from [search.obtain(tool) for tool in group]
        golang.empty_caches(search.cache, downloads=False)
    golang.empty_caches(search.cache, downloads=True)


def _bootstrap_go(search: Search, missing: Sequence[Tool], progress: Progress) -> None:
    """On a machine without any Go, Debian's, before the first tool that will be built for lack of another way."""
    builds = [tool for tool in missing if tool.go and tool.release.sha256 is None]
    if builds and golang.machine_go() is None:
        why = {
            golang.BOOTSTRAP_PACKAGE: f"fetches go {search.pins.go_version}, which builds {builds[0].name} and others"
        }
        try:
            debian.ensure(why, (), progress)
        except debian.PackageError as error:
            progress.say(f"  {error}")  # not the last word: the tools tell each way's reason
