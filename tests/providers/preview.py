"""`make preview STACK=aws`: what a cloud's stack would create, without an account.

The real engine and the real program, with stand-in providers in a throw-away folder. Everything it prints of the cloud is headed SIMULATED.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.aws.cost import estimate
from components.aws.settings import Aws
from components.edge_node import EdgeNode
from components.fabrics import of
from components.settings import PREFIX, StackSettings, parse
from lbnode.errors import ConfigError
from tests.providers.run import ROOT, Stack
from tests.providers.standin.cloud import HEADING
from tools import ToolMissing


def configuration(name: str) -> dict[str, Any]:
    """The `config` of `stacks/Pulumi.<name>.yaml`.

    Raises:
        ConfigError: there is no such file.
    """
    path = ROOT / "stacks" / f"Pulumi.{name}.yaml"
    if not path.exists():
        known = sorted(p.name.split(".")[1] for p in path.parent.glob("Pulumi.*.yaml"))
        raise ConfigError(f"STACK={name}", "no such stack file below stacks/", f"Use one of {', '.join(known)}")
    read: dict[str, Any] = yaml.safe_load(path.read_text())["config"]
    return read


def settings_of(config: Mapping[str, Any]) -> StackSettings:
    """The settings of a stack file, with every key that it names taken for set."""
    raw = {key.removeprefix(f"{PREFIX}:"): value for key, value in config.items()}
    secrets = {name: raw.pop(name, None) for name in ("bgpKeys", "kubeconfig")}
    return parse(raw, bgp_keys=secrets["bgpKeys"] or ())


def report(settings: StackSettings) -> str:
    """Router facts, cost and what this fabric cannot have in common with the others."""
    platform = settings.platform
    if platform.kind == "onprem":
        return ""
    lines = ["", HEADING, f"Sessions of {platform.kind} with fabric {platform.fabric}:"]
    for node in _edge_nodes(platform):
        lines += [
            f"  {node.name}: {p.name} {p.address} AS{p.asn}, hold time {p.hold_time_seconds} s" for p in node.peers
        ]
        lines += [
            f"  {node.name}: {k.kind} to {k.router_address}, {', '.join(map(str, k.addresses))}" for k in node.links
        ]
    if isinstance(platform, Aws):
        if platform.fabric == "route-server":
            lines.append("  (AWS chooses the endpoints' addresses during `up`; those of 192.0.2.0/24 stand for them)")
        cost = estimate(platform)
        lines.append(
            f"The fabric costs about ${cost.dollars_per_month:,.0f} a month, and ${cost.dollars_per_gib} a GiB ({cost.prices_of}):"
        )
        lines += [f"  {dollars:>10,.2f}  {what}" for what, dollars in cost.lines.items()]
    else:
        lines.append(
            "The fabric's cost is not estimated on gcp: see the price pages of Cloud Router, NCC and Compute Engine."
        )
    lines.append("What this fabric cannot have in common with the others (docs/fabrics.md):")
    lines += [f"  {what}: {value}" for what, value in of(f"{platform.kind}-{platform.fabric}")]
    return "\n".join(lines)


def _edge_nodes(platform: Any) -> tuple[EdgeNode, ...]:
    from components.aws import plan as aws
    from components.gcp import plan as gcp

    return aws.edge_nodes(platform) if isinstance(platform, Aws) else gcp.edge_nodes(platform)


def main(arguments: list[str]) -> int:
    """Preview the named stack; 0 when the engine is content."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        config = configuration(arguments[0])
        settings = settings_of(config)
        if settings.platform.kind == "onprem":
            raise ConfigError(
                f"STACK={arguments[0]}", "simulated providers are for aws and gcp", "Use: pulumi preview -s NAME"
            )
        with tempfile.TemporaryDirectory(prefix="samegate-preview-") as scratch:
            stack = Stack(Path(scratch, "stack"), ROOT).prepare()
            stack.configure(config)
            done = stack.preview()
    except (ConfigError, ToolMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(done.said)
    print(report(settings))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
