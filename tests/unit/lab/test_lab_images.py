"""Hand-written OCI archives, read back by the book."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from lab import images


def _archive(tmp_path: Path, name: str = "one.tar") -> Path:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF and so on")
    target = tmp_path / name
    images.write_archive(target, {"bin/program": program}, ["/bin/program", "--serve"])
    return target


def _contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as opened:
        members = [member for member in opened.getmembers() if member.isfile()]
        return {member.name: file.read() for member in members if (file := opened.extractfile(member)) is not None}


def test_every_blob_is_named_by_its_digest(tmp_path: Path) -> None:
    blobs = {name: data for name, data in _contents(_archive(tmp_path)).items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    assert all(name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}" for name, data in blobs.items())


def test_index_manifest_and_configuration_lead_to_the_program(tmp_path: Path) -> None:
    contents = _contents(_archive(tmp_path))

    def blob(descriptor: dict[str, object]) -> bytes:
        data = contents["blobs/sha256/" + str(descriptor["digest"]).removeprefix("sha256:")]
        assert len(data) == descriptor["size"]
        return data

    (described,) = json.loads(contents["index.json"])["manifests"]
    manifest = json.loads(blob(described))
    configuration = json.loads(blob(manifest["config"]))
    layer = gzip.decompress(blob(manifest["layers"][0]))
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert configuration["config"]["Entrypoint"] == ["/bin/program", "--serve"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as files:
        member = files.getmember("bin/program")
        assert member.mode & 0o111
        assert files.getmember("tmp").isdir()


def test_the_same_program_gives_the_same_archive(tmp_path: Path) -> None:
    assert _archive(tmp_path, "one.tar").read_bytes() == _archive(tmp_path, "two.tar").read_bytes()
