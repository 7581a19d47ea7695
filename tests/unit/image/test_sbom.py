"""The bill of materials: what the image records of itself, told in a form that others read."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from image.sbom import (
    DebianPackage,
    InventoryError,
    PythonPackage,
    debian_packages,
    document,
    inventory,
    of_layers,
    python_packages,
)

STATUS = """\
Package: libbird
Status: install ok installed
Architecture: amd64
Version: 1:2.0.12-7+deb12u1~x
Description: the first line
 Version: of the description, not of the package
SHA256: 4d1b5ee3c1b1aa34f4b4a2b2d1b2b1b2c1b1aa34f4b4a2b2d1b2b1b2c1b1aa34

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2025b-0+deb12u2

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
LOCK = """\
annotated-types==0.8.0 \\
    --hash=sha256:13b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7 \\
    --hash=sha256:03b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7
httpx2-jsfetch==1.0 ; python_full_version >= '3.12' and sys_platform == 'emscripten' \\
    --hash=sha256:70a0e3eabfef7cce5ad9c629f7d01ca05e418f586646f4ddf14782e4c1454c60
pyyaml==6.0.3 \\
    --hash=sha256:1ba74a3d8e5d1a7a3c4c6a8d8a0c9f5b4b3a2a19080706050403020100000000
"""
INSTALLED = [("annotated_types", "0.8.0"), ("PyYAML", "6.0.3")]


def _layer(**files: str) -> tarfile.TarFile:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return tarfile.open(fileobj=io.BytesIO(data.getvalue()))


def _layers() -> list[tarfile.TarFile]:
    site = "usr/local/lib/python3.11/dist-packages"
    first, second, third = STATUS.split("\n\n")
    return [
        _layer(
            **{
                "var/lib/dpkg/status.d/libbird": first + "\n",
                "var/lib/dpkg/status.d/tzdata": second + "\n",
                "var/lib/dpkg/status.d/gone": third,
            }
        ),
        _layer(
            **{
                f"{site}/annotated_types-0.8.0.dist-info/METADATA": "",
                f"{site}/PyYAML-6.0.3.dist-info/METADATA": "",
                f"{site}/PyYAML-6.0.3.dist-info/WHEEL": "",
            }
        ),
    ]


def _document() -> bytes:
    return document(debian_packages(STATUS), python_packages(INSTALLED, LOCK), "1.2.3")


def test_installed_packages_are_read_and_removed_ones_are_not() -> None:
    checksum = "4d1b5ee3c1b1aa34f4b4a2b2d1b2b1b2c1b1aa34f4b4a2b2d1b2b1b2c1b1aa34"
    assert debian_packages(STATUS) == (
        DebianPackage("libbird", "1:2.0.12-7+deb12u1~x", "amd64", checksum),
        DebianPackage("tzdata", "2025b-0+deb12u2", "all"),
    )


def test_a_record_without_a_version_is_refused_by_name() -> None:
    with pytest.raises(InventoryError, match=r"lacks 'Version'.*--no-cache"):
        debian_packages("Package: x\nStatus: install ok installed\nArchitecture: all\n")


def test_only_what_is_installed_is_told_with_every_hash_that_the_lock_admits() -> None:
    digest = "3b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7"
    assert python_packages(INSTALLED, LOCK) == (
        PythonPackage("annotated-types", "0.8.0", ("0" + digest, "1" + digest)),
        PythonPackage("pyyaml", "6.0.3", ("1ba74a3d8e5d1a7a3c4c6a8d8a0c9f5b4b3a2a19080706050403020100000000",)),
    )


@pytest.mark.parametrize(
    ("name", "version", "said"), [("pyyaml", "6.0.2", "pins 6.0.3"), ("foreign", "1", "does not name it")]
)
def test_a_package_that_the_lock_does_not_pin_is_refused(name: str, version: str, said: str) -> None:
    with pytest.raises(InventoryError, match=f"{name} {version}.*{said}: check out the commit"):
        python_packages([(name, version)], LOCK)


def test_the_document_satisfies_cyclonedxs_own_schema() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(_document().decode()) is None


def test_the_schema_would_refuse_a_document_with_a_field_of_its_own() -> None:
    altered = json.loads(_document())
    altered["components"][0]["colour"] = "blue"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(altered)) is not None


def test_cyclonedxs_library_reads_the_packages_back() -> None:
    bill = Bom.from_json(json.loads(_document()))
    found = {(each.name, each.version, each.purl.type, len(each.hashes)) for each in bill.components}
    assert found == {
        ("libbird", "1:2.0.12-7+deb12u1~x", "deb", 1),
        ("tzdata", "2025b-0+deb12u2", "deb", 0),
        ("annotated-types", "0.8.0", "pypi", 2),
        ("pyyaml", "6.0.3", "pypi", 1),
    }


# deb-version(7): alphanumerics and . + - ~, and a colon after the epoch.
@given(
    name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True),
    version=st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,20}", fullmatch=True),
)
def test_a_package_url_is_what_its_library_writes(name: str, version: str) -> None:
    ours = DebianPackage(name, version, "amd64").purl
    theirs = PackageURL("deb", "debian", name, version, {"arch": "amd64", "distro": "bookworm"})
    assert ours == theirs.to_string()
    assert PackageURL.from_string(PythonPackage("x", "1.0+a", ()).purl).version == "1.0+a"


def test_the_same_packages_give_the_same_bytes_and_another_version_others() -> None:
    altered = document(debian_packages(STATUS.replace("2025b-0", "2025c-0")), python_packages(INSTALLED, LOCK), "1.2.3")
    assert _document() == _document()
    assert json.loads(altered)["serialNumber"] != json.loads(_document())["serialNumber"]


def test_layers_tell_their_packages_and_nothing_else() -> None:
    status, installed = inventory(_layers())
    assert {package.name for package in debian_packages(status)} == {"libbird", "tzdata"}
    assert sorted(installed) == [("PyYAML", "6.0.3"), ("annotated_types", "0.8.0")]
    assert of_layers(_layers(), LOCK, "1.2.3") == _document()


def test_an_image_without_records_is_refused() -> None:
    with pytest.raises(InventoryError, match="older than its bill of materials"):
        of_layers(_layers()[1:], LOCK, "1.2.3")
