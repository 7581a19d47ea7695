"""Three layers, each rebuilt only when its own input changes: Debian, Python wheels, the agent.

The inputs are this folder, the lock, the agent's sources, and Debian's packages of the day, whose versions the bill of
materials records. The same inputs give the same digest, on whatever machine and by whomever they are built.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import tools
import tools.bpf
from image import debian, recipe, sbom
from image.bytecode import compile_modules
from image.layer import Layer, cache_directory, cached, fingerprint, pack, unpacked
from image.oci import write_archive
from image.process import BuildError, run
from lbnode import __version__

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "image" / "requirements.lock"
DEFAULT_OUTPUT = ROOT / ".lab" / "image" / "samegate.oci.tar"
SBOM_ANNOTATION = "dev.samegate.sbom.cyclonedx"
"""Of the manifest: the checksum of the image's bill of materials, so that the image's digest covers it."""
_SHAPING = ("build.py", "bytecode.py", "debian.py", "layer.py", "process.py", "recipe.py", "bird-supervisor.sh")


@dataclass(frozen=True)
class Built:
    """An archive on disk, named by the digest of its manifest. ``size_bytes`` is compressed: what a node pulls."""

    archive: Path
    digest: str
    size_bytes: int
    layers: tuple[Layer, ...]
    sbom: Path


def build(
    output: Path = DEFAULT_OUTPUT,
    labels: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
    *,
    use_cache: bool = True,
) -> Built:
    """Build the image for all roles, and write it as an OCI archive with its bill of materials beside it.

    Without ``use_cache`` every layer is made anew, from Debian's newest packages.

    Raises:
        BuildError: a tool or a package is missing, or the image is too large.
    """
    recipe_key = fingerprint(*((ROOT / "image" / name).read_bytes() for name in _SHAPING))

    def layer(name: str, what: str, make: Callable[[Path], None], *inputs: bytes | str) -> Layer:
        return _layer(f"{name}-{fingerprint(recipe_key, *inputs)}", what, make, say, use_cache=use_cache)

    base = layer("debian", "Debian packages", debian.unpack)
    wheels = layer("wheels", "Python wheels", lambda tree: _wheels(base, tree), base.digest, LOCK.read_bytes())
    sources = [part for path in _agent_sources() for part in (str(path.relative_to(ROOT)), path.read_bytes())]
    compiler = Path(tools.bpf.__file__).read_bytes()
    agent = layer("agent", "the agent", lambda tree: _agent(base, tree), base.digest, compiler, *sources)
    layers = (base, wheels, agent)
    bill = _bill(layers)
    checksum = "sha256:" + hashlib.sha256(bill).hexdigest()
    digest = write_archive(
        output, layers, recipe.CONFIG, labels or {}, {SBOM_ANNOTATION: checksum}, name="samegate:latest"
    )
    beside = sbom_beside(output)
    beside.write_bytes(bill)
    size_bytes = sum(each.size_bytes for each in layers)
    if size_bytes >= recipe.LIMIT_BYTES:
        raise BuildError(
            f"the image has {size_bytes} bytes compressed, the limit is {recipe.LIMIT_BYTES}: drop a package from image/recipe.py"
        )
    return Built(output, digest, size_bytes, layers, beside)


def sbom_beside(archive: Path) -> Path:
    """Where the bill of materials of an archive lies: `samegate.cdx.json` beside `samegate.oci.tar`."""
    return archive.with_name(archive.name.removesuffix(".tar").removesuffix(".oci") + ".cdx.json")


def _bill(layers: tuple[Layer, ...]) -> bytes:
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(layer.path)) for layer in layers]
        return sbom.of_layers(tars, LOCK.read_text(), __version__)


def _agent_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "lbnode").rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _layer(name: str, what: str, make: Callable[[Path], None], say: Callable[[str], None], *, use_cache: bool) -> Layer:
    destination = cache_directory() / f"{name}.tar.gz"
    if use_cache and (layer := cached(destination)) is not None:
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


def _wheels(base: Layer, tree: Path) -> None:
    site = tree / recipe.SITE_PACKAGES
    site.mkdir(parents=True)
    try:
        uv = tools.uv()
    except tools.PythonEnvironmentError as error:
        raise BuildError(f"uv cannot be had: {error}") from error
    # The image's Python and C library, not this machine's, decide which of a package's wheels is taken.
    platform = ["--python", sys.executable, "--python-version", ".".join(map(str, recipe.PYTHON))]
    platform += ["--python-platform", recipe.PLATFORM]
    hashed = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
    run(str(uv), "pip", "install", "--quiet", *platform, "--target", str(site), *hashed)
    # Start scripts name the interpreter of the machine that builds; the records name the installer and its hashes of both.
    for leftover in (site / "bin", site / ".lock"):
        debian.remove(leftover)
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"):
        for path in site.glob(f"*.dist-info/{name}"):
            path.unlink()
    with unpacked(base) as root:
        compile_modules(root, tree, recipe.SITE_PACKAGES)


def _agent(base: Layer, tree: Path) -> None:
    for source in _agent_sources():
        target = tree / recipe.SITE_PACKAGES / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    try:
        tools.bpf.build(output=tree / recipe.SITE_PACKAGES / "lbnode" / "bpf")
    except tools.bpf.BpfBuildError as error:
        raise BuildError(f"the XDP program cannot be compiled: {error}") from error
    for name, text in recipe.COMMANDS.items():
        command = tree / name
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(text)
        command.chmod(0o755)
    with unpacked(base) as root:
        compile_modules(root, tree, recipe.SITE_PACKAGES)
