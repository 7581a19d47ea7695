"""An OCI image archive from finished layers (OCI image specification 1.0: layout, manifest, config)."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image.layer import Layer
from image.recipe import SOURCE_DATE_EPOCH

MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"


def write_archive(
    output: Path,
    layers: Sequence[Layer],
    config: Mapping[str, object],
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
    *,
    name: str,
) -> str:
    """Write the archive and return the manifest's digest: what a registry and containerd call the image.

    Labels go into the configuration, annotations into the manifest.
    """
    created = datetime.fromtimestamp(SOURCE_DATE_EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    container: dict[str, object] = dict(config)
    if labels:
        container["Labels"] = dict(labels)
    image_config = _json(
        {
            "created": created,
            "architecture": "amd64",
            "os": "linux",
            "config": container,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": "samegate image"} for _ in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": _descriptor(MEDIA_CONFIG, image_config),
            "layers": [
                {"mediaType": MEDIA_LAYER, "digest": layer.digest, "size": layer.size_bytes} for layer in layers
            ],
        }
        | ({"annotations": dict(annotations)} if annotations else {})
    )
    descriptor = _descriptor(MEDIA_MANIFEST, manifest) | {"annotations": {"org.opencontainers.image.ref.name": name}}
    index = _json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [descriptor]})

    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    with tarfile.open(partial, mode="w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for blob in (image_config, manifest):
            _add(archive, _blob_path(_digest(blob)), blob)
        for layer in layers:
            _add(archive, _blob_path(layer.digest), layer.path.read_bytes())
    partial.rename(output)
    return _digest(manifest)


def read_manifest(archive_path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Digest, manifest and configuration of the one image in an archive."""
    with tarfile.open(archive_path) as archive:
        index = json.loads(_read(archive, "index.json"))
        digest = index["manifests"][0]["digest"]
        manifest = json.loads(_read(archive, _blob_path(digest)))
        return digest, manifest, json.loads(_read(archive, _blob_path(manifest["config"]["digest"])))


@contextmanager
def open_layers(archive_path: Path) -> Iterator[Iterator[tarfile.TarFile]]:
    """The layers of an archive, bottom first, each to be read before the next."""
    _, manifest, _ = read_manifest(archive_path)
    with tarfile.open(archive_path) as archive, ExitStack() as stack:
        yield (
            stack.enter_context(tarfile.open(fileobj=io.BytesIO(_read(archive, _blob_path(layer["digest"])))))
            for layer in manifest["layers"]
        )


def extract_layers(archive_path: Path, destination: Path) -> None:
    """Unpack all layers, bottom first, into ``destination``: the file system that a container sees."""
    with open_layers(archive_path) as layers:
        for tree in layers:
            tree.extractall(destination)  # noqa: S202 - layers that we packed


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(
            f"{name} of the archive is not a file: this is no OCI archive. Build it again: python -m image build"
        )
    return member.read()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mtime = SOURCE_DATE_EPOCH
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
