"""`python -m bench`: measure samegate side by side with what one would use instead, and write the figures and the page."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import conditions, document, page, sandbox
from bench.cases import CASES
from bench.document import DOCUMENT, SAMPLES, BadSamples, Measured, is_quick
from bench.figures import NoSamples
from bench.sandbox import SandboxError
from bench.schedule import FEWEST_ROUNDS, QUICK_ROUNDS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    listed = "; ".join(f"{c.name} (about {c.minutes} min): {c.title}" for c in CASES.values())
    top.add_argument("cases", nargs="*", metavar="CASE", help=f"which to measure, all of them without any. {listed}")
    top.add_argument(
        "--quick", action="store_true", help="few rounds and small sizes, to see that it works; the result says so"
    )
    top.add_argument(
        "--rounds",
        type=int,
        default=None,
        metavar="N",
        help=f"rounds of each contender, at least {FEWEST_ROUNDS} ({FEWEST_ROUNDS}; {QUICK_ROUNDS} with --quick)",
    )
    top.add_argument("--page", action="store_true", help="measure nothing; write the page from what was measured last")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit codes: 0 measured (targets met or not); 1 a case failed; 2 called wrongly, or nothing to write up; 130 stopped."""
    options = parser().parse_args(arguments)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        return _refuse(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else FEWEST_ROUNDS)
    if rounds < (1 if options.quick else FEWEST_ROUNDS):
        return _refuse(f"--rounds {rounds}: at least {FEWEST_ROUNDS} rounds make a result; --quick takes fewer")
    try:
        failed = [] if options.page else [n for n in options.cases or CASES if not _measure(n, rounds, options.quick)]
        _write_up()
    except (BadSamples, NoSamples) as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("bench: stopped; what was measured before stays, `--page` writes it up", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _refuse(text: str) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return 2


def _measure(name: str, rounds: int, quick: bool) -> bool:
    """Measure one case and keep its samples; whether that went well. Samples of a former run stay when it did not."""
    print(f"{name}: {CASES[name].title}", flush=True)
    facts, started = conditions.conditions(rounds=rounds, quick=quick), time.monotonic()
    fresh = SAMPLES / f".{name}.json"
    fresh.parent.mkdir(parents=True, exist_ok=True)
    try:
        sandbox.run("bench.inside", [name, str(rounds), "quick" if quick else "whole", str(fresh)])
        measured = document.read(fresh)
    except (SandboxError, BadSamples) as error:
        print(f"bench: {name}: {error}", file=sys.stderr)
        return False
    finally:
        fresh.unlink(missing_ok=True)
    kept = replace(measured, conditions={**facts, **measured.conditions, "seconds": round(time.monotonic() - started)})
    document.write(SAMPLES / f"{name}.json", kept)
    return True


def _write_up() -> None:
    measured: dict[str, Measured] = {}
    for name in CASES:
        path = SAMPLES / f"{name}.json"
        if path.exists():
            measured[name] = document.read(path)
    if not measured:
        raise NoSamples("nothing was ever measured here; name a case, or run all of them")
    whole = document.document({n: c.rows for n, c in CASES.items()}, measured)
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(json.dumps(whole, indent=2) + "\n")
    shown = page.write(whole, measured)
    _show(whole, measured)
    print(f"figures: {DOCUMENT.relative_to(page.ROOT)}; page: {shown.relative_to(page.ROOT)}")


def _show(whole: Mapping[str, Any], measured: Mapping[str, Measured]) -> None:
    table = Table(title="samegate, side by side" + (" (QUICK: not a measurement)" if is_quick(measured) else ""))
    for name in ("key", "min", "median", "max", "ratio", "target", "met"):
        table.add_column(name)
    for name in measured:
        for row in CASES[name].rows:
            held = whole["cases"][row.key]
            table.add_row(row.key, *page.cells(row, held), _VERDICTS[held["met"]])
    Console().print(table)


_VERDICTS = {True: "[green]yes[/]", False: "[bold red]no[/]", None: ""}


if __name__ == "__main__":
    sys.exit(main())
