"""A throw-away machine: a command in a small User-Mode Linux kernel whose root file system is this machine's own, read-only.

The usual CI kernel has neither IPVS nor IPIP; Debian's ``user-mode-linux`` package has both and needs no KVM. The machine's ``/tmp``, ``/run``
and ``/var/tmp`` are its own, and only the exchange directory can be written. It has the network devices that it is given, ``vec0`` on.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import netns

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
#: Inside the machine, where the exchange directory is mounted.
EXCHANGE = Path("/mnt")

_HERE = Path(__file__).resolve().parent
#: Lets the machine run on processors with a larger register state than it reserves room for.
_SHIM = _HERE / "uml" / "xstate_shim.c"

_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /var/tmp
mount -t hostfs none {exchange} -o {directory}
mkdir -p /run/netns
printf '#!/bin/sh\nexec {python} -S -I {modprobe} {modules} "$@"\n' >/run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
/run/modprobe {wanted}
ip link set lo up
cd {cwd}; ulimit -n 65536
{environment} {command} >{exchange}/output 2>&1
echo $? >{exchange}/exit-code
sync
echo o >/proc/sysrq-trigger
sleep 5
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a machine left: the command's exit code (``None`` when it never ended), its output, the console."""

    exit_code: int | None
    output: str
    console: str


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap device of the host, in the machine's namespace there, and the MAC address of the machine's end of it."""

    device: str
    mac: str


def run(
    command: list[str],
    directory: Path,
    *,
    modules: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    memory_mib: int = 512,
    timeout_seconds: float = 300,
    started: Callable[[int], None] = lambda process: None,
) -> Result:
    """Boot, run ``command`` as root with ``directory`` at :data:`EXCHANGE`, halt. ``started`` is told the process group, to end it early."""
    with running(
        command,
        directory,
        modules=modules,
        environment=environment,
        cwd=cwd,
        memory_mib=memory_mib,
        # What runs beside it may have deadlines.
        nice=10,
    ) as process:
        started(process.pid)
        try:
            console, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            _kill(process)
            console, _ = process.communicate()
    return result(directory, console)


def result(directory: Path, console: str = "") -> Result:
    """What the machine with that exchange directory has left there so far."""
    output, code = directory / "output", directory / "exit-code"
    return Result(
        int(code.read_text()) if code.exists() else None,
        output.read_text(errors="replace") if output.exists() else "",
        console,
    )


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    *,
    modules: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    memory_mib: int = 512,
    namespace: str | None = None,
    taps: Sequence[Tap] = (),
    nice: int = 0,
) -> Iterator[subprocess.Popen[str]]:
    """The machine while it runs ``command``, as a process (the leader of a session of its own) that writes its console to its standard
    output; it is switched off at the end. ``namespace``: the host's network namespace with its taps."""
    name = f"sgc-{uuid.uuid4().hex[:8]}"
    script = directory / "init"
    script.write_text(
        _INIT.format(
            exchange=EXCHANGE,
            directory=directory,
            modules=MODULES,
            modprobe=_HERE / "modprobe.py",
            python=sys.executable,
            wanted=" ".join(modules),
            cwd=shlex.quote(str(cwd or Path.cwd())),
            environment=" ".join(f"{k}={shlex.quote(v)}" for k, v in (environment or {}).items()),
            command=shlex.join(command),
        )
    )
    script.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="sgc-") as home:
        arguments = [
            *("nice", "-n", str(nice)),
            KERNEL,
            f"mem={memory_mib}M",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={script}",
            f"umid={name}",
        ]
        arguments += ["con=null", "con0=null,fd:1", "quiet", f"uml_dir={home}"]
        arguments += [
            f"vec{number}:transport=tap,ifname={tap.device},depth=128,gro=1,mac={tap.mac}"
            for number, tap in enumerate(taps)
        ]
        shim = Path(home) / "shim.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", shim, _SHIM, "-ldl"], check=True)
        process = netns.popen(
            namespace,
            arguments,
            stderr=subprocess.STDOUT,
            environment={**os.environ, "TMPDIR": home, "LD_PRELOAD": str(shim)},
        )
        try:
            yield process
        finally:
            _kill(process)
            if process.stdout is not None:
                process.stdout.close()
            process.wait()


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        # One process per thread of the machine, all in the session that was started for it.
        os.killpg(process.pid, 9)
