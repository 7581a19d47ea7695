"""A simulated cloud: what exists, in a file that tests read, and the rules that a real one would enforce.

The file is one JSON object: ``heading`` (says SIMULATED), ``objects`` by identifier, ``faults`` to inject, ``log`` of calls.
Every provider process works on the same file under a lock, so that AWS and Kubernetes stand-ins of one run agree.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulumi.runtime.rpc import UNKNOWN

_WORDS = ("name", "description", "tags", "tagsAll", "labels")
"""Inputs that name nothing else: a cluster and the `Name` of a gateway may both be "samegate"."""
HEADING = "SIMULATED: nothing here exists in any cloud"
ATTEMPTS = 3
"""How often a stand-in asks again when throttled or when what was just made is not visible yet, as the real providers do."""


class Refused(Exception):
    """The simulated cloud refuses a request: ``code`` is the fabric's own word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass
class Object:
    """One thing that exists. ``inputs`` is what was asked for, ``outputs`` what the cloud added."""

    identifier: str
    token: str
    name: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> dict[str, Any]:
        """What the cloud shows: it adds fields to nested objects that were asked for without them."""
        return {**self.inputs, **self.outputs}


@dataclass
class World:
    """All that exists, with the faults still to come and the log of calls."""

    objects: dict[str, Object] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    made: int = 0

    def of(self, token: str) -> list[Object]:
        return [o for o in self.objects.values() if o.token == token]

    def number(self) -> int:
        """A number that no object had before."""
        self.made += 1
        return self.made

    def get(self, identifier: Any, *tokens: str, code: str = "NotFound") -> Object:
        """The object with this identifier; refused unless it exists and is of one of the types."""
        found = self.objects.get(str(identifier))
        if found is None:
            raise Refused(code, f"{identifier!r} does not exist")
        if tokens and found.token not in tokens:
            raise Refused(code, f"{identifier!r} is a {found.token}, where {' or '.join(tokens)} is expected")
        return found

    def users(self, identifier: str) -> list[str]:
        """The names of those whose inputs mention the identifier, where they do not only happen to be called the same."""
        return sorted(
            o.name
            for o in self.objects.values()
            if o.identifier != identifier
            and _mentions({k: v for k, v in o.inputs.items() if k not in _WORDS}, identifier)
        )


def _mentions(value: Any, identifier: str) -> bool:
    if isinstance(value, Mapping):
        return any(_mentions(v, identifier) for v in value.values())
    if isinstance(value, list):
        return any(_mentions(v, identifier) for v in value)
    return bool(value == identifier)


@contextmanager
def opened(path: Path) -> Iterator[World]:
    """The world in the file; what the block changed is written back, also when it is refused (a log entry, a used-up fault)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world = read(path)
        try:
            yield world
        finally:
            partial = path.with_suffix(".partial")
            document = {
                "heading": HEADING,
                "objects": {
                    i: {k: v for k, v in vars(o).items() if k != "identifier"} for i, o in world.objects.items()
                },
                "faults": world.faults,
                "log": world.log,
                "made": world.made,
            }
            partial.write_text(json.dumps(document, indent=1) + "\n")
            partial.rename(path)


def read(path: Path) -> World:
    """The world in the file; an empty one if there is none."""
    if not path.exists():
        return World()
    raw = json.loads(path.read_text())
    return World(
        {i: Object(identifier=i, **o) for i, o in raw["objects"].items()}, raw["faults"], raw["log"], raw["made"]
    )


def inject(path: Path, token: str, operation: str, code: str, times: int = 1, name: str = "") -> None:
    """Let the next ``times`` calls of ``operation`` (create, update, delete) on the type (and, if given, resource name) fail.

    The code ``Throttled`` and ``NotVisibleYet`` are asked again by the stand-in, up to ``ATTEMPTS`` times. ``CreatedButFailed`` fails after the
    object was made. ``Hang`` and ``Lost`` never answer, for a test that kills the engine: the one does what was asked, the other does nothing.
    """
    with opened(path) as world:
        world.faults.append({"token": token, "operation": operation, "code": code, "times": times, "name": name})


def due(world: World, token: str, operation: str, name: str) -> str | None:
    """The code of a fault that is due now, which is used up by asking."""
    for fault in world.faults:
        if (
            fault["token"] == token
            and fault["operation"] == operation
            and fault["name"] in ("", name)
            and fault["times"]
        ):
            fault["times"] -= 1
            return str(fault["code"])
    return None


def sealed(value: Any) -> Any:
    """A digest in place of every text of a secret value: enough to see a change, nothing to read."""
    if isinstance(value, Mapping):
        return {k: sealed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [sealed(v) for v in value]
    return "sha256:" + hashlib.sha256(str(value).encode()).hexdigest()


def known(value: Any) -> bool:
    """Whether the value holds nothing that only ``up`` will know."""
    if isinstance(value, Mapping):
        return all(known(v) for v in value.values())
    if isinstance(value, list):
        return all(known(v) for v in value)
    return bool(value != UNKNOWN)
