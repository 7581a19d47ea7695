"""Which Go builds, and what Go is told; a shell script plays Go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import golang
from tools.cache import Cache
from tools.pins import GoBuild, Pins, Release, Tool

PINS = Pins("amd64", "1.26.8", "h1:right", "1", (), {}, {}, ())


def a_go(folder: Path, body: str) -> Path:
    path = folder / "bin" / "go"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def used(go: Path) -> golang.Go:
    return golang.Go(go, Path("/caches/build"), Path("/caches/modules"))


def downloading(tmp_path: Path, checksum: str) -> Path:
    """A Go that hands out a toolchain module, as `go mod download` leaves it: read-only, nothing executable."""
    module = tmp_path / "module"
    for name in ("bin/go", "pkg/tool/linux_amd64/compile", "src/fmt/fmt.go", "src/_go.mod"):
        (module / name).parent.mkdir(parents=True, exist_ok=True)
        (module / name).write_text("#!/bin/sh\n")
        (module / name).chmod(0o444)
    (module / "bin").chmod(0o555)
    answer = json.dumps({"Dir": str(module), "Sum": checksum})
    return a_go(tmp_path / "old", f"printf '%s' '{answer}'")


@pytest.mark.parametrize(
    ("text", "version"),
    [("go version go1.26.8 linux/amd64", (1, 26, 8)), ("go version go1.19 linux/amd64", (1, 19)), ("devel", (0,))],
)
def test_versions_are_read_as_numbers(text: str, version: tuple[int, ...]) -> None:
    assert golang.parse_version(text) == version


@pytest.mark.parametrize("version", [(1, 26, 8), (1, 26, 10), (1, 27)])
def test_a_go_that_is_new_enough_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(golang, "machine_go", lambda: (Path("/usr/bin/go"), version))
    assert golang.toolchain(PINS, Cache(tmp_path)).program == Path("/usr/bin/go")


def test_an_old_go_fetches_the_pinned_one_and_makes_it_executable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = downloading(tmp_path, "h1:right")
    monkeypatch.setattr(golang, "machine_go", lambda: (old, (1, 19, 8)))
    got = golang.toolchain(PINS, Cache(tmp_path / "cache")).program
    assert got == tmp_path / "cache" / "go-1.26.8" / "bin" / "go"
    tree = got.parent.parent
    assert got.stat().st_mode & 0o111
    assert (tree / "pkg/tool/linux_amd64/compile").stat().st_mode & 0o111
    assert not (tree / "src/fmt/fmt.go").stat().st_mode & 0o111
    assert (tree / "src/go.mod").exists()


def test_a_fetched_toolchain_with_another_sum_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = downloading(tmp_path, "h1:wrong")
    monkeypatch.setattr(golang, "machine_go", lambda: (old, (1, 19, 8)))
    with pytest.raises(golang.BuildError, match="h1:wrong, pinned is h1:right"):
        golang.toolchain(PINS, Cache(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_machine_without_go_is_told_which_package_brings_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "machine_go", lambda: None)
    with pytest.raises(golang.BuildError, match="apt-get install golang-go"):
        golang.toolchain(PINS, Cache(tmp_path))


def test_a_failing_go_is_quoted(tmp_path: Path) -> None:
    go = a_go(tmp_path, "echo 'go: the.proxy: connection refused' >&2; exit 1")
    with pytest.raises(golang.BuildError, match="connection refused"):
        golang.run_go(used(go), ["build", "-v"], tmp_path)


def test_the_users_own_go_modes_do_not_reach_the_build() -> None:
    users = {"GOFLAGS": "-mod=mod", "GOWORK": "/w", "GOPROXY": "https://own.example", "PATH": "/bin", "HOME": "/h"}
    environment = used(Path("/x/bin/go")).environment(users)
    assert "GOFLAGS" not in environment
    assert (environment["GOWORK"], environment["GOTOOLCHAIN"], environment["CGO_ENABLED"]) == ("off", "local", "0")
    assert environment["GOPROXY"] == "https://own.example"
    assert environment["PATH"].startswith("/x/bin:")


def test_builds_use_our_caches_unless_the_user_named_some() -> None:
    go = used(Path("/x/bin/go"))
    assert go.environment({})["GOCACHE"] == "/caches/build"
    assert go.environment({})["GOMODCACHE"] == "/caches/modules"
    assert go.environment({"GOCACHE": "/own", "GOMODCACHE": "/own/m"})["GOCACHE"] == "/own"


@pytest.mark.parametrize(("downloads", "left"), [(False, {"go-modules/cache/download/x.zip"}), (True, set())])
def test_gos_caches_do_not_pile_up_but_downloads_last_for_the_run(
    tmp_path: Path, downloads: bool, left: set[str]
) -> None:
    for name in ("go-build/ab/abcd", "go-modules/vendor.example/x@v1/x.go", "go-modules/cache/download/x.zip"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    (tmp_path / "go-modules/vendor.example/x@v1").chmod(0o555)  # as Go leaves it
    golang.empty_caches(Cache(tmp_path), downloads=downloads)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == left


def test_a_build_is_read_only_and_stamped_with_the_version(tmp_path: Path) -> None:
    go = a_go(tmp_path, 'printf "%s\\n" "$@" > arguments; pwd >> arguments')
    plan = GoBuild(tmp_path, "vendor.example/frob", ("main.version=v1.2.3",))
    tool = Tool("frob", "frobs", "1.2.3", Release("", None, ""), plan)
    golang.build(used(go), tool, plan, tmp_path / "out")
    words = (tmp_path / "arguments").read_text().splitlines()
    assert "-mod=readonly" in words
    assert words[words.index("-ldflags") + 1] == "-s -w -X main.version=v1.2.3"
    assert words[-4:] == ["-o", str(tmp_path / "out"), "vendor.example/frob", str(tmp_path)]
