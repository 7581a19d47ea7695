"""What the lab asks of a router, whatever daemon it runs; one module per daemon beside this one answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Protocol

from lab import netns, processes, topology
from lab.processes import Daemon
from lab.topology import Router

DIRECTORY = topology.STATE / "routers"

BFD_INTERVAL_MS = 300
BFD_MULTIPLIER = 3
"""3 x 300 ms: 3 x 100 gave false downs on busy virtual machines, 3 x 300 none."""
KEEPALIVE_SECONDS = 3
HOLD_SECONDS = 9
MAXIMUM_PATHS = 8
NICE = -15
"""Routers keep time while tests load the machine."""


@dataclass(frozen=True)
class Session:
    """One BGP session as a router sees it, with the BFD session beside it.

    `bgp` is `Established` and `bfd` is `up` when they are, with every daemon; otherwise the daemon's own word, and `-` for no BFD session.
    `prefixes` are those the router took in, of both families where it counts both.
    """

    router: str
    peer: str
    asn: int
    bgp: str
    bfd: str
    prefixes: int


@dataclass(frozen=True)
class BfdDown:
    """A BFD session that went from up to down. `reason` is `control-expired` when nothing was heard, as FRR calls it."""

    router: str
    when: str
    peer: str
    reason: str


class Software(Protocol):
    """A router's software. Every function takes the router it is for; a module is one."""

    def missing(self) -> str | None:
        """What this machine lacks to run it, with the way out; None when nothing."""

    def render(self, router: Router, *, bgp_password: str | None = None) -> dict[str, str]:
        """The router's configuration, one text per file name; `bgp_password` is the TCP-MD5 key of its sessions with the edge nodes.

        Raises ValueError for a key that the configuration's language cannot hold.
        """

    def daemons(self, router: Router) -> tuple[Daemon, ...]:
        """Its programs, in the order they start."""

    def check(self, router: Router) -> None:
        """Let the daemons' own parsers read the configuration that is written. Raises ValueError with what they reject."""

    def start(self, router: Router) -> None:
        """Start all its programs, of which none runs. Raises TimeoutError when one does not come up."""

    def sessions(self, router: Router) -> list[Session]:
        """Its BGP sessions by peer. Raises CommandError or ValueError when it does not answer."""

    def bfd_log(self, router: Router) -> Path:
        """The log that tells of its BFD sessions."""

    def bfd_downs_in(self, router: str, log: str) -> tuple[BfdDown, ...]:
        """The sessions that went down, by that log; one that never came up is not among them."""


def directory(router: Router) -> Path:
    """The router's own folder: configuration and sockets."""
    return DIRECTORY / router.name


@dataclass(frozen=True)
class Uplink:
    """A ToR's cable to the core: its own addresses and the core's, IPv4 and IPv6."""

    own: IPv4Interface
    own6: IPv6Interface
    core: IPv4Interface


def uplink(router: Router) -> Uplink:
    """The cable of a ToR to the core.

    Raises ValueError for a router that has none.
    """
    for link, tor in zip(topology.LINKS[:2], topology.TORS, strict=True):
        own, own6, core = link.right.address, link.right.address6, link.left.address
        if tor.name == router.name and own is not None and own6 is not None and core is not None:
            return Uplink(own, own6, core)
    raise ValueError(f"{router.name} has no cable to the core: only ToRs have")


def wait(what: str, holds: Callable[[], bool], *, timeout_seconds: float = 20.0) -> None:
    """Wait until something holds. Raises TimeoutError naming it, and where the logs are."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s; its log is in {processes.LOGS}")
        time.sleep(0.02)


def flush_learnt(router: Router) -> None:
    """Take every route out of the kernel that a routing daemon put there, whichever it was."""
    for family in ("-4", "-6"):
        for protocol in _DAEMONS_PROTOCOLS:
            netns.run(router.namespace, ["ip", family, "route", "flush", "proto", str(protocol)], check=False)


_DAEMONS_PROTOCOLS = (11, 12, 186)
"""zebra, bird and bgp (linux/rtnetlink.h, RTPROT_*)."""
