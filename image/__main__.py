"""`python -m image build | sbom | unpack`: the one image for all roles, what is in it, and its file system for systemd's RootDirectory=."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
from pathlib import Path

from image.build import DEFAULT_OUTPUT, LOCK, SBOM_ANNOTATION, build
from image.oci import extract_layers, open_layers, read_manifest
from image.process import BuildError
from image.sbom import InventoryError, of_layers
from lbnode import __version__


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no label: write KEY=VALUE")
    return key, value


def _build(options: argparse.Namespace) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    built = build(options.output, dict(options.label), say, use_cache=not options.no_cache)
    if options.json:
        said = {"digest": built.digest, "size_bytes": built.size_bytes, "archive": str(built.archive)}
        print(json.dumps(said | {"sbom": str(built.sbom)}))
    else:
        print(f"{built.archive}: {built.digest}, {built.size_bytes / 1e6:.1f} MB compressed")
        print(f"{built.sbom}: what is in it")
    return 0


def _sbom(options: argparse.Namespace) -> int:
    """Print what an archive holds; it must be what the archive's builder said that it holds."""
    try:
        with open_layers(options.archive) as layers:
            bill = of_layers(layers, LOCK.read_text(), __version__)
        _, manifest, _ = read_manifest(options.archive)
    except (OSError, tarfile.TarError, KeyError) as error:
        raise BuildError(
            f"{options.archive} is no OCI archive ({error}): make it with python -m image build"
        ) from error
    checksum = "sha256:" + hashlib.sha256(bill).hexdigest()
    said = manifest.get("annotations", {}).get(SBOM_ANNOTATION)
    if said != checksum:
        raise BuildError(
            f"the packages in {options.archive} have the bill of materials {checksum}, but its annotation {SBOM_ANNOTATION} says {said}: "
            "check out the commit that the image was built from; if it still differs, do not run the image"
        )
    sys.stdout.buffer.write(bill)
    return 0


def _unpack(options: argparse.Namespace) -> int:
    """Unpack into ``directory``, which must not have anything in it: an old image below a new one would leave files of both."""
    archive, directory = options.archive, options.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            print(
                f"error: {directory} is not empty. Name a new directory, and point RootDirectory= at it",
                file=sys.stderr,
            )
            return 1
        extract_layers(archive, directory)
        # Where the units mount what is the machine's own; a root that is read-only cannot grow them.
        for mount_point in ("etc/samegate", "run/samegate", "var/lib/samegate"):
            (directory / mount_point).mkdir(parents=True, exist_ok=True)
        (directory / "run/xtables.lock").touch()
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        print(f"error: {archive}: {error}. Name an archive that `python -m image build` wrote", file=sys.stderr)
        return 1
    print(f"{directory}: unpacked")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="The one image for all roles.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "unpack", help="unpack an archive into an empty directory, for systemd's RootDirectory="
    )
    command.add_argument("archive", type=Path)
    command.add_argument("directory", type=Path)
    command.set_defaults(run=_unpack)
    command = commands.add_parser(
        "build", help="build the image as an OCI archive, with its bill of materials beside it"
    )
    command.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the archive (default: %(default)s)")
    command.add_argument(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a label; it gives the same code another digest",
    )
    command.add_argument("--no-cache", action="store_true", help="every layer anew, from Debian's newest packages")
    command.add_argument("--json", action="store_true", help="print digest, size and paths as JSON")
    command.set_defaults(run=_build)
    command = commands.add_parser("sbom", help="print which packages an archive holds (CycloneDX JSON), and check it")
    command.add_argument("archive", type=Path, nargs="?", default=DEFAULT_OUTPUT, help="default: %(default)s")
    command.set_defaults(run=_sbom)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (BuildError, InventoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
