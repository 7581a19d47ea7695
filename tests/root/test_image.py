"""The real image, built and looked into from within (chroot)."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image.build import Built, build
from image.oci import extract_layers
from tools.cache import location

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).resolve().parent.parent.parent


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


def _elsewhere(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of what the build reads, and how to run it there as another user would: other habits, nothing cached."""
    for name in ("image", "lbnode", "tools"):
        shutil.copytree(CHECKOUT / name, folder / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "scratch").mkdir()
    (folder / "cache").mkdir()
    (folder / "cache/bin").symlink_to(location() / "bin")  # uv, not the layers
    habits = {"TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7", "TMPDIR": str(folder / "scratch")}
    environment = {**os.environ, **habits, "SAMEGATE_CACHE": str(folder / "cache")}
    return folder / "checkout", {"env": environment, "umask": 0o077, "cwd": folder / "checkout"}


def _build_elsewhere(how: dict[str, Any]) -> tuple[str, Path]:
    """Digest and bill of materials of a build in another process."""
    command = [sys.executable, "-m", "image", "build", "--json", "--output", "out/samegate.oci.tar"]
    done = subprocess.run(command, **how, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return said["digest"], how["cwd"] / said["sbom"]


def test_another_user_elsewhere_builds_the_same_digest_and_a_changed_source_another(
    built: Built, tmp_path: Path
) -> None:
    checkout, how = _elsewhere(tmp_path)
    digest, bill = _build_elsewhere(how)
    if bill.read_bytes() != built.sbom.read_bytes():
        # The layers of `built` were cached before Debian published something newer: that is another input.
        built = build(tmp_path / "anew.oci.tar", use_cache=False)
    assert bill.read_bytes() == built.sbom.read_bytes()
    assert digest == built.digest
    with (checkout / "lbnode/errors.py").open("a") as source:
        source.write("# another input\n")
    assert _build_elsewhere(how)[0] != digest


def test_a_label_gives_another_digest_with_the_same_layers(built: Built, tmp_path: Path) -> None:
    # Not `built` itself: the cache holds newer layers where Debian published something since those of `built` were made.
    plain = build(tmp_path / "plain.oci.tar")
    labelled = build(tmp_path / "other.oci.tar", {"build": "2"})
    assert labelled.digest != plain.digest
    assert labelled.layers == plain.layers
    assert labelled.sbom.read_bytes() == plain.sbom.read_bytes()


@pytest.mark.parametrize(
    ("package", "command"),
    [("bird2", ("bird", "--version")), ("nftables", ("nft", "--version")), ("python3.11", ("python3", "--version"))],
)
def test_the_bill_of_materials_names_the_version_that_a_program_tells(
    built: Built, root: Path, package: str, command: tuple[str, ...]
) -> None:
    done = _inside(root, *command)
    told = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    assert told is not None
    named = next(each for each in json.loads(built.sbom.read_text())["components"] if each["name"] == package)
    assert named["version"].split("-")[0] == told[0]


def test_the_bill_of_materials_names_the_python_packages_that_the_image_finds_in_itself(
    built: Built, root: Path
) -> None:
    script = "from importlib.metadata import distributions\nfor d in distributions(): print(d.name, d.version)"
    found = {tuple(line.split()) for line in _inside(root, "python3", "-c", script).stdout.splitlines()}
    assert len(found) > 10
    named = {
        (each["name"], each["version"])
        for each in json.loads(built.sbom.read_text())["components"]
        if each["purl"].startswith("pkg:pypi/")
    }
    assert named == {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in found}


def test_the_command_reads_the_same_bill_of_materials_out_of_the_archive(built: Built) -> None:
    command = [sys.executable, "-m", "image", "sbom", str(built.archive)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, timeout=60, check=True)
    assert done.stdout == built.sbom.read_bytes()


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
    for name in ("etc/resolv.conf", "etc/hostname", "etc/apt", "var/lib/apt", "var/cache/apt"):
        assert not (root / name).exists(), name
    # The records of what is inside, and no package database.
    assert [path.name for path in (root / "var/lib/dpkg").iterdir()] == ["status.d"]


def test_a_user_who_is_not_root_may_read_everything(root: Path) -> None:
    closed = [p for p in root.rglob("*") if not p.is_symlink() and not p.stat().st_mode & 0o004]
    assert closed == []


def test_the_xdp_program_and_its_loader_are_inside_and_the_agent_finds_them(root: Path) -> None:
    code = "from lbnode.roles.xdp import PROGRAM_FILE; from lbnode.dataplane.libbpf import _library; _library(); print(PROGRAM_FILE.read_bytes()[:4])"
    done = _inside(root, "python3", "-c", code)
    assert done.stdout.strip() == r"b'\x7fELF'", done.stderr
