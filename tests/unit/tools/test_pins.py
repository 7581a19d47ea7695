"""The committed pins are complete, and agree with what else names a version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tools import pins, python_environment
from tools.golang import parse_version

ROOT = Path(pins.__file__).parent.parent
TEXT = (ROOT / "tools" / "pins.toml").read_text()


@pytest.mark.parametrize("arch", sorted(pins.ARCHITECTURES.values()))
def test_every_tool_is_complete_on_every_architecture(arch: str) -> None:
    for tool in pins.parse(TEXT, arch).tools.values():
        assert "{" not in f"{tool.release} {tool.go} {tool.answer}"
        assert tool.version in tool.release.url
        assert tool.stand_in or (tool.go and (tool.go.folder / "go.sum").exists())
        assert bool(tool.ask) == bool(tool.answer)
        assert tool.release.sha256 is None or re.fullmatch("[0-9a-f]{64}", tool.release.sha256)


def test_the_modules_require_the_pinned_versions() -> None:
    """go.mod is what is built; pins.toml is what is said and stamped into it."""
    loaded = pins.parse(TEXT, "amd64")
    required = {
        "kube": f"k8s.io/kubernetes v{loaded.tools['kubectl'].version}",
        "etcd": f"go.etcd.io/etcd/server/v3 v{loaded.tools['etcd'].version}",
        "coredns": f"github.com/coredns/coredns v{loaded.tools['coredns'].version}",
        "gobgp": f"github.com/osrg/gobgp/v4 v{loaded.tools['gobgpd'].version}",
        "pulumi": f"github.com/pulumi/pulumi/pkg/v3 v{loaded.tools['pulumi'].version}",
    }
    for folder, line in required.items():
        assert line in (ROOT / "tools/go" / folder / "go.mod").read_text(), folder


def test_no_module_needs_a_newer_go_than_the_pinned_one() -> None:
    wanted = parse_version(pins.parse(TEXT, "amd64").go_version)
    for path in (ROOT / "tools/go").glob("*/go.mod"):
        found = re.search(r"^go (\S+)$", path.read_text(), re.MULTILINE)
        assert found and parse_version(found[1]) <= wanted, path


def test_the_engine_and_its_provider_are_those_of_the_python_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    loaded = pins.parse(TEXT, "amd64").tools
    assert f"pulumi=={loaded['pulumi'].version}" in project
    assert f"pulumi-kubernetes=={loaded['pulumi-resource-kubernetes'].version}" in project


@pytest.mark.parametrize("name", [python_environment.LOCK, python_environment.IMAGE_LOCK])
def test_a_lock_pins_every_package_by_hash_and_names_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert entries
    assert all("==" in line for line in entries)
    assert text.count("==") - text.count("python_full_version ==") - text.count("sys_platform ==") >= len(entries)
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


def test_an_unknown_processor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(pins.PinError, match=r"riscv64.*x86_64, aarch64"):
        pins.architecture("riscv64")


@pytest.mark.parametrize(
    "text",
    ["", "[go]\nversion = 1", "=", TEXT.replace("release = ", "relase = "), TEXT.replace("[go.toolchain_h1]", "[x]")],
)
def test_pins_of_the_wrong_shape_are_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(pins.PinError, match=r"tools/pins\.toml"):
        pins.parse(text, "amd64")


def test_a_changed_module_file_changes_the_digest(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module x")
    (tmp_path / "README").write_text("a")
    before = pins.module_digest(tmp_path, "1", ".")
    (tmp_path / "README").write_text("b")
    assert pins.module_digest(tmp_path, "1", ".") == before
    (tmp_path / "main.go").write_text("package main")
    assert pins.module_digest(tmp_path, "1", ".") != before
