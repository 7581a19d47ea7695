"""`up` and `down`: the whole rack as a list of steps, and its removal."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import tools
from lab import (
    cluster,
    control_plane,
    credentials,
    machines,
    naming,
    netns,
    network,
    offloads,
    processes,
    registry,
    rootfs,
    routers,
    topology,
)
from lab.machines import Machine
from lab.steps import Step

COMMANDS = {
    "linux.uml": "user-mode-linux",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "openssl": "openssl",
    "ssh": "openssh-client",
    "skopeo": "skopeo",
    "docker-registry": "docker-registry",
    "vtysh": "frr",
    "gcc": "gcc",
    "curl": "curl",
}
"""Commands that the lab runs and the Debian package of each."""


def prerequisites(software: str | None = None) -> str | None:
    """What this machine lacks, or None. `software`: what the ToRs are to run; None: what they have."""
    if os.geteuid() != 0:
        return "the lab makes network namespaces and needs root: run it with sudo"
    missing = sorted({package for command, package in COMMANDS.items() if shutil.which(command) is None})
    if missing:
        return f"Debian packages are missing: run `python -m tools ensure`, or apt-get install {' '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing: the kernel needs the tun driver (modprobe tun)"
    if reason := naming.too_long(topology.STATE):
        return reason
    for tool in ("etcd", "kube-apiserver", "kubelet", "kubectl", "coredns"):
        try:
            tools.locate(tool)
        except tools.ToolMissing as error:
            return str(error)
    return routers.missing(software)


def steps(*, bgp_password: str | None = None, software: str | None = None) -> list[Step]:
    """Everything that has to hold for a rack in service, in the order in which it can be made to hold.

    `software`: what the ToRs are to run (`routers.SOFTWARE`); None: what they have.
    """

    def lacking() -> str | None:
        return prerequisites(software)

    def refuse() -> None:
        raise RuntimeError(lacking() or "")

    def start_machines() -> None:
        for machine in _machines():
            if machine.trouble() is not None:
                machine.start()

    return [
        Step("prerequisites", lacking, refuse),
        Step("namespaces", network.namespaces_trouble, network.make_namespaces),
        Step("cables and addresses", network.cabling_trouble, network.cable),
        Step("credentials", credentials.trouble, credentials.make),
        Step(
            "routers",
            lambda: routers.trouble(bgp_password=bgp_password, software=software),
            lambda: routers.start(bgp_password=bgp_password, software=software),
        ),
        Step("control plane started", control_plane.trouble, control_plane.start),
        Step("registry", _registry_trouble, registry.start, wait_seconds=15),
        Step("base disk", rootfs.trouble, lambda: rootfs.build(log=processes.LOGS / "rootfs.log")),
        Step("machines' files", machines.files_trouble, machines.write_files),
        Step("machines started", _machines_trouble, start_machines),
        Step("images", cluster.images_trouble, cluster.push_images),
        Step("control plane ready", control_plane.ready_trouble, _nothing, wait_seconds=90),
        Step("cluster objects", cluster.objects_trouble, cluster.apply_objects),
        Step("machines reachable", _unreachable, _nothing, wait_seconds=120),
        Step("packets for XDP", offloads.trouble, lambda: offloads.keep(*topology.EDGES)),
        Step("nodes ready", _nodes_trouble, _nothing, wait_seconds=180),
        Step("cluster DNS", _not(cluster.dns_ready, "CoreDNS has no ready pod"), _nothing, wait_seconds=180),
        Step("routers' sessions", routers.sessions_trouble, _nothing, wait_seconds=60),
    ]


def _nothing() -> None:
    """Some things come by themselves once what is before them holds."""


def _not(holds: Callable[[], bool], reason: str) -> Callable[[], str | None]:
    return lambda: None if holds() else reason


def _machines() -> list[Machine]:
    return [Machine(node.name) for node in topology.NODES]


def _registry_trouble() -> str | None:
    return registry.trouble() or (None if registry.answers() else "does not answer")


def _machines_trouble() -> str | None:
    for machine in _machines():
        if reason := machine.trouble():
            return f"{machine.name}: {reason}"
    return None


def _unreachable() -> str | None:
    for machine in _machines():
        if machine.pid() is None:
            raise machines.MachineError(f"{machine.name} went down; its console log is {machine.console}")
        if not machine.reachable():
            return f"{machine.name} does not answer on ssh"
    return None


def _nodes_trouble() -> str | None:
    boots = cluster.ready_boots()
    for machine in _machines():
        if machine.name not in boots:
            return f"{machine.name} is not ready"
        if boots[machine.name] != machine.boot_id():
            return f"{machine.name}: its kubelet has not reported since the machine booted"
    return None


def down() -> list[str]:
    """Remove everything that `up` made, in reverse order. Returns what could not be removed."""
    machines.remove()
    registry.remove()
    control_plane.remove()
    routers.remove()
    for name in processes.recorded_names():  # of an older version, or of a test
        processes.stop(name, grace_seconds=0)
    network.remove()
    credentials.remove()
    kept = _kept()
    for path in topology.STATE.iterdir() if topology.STATE.is_dir() else ():
        if path not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for stack_file in (topology.STATE / "pulumi-state").rglob("lab.json*"):
        stack_file.unlink()
    if topology.STATE.is_dir() and not kept:
        topology.STATE.rmdir()
    return leftovers()


def _kept() -> list[Path]:
    """What `down` may not remove: the engine's state, and its passphrase, when stacks other than the lab's are in it."""
    state = topology.STATE / "pulumi-state"
    others = [path for path in state.glob(".pulumi/stacks/**/*.json") if path.stem != "lab"]
    return [state, topology.STATE / "pulumi-passphrase"] if others else []


def leftovers() -> list[str]:
    """Namespaces, processes, mounts and files of the lab that are there though they should not be."""
    found = [f"namespace {name}" for name in sorted(netns.existing()) if name in topology.NAMESPACES]
    # With the slash: the state folder of another lab begins with the same letters.
    state = f"{topology.STATE}/"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if state in command:
                found.append(f"process {entry.name}: {command.strip()[:120]}")
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    places = {f"{netns.DIRECTORY}/{name}" for name in topology.NAMESPACES}
    found += [
        f"mount {line.split()[1]}" for line in mounts if line.split()[1].startswith(state) or line.split()[1] in places
    ]
    if topology.STATE.is_dir():
        kept = _kept()
        found += [f"file {path}" for path in sorted(topology.STATE.iterdir()) if path not in kept]
    return found
