"""The XDP program's object file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools import bpf

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def compiler() -> None:
    if shutil.which(bpf.CLANG) is None:
        pytest.skip(f"{bpf.CLANG} is not on PATH")


def test_the_object_is_the_same_wherever_the_checkout_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = bpf.build(output=tmp_path / "here").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(bpf.SOURCES, elsewhere / "lbnode" / "bpf")
    monkeypatch.setattr(bpf, "ROOT", elsewhere)
    monkeypatch.setattr(bpf, "SOURCES", elsewhere / "lbnode" / "bpf")
    moved = bpf.build(elsewhere / "lbnode" / "bpf" / bpf.PROGRAM.name, tmp_path / "there").read_bytes()
    assert moved == here
    assert str(tmp_path).encode() not in moved


def test_sources_that_do_not_compile_are_an_error_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "broken.bpf.c"
    source.write_text("int broken(void) { return nobody_knows; }\n")
    monkeypatch.setattr(bpf, "ROOT", tmp_path)
    with pytest.raises(bpf.BpfBuildError, match="nobody_knows"):
        bpf.build(source, tmp_path / "out")
