"""Network namespaces: what runs in them, and which there are.

Commands enter with nsenter(1), network only: unlike `ip netns exec` it makes no mount namespace, so a daemon
started this way keeps no stale mounts alive and starts in a millisecond.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

DIRECTORY = Path("/run/netns")
"""Where ip-netns(8) keeps the names."""


class CommandError(RuntimeError):
    """A command ended with an error; the message holds the command, its exit code and what it said."""

    def __init__(self, argv: Sequence[str], returncode: int, said: str) -> None:
        self.returncode = returncode
        self.said = said
        super().__init__(f"`{' '.join(argv)}` ended with code {returncode}: {said.strip()[-2000:] or 'no output'}")


def enter(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in the namespace (None: where we are)."""
    if namespace is None:
        return list(argv)
    return ["nsenter", f"--net={DIRECTORY / namespace}", "--", *argv]


def run(
    namespace: str | None,
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002 - the name subprocess.run uses
    check: bool = True,
    timeout_seconds: float = 60.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in the namespace, text in and out.

    Raises CommandError when `check` and the exit code is not 0, subprocess.TimeoutExpired when it takes longer.
    """
    completed = subprocess.run(
        enter(namespace, argv),
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        env=environment,
        cwd=cwd,
        check=False,
    )
    if check and completed.returncode != 0:
        raise CommandError(argv, completed.returncode, completed.stderr or completed.stdout)
    return completed


def popen(
    namespace: str | None,
    argv: Sequence[str],
    *,
    stdin: int | IO[str] | None = subprocess.DEVNULL,
    stdout: int | IO[str] | None = subprocess.PIPE,
    stderr: int | IO[str] | None = subprocess.PIPE,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a command in the namespace, in a session of its own; the caller ends it."""
    return subprocess.Popen(
        enter(namespace, argv),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        env=environment,
        start_new_session=True,
    )


def existing() -> frozenset[str]:
    """The names of the namespaces there are."""
    if not DIRECTORY.is_dir():
        return frozenset()
    return frozenset(entry.name for entry in DIRECTORY.iterdir())


def usable(namespace: str) -> bool:
    """Whether the name leads to a namespace (a name left by a crashed `ip netns add` is a plain file)."""
    return namespace in existing() and run(namespace, ["true"], check=False).returncode == 0


def create(namespace: str) -> None:
    """Make the namespace anew, with its loopback up."""
    if namespace in existing():
        run(None, ["ip", "netns", "delete", namespace], check=False)
        (DIRECTORY / namespace).unlink(missing_ok=True)
    run(None, ["ip", "netns", "add", namespace])
    run(namespace, ["ip", "link", "set", "lo", "up"])


def delete(namespace: str) -> None:
    """Remove the namespace with every device in it, if it exists."""
    if namespace in existing():
        run(None, ["ip", "netns", "delete", namespace], check=False)
        (DIRECTORY / namespace).unlink(missing_ok=True)
