"""The routers: what runs on each, how it is started, and what it says. The rest of the lab asks here and knows no daemon.

The core router always runs FRR. The ToRs, which are what samegate peers with, run what `lab up --routers` says; a lab keeps that until another
is asked for (docs/adr/0019-routers-of-the-lab.md).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from lab import netns, processes, topology
from lab.processes import write_text
from lab.routers import base, bird, frr, gobgp
from lab.routers.base import DIRECTORY, BfdDown, Session, Software
from lab.routers.kernel import pool_routes, routes
from lab.topology import Router

__all__ = ["BfdDown", "Session", "pool_routes", "routes", "sessions", "vtysh"]

DEFAULT = "frr"
SOFTWARE: Mapping[str, Software] = {"frr": frr, "bird": bird, "gobgp": gobgp}
"""By the word that `lab up --routers` takes."""
_CHOICE = "tors"


def chosen() -> str:
    """What this lab's ToRs run."""
    try:
        word = (DIRECTORY / _CHOICE).read_text().strip()
    except FileNotFoundError:
        return DEFAULT
    return word if word in SOFTWARE else DEFAULT


def missing(software: str | None = None) -> str | None:
    """What this machine lacks to run such ToRs (those of the lab when none are named), and the core; None when nothing."""
    return frr.missing() or SOFTWARE[software or chosen()].missing()


def software_of(router: Router, tors: str) -> Software:
    """What a router of a lab with such ToRs runs."""
    return SOFTWARE[tors] if router in topology.TORS else frr


def _of(router: Router) -> Software:
    return software_of(router, chosen())


def daemons(router: Router) -> tuple[processes.Daemon, ...]:
    """A router's programs, in the order they start."""
    return _of(router).daemons(router)


def _outdated(router: Router, bgp_password: str | None) -> dict[Path, str]:
    texts = _of(router).render(router, bgp_password=bgp_password)
    wanted = {base.directory(router) / name: text for name, text in texts.items()}
    return {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}


def trouble(*, bgp_password: str | None = None, software: str | None = None) -> str | None:
    """The first router daemon that is not running as configured, or None. `software`: what the ToRs are to run; None: what they have."""
    if software is not None and software != chosen():
        return f"the ToRs run {chosen()}, not {software}"
    for router in topology.ROUTERS:
        if _outdated(router, bgp_password):
            return f"{router.name} is not configured"
        for daemon in daemons(router):
            if reason := processes.trouble(daemon):
                return f"{daemon.name}: {reason}"
    return None


def start(*, bgp_password: str | None = None, software: str | None = None) -> None:
    """Configure and start all routers. A router of which any daemon is wrong is started whole: they register with each other at start.

    Raises ValueError when a daemon's own parser rejects a configuration.
    """
    if software is not None and software != chosen():
        _change(software)
    for router in topology.ROUTERS:
        for path, text in _outdated(router, bgp_password).items():
            write_text(path, text, mode=0o600)
        if all(processes.trouble(daemon) is None for daemon in daemons(router)):
            continue
        _of(router).check(router)
        _stop(router)
        _of(router).start(router)


def _change(software: str) -> None:
    """End what the ToRs ran, without a trace of it in their kernels, and note what they run from now on."""
    for tor in topology.TORS:
        _stop(tor)
        base.flush_learnt(tor)
        shutil.rmtree(base.directory(tor), ignore_errors=True)
    write_text(DIRECTORY / _CHOICE, f"{software}\n")


def _stop(router: Router) -> None:
    for daemon in reversed(daemons(router)):
        processes.stop(daemon.name, grace_seconds=3)


def remove() -> None:
    """Stop all routers and forget their configuration."""
    for router in topology.ROUTERS:
        _stop(router)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def vtysh(router: str, *commands: str) -> str:
    """What the shell of a router that runs FRR answers (`tor1`, "show bgp summary").

    Raises CommandError when it refuses a command, ValueError when the router runs something else.
    """
    found = topology.router(router)
    if found in topology.TORS and chosen() != DEFAULT:
        raise ValueError(f"{router} has no vtysh: it runs {chosen()}. Ask a lab of `python -m lab up --routers frr`")
    return frr.vtysh(found, *commands)


def sessions(router: str) -> list[Session]:
    """A router's BGP sessions, each with the BFD session beside it.

    Raises CommandError or ValueError when the router does not answer.
    """
    found = topology.router(router)
    return _of(found).sessions(found)


def bfd_downs() -> tuple[BfdDown, ...]:
    """Every BFD session of any router that went down since the lab was made, whether it still exists or not."""
    events: list[BfdDown] = []
    for router in topology.ROUTERS:
        software = _of(router)
        log = software.bfd_log(router)
        if log.is_file():
            events += software.bfd_downs_in(router.name, log.read_text(errors="replace"))
    return tuple(events)


def bfd_down_count() -> int:
    """How often a BFD session of any router went down since the lab was made."""
    return len(bfd_downs())


def sessions_trouble() -> str | None:
    """The first session between core and ToR that is not established, on either side, or has no BFD; or None."""
    for router in topology.ROUTERS:
        links = [link for link in topology.LINKS[:2] if router.namespace in (link.left.namespace, link.right.namespace)]
        try:
            found = {session.peer: (session.bgp, session.bfd) for session in sessions(router.name)}
        except (netns.CommandError, ValueError) as error:
            return f"{router.name} does not answer: {error}"
        for link in links:
            far = link.right if link.left.namespace == router.namespace else link.left
            address = str(far.address.ip) if far.address else ""
            states = found.get(address, (None, None))
            if states != ("Established", "up"):
                return f"{router.name} to {address}: BGP {states[0]}, BFD {states[1]}"
    return None
