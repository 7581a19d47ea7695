"""Several labs side by side: what a lab is called, and every name on the host that follows from it.

Devices, addresses and ports lie in a lab's own network namespaces, sockets and files in its state folder. So two labs whose namespaces and folders
differ share nothing on the host; what all labs share (images, programs, the base disk in the tool cache) is only read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SAMEGATE_LAB"
OPTION = "--name"
LONGEST_NAME = 8
LONGEST_STATE_PATH = 65
"""Of a lab's state folder: sockets below it must fit the 108 bytes of sun_path (unix(7)), and the longest path below it has 40."""
_PREFIX = "sg-"
_NAME = re.compile(rf"[a-z][a-z0-9]{{0,{LONGEST_NAME - 1}}}")
# No hyphen: `sg-a-` is then the beginning of no other lab's namespaces.
PLACES = ("core", "tor1", "tor2", "rack", "control", "client")


@dataclass(frozen=True)
class Names:
    """What one lab is called on the host."""

    name: str
    """Empty: the lab without a name, which is the only one most people have."""
    prefix: str
    """Of its namespaces in /run/netns."""
    state: Path
    """Everything that a run of it makes: files, sockets, records of processes."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Its namespaces, in the order of `PLACES`."""
        return tuple(f"{self.prefix}{place}" for place in PLACES)


def names(name: str, checkout: Path) -> Names:
    """The names of the lab `name` of a checkout; of the one without a name when it is empty.

    Raises ValueError for a name that could collide with another lab's, or that makes paths too long.
    """
    if not name:
        return Names("", _PREFIX, checkout / ".lab")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"lab name {name!r}: it must be a lower-case letter and up to {LONGEST_NAME - 1} lower-case letters or digits, for it becomes "
            f"part of namespaces (`{_PREFIX}NAME-core`) and of sockets' paths. Choose one like `b` or `bird`, or leave {OPTION} and {VARIABLE} out"
        )
    return Names(name, f"{_PREFIX}{name}-", checkout / f".lab-{name}")


def too_long(state: Path) -> str | None:
    """Why the state folder's path cannot be used, or None."""
    if len(str(state)) <= LONGEST_STATE_PATH:
        return None
    return (
        f"the lab's folder {state} has a path of {len(str(state))} characters, and the sockets below it allow {LONGEST_STATE_PATH} "
        f"(unix(7)): move the checkout, or choose a shorter name for the lab"
    )


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name that a command line begins with (`--name b up`), None when it names no lab, and the rest.

    Raises ValueError when `--name` has no value.
    """
    given = list(arguments)
    if given and given[0].startswith(f"{OPTION}="):
        return given[0].partition("=")[2], given[1:]
    if not given or given[0] != OPTION:
        return None, given
    if len(given) == 1:
        raise ValueError(f"{OPTION} wants the name of a lab, before the command: python -m lab {OPTION} b up")
    return given[1], given[2:]
