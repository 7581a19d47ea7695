"""Builds from Go modules, with the pinned Go: this machine's, or Go's own toolchain module.

Nothing here is trusted because of where it came from: go.sum beside each go.mod pins the modules, and `pins.toml`
the toolchain's sum. An interrupted build continues from Go's caches. They live in the tool cache and are emptied once
a source is built, for they would grow to 15 GB; a user who sets GOCACHE and GOMODCACHE keeps them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cache import Cache
from tools.pins import GoBuild, Pins, Tool

#: The module behind Go's toolchain switching (https://go.dev/doc/toolchain); its version ends with the platform.
TOOLCHAIN_MODULE = "golang.org/toolchain@v0.0.1-go{version}.linux-{arch}"
#: Debian 12's Go, enough to download the toolchain module.
BOOTSTRAP_PACKAGE = "golang-go"
LAST_LINES = 3

Detail = Callable[[str], None]


class BuildError(RuntimeError):
    """Go could not build or fetch; the text is its last words."""


def parse_version(text: str) -> tuple[int, ...]:
    """`go1.26.8` or `1.26.8` as (1, 26, 8); words that are no version, as (0,)."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else (0,)


@dataclass(frozen=True)
class Go:
    """A `go` program, and the folders of its two caches."""

    program: Path
    build_cache: Path
    module_cache: Path

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Static programs, this toolchain and no other, our caches unless the user named some, no modes of the user's."""
        modes = {"GOFLAGS", "GOWORK", "GOROOT", "GOBIN"}
        environment = {name: value for name, value in base.items() if name not in modes}
        environment |= {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOOS": "linux"}
        environment["PATH"] = f"{self.program.parent}:{base.get('PATH', '')}"
        environment.setdefault("HOME", str(Path("~").expanduser()))
        environment.setdefault("GOCACHE", str(self.build_cache))
        environment.setdefault("GOMODCACHE", str(self.module_cache))
        return environment


def go_of(program: Path, cache: Cache) -> Go:
    return Go(program, cache.root / "go-build", cache.root / "go-modules")


def empty_caches(cache: Cache, *, downloads: bool) -> None:
    """Empty our own Go caches: what was compiled and unpacked; with `downloads`, also what was downloaded."""
    go = go_of(Path("go"), cache)
    shutil.rmtree(go.build_cache, ignore_errors=True)
    unpacked = [each for each in go.module_cache.glob("*") if each.name != "cache"]
    for folder in [go.module_cache] if downloads and go.module_cache.exists() else unpacked:
        for each in (folder, *folder.rglob("*")):  # Go leaves them read-only
            if each.is_dir() and not each.is_symlink():
                each.chmod(0o755)
        shutil.rmtree(folder)


def run_go(go: Go, arguments: Sequence[str], folder: Path, detail: Detail = lambda _: None) -> str:
    """Run `go` in `folder`, telling `detail` each line of its standard error; BuildError with its last lines."""
    last: list[str] = []
    packages = 0
    with subprocess.Popen(
        [str(go.program), *arguments],
        cwd=folder,
        env=go.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if "-v" in arguments else subprocess.PIPE,
        text=True,
    ) as process:
        try:
            spoken = process.stdout if "-v" in arguments else process.stderr
            assert spoken is not None  # noqa: S101 - for the type checker: both are pipes
            for line in spoken:
                last = [*last, line.strip()][-LAST_LINES:]
                packages += not line.startswith("go: ")
                detail(line.strip() if line.startswith("go: ") else f"{packages} packages, {line.strip()}")
            output = process.stdout.read() if spoken is process.stderr and process.stdout else ""
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
    if status != 0:
        raise BuildError(
            "; ".join(last + [line for line in output.splitlines() if line.strip()][-LAST_LINES:])
            or f"go exited with {status}"
        )
    return output


def machine_go() -> tuple[Path, tuple[int, ...]] | None:
    """The newest `go` of this machine, with its version: on PATH, where Debian puts it, or where its installer does."""
    found = []
    for candidate in (shutil.which("go"), "/usr/lib/go/bin/go", "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists():
            said = subprocess.run(
                [candidate, "version"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "GOTOOLCHAIN": "local"},
            )
            if said.returncode == 0:
                found.append((parse_version(said.stdout), Path(candidate)))
    if not found:
        return None
    version, path = max(found)
    return path, version


def toolchain(pins: Pins, cache: Cache, detail: Detail = lambda _: None) -> Go:
    """The pinned Go, or a newer one of the same minor release; fetched as a module when the machine has none.

    Raises BuildError when there is no Go at all to fetch it with, or when its sum is not the pinned one.
    """
    wanted = parse_version(pins.go_version)
    ours = cache.root / f"go-{pins.go_version}" / "bin" / "go"
    if ours.exists():
        return go_of(ours, cache)
    machine = machine_go()
    if machine and machine[1] >= wanted:
        return go_of(machine[0], cache)
    if machine is None:
        raise BuildError(
            f"no go on this machine to fetch go {pins.go_version} with: apt-get install {BOOTSTRAP_PACKAGE}"
        )
    _fetch_toolchain(pins, go_of(machine[0], cache), ours.parent.parent, detail)
    return go_of(ours, cache)


def _fetch_toolchain(pins: Pins, bootstrap: Go, target: Path, detail: Detail) -> None:
    module = TOOLCHAIN_MODULE.format(version=pins.go_version, arch=pins.arch)
    detail(f"fetching {module}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-go-", dir=target.parent) as scratch:
        folder = Path(scratch)
        (folder / "go.mod").write_text("module samegate.dev/toolchain\n\ngo 1.19\n")
        got = json.loads(run_go(bootstrap, ["mod", "download", "-json", module], folder, detail))
        if got.get("Sum") != pins.go_toolchain_h1:
            raise BuildError(f"{module} has the sum {got.get('Sum')}, pinned is {pins.go_toolchain_h1}: not used")
        tree = folder / "go"
        shutil.copytree(got["Dir"], tree, symlinks=True)
        for path in tree.rglob("*"):  # the module cache is read-only, and a module carries no executable bits
            if (
                path.is_dir()
                or path.relative_to(tree).parts[0] == "bin"
                or path.relative_to(tree).parts[:2] == ("pkg", "tool")
            ):
                path.chmod(0o755)
        tree.chmod(0o755)
        for path in list(
            tree.rglob("_go.mod")
        ):  # a module cannot hold another's go.mod; Go's own switching renames them
            path.rename(path.with_name("go.mod"))
        tree.rename(target)


def build(go: Go, tool: Tool, plan: GoBuild, output: Path, detail: Detail = lambda _: None) -> None:
    """Put `tool` at `output`, from its module; BuildError when Go refuses."""
    if plan.file:
        _copy_from_module(go, plan, output, detail)
        return
    variables = " ".join(f"-X {variable}" for variable in plan.version_variables)
    flags = ["-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", f"-s -w {variables}".strip()]
    # The linker would throw debugging information away: not making it saves a sixth of the compiler's time (etcd, twice alternating).
    flags += ["-gcflags=all=-dwarf=false"]
    run_go(go, ["build", *flags, "-o", str(output), plan.package], plan.folder, detail)


def _copy_from_module(go: Go, plan: GoBuild, output: Path, detail: Detail) -> None:
    if plan.file is None:
        raise BuildError(f"{plan.folder.name}: no file to copy is named")
    module, path = plan.file
    got = json.loads(run_go(go, ["mod", "download", "-json", module], plan.folder, detail))
    shutil.copyfile(Path(got["Dir"]) / path, output)
