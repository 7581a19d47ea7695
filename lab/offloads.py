"""Packets as they come from a wire, for edge machines that meet them in XDP.

The host leaves segmentation and checksums of what goes into a tap to the machine that reads it: one packet of up to 64 KiB, which no wire carries,
and which the XDP program answers as too big. A machine's network driver asks for that at each boot (TUNSETOFFLOAD of the kernel's tun.c), so what
is declared here is brought about again after each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from pyroute2 import Ethtool

from lab import netns, topology
from lab.processes import write_text
from lab.topology import Node

DECLARED = topology.STATE / "wire-packets.json"
"""The nodes that get such packets."""
FLAGS = ("tx-checksumming", "tcp-segmentation-offload", "generic-segmentation-offload")
"""By ethtool(8)'s names, in the order in which they can be switched on: the kernel lets none segment that computes no checksums."""


def declared() -> tuple[str, ...]:
    """The names of the nodes that are to get packets as from a wire."""
    return tuple(json.loads(DECLARED.read_text())) if DECLARED.is_file() else ()


def declare(nodes: Iterable[Node]) -> None:
    """These nodes get packets as from a wire from now on, and after each boot; all others as they ask for themselves."""
    wanted, before = {node.name: node for node in nodes}, declared()
    if wanted or before:
        write_text(DECLARED, json.dumps(sorted(wanted)))
    keep(*wanted.values())
    if released := [topology.node(name).tap for name in before if name not in wanted]:
        _ask("on", released)


def keep(*nodes: Node) -> None:
    """Bring about what is declared of these nodes."""
    if taps := [node.tap for node in nodes if node.name in declared()]:
        _ask("off", taps)


def trouble() -> str | None:
    """The first tap that is not as declared, or None."""
    names = declared()
    return trouble_of(_ask("show", [topology.node(name).tap for name in names])) if names else None


def trouble_of(taps: Mapping[str, Mapping[str, bool]]) -> str | None:
    """The first of these taps, by its offloads, that hands over what no wire carries."""
    for tap, flags in taps.items():
        if left := [name for name in FLAGS if flags[name]]:
            return f"{tap} leaves to the machine what XDP needs done: {', '.join(left)}"
    return None


def _ask(verb: str, taps: Sequence[str]) -> dict[str, dict[str, bool]]:
    # A socket belongs to the namespace in which it was made, so another process speaks there.
    done = netns.run(topology.RACK, [sys.executable, "-m", "lab.offloads", verb, *taps], cwd=topology.ROOT)
    found: dict[str, dict[str, bool]] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> int:
    """`show | on | off TAP...` in the present namespace; prints how they are then, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m lab.offloads")
    parser.add_argument("verb", choices=["show", "on", "off"])
    parser.add_argument("taps", nargs="+", metavar="TAP")
    options = parser.parse_args(arguments)
    shown = {}
    with Ethtool() as ethtool:
        for tap in options.taps:
            if options.verb != "show":
                for name in FLAGS:
                    ethtool.set_offload_flag(tap, name, options.verb == "on")
            flags = ethtool.get_offload_flags(tap)
            shown[tap] = {name: bool(flags[name]) for name in FLAGS}
    print(json.dumps(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
