"""Three layers, each rebuilt only when its own input changes: Debian, Python wheels, the agent."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tools
from image import recipe
from image.layer import Layer, cache_directory, cached, fingerprint, pack
from image.oci import write_archive

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "image" / "requirements.lock"
DEFAULT_OUTPUT = ROOT / ".lab" / "image" / "samegate.oci.tar"


class BuildError(Exception):
    """The image cannot be built here. The message names what failed and the way out."""


@dataclass(frozen=True)
class Built:
    """An archive on disk, named by the digest of its manifest. ``size_bytes`` is compressed: what a node pulls."""

    archive: Path
    digest: str
    size_bytes: int
    layers: tuple[Layer, ...]


def build(
    output: Path = DEFAULT_OUTPUT, labels: Mapping[str, str] | None = None, say: Callable[[str], None] = print
) -> Built:
    """Build the image for all roles and write it as an OCI archive.

    Raises:
        BuildError: another Python than the image's, a tool or a package is missing, or the image is too large.
    """
    if sys.version_info[:2] != recipe.PYTHON:
        wanted = ".".join(map(str, recipe.PYTHON))
        raise BuildError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot compile for the image's {wanted}: run this with python{wanted}"
        )
    base_key = _base_key()
    wheels_key = fingerprint(base_key, LOCK.read_bytes())
    layers = (
        _layer(f"debian-{base_key}", "Debian packages", _debian, say),
        _layer(f"wheels-{wheels_key}", "Python wheels", _wheels, say),
        _layer(f"agent-{_agent_key()}", "the agent", _agent, say),
    )
    digest = write_archive(output, layers, recipe.CONFIG, labels or {}, name="samegate:latest")
    size_bytes = sum(layer.size_bytes for layer in layers)
    if size_bytes >= recipe.LIMIT_BYTES:
        raise BuildError(
            f"the image has {size_bytes} bytes compressed, the limit is {recipe.LIMIT_BYTES}: drop a package from image/recipe.py"
        )
    return Built(output, digest, size_bytes, layers)


def _base_key() -> str:
    parts = (
        recipe.SUITE,
        recipe.DEBIAN_PACKAGES,
        recipe.PROGRAMS and sorted(recipe.PROGRAMS),
        recipe.LINKS,
        recipe.DROPPED,
        recipe.FILES,
    )
    supervisor = (ROOT / "image" / "bird-supervisor.sh").read_bytes()
    return fingerprint(repr(parts), supervisor, Path(__file__).read_bytes(), str(recipe.SOURCE_DATE_EPOCH))


def _agent_key() -> str:
    sources = _agent_sources()
    return fingerprint(
        recipe.SITE_PACKAGES,
        repr(recipe.COMMANDS),
        *(part for path in sources for part in (str(path.relative_to(ROOT)), path.read_bytes())),
    )


def _agent_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "lbnode").rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _layer(name: str, what: str, make: Callable[[Path], None], say: Callable[[str], None]) -> Layer:
    destination = cache_directory() / f"{name}.tar.gz"
    if (layer := cached(destination)) is not None:
        say(f"layer {what}: {layer.size_bytes / 1e6:.1f} MB, as cached")
        return layer
    say(f"layer {what}: building")
    with tempfile.TemporaryDirectory(prefix="samegate-image-") as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir(mode=0o755)
        make(tree)
        layer = pack(tree, destination, title=what)
    say(f"layer {what}: {layer.size_bytes / 1e6:.1f} MB, built")
    return layer


def _debian(tree: Path) -> None:
    # `extract` unpacks the packages and their dependencies and runs nothing: no maintainer script, no package database.
    _run(
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        '--aptopt=Apt::Install-Recommends "false"',
        "--include=" + ",".join(recipe.DEBIAN_PACKAGES),
        recipe.SUITE,
        str(tree),
        way_out="install it: apt-get install mmdebstrap",
    )
    for name in recipe.DROPPED:
        _remove(tree / name)
    for folder in ("usr/bin", "usr/sbin"):
        for path in (tree / folder).iterdir():
            if not path.is_symlink() and path.name not in recipe.PROGRAMS:
                _remove(path)
    for link, target in recipe.LINKS.items():
        _remove(tree / link)
        (tree / link).symlink_to(target)
    for folder in ("usr/bin", "usr/sbin"):
        for path in (tree / folder).iterdir():
            if path.is_symlink() and not path.exists():
                path.unlink()
    for name, text in recipe.FILES.items():
        (tree / name).write_text(text)
    for folder in ("tmp", "home", "var/log", "run", "proc", "sys", "dev"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for leftover in (tree / "dev").iterdir():
        _remove(leftover)
    supervisor = tree / "usr/local/bin/bird-supervisor"
    supervisor.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "image" / "bird-supervisor.sh", supervisor)
    supervisor.chmod(0o755)
    _compile(tree, "usr/lib/python3.11")


def _wheels(tree: Path) -> None:
    site = tree / recipe.SITE_PACKAGES
    site.mkdir(parents=True)
    options = ["--target", str(site), "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
    try:
        uv = str(tools.uv())
    except tools.PythonEnvironmentError as error:
        raise BuildError(f"uv cannot be had: {error}") from None
    _run(uv, "pip", "install", "--quiet", "--python", sys.executable, *options, way_out="run make tools")
    # Start scripts name the interpreter of the machine that builds.
    _remove(site / "bin")
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
        for path in site.glob(f"*.dist-info/{name}"):
            path.unlink()
    _compile(tree, recipe.SITE_PACKAGES)


def _agent(tree: Path) -> None:
    for source in _agent_sources():
        target = tree / recipe.SITE_PACKAGES / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for name, text in recipe.COMMANDS.items():
        command = tree / name
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    _compile(tree, recipe.SITE_PACKAGES)


def _compile(tree: Path, folder: str) -> None:
    """Byte code for every module: the root is read-only at run time and the nodes' processors may be slow.

    Unchecked, because the layers' time stamps say nothing and nobody edits a module in the image.
    """
    for stale in (tree / folder).rglob("__pycache__"):
        shutil.rmtree(stale)
    os.environ.setdefault("PYTHONHASHSEED", "0")
    compileall.compile_dir(
        tree / folder,
        quiet=2,
        maxlevels=20,
        stripdir=str(tree),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _run(*command: str, way_out: str = "see the message above") -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(recipe.SOURCE_DATE_EPOCH)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not there: {way_out}") from None
    if done.returncode != 0:
        raise BuildError(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout.strip()}\n{way_out}")
