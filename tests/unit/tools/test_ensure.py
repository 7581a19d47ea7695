"""A whole run: what it says, what it chooses, and that a second one does nothing."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tools
from tools import ensure, golang
from tools.cache import Cache, location
from tools.pins import load
from tools.progress import HEARTBEAT_SECONDS, Progress
from tools.ways import ToolError

ROOT = Path(tools.__file__).parent.parent


def a_script(path: Path) -> None:
    path.write_text("#!/bin/sh\n")


def test_an_unknown_tool_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ToolError, match=r"'kubectk'.*kubectl"):
        ensure.chosen(load(), ["kubectl", "kubectk"])


def test_a_chosen_tool_brings_the_one_it_comes_with_first() -> None:
    names = [tool.name for tool in ensure.chosen(load(), ["pulumi-language-python"])]
    assert names == ["pulumi", "pulumi-language-python"]


def test_the_first_run_builds_and_the_second_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(golang, "machine_go", lambda: (Path("/fake/go"), (99,)))

    def build(go: golang.Go, tool: object, plan: object, output: Path, detail: object) -> None:
        built.append(output.name)
        a_script(output)

    monkeypatch.setattr(golang, "build", build)
    monkeypatch.setenv("PATH", "")
    cache = Cache(tmp_path)
    chosen = ensure.chosen(load(), ["etcd", "coredns"])
    assert ensure.fetch(load(), cache, Progress(io.StringIO()), chosen).changed == ("etcd 3.6.14", "coredns 1.15.0")
    assert ensure.fetch(load(), cache, Progress(io.StringIO()), chosen).changed == ()
    assert built == ["etcd", "coredns"]


def test_a_run_that_finds_everything_says_so_within_a_second(tmp_path: Path) -> None:
    """The whole command, on a cache that holds every pinned tool, an environment that is current, packages that are in."""
    pins, cache = load(), Cache(tmp_path / "cache")
    cache.prepare()
    for tool in pins.tools.values():
        place = cache.bin / tool.name
        a_script(place)
        cache.adopt(tool.name, tool.version, tool.digest, "test", place)
    plugin = cache.root / "pulumi/plugins" / f"resource-kubernetes-v{pins.tools['pulumi-resource-kubernetes'].version}"
    plugin.mkdir(parents=True)
    (plugin / ".samegate-digest").write_text(pins.tools["pulumi-resource-kubernetes"].digest)
    program = (
        "import sys; from tools import debian, python_environment, __main__\n"
        "debian.ensure = lambda *_: (); python_environment.ensure = lambda *_: False\n"
        "sys.argv = ['tools', 'ensure']; sys.exit(__main__.main())"
    )
    environment = {**os.environ, "SAMEGATE_CACHE": str(cache.root)}
    fastest_seconds = math.inf
    for _ in range(3):  # a machine that is busy for a moment must not look like a slow start
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        fastest_seconds = min(fastest_seconds, time.monotonic() - started)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Everything is there: nothing to do")
    assert fastest_seconds < 1.0


def test_nothing_beyond_the_standard_library_is_needed_to_begin() -> None:
    """A bare machine has no rich, grpc or pulumi when it starts: -S -I hides every installed package."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tools.__main__, tools.ensure; print('ready')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ready\n", "")


def test_locate_names_the_way_out_when_a_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMEGATE_CACHE", str(tmp_path))
    with pytest.raises(tools.ToolMissing, match="python -m tools ensure kubectl"):
        tools.locate("kubectl")
    with pytest.raises(tools.ToolMissing, match="'frob'"):
        tools.locate("frob")
    kubectl = load().tools["kubectl"]
    a_script(tmp_path / "there")
    Cache(tmp_path).adopt("kubectl", kubectl.version, kubectl.digest, "test", tmp_path / "there")
    assert tools.locate("kubectl") == tmp_path / "bin" / "current" / "kubectl"


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"SAMEGATE_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/samegate"),
        ({"HOME": "/h"}, "/h/.cache/samegate"),
    ],
)
def test_the_cache_is_outside_the_checkout(environment: dict[str, str], folder: str) -> None:
    assert location(environment) == Path(folder)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_in_a_log_is_one_line_with_its_seconds() -> None:
    log, clock = io.StringIO(), Clock()
    with Progress(log, clock).step("etcd") as step:
        for _ in range(100):
            step.detail("compiling")
        clock.now = 12.34
        step.result = "built"
    assert log.getvalue() == "  etcd: built (12.3 s)\n"


def test_a_long_step_shows_now_and_then_that_it_lives() -> None:
    log, clock = io.StringIO(), Clock()
    with Progress(log, clock).step("kubelet") as step:
        for second in range(int(HEARTBEAT_SECONDS * 2.5)):
            clock.now = float(second)
            step.detail(f"package {second}")
    assert log.getvalue().count("still at it") == 2


def test_a_failed_step_says_so() -> None:
    log = io.StringIO()
    with pytest.raises(ValueError, match="x"), Progress(log, Clock()).step("etcd"):
        raise ValueError("x")
    assert log.getvalue() == "  etcd: failed (ValueError, 0.0 s)\n"
