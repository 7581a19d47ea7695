"""`python -m lab`: a rack in a box. See each command's --help."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.live import Live

from lab import lock, machines, naming, netns, rack, routers, status, steps, topology
from lab.machines import Machine

ELSEWHERE = {
    "deploy": ("lab.deploy", "run the Pulumi program on the lab's cluster"),
    "preview": ("lab.deploy", "show what deploy would change"),
    "destroy": ("lab.deploy", "take what deploy made away again"),
    "report": ("lab.report", "measure the whole path and every fault"),
    "fault": ("lab.faults", "break one thing by hand"),
    "soak": ("lab.soak", "random faults under load, by a seed"),
    "scorecard": ("lab.scorecard", "minimum, median and maximum over kept reports"),
}
"""Commands whose module parses its own arguments: `main(arguments)`, the command's name first."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description="A rack in a box: routers, machines, a cluster.")
    top.add_argument(
        naming.OPTION,
        metavar="NAME",
        help=f"which lab, when there are several side by side; {naming.VARIABLE} in the environment says it for all commands",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring the rack up, or repair it; does nothing when it is whole")
    up.add_argument("--json", action="store_true", help="one JSON document at the end instead of progress")
    up.add_argument(
        "--bgp-password",
        metavar="KEY",
        help="TCP-MD5 key of the ToRs' sessions with the edge nodes; give it at every `up`, without it they have none",
    )
    up.add_argument(
        "--routers",
        choices=list(routers.SOFTWARE),
        help="what the ToRs run; without it what they have, frr at first. gobgp is GoBGP with FRR's zebra; the core always runs FRR",
    )
    commands.add_parser("down", help="take everything away that `up` made")
    show = commands.add_parser("status", help="machines, programs, sessions, addresses and their next hops")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
    execute = commands.add_parser("exec", help="run a command on a machine, router or client; keeps its exit code")
    execute.add_argument("node", metavar="NODE", help=f"one of {', '.join(places())}")
    execute.add_argument("argv", metavar="CMD", nargs=argparse.REMAINDER, help="the command; a shell without one")
    logs = commands.add_parser("logs", help="a machine's journal, or its console when it is off; a program's log")
    logs.add_argument("node", metavar="NODE", help="a machine, or a program that `status` lists")
    logs.add_argument("--lines", type=int, default=200, metavar="N", help="how many of the last lines (200)")
    logs.add_argument("--console", action="store_true", help="the console log of a machine")
    for name, (_, description) in ELSEWHERE.items():
        commands.add_parser(name, help=description, add_help=False)
    return top


def places() -> list[str]:
    """Where `exec` can go: the machines, and the namespaces by their names without the prefix."""
    return [node.name for node in topology.NODES] + [name.removeprefix(topology.PREFIX) for name in topology.NAMESPACES]


def up(*, as_json: bool, bgp_password: str | None, software: str | None) -> int:
    """Bring the rack up. Returns the exit code: 0, or 1 when a step failed."""
    console = Console(highlight=False, soft_wrap=True)
    outcomes = []
    started = time.monotonic()
    with lock.held(alone=True), console.status("") as spinner:
        for outcome in steps.run(
            rack.steps(bgp_password=bgp_password, software=software),
            begin=lambda name: None if as_json else spinner.update(f"{name} ..."),
        ):
            outcomes.append(outcome)
            if not as_json:
                console.print(_line(outcome))
    total_seconds = time.monotonic() - started
    failed = any(outcome.result == "failed" for outcome in outcomes)
    if as_json:
        document = {"seconds": round(total_seconds, 2), "failed": failed, "steps": [asdict(one) for one in outcomes]}
        print(json.dumps(document, indent=2))
    elif not failed:
        console.print(f"the rack is up: {total_seconds:.1f} s, {sum(o.result == 'done' for o in outcomes)} steps done")
    return 1 if failed else 0


def _line(outcome: steps.Outcome) -> str:
    colour = {"held": "dim", "done": "green", "failed": "red"}[outcome.result]
    reason = f": {outcome.reason}" if outcome.result == "failed" else ""
    # Brackets in an error text are not markup.
    text = f"{outcome.seconds:7.1f} s  {outcome.result:6}  {outcome.name}{reason}".replace("[", "\\[")
    return f"[{colour}]{text}[/{colour}]"


def down() -> int:
    """Take the rack away. Returns 0, or 1 when something stays, which is then named."""
    started = time.monotonic()
    with lock.held(alone=True):
        left = rack.down()
    for item in left:
        print(f"left behind: {item}", file=sys.stderr)
    print(f"the rack is gone: {time.monotonic() - started:.1f} s")
    return 1 if left else 0


def show_status(*, as_json: bool, watch: bool) -> int:
    """Print the status; with `watch` until interrupted. Returns 0 when the lab is whole, else 1."""
    if as_json:
        found = status.collect()
        print(found.to_json())
        return 0 if found.whole else 1
    console = Console()
    found = status.collect()
    if not watch:
        console.print(status.render(found))
        return 0 if found.whole else 1
    with Live(status.render(found), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                time.sleep(2)
                found = status.collect()
                live.update(status.render(found), refresh=True)
        except KeyboardInterrupt:
            return 0 if found.whole else 1


def execute(place: str, argv: Sequence[str]) -> int:
    """Run a command there with this terminal. Returns its exit code.

    Raises ValueError for a place that does not exist.
    """
    words = list(argv[1:] if argv[:1] == ["--"] else argv)
    if place not in places():
        raise ValueError(f"{place!r} is not in the lab; there are {', '.join(places())}")
    # One word is a line for the shell, as ssh takes it; more are a command and its arguments.
    line = shlex.join(words) if len(words) > 1 else "".join(words)
    if place in {node.name for node in topology.NODES}:
        tty = ["-t"] if sys.stdin.isatty() and not line else []
        command = Machine(place).ssh(line or "exec bash -l", *tty)
        return subprocess.run(netns.enter(topology.CONTROL, command), check=False).returncode
    return subprocess.run(
        netns.enter(f"{topology.PREFIX}{place}", ["sh", "-c", line or "exec bash"]), check=False
    ).returncode


def logs(name: str, *, lines: int, console: bool) -> int:
    """Print the end of a machine's journal or console, or of a program's log. Returns the exit code."""
    log = topology.STATE / "logs" / f"{name}.log"
    if name in {node.name for node in topology.NODES}:
        machine = Machine(name)
        if not console and machine.pid() is not None and machine.reachable():
            return execute(name, ["journalctl", "--no-pager", "--lines", str(lines)])
        log = machine.console
    if not log.is_file():
        known = ", ".join(sorted(path.stem for path in log.parent.glob("*.log")))
        raise ValueError(f"{name!r} has no log; there are {known or 'none: the lab is down'}")
    print("\n".join(log.read_text(errors="replace").splitlines()[-lines:]))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    try:
        name, given = naming.split(sys.argv[1:] if arguments is None else arguments)
        naming.names(name or "", topology.ROOT)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if name is not None and name != topology.NAME:
        # A lab's names are constants from its first import on: the command starts anew under the other name.
        environment = {**os.environ, naming.VARIABLE: name}
        os.execve(sys.executable, [sys.executable, "-m", "lab", *given], environment)  # noqa: S606 - no shell is meant
    if given and given[0] in ELSEWHERE:
        code: int = importlib.import_module(ELSEWHERE[given[0]][0]).main(given)
        return code
    options = parser().parse_args(given)
    try:
        match options.command:
            case "up":
                return up(as_json=options.json, bgp_password=options.bgp_password, software=options.routers)
            case "down":
                return down()
            case "status":
                return show_status(as_json=options.json, watch=options.watch)
            case "exec":
                return execute(options.node, options.argv)
            case _:
                return logs(options.node, lines=options.lines, console=options.console)
    except lock.Busy as error:
        raise SystemExit(str(error)) from None
    except (netns.CommandError, machines.MachineError, ValueError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
