"""Layers and archives: same input, same digest, and the digest is what others compute."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from image import build, recipe
from image.__main__ import main
from image.layer import Layer, cached, pack, unpacked
from image.oci import extract_layers, read_manifest, write_archive


def _tree(root: Path, mtime: float) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    tool = root / "usr/bin/tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o4777)
    (root / "usr/bin/link").symlink_to("tool")
    os.mkfifo(root / "pipe")
    os.utime(tool, (mtime, mtime))
    return root


def _layer(tmp_path: Path, name: str, mtime: float = 1.0) -> Layer:
    return pack(_tree(tmp_path / name, mtime), tmp_path / f"{name}.tar.gz", title=name)


def test_the_same_tree_packed_at_another_time_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = _layer(tmp_path, "one", 1.0), _layer(tmp_path, "other", 2e9)
    assert one.path.read_bytes() == other.path.read_bytes()
    assert (one.digest, one.diff_id) == (other.digest, other.diff_id)


def test_a_layer_is_named_by_its_compressed_bytes_and_its_tar(tmp_path: Path) -> None:
    layer = _layer(tmp_path, "one")
    data = layer.path.read_bytes()
    assert layer.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert layer.diff_id == "sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest()
    assert layer.size_bytes == len(data)


def test_a_layer_holds_no_set_user_id_bit_no_foreign_owner_no_pipe(tmp_path: Path) -> None:
    with tarfile.open(_layer(tmp_path, "one").path) as archive:
        entries = archive.getmembers()
    assert sorted(e.name for e in entries) == ["usr", "usr/bin", "usr/bin/link", "usr/bin/tool"]
    assert {e.uid for e in entries} == {0}
    assert {e.mtime for e in entries} == {recipe.SOURCE_DATE_EPOCH}
    assert next(e for e in entries if e.name.endswith("tool")).mode == 0o755


def test_the_builders_umask_changes_nothing_and_everybody_may_read(tmp_path: Path) -> None:
    one = _layer(tmp_path, "one")
    former = os.umask(0o077)
    try:
        other = _layer(tmp_path, "other")
    finally:
        os.umask(former)
    assert (tmp_path / "other/usr").stat().st_mode & 0o777 == 0o700, "the umask did reach the tree"
    assert other.digest == one.digest
    with tarfile.open(other.path) as archive:
        assert {e.name: oct(e.mode) for e in archive if e.isdir()} == {"usr": "0o755", "usr/bin": "0o755"}


def test_a_layer_unpacks_to_a_folder_that_goes_away(tmp_path: Path) -> None:
    with unpacked(_layer(tmp_path, "one")) as tree:
        assert (tree / "usr/bin/tool").read_text() == "#!/bin/sh\n"
    assert not tree.exists()


def test_a_truncated_cached_layer_is_not_taken(tmp_path: Path) -> None:
    layer = _layer(tmp_path, "one")
    assert cached(layer.path) == layer
    layer.path.write_bytes(layer.path.read_bytes()[:-1])
    assert cached(layer.path) is None
    assert cached(tmp_path / "never.tar.gz") is None


def test_a_label_gives_the_same_layers_another_digest(tmp_path: Path) -> None:
    layers = [_layer(tmp_path, "one")]
    plain = write_archive(tmp_path / "a.tar", layers, recipe.CONFIG, {}, name="x:1")
    again = write_archive(tmp_path / "b.tar", layers, recipe.CONFIG, {}, name="x:1")
    other = write_archive(tmp_path / "c.tar", layers, recipe.CONFIG, {"build": "2"}, name="x:1")
    assert plain == again != other
    assert read_manifest(tmp_path / "a.tar")[1]["layers"] == read_manifest(tmp_path / "c.tar")[1]["layers"]
    assert read_manifest(tmp_path / "c.tar")[2]["config"]["Labels"] == {"build": "2"}


def test_an_annotation_is_in_the_manifest_and_gives_another_digest(tmp_path: Path) -> None:
    layers = [_layer(tmp_path, "one")]
    plain = write_archive(tmp_path / "a.tar", layers, recipe.CONFIG, {}, name="x:1")
    noted = write_archive(tmp_path / "b.tar", layers, recipe.CONFIG, {}, {"dev.example": "1"}, name="x:1")
    assert noted != plain
    assert read_manifest(tmp_path / "b.tar")[1]["annotations"] == {"dev.example": "1"}
    assert "annotations" not in read_manifest(tmp_path / "a.tar")[1]


def test_the_archive_unpacks_to_the_tree_that_was_packed(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tar", [_layer(tmp_path, "one")], recipe.CONFIG, {}, name="x:1")
    extract_layers(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out/usr/bin/link").read_text() == "#!/bin/sh\n"


def test_unpacking_makes_the_places_that_systemd_mounts_at_and_never_mixes_two_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(tmp_path / "a.tar", [_layer(tmp_path, "one")], recipe.CONFIG, {}, name="x:1")
    root = tmp_path / "machines" / "samegate"
    assert main(["unpack", str(tmp_path / "a.tar"), str(root)]) == 0
    assert all((root / p).is_dir() for p in ("etc/samegate", "run/samegate", "var/lib/samegate"))
    # The units leave the machine's own /proc/sys/net in its place; an agent would take this one for it.
    assert not (root / "host/proc/sys/net").exists()
    assert main(["unpack", str(tmp_path / "a.tar"), str(root)]) == 1
    assert "is not empty. Name a new directory" in capsys.readouterr().err
    (tmp_path / "b.tar").write_bytes(b"no archive")
    assert main(["unpack", str(tmp_path / "b.tar"), str(tmp_path / "other")]) == 1
    assert "b.tar" in capsys.readouterr().err


def test_skopeo_reads_the_archive_and_names_it_by_the_same_digest(tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed: apt-get install skopeo")
    digest = write_archive(tmp_path / "a.tar", [_layer(tmp_path, "one")], recipe.CONFIG, {}, name="samegate:latest")
    done = subprocess.run(
        [skopeo, "inspect", f"oci-archive:{tmp_path}/a.tar"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["Digest"] == digest


def test_every_blob_of_the_archive_has_the_digest_it_is_stored_under(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tar", [_layer(tmp_path, "one")], recipe.CONFIG, {}, name="x:1")
    with tarfile.open(tmp_path / "a.tar") as archive:
        blobs = [m for m in archive.getmembers() if m.name.startswith("blobs/sha256/")]
        assert len(blobs) == 3
        for blob in blobs:
            data = archive.extractfile(blob) or io.BytesIO()
            assert hashlib.sha256(data.read()).hexdigest() == Path(blob.name).name


def test_the_agents_layer_holds_the_operators_command_for_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Byte code is made by the image's own Python, which an empty layer has not.
    monkeypatch.setattr(build, "compile_modules", lambda root, tree, folder: None)
    (tmp_path / "base").mkdir()
    base = pack(tmp_path / "base", tmp_path / "base.tar.gz", title="base")
    build._agent(base, tmp_path)
    for name in ("samegate", "kubectl-samegate"):
        command = tmp_path / "usr/local/bin" / name
        assert command.stat().st_mode & 0o777 == 0o755
        shebang, *body = command.read_text().splitlines()
        assert shebang == "#!/usr/bin/python3"
        assert recipe.LINKS["usr/bin/python3"] == "python3.11"
        assert "from lbnode.command.app import main" in body
