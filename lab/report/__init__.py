"""The proof: every promise of samegate measured on the rack, each with its raw samples and, where one is possible, a negative control."""

from __future__ import annotations

import argparse
import json
import sys
import time


def main(arguments: list[str]) -> int:
    """`report [--json] [--only KEY...]`, the command's name first: 0 when everything that was measured holds."""
    from lab.report import catalogue, table

    parser = argparse.ArgumentParser(
        prog="python -m lab report", description="measure every promise on the running lab"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: values under their keys, judgements under `verdicts`"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KEY", help="measure only these keys (`flows` stands for all flows.*)"
    )
    parser.add_argument("--list", action="store_true", help="list the keys and what must hold")
    options = parser.parse_args(arguments[1:])
    if options.list:
        for entry in catalogue.CATALOGUE:
            print(f"{entry.key:32} {entry.must:40} {entry.what}")
        return 0
    try:
        keys = catalogue.select(options.only)
    except ValueError as error:
        parser.error(str(error))

    from lab import topology
    from lab.report import run
    from lab.report.bench import NotReached

    began = time.monotonic()
    log = sys.stderr if options.json else sys.stdout
    plain = options.json or not sys.stdout.isatty()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    try:
        findings = run.run(
            keys, lambda finding: print(table.line(finding), file=log, flush=True) if plain else None, say
        )
    except NotReached as error:
        print(
            f"error: nothing was measured: {error}. See `python -m lab status`; `python -m lab deploy` puts samegate there",
            file=sys.stderr,
        )
        return 2
    if options.json:
        print(json.dumps(run.as_json(findings), indent=1))
    elif not plain:
        table.print_table(findings)
    missed = [finding.key for finding in findings if not finding.met]
    say(
        f"{len(findings) - len(missed)} of {len(findings)} hold; raw samples in {run.SAMPLES.relative_to(topology.ROOT)}"
        + (f"; missed: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed else 0
