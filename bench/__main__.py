"""`python -m bench [CASE ...]`: measure, write `.bench/ipvs.json` with its raw samples, and the page under `docs/bench/`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import figures, ipvs_load, page
from bench.conditions import conditions

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / ".bench"
PAGES = CHECKOUT / "docs" / "bench"
ROUNDS, QUICK_ROUNDS = 7, 3

Run = Callable[[int, Path], tuple[list[figures.Case], dict[str, Any]]]
BENCHES: dict[str, tuple[Run, str]] = {
    "ipvs-load": (ipvs_load.run, "10,000 destinations into an empty kernel, and 100 changes of them, against ipvsadm"),
}


def main(arguments: list[str]) -> int:
    """0 when every target is met, 1 when one is missed, 2 when something could not be measured."""
    listed = "\n".join(f"  {name:12} {what}" for name, (_, what) in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=f"cases:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which (all)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}, and no page")
    parser.add_argument("--json", action="store_true", help="print the document instead of a table")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in BENCHES]:
        parser.error(f"there is no case {unknown[0]!r}; there are: {', '.join(BENCHES)}")
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    before = conditions(CHECKOUT, rounds, options.quick, {})
    measured: list[figures.Case] = []
    for name in options.cases or BENCHES:
        began = time.monotonic()
        print(f"{name}: {rounds} rounds", file=sys.stderr, flush=True)
        try:
            cases, more = BENCHES[name][0](rounds, CHECKOUT)
        except (ipvs_load.NotLoaded, OSError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2
        before |= {f"{name}: {key}": value for key, value in more.items()}
        measured += cases
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    document = figures.document(before, measured)
    _write(document, figures.raw(measured), pages=not options.quick)
    print(json.dumps(document, indent=1)) if options.json else _show(document)
    return 0 if all(case.met is not False for case in measured) else 1


def _write(document: dict[str, Any], raw: dict[str, Any], pages: bool) -> None:
    """Cases that were not measured this time keep their former figures in neither file: a page is of one run."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ipvs.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "ipvs-samples.json").write_text(json.dumps(raw, indent=1) + "\n")
    if not pages:
        return
    PAGES.mkdir(parents=True, exist_ok=True)
    plots = {}
    for name, case in document["cases"].items():
        plots[name] = f"{name}.svg"
        page.plot(case, raw[name], PAGES / plots[name])
    (PAGES / "ipvs.md").write_text(page.page("IPVS benchmarks", "make bench", document, plots))


def _show(document: dict[str, Any]) -> None:
    table = Table(title="IPVS benchmarks")
    for heading in ("case", "against", "min", "median", "max", "ratio", "target", ""):
        table.add_column(heading)
    for name, case in document["cases"].items():
        spread = [page.number(case[key], case["unit"]) for key in ("min", "median", "max")]
        ratio = "-" if case["ratio"] is None else f"{case['ratio']:.2f}"
        target = "-" if case["target"] is None else f"{case['target']:g}"
        verdict = {True: "[green]met", False: "[red]missed", None: ""}[case["met"]]
        table.add_row(name, case["against"], *spread, ratio, target, verdict)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
