"""The agent's command: ``run`` a role, ``check`` or ``plan`` a file offline, print the ``schema``, ``clean`` this node, ``capture`` packets.

Exit codes: 0 done; 1 the input was read and has findings, or nothing was captured; 2 the command was called wrongly or the settings are wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from lbnode.errors import ConfigError

SETTINGS_PATH = Path("/etc/samegate/settings.json")


#: Bounds of ``capture``: what its ring and who waits for it can bear.
MOST_PACKETS, MOST_SECONDS = 100_000, 600


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} to {most}")
        return int(text)

    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="lbnode", description=__doc__.split("\n", 1)[0])
    commands = top.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="run one role until SIGTERM")
    run.add_argument("role", choices=["edge", "worker", "controller"])
    check = commands.add_parser("check", help="check settings and Services in a file, offline")
    plan = commands.add_parser(
        "plan", help="show what would be programmed and announced for a file, and why not, offline"
    )
    for command in (check, plan):
        command.add_argument(
            "file",
            type=Path,
            help="Services, EndpointSlices and Nodes as YAML or JSON, or a standalone file; - for standard input",
        )
        command.add_argument(
            "--settings", type=Path, default=None, metavar="FILE", help="the agent's settings (JSON or YAML)"
        )
        command.add_argument("--json", action="store_true", help="for machines")
    plan.add_argument("--node", default=None, help="the edge node to plan for (default: every edge node in the file)")

    clean = commands.add_parser("clean", help="remove samegate's own kernel state from this node, and nothing else")
    clean.add_argument("role", choices=["edge", "worker"])
    for command in (run, clean):
        source = command.add_mutually_exclusive_group()
        source.add_argument(
            "--settings",
            type=Path,
            default=None,
            metavar="FILE",
            help=f"as mounted in the pod (default: {SETTINGS_PATH})",
        )
        source.add_argument(
            "--standalone",
            type=Path,
            default=None,
            metavar="FILE",
            help="settings and services from a file, without Kubernetes",
        )
        command.add_argument(
            "--node",
            default=None,
            help="this node's name in the standalone file or in outsideEdges (default: NODE_NAME, or the host name)",
        )
    run.add_argument(
        "--kubeconfig",
        type=Path,
        default=None,
        metavar="FILE",
        help="edge only: on a machine outside the cluster, with the settings of --settings or else of the cluster's ConfigMap",
    )

    capture = commands.add_parser(
        "capture", help="write packets that this edge node's XDP program takes as pcapng, which tcpdump does not see"
    )
    capture.add_argument(
        "--vip", type=ip_address, required=True, metavar="ADDRESS", help="the address that they came for"
    )
    capture.add_argument("--port", type=_whole(1, 65_535), default=None, help="one port of it (default: all)")
    capture.add_argument(
        "--count",
        type=_whole(1, MOST_PACKETS),
        default=100,
        metavar="N",
        help="end after so many packets (default: 100)",
    )
    capture.add_argument(
        "--seconds", type=_whole(1, MOST_SECONDS), default=30, metavar="N", help="end after this time (default: 30)"
    )
    capture.add_argument(
        "--one-in", type=_whole(1, 1_000_000), default=1, metavar="N", help="take one of so many packets, by chance"
    )
    capture.add_argument("--output", type=Path, default=None, metavar="FILE", help="default: standard output")

    schema = commands.add_parser("schema", help="print the JSON Schema of the settings")
    schema.add_argument("--standalone", action="store_true", help="of the standalone file instead")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except ConfigError as error:
        print(f"lbnode: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    # Imports stand here because each command needs its own few, and starting takes seconds on a slow edge machine.
    if options.command == "schema":
        from lbnode import settings, standalone

        print(json.dumps((standalone if options.standalone else settings).json_schema(), indent=2))
        return 0
    if options.command in ("check", "plan"):
        from lbnode import plan

        if options.command == "check":
            text, code = plan.check_file(options.file, options.settings, as_json=options.json)
        else:
            text, code = plan.plan_file(options.file, options.settings, node=options.node, as_json=options.json)
        print(text)
        return code
    if options.command == "capture":
        from lbnode.roles import capture

        return capture.capture(
            options.vip, options.port, options.count, options.seconds, options.one_in, options.output
        )
    from lbnode.roles import start

    kubeconfig = options.kubeconfig if options.command == "run" else None
    if kubeconfig is not None and (options.standalone is not None or options.role != "edge"):
        raise ConfigError(
            f"run {options.role} --kubeconfig",
            "is for edge nodes outside a cluster",
            "Run edge without --standalone, or leave --kubeconfig out",
        )
    if options.standalone is not None:
        if options.role == "controller":
            raise ConfigError(
                "run controller --standalone",
                "a controller serves Kubernetes alone",
                "Run edge or worker, or leave --standalone out",
            )
        act = start.clean_standalone if options.command == "clean" else start.run_standalone
        return act(options.role, options.standalone, options.node)
    if kubeconfig is not None:
        return start.run_outside(kubeconfig, options.node, options.settings)
    if options.node is not None:
        raise ConfigError(
            f"--node {options.node}", "goes with --standalone or --kubeconfig only", "In Kubernetes set NODE_NAME"
        )
    settings_path = options.settings or SETTINGS_PATH
    if options.command == "clean":
        return start.clean(options.role, settings_path)
    return start.run(options.role, settings_path)


if __name__ == "__main__":
    sys.exit(main())
