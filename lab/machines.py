"""The rack's machines: User-Mode Linux processes with a disk, a console log, and a way to run commands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import tools
from lab import credentials, netns, node_settings, offloads, processes, rootfs, topology
from lab.processes import Daemon, write_text
from lab.topology import Node

DIRECTORY = topology.STATE / "machines"
BINARIES = DIRECTORY / "bin"
SOCKETS = topology.STATE / "uml"
MEMORY = "1G"
"""What the machine believes to have; the host gives what is touched, about 400 MB."""
NODE_PROGRAMS = ("kubelet", "kube-proxy")
_SHIM_SOURCE = Path(__file__).parent / "uml" / "xstate_shim.c"
_SHIM = DIRECTORY / "xstate_shim.so"


class MachineError(RuntimeError):
    """A machine did not do what it was asked to; the message says which and where its console log is."""


def share_of(node: Node) -> Path:
    """The directory of the host that the machine mounts at /lab/node."""
    return DIRECTORY / node.name / "share"


def disk_of(node: Node) -> Path:
    """The machine's copy-on-write file."""
    return DIRECTORY / node.name / f"disk-{rootfs.recipe_digest()}.cow"


def daemon(node: Node) -> Daemon:
    """The machine as a process."""
    network = f"vec0:transport=tap,ifname={node.tap},depth=128,gro=1,mac={node.mac}"
    argv = (
        "linux.uml",
        f"mem={MEMORY}",
        f"umid={node.name}",
        f"uml_dir={SOCKETS}",
        f"ubd0={disk_of(node)},{rootfs.disk()}",
        "root=/dev/ubda",
        "rw",
        network,
        # No terminal: the console is a log.
        "con=null",
        "con0=null,fd:1",
        "quiet",
        "selinux=0",
        "audit=0",
        "panic=1",
        f"systemd.hostname={node.name}",
        "systemd.show_status=0",
        "fsck.repair=yes",
        f"samegate.share={share_of(node)}",
        f"samegate.bin={BINARIES}",
    )
    # Before the control plane, and edge nodes before workers: BIRD and BFD have deadlines, as the routers' daemons (-15) do.
    nice = -10 if node.role == "edge" else -5
    return Daemon(f"machine-{node.name}", topology.RACK, argv, environment={"LD_PRELOAD": str(_SHIM)}, nice=nice)


def _secrets(node: Node) -> dict[str, Path]:
    return {
        "ca.crt": credentials.CA,
        "kubelet.crt": credentials.PKI / f"kubelet-{node.name}.crt",
        "kubelet.key": credentials.PKI / f"kubelet-{node.name}.key",
        "kubelet.kubeconfig": credentials.KUBECONFIGS / f"{node.name}.kubeconfig",
        "kube-proxy.kubeconfig": credentials.KUBECONFIGS / "kube-proxy.kubeconfig",
        "authorized_keys": credentials.SSH / "id_ed25519.pub",
        "ssh_host_ed25519_key": credentials.SSH / "ssh_host_ed25519_key",
    }


def files_trouble() -> str | None:
    """What a machine needs on the host and does not find, or finds out of date."""
    if not _SHIM.is_file() or _SHIM.stat().st_mtime < _SHIM_SOURCE.stat().st_mtime:
        return "the XSAVE shim is not built"
    for program in NODE_PROGRAMS:
        if not _same_file(tools.locate(program), BINARIES / program):
            return f"{program} is not in the machines' share"
    for node in topology.NODES:
        for name, content in node_settings.files(node, _secrets(node)).items():
            path = share_of(node) / name
            if not path.is_file() or path.read_text() != content:
                return f"{node.name}: {name} missing or out of date"
    return None


def _same_file(source: Path, copy: Path) -> bool:
    if not copy.is_file():
        return False
    wanted, found = source.stat(), copy.stat()
    return wanted.st_size == found.st_size and int(wanted.st_mtime) == int(found.st_mtime)


def write_files() -> None:
    """Bring the machines' shares, programs and shim to what is wanted."""
    BINARIES.mkdir(parents=True, exist_ok=True)
    SOCKETS.mkdir(parents=True, exist_ok=True)
    _build_shim()
    for program in NODE_PROGRAMS:
        source, target = tools.locate(program), BINARIES / program
        if not _same_file(source, target):
            temporary = target.with_name(f".{program}.{os.getpid()}")
            shutil.copy2(source, temporary)
            temporary.replace(target)
    for node in topology.NODES:
        share = share_of(node)
        for name, content in node_settings.files(node, _secrets(node)).items():
            path = share / name
            if not path.is_file() or path.read_text() != content:
                write_text(path, content, mode=0o600)


def _build_shim() -> None:
    temporary = _SHIM.with_suffix(f".{os.getpid()}")
    netns.run(None, ["gcc", "-O2", "-shared", "-fPIC", "-o", str(temporary), str(_SHIM_SOURCE), "-ldl"])
    temporary.replace(_SHIM)


class Machine:
    """One machine by name. Raises ValueError for a name that is not in the rack."""

    def __init__(self, name: str) -> None:
        self.node = topology.node(name)
        self.name = name

    @property
    def daemon(self) -> Daemon:
        """The process as it should run."""
        return daemon(self.node)

    @property
    def console(self) -> Path:
        """The console log."""
        return self.daemon.log

    def pid(self) -> int | None:
        """The pid of its main process, None when it is off."""
        return processes.pid_of(self.daemon.name)

    def trouble(self) -> str | None:
        """Why it has to be started, or None."""
        return processes.trouble(self.daemon)

    def start(self) -> None:
        """Switch it on; the disk is kept if it fits the base disk. Does not wait."""
        self._forget_connection()
        disk = disk_of(self.node)
        disk.parent.mkdir(parents=True, exist_ok=True)
        for stale in disk.parent.glob("disk-*.cow"):
            if stale != disk:
                stale.unlink()
        # A socket directory of a killed machine would make the new one choose another name.
        shutil.rmtree(SOCKETS / self.name, ignore_errors=True)
        processes.start(self.daemon)

    def kill(self) -> None:
        """Cut its power: SIGKILL to every process of the machine at once."""
        processes.stop(self.daemon.name, grace_seconds=0)
        self._forget_connection()

    def wait_ready(self, timeout_seconds: float = 120.0) -> None:
        """Wait until commands run on it, and its tap hands over what is declared (`lab.offloads`).

        Raises MachineError when it is off or silent for `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self.pid() is None:
                raise MachineError(f"{self.name} is not running; its console log is {self.console}")
            if self.reachable():
                offloads.keep(self.node)
                return
            time.sleep(0.3)
        raise MachineError(
            f"{self.name} does not answer on ssh after {timeout_seconds:.0f} s; its console log is {self.console}"
        )

    def reachable(self) -> bool:
        """Whether a command runs on it now."""
        try:
            return self.run("true", timeout_seconds=8, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def run(
        self,
        command: str | list[str],
        timeout_seconds: float = 60.0,
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - the name subprocess.run uses
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it as root: a string is the remote shell's, a list is quoted. Keeps the exit code.

        Raises CommandError when `check` and the code is not 0 (255: ssh itself failed).
        """
        argv = self.ssh(command)
        return netns.run(topology.CONTROL, argv, input=input, check=check, timeout_seconds=timeout_seconds)

    def boot_id(self) -> str:
        """The kernel's name of this boot; another after each start."""
        return self.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def ssh(self, command: str | list[str], *options: str) -> list[str]:
        """The ssh command line, to be run in the control namespace."""
        remote = command if isinstance(command, str) else shlex.join(command)
        return ["ssh", "-F", str(credentials.SSH / "config"), *options, self.name, "--", remote]

    def _forget_connection(self) -> None:
        socket = credentials.SSH / f"{self.name}.socket"
        if socket.exists():
            config = str(credentials.SSH / "config")
            netns.run(None, ["ssh", "-F", config, "-O", "exit", self.name], check=False, timeout_seconds=10)
            socket.unlink(missing_ok=True)


def remove() -> None:
    """Switch every machine off and delete disks and shares."""
    for node in topology.NODES:
        Machine(node.name).kill()
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    shutil.rmtree(SOCKETS, ignore_errors=True)
