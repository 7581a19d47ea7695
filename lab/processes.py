"""Long-lived processes that outlive the command that started them, and are found again by their records.

A record (`.lab/run/NAME.json`) names a process by pid, start time and boot, so that a pid that has been given to
somebody else is never signalled. It also holds a digest of what the process was started with: a daemon whose command
line or configuration is no longer the wanted one counts as not running, and is started anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab import netns, topology

RECORDS = topology.STATE / "run"
LOGS = topology.STATE / "logs"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Daemon:
    """A process as it should run."""

    name: str
    namespace: str | None
    """None: this machine's own."""
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()
    """Files whose content it reads at start: a change of them is a change of the daemon."""
    nice: int = 0
    """Its priority (setpriority(2)), for what must keep time while tests load the machine. Not part of the digest."""

    @property
    def record(self) -> Path:
        """The file that says which process it is."""
        return RECORDS / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return LOGS / f"{self.name}.log"

    def digest(self) -> str:
        """A digest of everything it is started with."""
        digest = hashlib.sha256(repr((self.namespace, self.argv, sorted(self.environment.items()))).encode())
        for path in self.reads:
            digest.update(path.read_bytes() if path.is_file() else b"\0missing")
        return digest.hexdigest()


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says (proc(5))."""

    state: str
    session: int
    start_ticks: int


def read_stat(pid: int) -> Stat | None:
    """State, session and start time of a process; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the name in parentheses and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file in one step, so that a killed run leaves the old or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def _recorded(name: str) -> dict[str, object] | None:
    try:
        record = json.loads((RECORDS / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _alive(pid: int, start_ticks: int) -> bool:
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)  # reaps it when it was a child of this very process
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX" and stat.start_ticks == start_ticks


def pid_of(name: str) -> int | None:
    """The pid of a recorded process that is alive, else None."""
    record = _recorded(name)
    if record is None or record.get("boot_id") != _BOOT_ID.read_text().strip():
        return None
    pid, ticks = record.get("pid"), record.get("start_ticks")
    if isinstance(pid, int) and isinstance(ticks, int) and _alive(pid, ticks):
        return pid
    return None


def trouble(daemon: Daemon) -> str | None:
    """Why the daemon has to be started: it is not running, or runs with other settings. None: it runs as wanted."""
    if pid_of(daemon.name) is None:
        return "not running"
    record = _recorded(daemon.name)
    if record is None or record.get("digest") != daemon.digest():
        return "settings changed"
    return None


def start(daemon: Daemon) -> int:
    """Start it in a session of its own, without a terminal; ends a process of that name first. Returns the pid."""
    stop(daemon.name)
    RECORDS.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    digest = daemon.digest()
    argv = netns.enter(daemon.namespace, daemon.argv)
    log = os.open(daemon.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # posix_spawn, not Popen: nobody waits for the child, and it must not count as a resource that leaks.
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {**os.environ, **daemon.environment},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
    with contextlib.suppress(PermissionError):  # a container without CAP_SYS_NICE: better slow than not at all
        os.setpriority(os.PRIO_PROCESS, pid, daemon.nice)
    stat = read_stat(pid)
    record = {
        "pid": pid,
        "start_ticks": stat.start_ticks if stat else 0,
        "boot_id": _BOOT_ID.read_text().strip(),
        "digest": digest,
        "argv": list(daemon.argv),
    }
    write_text(daemon.record, json.dumps(record, indent=1))
    return pid


def _session(leader: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None and stat.session == leader and stat.state not in "ZX":
                members.append(int(entry.name))
    return members


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def stop(name: str, *, grace_seconds: float = 5.0) -> None:
    """End the recorded process and every process of its session: SIGTERM, `grace_seconds`, then SIGKILL.

    A record that points at nobody, or at a process that is not ours, is only removed.
    """
    pid = pid_of(name)
    if pid is not None:
        if grace_seconds > 0:
            _signal([pid], signal.SIGTERM)
            deadline = time.monotonic() + grace_seconds
            while pid_of(name) is not None and time.monotonic() < deadline:
                time.sleep(0.02)
        kill_session(pid)
    (RECORDS / f"{name}.json").unlink(missing_ok=True)


def kill_session(leader: int, *, timeout_seconds: float = 10.0) -> None:
    """SIGKILL to every process of the session until none is left.

    Raises TimeoutError naming the processes that stay (they hang in the kernel).
    """
    deadline = time.monotonic() + timeout_seconds
    while members := _session(leader):
        _signal(members, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(leader, os.WNOHANG)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {members} of session {leader} do not end on SIGKILL")
        time.sleep(0.01)


def recorded_names() -> list[str]:
    """The names of all records, of live and dead processes."""
    return sorted(path.stem for path in RECORDS.glob("*.json"))
