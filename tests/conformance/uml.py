"""Run a command in a small User-Mode Linux machine whose root file system is this machine's own, read-only.

The usual CI kernel has neither IPVS nor IPIP; Debian's ``user-mode-linux`` package has both and needs no KVM. The machine has no
network device, its ``/tmp``, ``/run`` and ``/var/tmp`` are its own, and only the exchange directory can be written.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
#: Inside the machine, where the exchange directory is mounted.
EXCHANGE = Path("/mnt")

_HERE = Path(__file__).resolve().parent
#: Lets the machine run on processors with a larger register state than it reserves room for.
_SHIM = _HERE.parents[1] / "lab" / "uml" / "xstate_shim.c"

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
            # What runs beside it may have deadlines.
            *("nice", "-n", "10"),
            KERNEL,
            f"mem={memory_mib}M",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={script}",
            f"umid={name}",
        ]
        arguments += ["con=null", "con0=null,fd:1", "quiet", f"uml_dir={home}"]
        shim = Path(home) / "shim.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", shim, _SHIM, "-ldl"], check=True)
        with subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": home, "LD_PRELOAD": str(shim)},
            start_new_session=True,
        ) as process:
            started(process.pid)
            try:
                console, _ = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                # One process per thread of the machine, all in the session that was started for it.
                os.killpg(process.pid, 9)
                console, _ = process.communicate()
    output, code = directory / "output", directory / "exit-code"
    return Result(
        int(code.read_text()) if code.exists() else None,
        output.read_text(errors="replace") if output.exists() else "",
        console.decode(errors="replace"),
    )
