"""The stand-in of a package as a program; what a plugin's executable runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.providers.standin.aws import Aws
from tests.providers.standin.gcp import Gcp
from tests.providers.standin.rules import Rules
from tests.providers.standin.servicer import serve

WORLD = "SAMEGATE_SIMULATED_WORLD"


def main(package: str) -> None:
    """Serve until the engine ends the process; refuses to start without the file of the simulated world."""
    if WORLD not in os.environ:
        sys.exit(f"the stand-in {package} provider is for tests: {WORLD} must name the file of the simulated world")
    rules: dict[str, type[Rules]] = {"aws": Aws, "gcp": Gcp}
    serve(rules[package](), Path(os.environ[WORLD]))
