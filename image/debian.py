"""The image's lowest layer: Debian packages, unpacked and pruned, with a record of which they are."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from image import recipe
from image.bytecode import compile_modules
from image.process import run

SUPERVISOR = Path(__file__).parent / "bird-supervisor.sh"


def unpack(tree: Path) -> None:
    """Debian's packages as the recipe wants them, in the empty folder `tree`.

    Raises:
        BuildError: mmdebstrap is missing or could not have the packages.
    """
    # `extract` unpacks the packages and their dependencies and runs nothing: no maintainer script, no package database.
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        # The package files stay until they are recorded.
        "--skip=cleanup/apt/cache",
        '--aptopt=Apt::Install-Recommends "false"',
        "--include=" + ",".join(recipe.DEBIAN_PACKAGES),
        recipe.SUITE,
        str(tree),
        way_out="install it: apt-get install mmdebstrap",
    )
    packages = [_paragraph(file) for file in sorted((tree / "var/cache/apt/archives").glob("*.deb"))]
    _prune(tree)
    _record(tree, packages)
    for name, text in recipe.FILES.items():
        (tree / name).write_text(text)
    supervisor = tree / "usr/local/bin/bird-supervisor"
    supervisor.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SUPERVISOR, supervisor)
    supervisor.chmod(0o755)
    compile_modules(tree, tree, f"usr/lib/python{recipe.PYTHON[0]}.{recipe.PYTHON[1]}")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with everything in it; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prune(tree: Path) -> None:
    for name in recipe.DROPPED:
        remove(tree / name)
    for folder in ("usr/bin", "usr/sbin"):
        for path in (tree / folder).iterdir():
            if not path.is_symlink() and path.name not in recipe.PROGRAMS:
                remove(path)
    for link, target in recipe.LINKS.items():
        remove(tree / link)
        (tree / link).symlink_to(target)
    for folder in ("usr/bin", "usr/sbin"):
        for path in (tree / folder).iterdir():
            if path.is_symlink() and not path.exists():
                path.unlink()
    for folder in ("tmp", "home", "var/log", "run", "proc", "sys", "dev"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for leftover in (tree / "dev").iterdir():
        remove(leftover)


def _paragraph(package: Path) -> str:
    """A package's control fields, with the two that dpkg's status and apt's index add to them."""
    control = run("dpkg-deb", "--field", str(package), way_out="this needs Debian's dpkg").strip()
    checksum = hashlib.sha256(package.read_bytes()).hexdigest()
    return f"{control}\nStatus: install ok installed\nSHA256: {checksum}\n"


def _record(tree: Path, paragraphs: list[str]) -> None:
    """Where scanners of images without a package manager look: one file a package, as distroless images have them."""
    folder = tree / recipe.PACKAGE_RECORDS
    folder.mkdir(parents=True)
    for paragraph in paragraphs:
        name = next(line.split(": ", 1)[1] for line in paragraph.splitlines() if line.startswith("Package: "))
        (folder / name).write_text(paragraph)
