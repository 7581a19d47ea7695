"""The three ways to a tool, tried in order: PATH at the pinned version, the official release, a build from modules.

Each way answers with a path or with the reason why not, so that a failure can tell all three.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tools import golang
from tools.cache import Cache, Record
from tools.pins import Pins, Release, Tool
from tools.progress import Progress

PATH_WAY = "PATH"
RELEASE_WAY = "official release"
MODULES_WAY = "built from Go modules"
STAND_IN_WAY = "stand-in of this repository"
#: A site that does not answer a connection in this time is taken for unreachable, for the rest of the run.
CONNECT_TIMEOUT_SECONDS = 4.0
VERSION_TIMEOUT_SECONDS = 20.0
CHUNK_BYTES = 1 << 20

Detail = Callable[[str], None]


class ToolError(RuntimeError):
    """A tool that no way leads to; the text names it and each way's reason."""


class NotThisWay(Exception):
    """This way does not lead to the tool; the text is the reason."""


@dataclass
class Network:
    """What this run has learnt of the vendors' sites; a refusal is remembered, so each site is tried once."""

    open_url: Callable[..., object] = urllib.request.urlopen
    refused: dict[str, str] = field(default_factory=dict)

    def download(self, url: str, target: Path, detail: Detail) -> str:
        """Write `url` to `target` and return its SHA-256; NotThisWay when the site cannot be reached."""
        host = urlsplit(url).hostname or url
        if host in self.refused:
            raise NotThisWay(f"{host}: {self.refused[host]} (tried once in this run)")
        checksum, got = hashlib.sha256(), 0
        try:
            with self.open_url(url, timeout=CONNECT_TIMEOUT_SECONDS) as response, target.open("wb") as out:  # type: ignore[attr-defined]
                while chunk := response.read(CHUNK_BYTES):
                    checksum.update(chunk)
                    out.write(chunk)
                    got += len(chunk)
                    detail(f"{got >> 20} MiB of {url}")
        except urllib.error.HTTPError as error:
            raise NotThisWay(f"{url}: HTTP {error.code}") from error
        except OSError as error:
            self.refused[host] = str(getattr(error, "reason", error))
            raise NotThisWay(f"{host}: {self.refused[host]}") from error
        return checksum.hexdigest()


@dataclass
class Search:
    """One run's look for tools: where it looks, and what it learnt on the way."""

    pins: Pins
    cache: Cache
    progress: Progress
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    network: Network = field(default_factory=Network)
    had: dict[str, Record] = field(default_factory=dict)
    go: golang.Go | None = None

    def obtain(self, tool: Tool) -> Record:
        """The tool by the first way that leads to it; ToolError naming all ways when none does."""
        if record := self.cache.in_use(tool.name, tool.version, tool.digest):
            self.had[tool.name] = record
            return record
        reasons = []
        with self.progress.step(tool.label) as step:
            for way, attempt in (
                (PATH_WAY, self.from_path),
                (RELEASE_WAY, self.from_release),
                (MODULES_WAY, self.from_modules),
            ):
                step.detail(f"trying {way}")
                try:
                    path = attempt(tool, step.detail)
                except NotThisWay as reason:
                    reasons.append(f"{way}: {reason}")
                    continue
                taken = STAND_IN_WAY if tool.stand_in and way == MODULES_WAY else way
                record = self.cache.adopt(tool.name, tool.version, tool.digest, taken, path)
                self.had[tool.name] = record
                step.result = f"{taken}, {record.path}" if taken == PATH_WAY else taken
                return record
            raise ToolError(failure(tool, reasons))

    def place(self, tool: Tool) -> Path:
        """Where a tool lives that is not from PATH. The engine looks for its language host in its own folder."""
        return self.cache.bin / f"{tool.source}-{tool.version}" / tool.name

    def from_path(self, tool: Tool, _detail: Detail = lambda _: None) -> Path:
        """The program on PATH, if it answers with the pinned version."""
        if tool.beside:
            first = self.had.get(tool.beside)
            if first is None or first.way != PATH_WAY:
                raise NotThisWay(f"comes with {tool.beside}, which is not from PATH")
            companion = Path(first.path).with_name(tool.name)
            if not companion.exists():
                raise NotThisWay(f"{companion} does not exist")
            return companion
        if not tool.ask:
            raise NotThisWay("cannot be asked for its version")
        wrong = []
        for candidate in self._on_path(tool.name):
            said = ask_version(candidate, tool)
            if tool.answer in said.splitlines():
                return candidate
            wrong.append(f"{candidate} is {said.splitlines()[0] if said else 'silent'!r}, wanted {tool.answer!r}")
        raise NotThisWay("; ".join(wrong) or "not on PATH")

    def _on_path(self, name: str) -> list[Path]:
        folders = [Path(each) for each in self.environment.get("PATH", "").split(os.pathsep) if each]
        ours = self.cache.bin.resolve()
        found = (shutil.which(name, path=str(folder)) for folder in folders)
        resolved = [Path(each).resolve() for each in found if each]
        return [path for path in dict.fromkeys(resolved) if ours not in path.parents]

    def from_release(self, tool: Tool, detail: Detail = lambda _: None) -> Path:
        """The vendor's program, if the download has the pinned checksum."""
        if tool.release.sha256 is None:
            raise NotThisWay(f"no checksum of {tool.release.url} is pinned (python -m tools pin, with internet)")
        with self.cache.new_file(self.place(tool)) as target:
            download = target.with_name("download")
            checksum = self.network.download(tool.release.url, download, detail)
            if checksum != tool.release.sha256:
                raise NotThisWay(
                    f"{tool.release.url} has the checksum {checksum}, pinned is {tool.release.sha256}: not used"
                )
            unpack(tool.release, download, target)
        return self.place(tool)

    def from_modules(self, tool: Tool, detail: Detail = lambda _: None) -> Path:
        """The program built here; a tool with a stand-in takes that."""
        with self.cache.new_file(self.place(tool)) as target:
            if tool.stand_in:
                target.write_text(stand_in_launcher(tool.stand_in))
            elif tool.go:
                try:
                    self.go = self.go or golang.toolchain(self.pins, self.cache, detail)
                    golang.build(self.go, tool, tool.go, target, detail)
                except (golang.BuildError, OSError) as error:
                    raise NotThisWay(str(error)) from error
        return self.place(tool)


def ask_version(program: Path, tool: Tool) -> str:
    """What `program` says of its version; empty when it says nothing."""
    try:
        said = subprocess.run(
            [str(program), *tool.ask], capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip()


def unpack(release: Release, download: Path, target: Path) -> None:
    """Put the program in `download` at `target`; NotThisWay when the archive lacks it."""
    if release.member is None:
        download.rename(target)
        return
    try:
        with tarfile.open(download) as archive:
            content = archive.extractfile(release.member)
            if content is None:
                raise KeyError(release.member)
            with target.open("wb") as out:
                shutil.copyfileobj(content, out)
    except (tarfile.TarError, KeyError) as error:
        raise NotThisWay(f"{release.url} holds no {release.member}: {error}") from error


def stand_in_launcher(program: Path) -> str:
    """A launcher in the cache for a Python program of the checkout, run by the checkout's own Python.

    SAMEGATE_CHECKOUT, which `pulumi_environment` sets, lets several checkouts share the cache.
    """
    checkout = program.parent.parent
    root = f'"${{SAMEGATE_CHECKOUT:-{checkout}}}"'
    script = f"{root}/{program.relative_to(checkout)}"
    return f'#!/bin/sh\nexec {root}/.venv/bin/python -P {script} --folder "$(dirname "$0")" "$@"\n'


def failure(tool: Tool, reasons: list[str]) -> str:
    """The error when no way leads to `tool`."""
    lines = [f"{tool.label} cannot be had; tried, in this order:", *(f"  {reason}" for reason in reasons)]
    return "\n".join(
        [
            *lines,
            "Make one of these ways possible (a network with package registries is enough for the last), then run again.",
        ]
    )
