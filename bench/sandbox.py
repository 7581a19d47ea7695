"""Where a case runs: in mount, process and network namespaces of its own, with a memory file system for its files.

Whatever ends the case, be it its own end, Ctrl-C, a crash or SIGKILL, ends the first process in there, and the kernel then takes away every
process, network device, mount and file of the case: nothing has to be cleaned up by anybody. What SIGKILL to the outside may leave is the empty
directory that the file system was mounted on. The names of network namespaces are private too,
so a lab that runs on the same machine is neither seen nor touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import netns

PREFIX = "sgb-"
"""Of everything that has a name: network namespaces, the directory that the case's files are mounted on."""
_ROOT = Path(__file__).resolve().parent.parent


class SandboxError(RuntimeError):
    """A case cannot be run here, or did not come to its end; the text says why."""


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a module in a sandbox that ends with this process."""
    return [
        # setpriv(1): killed when its parent, this process, ends in whatever way; unshare(1) hands that on.
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child=KILL", "--mount-proc",
        sys.executable, "-m", module, *arguments,
    ]  # fmt: skip


def run(module: str, arguments: Sequence[str]) -> None:
    """Run the module with the path of an empty directory before its arguments; its output is ours.

    Raises:
        SandboxError: not root, or the module ended with an error, which it has told.
    """
    if os.geteuid() != 0:
        raise SandboxError("benchmarks need root: they make network namespaces and boot machines. Run as root")
    with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
        code = subprocess.run(command(module, [directory, *arguments]), cwd=_ROOT, check=False).returncode
    if code != 0:
        raise SandboxError(f"{module} {' '.join(arguments)} ended with code {code}")


def enter(scratch: Path) -> None:
    """Make the sandbox's own files and names; to be called inside, once, first."""
    mount = ["mount", "-t", "tmpfs", "-o", "mode=755"]
    netns.run(None, [*mount, "tmpfs", str(scratch)])
    tempfile.tempdir = str(scratch)
    netns.DIRECTORY.mkdir(parents=True, exist_ok=True)
    # FRR leaves a directory for each process in the latter.
    for directory in (netns.DIRECTORY, Path("/var/tmp")):  # noqa: S108 - it is ours alone from here on
        netns.run(None, [*mount, "tmpfs", str(directory)])
    netns.run(None, ["ip", "link", "set", "lo", "up"])
