"""`python -m image build`: the one image for all roles."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from image.build import DEFAULT_OUTPUT, BuildError, build


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no label: write KEY=VALUE")
    return key, value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="The one image for all roles.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "build", help="build the image as an OCI archive"
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
    command.add_argument("--json", action="store_true", help="print digest, size and path as JSON")
    options = parser.parse_args(arguments)

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
