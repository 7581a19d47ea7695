"""`python -m image build`: the one image for all roles. `unpack`: its file system, for systemd's RootDirectory=."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path

from image.build import DEFAULT_OUTPUT, BuildError, build
from image.oci import extract_layers


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no label: write KEY=VALUE")
    return key, value


def _unpack(archive: Path, directory: Path) -> int:
    """Unpack into ``directory``, which must not have anything in it: an old image below a new one would leave files of both."""
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
        for mount_point in ("etc/samegate", "run/samegate", "var/lib/samegate", "host/proc/sys/net"):
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
    unpack = commands.add_parser(
        "unpack", help="unpack an archive into an empty directory, for systemd's RootDirectory="
    )
    unpack.add_argument("archive", type=Path)
    unpack.add_argument("directory", type=Path)
    command = commands.add_parser("build", help="build the image as an OCI archive")
    command.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the archive (default: %(default)s)")
    command.add_argument(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a label; it gives the same code another digest",
    )
    command.add_argument("--json", action="store_true", help="print digest, size and path as JSON")
    options = parser.parse_args(arguments)
    if options.command == "unpack":
        return _unpack(options.archive, options.directory)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        built = build(options.output, dict(options.label), say)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"digest": built.digest, "size_bytes": built.size_bytes, "archive": str(built.archive)}))
    else:
        print(f"{built.archive}: {built.digest}, {built.size_bytes / 1e6:.1f} MB compressed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
