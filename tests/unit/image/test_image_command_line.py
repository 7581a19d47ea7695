"""`python -m image sbom`: the archive's packages, checked against what its builder wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from image import recipe
from image.__main__ import main
from image.build import SBOM_ANNOTATION, sbom_beside
from image.layer import pack
from image.oci import write_archive
from lbnode import __version__

RECORD = "Package: bird2\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0.12-7\n"


def _archive(tmp_path: Path, annotation: str, record: str = RECORD) -> Path:
    records = tmp_path / "tree/var/lib/dpkg/status.d"
    records.mkdir(parents=True)
    (records / "bird2").write_text(record)
    layer = pack(tmp_path / "tree", tmp_path / "layer.tar.gz", title="Debian packages")
    archive = tmp_path / "samegate.oci.tar"
    write_archive(archive, [layer], recipe.CONFIG, {}, {SBOM_ANNOTATION: annotation}, name="samegate:latest")
    return archive


def test_an_archive_whose_packages_are_not_those_it_was_annotated_with_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sbom", str(_archive(tmp_path, "sha256:0000"))]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "says sha256:0000" in said.err
    assert "do not run the image" in said.err


def test_an_archive_that_is_what_it_says_tells_its_packages(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    main(["sbom", str(_archive(tmp_path / "first", "unknown"))])
    checksum = capfdbinary.readouterr().err.decode().split("bill of materials ")[1].split(",")[0]
    assert main(["sbom", str(_archive(tmp_path / "second", checksum))]) == 0
    bill = capfdbinary.readouterr().out
    assert "sha256:" + hashlib.sha256(bill).hexdigest() == checksum
    assert json.loads(bill)["metadata"]["component"]["version"] == __version__
    assert [each["version"] for each in json.loads(bill)["components"]] == ["2.0.12-7"]


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_what_is_no_archive_is_refused_with_the_way_out(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "samegate.oci.tar"
    if content is not None:
        archive.write_bytes(content)
    assert main(["sbom", str(archive)]) == 1
    assert "is no OCI archive" in capsys.readouterr().err


def test_the_bill_of_materials_lies_beside_the_archive() -> None:
    assert sbom_beside(Path("x/samegate.oci.tar")) == Path("x/samegate.cdx.json")
    assert sbom_beside(Path("x/labelled.tar")) == Path("x/labelled.cdx.json")
