"""The real image, built and looked into from within (chroot)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from image.build import Built, build
from image.oci import extract_layers

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap")
    return build(tmp_path_factory.mktemp("image") / "samegate.oci.tar")


@pytest.fixture(scope="module")
def root(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    extract_layers(built.archive, directory)
    return directory


def _inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["chroot", str(root), *command], capture_output=True, text=True, timeout=60, check=False)


def test_the_image_is_below_110_megabytes_compressed(built: Built) -> None:
    assert 0 < built.size_bytes < 110_000_000
    assert built.archive.stat().st_size < 110_000_000


def test_a_second_build_has_the_same_digest_and_a_label_has_another(built: Built, tmp_path: Path) -> None:
    assert build(tmp_path / "again.tar").digest == built.digest
    assert build(tmp_path / "other.tar", {"build": "2"}).digest != built.digest


@pytest.mark.parametrize(
    "command",
    [("bird", "--version"), ("nft", "--version"), ("ipset", "--version"), ("iptables", "--version"), ("ip", "-V")],
)
def test_a_program_of_the_data_plane_runs_inside(root: Path, command: tuple[str, ...]) -> None:
    done = _inside(root, *command)
    assert done.returncode == 0, done.stderr


def test_the_agent_shows_its_help_inside(root: Path) -> None:
    done = _inside(root, "python3", "-m", "lbnode", "--help")
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


@pytest.mark.parametrize("name", ["samegate", "kubectl-samegate"])
def test_the_operators_command_shows_its_help_inside(root: Path, name: str) -> None:
    done = _inside(root, name, "--help")
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_every_library_that_a_program_needs_is_inside(root: Path) -> None:
    missing = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
            done = _inside(root, "/lib64/ld-linux-x86-64.so.2", "--list", "/" + str(path.relative_to(root)))
            lines = [line.strip() for line in done.stdout.splitlines() if "not found" in line]
            if lines:
                missing[str(path.relative_to(root))] = lines
    # The krb5 plug-ins of libtirpc and the like would show here, as would a library that the recipe drops too eagerly.
    assert missing == {}


def test_there_is_no_compiler_no_package_manager_and_no_set_user_id_file(root: Path) -> None:
    names = {p.name for folder in ("usr/bin", "usr/sbin", "usr/local/bin") for p in (root / folder).iterdir()}
    assert names.isdisjoint(
        {
            "gcc",
            "cc",
            "ld",
            "as",
            "make",
            "tcc",
            "clang",
            "apt",
            "apt-get",
            "dpkg",
            "pip",
            "pip3",
            "perl",
            "passwd",
            "su",
            "mount",
        }
    )
    special = [p for p in root.rglob("*") if not p.is_symlink() and p.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    assert special == []


def test_every_module_has_byte_code_that_python_takes_without_looking_at_the_source(root: Path) -> None:
    site = root / "usr/local/lib/python3.11/dist-packages"
    sources = list((site / "lbnode").rglob("*.py"))
    assert sources
    for source in sources:
        code = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        # PEP 552: flags 0b01 mean hash-based and unchecked.
        assert code.read_bytes()[4:8] == b"\x01\x00\x00\x00", source


def test_nothing_of_the_building_machine_is_inside(root: Path) -> None:
    for name in ("etc/resolv.conf", "etc/hostname", "etc/apt", "var/lib/dpkg"):
        assert not (root / name).exists(), name
