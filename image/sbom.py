"""The bill of materials: which Debian and Python packages an image holds, as CycloneDX 1.6 JSON.

Written by hand: the document is flat, and the image's digest covers it (an annotation names its checksum), so a library's
next version must not change it. Tests check it against CycloneDX's own schema and package URLs against their library.
Nothing in it comes from the clock or from chance.
"""

from __future__ import annotations

import json
import re
import tarfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from image.recipe import PACKAGE_RECORDS, SITE_PACKAGES, SOURCE_DATE_EPOCH, SUITE

MEDIA_TYPE = "application/vnd.cyclonedx+json"
#: The serial number is a function of the content, in a name space of our own.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sbom.samegate.dev")
_DIST_INFO = re.compile(rf"{re.escape(SITE_PACKAGES)}/([^/]+)-([^-/]+)\.dist-info/METADATA")
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class InventoryError(ValueError):
    """An image's records do not say what it holds. The message names what is wrong and the way out."""


@dataclass(frozen=True, order=True)
class DebianPackage:
    """A binary package. ``sha256`` is of the .deb file, empty where the record does not tell it."""

    name: str
    version: str
    architecture: str
    sha256: str = ""

    @property
    def purl(self) -> str:
        """Its package URL (https://github.com/package-url/purl-spec, type deb)."""
        return f"pkg:deb/debian/{_escaped(self.name)}@{_escaped(self.version)}?arch={self.architecture}&distro={SUITE}"


@dataclass(frozen=True, order=True)
class PythonPackage:
    """A distribution, by its normalized name (PEP 503). ``sha256`` holds every file that the lock admits for it."""

    name: str
    version: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL (type pypi)."""
        return f"pkg:pypi/{_escaped(self.name)}@{_escaped(self.version)}"


def debian_packages(status: str) -> tuple[DebianPackage, ...]:
    """The installed packages of a text in the format of dpkg's status file (dpkg-query(1), deb822(5)), sorted.

    Raises:
        InventoryError: a paragraph lacks a field that names the package.
    """
    packages = []
    for paragraph in re.split(r"\n\s*\n", status.strip()):
        lines = (line.split(":", 1) for line in paragraph.splitlines() if ":" in line and not line[0].isspace())
        fields = {name: value.strip() for name, value in lines}
        if not fields.get("Status", "").endswith(" ok installed"):
            continue
        try:
            packages.append(
                DebianPackage(fields["Package"], fields["Version"], fields["Architecture"], fields.get("SHA256", ""))
            )
        except KeyError as missing:
            raise InventoryError(
                f"a package record lacks {missing}: {paragraph[:80]!r}. Build the image anew: python -m image build --no-cache"
            ) from None
    return tuple(sorted(packages))


def locked_packages(lock: str) -> dict[str, PythonPackage]:
    """What a hash-pinned requirements file pins, by normalized name."""
    packages = {}
    for entry in re.split(r"\n(?!\s)", lock.replace("\\\n", "\n ")):
        if found := _PINNED.match(entry):
            name = _normalized(found[1])
            packages[name] = PythonPackage(name, found[2], tuple(sorted(_HASH.findall(entry))))
    return packages


def python_packages(installed: Iterable[tuple[str, str]], lock: str) -> tuple[PythonPackage, ...]:
    """The distributions (name, version) of an image, with their hashes from the lock it was built from, sorted.

    Raises:
        InventoryError: one is not in the lock, so the image was built from another.
    """
    locked = locked_packages(lock)
    packages = []
    for name, version in installed:
        package = locked.get(_normalized(name))
        if package is None or package.version != version:
            pinned = f"pins {package.version}" if package else "does not name it"
            raise InventoryError(
                f"the image holds {name} {version}, but image/requirements.lock {pinned}: check out the commit that the image was built from"
            )
        packages.append(package)
    return tuple(sorted(packages))


def inventory(layers: Iterable[tarfile.TarFile]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """What the layers record of themselves: dpkg's status text, and name and version of each Python distribution."""
    paragraphs, distributions = [], []
    for layer in layers:
        for member in layer:
            if member.isfile() and member.name.startswith(PACKAGE_RECORDS + "/"):
                content = layer.extractfile(member)
                paragraphs.append(content.read().decode() if content else "")
            elif found := _DIST_INFO.fullmatch(member.name):
                distributions.append((found[1], found[2]))
    return "\n".join(paragraphs), tuple(distributions)


def document(debian: Iterable[DebianPackage], python: Iterable[PythonPackage], version: str) -> bytes:
    """The bill of materials of samegate's image of that version. The same packages give the same bytes."""
    components = [
        _component(package.name, package.version, package.purl, (package.sha256,) if package.sha256 else ())
        for package in debian
    ]
    components += [_component(package.name, package.version, package.purl, package.sha256) for package in python]
    subject = {"type": "container", "bom-ref": "samegate", "name": "samegate", "version": version}
    serial = uuid.uuid5(_NAMESPACE, json.dumps([subject, components], sort_keys=True))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(SOURCE_DATE_EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": subject,
        },
        "components": components,
    }
    return json.dumps(bill, indent=1).encode() + b"\n"


def of_layers(layers: Iterable[tarfile.TarFile], lock: str, version: str) -> bytes:
    """The bill of materials of an image by its layers, bottom first, and the lock it was built from.

    Raises:
        InventoryError: the layers hold no package records, or Python packages that the lock does not pin.
    """
    status, installed = inventory(layers)
    debian = debian_packages(status)
    if not debian:
        raise InventoryError(
            f"the image holds no {PACKAGE_RECORDS}: it is older than its bill of materials. Build it anew: python -m image build"
        )
    return document(debian, python_packages(installed, lock), version)


def _component(name: str, version: str, purl: str, sha256: Iterable[str]) -> Mapping[str, Any]:
    hashes = [{"alg": "SHA-256", "content": checksum} for checksum in sha256]
    component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return component | ({"hashes": hashes} if hashes else {})


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _escaped(text: str) -> str:
    # Unreserved by the package URL's rules: letters, digits, ".-_~"; and ":" stays as it is.
    return quote(text, safe=":")
