"""The three ways to a tool, with fakes: no network, no Go, no compiler."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import golang
from tools.cache import Cache
from tools.pins import GoBuild, Pins, Release, Tool
from tools.progress import Progress
from tools.ways import MODULES_WAY, PATH_WAY, RELEASE_WAY, STAND_IN_WAY, Network, NotThisWay, Search, ToolError

CONTENT = b"#!/bin/sh\necho frob v1.2.3\n"
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


def a_tool(**changes: object) -> Tool:
    tool = Tool(
        name="frob",
        source="frobs",
        version="1.2.3",
        release=Release("https://vendor.example/frob-1.2.3", CHECKSUM, "https://vendor.example/frob-1.2.3.sha256"),
        go=GoBuild(Path("/nowhere"), "vendor.example/frob"),
        ask=("--version",),
        answer="frob v1.2.3",
        digest="abc",
    )
    return dataclasses.replace(tool, **changes)  # type: ignore[arg-type]


def a_program(folder: Path, says: str, name: str = "frob") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


class Site:
    """A vendor's site that serves one content, or fails in one way; counts the requests."""

    def __init__(self, content: bytes = CONTENT, error: Exception | None = None) -> None:
        self.content, self.error, self.requests = content, error, 0

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        self.requests += 1
        if self.error:
            raise self.error
        return io.BytesIO(self.content)


UNREACHABLE = urllib.error.URLError(OSError(101, "Network is unreachable"))


def a_search(tmp_path: Path, path: str = "", site: Site | None = None) -> Search:
    log = io.StringIO()
    pins = Pins("amd64", "1.26.8", "h1:x", "1", (), {}, {}, ())
    cache = Cache(tmp_path / "cache")
    return Search(pins, cache, Progress(log), {"PATH": path}, Network(site or Site(error=UNREACHABLE)))


def building(monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]) -> None:
    """Let Go be there, and its build do what `make` does with the output's path."""
    monkeypatch.setattr(golang, "toolchain", lambda *_: golang.Go(Path("/fake/go"), Path("/b"), Path("/m")))
    monkeypatch.setattr(golang, "build", lambda go, tool, plan, output, detail: make(output))


def broken_go(text: str) -> Callable[[Path], None]:
    def fail(output: Path) -> None:
        output.write_bytes(b"half")
        raise golang.BuildError(text)

    return fail


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_the_right_version_on_path_is_taken_and_nothing_is_fetched(tmp_path: Path) -> None:
    program = a_program(tmp_path / "usr", "frob v1.2.3")
    site = Site()
    search = a_search(tmp_path, str(program.parent), site)
    record = search.obtain(a_tool())
    assert (record.way, record.path, site.requests) == (PATH_WAY, str(program), 0)
    assert (search.cache.current / "frob").resolve() == program


@pytest.mark.parametrize("says", ["frob v1.2.4", "frob v1.2.30", "frob v1.2.3-dirty", ""])
def test_another_version_on_path_is_not_taken(tmp_path: Path, says: str) -> None:
    program = a_program(tmp_path / "usr", says)
    with pytest.raises(NotThisWay, match=r"wanted 'frob v1\.2\.3'"):
        a_search(tmp_path, str(program.parent)).from_path(a_tool())


def test_the_right_version_is_found_behind_a_wrong_one(tmp_path: Path) -> None:
    wrong, right = a_program(tmp_path / "a", "frob v9"), a_program(tmp_path / "b", "frob v1.2.3")
    found = a_search(tmp_path, f"{wrong.parent}:{right.parent}").from_path(a_tool())
    assert found == right


def test_the_cache_on_path_does_not_count_as_path(tmp_path: Path) -> None:
    search = a_search(tmp_path, str(tmp_path / "cache" / "bin" / "current"), Site())
    assert search.obtain(a_tool()).way == RELEASE_WAY
    with pytest.raises(NotThisWay, match="not on PATH"):
        search.from_path(a_tool())


def test_a_tool_that_cannot_tell_its_version_is_not_taken_from_path(tmp_path: Path) -> None:
    program = a_program(tmp_path / "usr", "frob v1.2.3")
    with pytest.raises(NotThisWay, match="cannot be asked"):
        a_search(tmp_path, str(program.parent)).from_path(a_tool(ask=()))


def test_a_companion_follows_its_tool_to_path_and_only_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = a_program(tmp_path / "usr", "frob v1.2.3")
    host = a_program(tmp_path / "usr", "", "frob-host")
    companion = a_tool(name="frob-host", beside="frob", ask=())
    search = a_search(tmp_path, str(program.parent))
    with pytest.raises(NotThisWay, match="comes with frob"):
        search.from_path(companion)
    search.obtain(a_tool())
    assert search.obtain(companion).path == str(host)


def test_a_release_with_the_pinned_checksum_is_taken(tmp_path: Path) -> None:
    search = a_search(tmp_path, site=Site())
    record = search.obtain(a_tool())
    assert record.way == RELEASE_WAY
    assert Path(record.path).read_bytes() == CONTENT
    assert stat.S_IMODE(Path(record.path).stat().st_mode) == 0o755


def test_a_release_with_another_checksum_is_refused_and_not_kept(tmp_path: Path) -> None:
    search = a_search(tmp_path, site=Site(CONTENT + b"\n"))
    with pytest.raises(NotThisWay, match=f"pinned is {CHECKSUM}: not used"):
        search.from_release(a_tool())
    assert files_below(search.cache.bin) == set()


def test_a_release_without_a_pinned_checksum_is_not_even_asked_for(tmp_path: Path) -> None:
    site = Site()
    tool = a_tool(release=dataclasses.replace(a_tool().release, sha256=None))
    with pytest.raises(NotThisWay, match=r"no checksum of https://vendor\.example/frob-1\.2\.3 is pinned"):
        a_search(tmp_path, site=site).from_release(tool)
    assert site.requests == 0


def test_an_unreachable_site_is_tried_once_per_run(tmp_path: Path) -> None:
    site = Site(error=UNREACHABLE)
    search = a_search(tmp_path, site=site)
    for _ in range(3):
        with pytest.raises(NotThisWay, match="Network is unreachable"):
            search.from_release(a_tool())
    assert site.requests == 1


def test_a_site_that_lacks_one_file_is_asked_for_the_next(tmp_path: Path) -> None:
    site = Site(error=urllib.error.HTTPError("https://vendor.example/x", 404, "gone", {}, None))  # type: ignore[arg-type]
    search = a_search(tmp_path, site=site)
    for _ in range(2):
        with pytest.raises(NotThisWay, match="HTTP 404"):
            search.from_release(a_tool())
    assert site.requests == 2


def an_archive(member: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_an_archive_gives_up_its_one_member(tmp_path: Path) -> None:
    archive = an_archive("frob-1.2.3/bin/frob", CONTENT)
    release = Release("https://v.example/a.tgz", hashlib.sha256(archive).hexdigest(), "", "frob-1.2.3/bin/frob")
    search = a_search(tmp_path, site=Site(archive))
    assert search.from_release(a_tool(release=release)).read_bytes() == CONTENT
    assert files_below(search.cache.bin) == {"frobs-1.2.3/frob"}


def test_an_archive_without_the_member_is_refused(tmp_path: Path) -> None:
    archive = an_archive("../../frob", CONTENT)
    release = Release("https://v.example/a.tgz", hashlib.sha256(archive).hexdigest(), "", "frob")
    search = a_search(tmp_path, site=Site(archive))
    with pytest.raises(NotThisWay, match="holds no frob"):
        search.from_release(a_tool(release=release))
    assert files_below(search.cache.bin) == set()


def test_modules_are_the_last_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building(monkeypatch, lambda output: output.write_bytes(CONTENT) and None)
    record = a_search(tmp_path).obtain(a_tool())
    assert record.way == MODULES_WAY
    assert Path(record.path).read_bytes() == CONTENT


def test_a_stand_in_is_used_where_neither_path_nor_release_has_the_program(tmp_path: Path) -> None:
    script = tmp_path / "checkout" / "tools" / "host.py"
    record = a_search(tmp_path).obtain(a_tool(go=None, stand_in=script))
    assert record.way == STAND_IN_WAY
    assert f"{tmp_path}/checkout" in Path(record.path).read_text()


def test_the_stand_in_runs_the_checkout_that_the_environment_names(tmp_path: Path) -> None:
    python = tmp_path / "other" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    record = a_search(tmp_path).obtain(a_tool(go=None, stand_in=tmp_path / "checkout" / "tools" / "host.py"))
    environment = {**os.environ, "SAMEGATE_CHECKOUT": f"{tmp_path}/other"}
    words = subprocess.check_output([record.path, "127.0.0.1:1"], env=environment, text=True).split()
    assert words == ["-P", f"{tmp_path}/other/tools/host.py", "--folder", str(Path(record.path).parent), "127.0.0.1:1"]


def test_without_any_network_the_error_names_the_tool_and_the_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building(monkeypatch, broken_go("dial tcp: lookup the.proxy: no such host"))
    with pytest.raises(ToolError) as failed:
        a_search(tmp_path).obtain(a_tool())
    lines = str(failed.value).splitlines()
    assert lines[0] == "frob 1.2.3 cannot be had; tried, in this order:"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == [PATH_WAY, RELEASE_WAY, MODULES_WAY]
    assert "not on PATH" in lines[1]
    assert "Network is unreachable" in lines[2]
    assert "no such host" in lines[3]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), golang.BuildError("killed")])
def test_an_interrupted_build_leaves_nothing_that_could_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def die(output: Path) -> None:
        output.write_bytes(b"half a program")
        raise interruption

    building(monkeypatch, die)
    search = a_search(tmp_path)
    with pytest.raises((KeyboardInterrupt, ToolError)):
        search.obtain(a_tool())
    assert files_below(search.cache.bin) == set()
    assert search.cache.in_use("frob", "1.2.3", "abc") is None


def test_what_is_there_is_not_had_again(tmp_path: Path) -> None:
    site = Site()
    search = a_search(tmp_path, site=site)
    first = search.obtain(a_tool())
    assert search.obtain(a_tool()) == first
    assert site.requests == 1


@pytest.mark.parametrize("changes", [{"version": "1.2.4"}, {"digest": "changed go.sum"}])
def test_a_changed_pin_makes_the_tool_be_had_again(tmp_path: Path, changes: dict[str, str]) -> None:
    site = Site()
    search = a_search(tmp_path, site=site)
    search.obtain(a_tool())
    search.obtain(a_tool(**changes))
    assert site.requests == 2


def test_a_program_changed_behind_our_back_is_had_again(tmp_path: Path) -> None:
    search = a_search(tmp_path, site=Site())
    record = search.obtain(a_tool())
    Path(record.path).write_bytes(CONTENT[:-3])
    assert Path(search.obtain(a_tool()).path).read_bytes() == CONTENT


def test_the_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.prepare()
    (cache.bin / ".partial-xyz").mkdir()
    (cache.bin / ".partial-xyz" / "frob").write_bytes(b"half")
    with cache.locked():
        cache.sweep()
    assert files_below(cache.bin) == set()
