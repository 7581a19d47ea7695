"""`python -m components.routers STACK-FILE [--output FOLDER] [--keys FILE]`: the routers' configurations of a stack, without Pulumi and without a cluster.

`pulumi config get samegate:bgpKeys -s STACK | python -m components.routers STACK-FILE --keys - --output FOLDER` puts the keys in.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from components.routers.render import configurations
from components.settings import PREFIX, SECRET_KEYS, parse
from lbnode.errors import ConfigError

UNNAMED_IMAGE = "samegate@sha256:" + "0" * 64
"""Stands for the image of a stack file without one: routers do not depend on it."""


def read(text: str, keys: Mapping[str, str] | None) -> dict[str, dict[str, str]]:
    """The configurations of the stack in a stack file's text.

    Raises:
        ConfigError: the file is no stack, or a value breaks a rule.
    """
    try:
        config = yaml.safe_load(text)["config"]
        values = {str(name).removeprefix(f"{PREFIX}:"): value for name, value in config.items()}
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            "stack file", f"no `config` in it: {error}", "Give a file like stacks/Pulumi.onprem.yaml"
        ) from None
    named = {
        key: list(values.pop(key) or {}) if key == "bgpKeys" else values.pop(key)
        for key in SECRET_KEYS
        if key in values
    }
    settings = parse({"image": UNNAMED_IMAGE, **values}, bgp_keys=named.get("bgpKeys", ()))
    for key in keys or {}:
        if key not in settings.bgp_key_names:
            raise ConfigError(f"key {key!r}", "no peer names it in its passwordKey", "Leave it out, or name it")
    return configurations(settings, keys)


def parse_keys(text: str) -> dict[str, str]:
    """TCP MD5 keys by name. The text is never shown.

    Raises:
        ConfigError: the text is no JSON object.
    """
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    if not isinstance(keys, dict):
        raise ConfigError(
            "keys", "they are a JSON object, from name to key", "Give what `pulumi config get samegate:bgpKeys` prints"
        )
    return keys


def write(folder: Path, files: Mapping[str, Mapping[str, str]]) -> list[Path]:
    """Writes FOLDER/ROUTER/FILE, readable by the owner only, since they may hold keys."""
    written = []
    for router, texts in files.items():
        for name, text in texts.items():
            path = folder / router / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(text)
            written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m components.routers", description="What your routers must be told.")
    parser.add_argument("stack", type=Path, help="a stack file, like stacks/Pulumi.onprem.yaml")
    parser.add_argument("--output", type=Path, help="write files below this folder instead of printing")
    parser.add_argument("--keys", help="a file of TCP MD5 keys by name, as JSON; - is standard input")
    given = parser.parse_args(arguments)
    try:
        keys = (
            None
            if given.keys is None
            else parse_keys(sys.stdin.read() if given.keys == "-" else Path(given.keys).read_text())
        )
        files = read(given.stack.read_text(), keys)
    except (ConfigError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not files:
        print("error: the stack names no routers: list them in platform.routers", file=sys.stderr)
        return 1
    if given.output is not None:
        for path in write(given.output, files):
            print(path)
        return 0
    for router, texts in files.items():
        for name, text in texts.items():
            print(f"# {router}/{name}\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
