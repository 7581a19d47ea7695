"""A directory tree as one OCI layer: the same tree gives the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from image.recipe import SOURCE_DATE_EPOCH


@dataclass(frozen=True)
class Layer:
    """A compressed layer on disk. ``digest`` is of the compressed bytes, ``diff_id`` of the tar (OCI image specification, layer)."""

    path: Path
    digest: str
    diff_id: str
    size_bytes: int


def pack(tree: Path, destination: Path, *, title: str) -> Layer:
    """``tree`` as a sorted, root-owned tar with one time stamp, gzipped to ``destination``; a half-written file is never left there."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(tree)), recursive=False, filter=_plain)
    tar = raw.getvalue()
    compressed = gzip.compress(tar, compresslevel=9, mtime=0)
    partial = destination.with_suffix(".partial")
    partial.write_bytes(compressed)
    layer = Layer(destination, _digest(compressed), _digest(tar), len(compressed))
    record = asdict(layer) | {"path": destination.name, "title": title}
    _record(destination).write_text(json.dumps(record, indent=1) + "\n")
    partial.rename(destination)
    return layer


def cached(destination: Path) -> Layer | None:
    """The layer that an earlier run packed to ``destination``, or None."""
    try:
        record = json.loads(_record(destination).read_text())
        size_bytes = destination.stat().st_size
    except (OSError, ValueError):
        return None
    if size_bytes != record["size_bytes"]:
        return None
    return Layer(destination, record["digest"], record["diff_id"], size_bytes)


@contextmanager
def unpacked(layer: Layer) -> Iterator[Path]:
    """The layer's tree in a folder that goes away again."""
    with tempfile.TemporaryDirectory(prefix="samegate-layer-") as scratch, tarfile.open(layer.path) as archive:
        archive.extractall(scratch)  # noqa: S202 - a layer that we packed
        yield Path(scratch)


def _record(destination: Path) -> Path:
    return destination.with_suffix(".json")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.ischr() or entry.isblk() or entry.isfifo():
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = SOURCE_DATE_EPOCH
    # No file of this image needs another user's rights, everybody may read, and only the owner writes: so neither the
    # builder's umask nor the packages' own bits matter.
    if not entry.issym():
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def fingerprint(*parts: bytes | str) -> str:
    """A short name for everything that a cached layer depends on."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
        whole.update(b"\0")
    return whole.hexdigest()[:20]


def cache_directory() -> Path:
    """Where layers outlive a `git clean`: the tool cache."""
    base = (
        os.environ.get("SAMEGATE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "samegate"
    )
    directory = Path(base) / "image"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
