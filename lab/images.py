"""OCI images of one static program each: CoreDNS and the pause program of the lab's cluster.

Written by hand because an image of one file is one tar and three JSON documents (OCI image specification 1.0), and
because the result is reproducible: the same program gives the same digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

DIRECTORIES = ("bin", "dev", "etc", "proc", "run", "sys", "tmp")


def _tar(files: Mapping[str, bytes], directories: Sequence[str] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(target: Path, files: Mapping[str, Path], command: Sequence[str], *, user: str = "65532") -> None:
    """Write an OCI archive whose root file system is `files` (path in the image to path here), all executable."""
    layer_tar = _tar({name: path.read_bytes() for name, path in files.items()}, DIRECTORIES)
    layer = gzip.compress(layer_tar, compresslevel=1, mtime=0)
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(command), "User": user, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer_tar).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(configuration).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    described = blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [described]}
    documents = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_tar(documents | blobs, ("blobs", "blobs/sha256")))
