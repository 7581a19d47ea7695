"""One case in its sandbox: `python -m bench.inside SCRATCH CASE ROUNDS QUICK FILE`, which :mod:`bench.__main__` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import document, sandbox
from bench.case import Order
from bench.cases import CASES


def main(scratch: str, case: str, rounds: str, quick: str, file: str) -> None:
    """Measure, and write the samples to `file`."""
    directory = Path(scratch)
    sandbox.enter(directory)
    work = directory / "case"
    work.mkdir()

    def say(text: str) -> None:
        print(f"  {case}: {text}", flush=True)

    document.write(Path(file), CASES[case].measure(Order(int(rounds), quick == "quick", work, say)))


if __name__ == "__main__":
    main(*sys.argv[1:6])
