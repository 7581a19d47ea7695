"""Commands that the build runs, in an environment that says nothing of the machine's habits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from image.recipe import SOURCE_DATE_EPOCH


class BuildError(Exception):
    """The image cannot be built here. The message names what failed and the way out."""


def run(*command: str, way_out: str = "see the message above", environment: Mapping[str, str] | None = None) -> str:
    """Run `command` and return what it printed; `environment` replaces the caller's.

    Raises:
        BuildError: the program is not there, or ended with an error; with its words and `way_out`.
    """
    inherited = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH)}
    try:
        done = subprocess.run(
            command,
            env=inherited if environment is None else dict(environment),
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
    return done.stdout
