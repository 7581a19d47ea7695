"""python -m tools ensure [NAMES] [--json] | status [--json] | lock [--check] [--upgrade] | audit [--service S] | pin

Starts on the system's bare Python 3.11; goes on in the checkout's environment once that exists.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter

from tools import audit, ensure, python_environment
from tools.cache import Cache, location
from tools.debian import PackageError
from tools.golang import BuildError
from tools.pins import PinError, Pins, load
from tools.progress import for_terminal
from tools.pulumi_engine import PluginError
from tools.python_environment import PythonEnvironmentError
from tools.ways import Network, NotThisWay, ToolError

STATUS_MISSING = 3
STATUS_BY_VERDICT = {"clean": 0, "vulnerable": 1, "unknown": 3}


def _ensure(pins: Pins, cache: Cache, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    progress = for_terminal()
    changed = ensure.base(pins, cache, progress)
    tools = ensure.chosen(pins, arguments.names)
    ours = ensure.ROOT / ".venv" / "bin" / "python"
    if sys.prefix != str(ensure.ROOT / ".venv") and (changed or ensure.lacking(pins, cache, tools)):
        # What is long to come is shown live by rich, which only our own environment has.
        os.execv(ours, [str(ours), "-m", "tools", *sys.argv[1:]])  # noqa: S606 - our own environment's Python
    report = ensure.fetch(pins, cache, progress, tools)
    if arguments.json:
        print(json.dumps(report.as_json(), indent=1))
    elif report.changed or changed:
        ways = Counter(record.way for record in report.tools)
        print("Everything is there: " + ", ".join(f"{count} {way}" for way, count in ways.items()) + ".")
    else:
        print(f"Everything is there: nothing to do ({time.monotonic() - started:.2f} s).")
    return 0


def _status(pins: Pins, cache: Cache, arguments: argparse.Namespace) -> int:
    rows = []
    for tool in pins.tools.values():
        record = cache.in_use(tool.name, tool.version, tool.digest)
        rows.append({"tool": tool.name, "version": tool.version, "way": record.way if record else None})
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{row['tool']:28} {row['version']:10} {row['way'] or 'missing'}")
    return 0 if all(row["way"] for row in rows) else STATUS_MISSING


def _lock(pins: Pins, cache: Cache, arguments: argparse.Namespace) -> int:
    program = python_environment.uv(pins, cache, for_terminal())
    if not arguments.check:
        python_environment.compile_locks(ensure.ROOT, program, ensure.ROOT, upgrade=arguments.upgrade)
        return 0
    stale = python_environment.stale_locks(ensure.ROOT, program)
    for name in stale:
        print(f"{name} does not follow from pyproject.toml: run `python -m tools lock` and commit it", file=sys.stderr)
    return 1 if stale else 0


def _audit(pins: Pins, cache: Cache, arguments: argparse.Namespace) -> int:
    environment = python_environment.audit_environment(ensure.ROOT, pins, cache, for_terminal())
    verdicts = set()
    for name in python_environment.LOCKS:
        answer = audit.ask(environment, ensure.ROOT / name, arguments.service)
        verdicts.add(answer.verdict)
        print("\n".join(audit.lines(name, answer)))
    worst = next(each for each in ("vulnerable", "unknown", "clean") if each in verdicts)
    if worst == "unknown":
        print(
            f"the service {arguments.service!r} could not be asked about everything: run this where its site is reached, or try "
            f"--service {' or '.join(each for each in audit.SERVICES if each != arguments.service)}",
            file=sys.stderr,
        )
    return STATUS_BY_VERDICT[worst]


def _pin(pins: Pins, cache: Cache, _arguments: argparse.Namespace) -> int:
    network, failed = Network(), 0
    cache.prepare()
    for tool in pins.tools.values():
        try:
            with cache.new_file(cache.bin / "published" / tool.name) as target:
                network.download(tool.release.published_checksum, target, lambda _: None)
                print(f"# {tool.label}: {tool.release.published_checksum}\n{target.read_text().strip()}")
        except NotThisWay as reason:
            failed += 1
            print(f"# {tool.label}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools", description="The tools that samegate runs, as pinned in tools/pins.toml."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    get = commands.add_parser("ensure", help="have everything: Debian packages, Python environment, tools")
    get.add_argument("names", nargs="*", help="only these tools")
    get.add_argument("--json", action="store_true")
    get.set_defaults(run=_ensure)
    status = commands.add_parser("status", help="which tools are there, and how each was had")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    lock = commands.add_parser("lock", help="write the three locks of Python packages from pyproject.toml")
    lock.add_argument("--check", action="store_true", help="only tell whether they are up to date")
    lock.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    lock.set_defaults(run=_lock)
    audited = commands.add_parser("audit", help="ask about weaknesses of the locked Python packages (needs its site)")
    audited.add_argument("--service", choices=audit.SERVICES, default=audit.SERVICES[0])
    audited.set_defaults(run=_audit)
    commands.add_parser("pin", help="print the checksums that the vendors publish, to review").set_defaults(run=_pin)
    arguments = parser.parse_args()
    try:
        return int(arguments.run(load(), Cache(location()), arguments))
    except (ToolError, PackageError, PythonEnvironmentError, PluginError, PinError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
