"""Where fetched and built programs live: outside the checkout, so that they survive `git clean`.

CACHE/bin/SOURCE-VERSION/TOOL  the program, put there by a rename only: a half-written one is elsewhere
CACHE/bin/current/TOOL         a link to the one in use: there, or on PATH
CACHE/records/TOOL.json        how the one in use was had
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """How the program in use was had. `size_bytes` and `modified_ns` tell whether it was replaced behind our back."""

    tool: str
    version: str
    digest: str
    way: str
    path: str
    size_bytes: int
    modified_ns: int


class Cache:
    """The tool cache under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.current = self.bin / "current"
        self._records = root / "records"

    def prepare(self) -> None:
        for folder in (self.current, self._records):
            folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time changes the cache; another waits here."""
        self.prepare()
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def new_file(self, place: Path) -> Iterator[Path]:
        """A path to write `place` (below CACHE/bin) to: it gets there, executable, if the block ends well, or vanishes."""
        self.prepare()
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.bin))
        try:
            partial = folder / place.name
            yield partial
            partial.chmod(0o755)
            place.parent.mkdir(exist_ok=True)
            partial.replace(place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what interrupted runs left. Only while `locked`: then nobody else's is there."""
        for folder in self.bin.glob(".partial-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def adopt(self, tool: str, version: str, digest: str, way: str, path: Path) -> Record:
        """Make `path` the program in use for `tool`."""
        self.prepare()
        stat = path.stat()
        record = Record(tool, version, digest, way, str(path), stat.st_size, stat.st_mtime_ns)
        link = self.bin / f".link-{tool}-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        link.replace(self.current / tool)
        written = self._records / f".{tool}.{os.getpid()}"
        written.write_text(json.dumps(asdict(record), indent=1))
        written.replace(self._records / f"{tool}.json")
        return record

    def in_use(self, tool: str, version: str, digest: str) -> Record | None:
        """The record of the program in use, if it is that version, made of the same sources, and untouched since."""
        try:
            record = Record(**json.loads((self._records / f"{tool}.json").read_text()))
            stat = Path(record.path).stat()
            link = (self.current / tool).readlink()
        except (OSError, ValueError, TypeError):
            return None
        same = (
            (record.version, record.digest) == (version, digest)
            and (record.size_bytes, record.modified_ns) == (stat.st_size, stat.st_mtime_ns)
            and str(link) == record.path
        )
        return record if same else None


def location(environment: Mapping[str, str] = os.environ) -> Path:
    """The cache's folder: SAMEGATE_CACHE, else samegate below XDG_CACHE_HOME, else below ~/.cache."""
    if chosen := environment.get("SAMEGATE_CACHE"):
        return Path(chosen).absolute()
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "~").expanduser() / ".cache")
    return Path(base).absolute() / "samegate"
