"""`python -m image build | sbom`: the one image for all roles, and what is in it."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
from pathlib import Path

from image.build import DEFAULT_OUTPUT, LOCK, SBOM_ANNOTATION, build
from image.oci import open_layers, read_manifest
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="The one image for all roles.")
    commands = parser.add_subparsers(dest="command", required=True)
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
