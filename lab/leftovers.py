"""What a deployment leaves behind: on the machines after `destroy`, and on the host after `down`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab import cluster, netns, topology
from lab.machines import Machine
from lab.processes import write_text

REMEMBERED = topology.STATE / "before-deploy.json"

Snapshot = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By machine and aspect (links, addresses, rules...), the lines that describe it, sorted."""

# What kubelet, kube-proxy and the container network change with every pod is no leftover of ours.
# The kernel computes sync_qlen_max from the memory that is free when IPVS is loaded.
_FOREIGN = re.compile(r"\b(veth|cni|kube)|KUBE-|CNI-|cali|@if|net\.ipv4\.vs\.sync_qlen_max")
_ASPECTS = {
    "links": "ip -o link show | awk '{print $2}'",
    "addresses": "ip -o addr show | awk '{print $2, $3, $4}'",
    "routes": "ip -o route show table all | grep -v -e ' linkdown' -e ' dev veth'",
    "policy rules": "ip -o rule show",
    "ipvs": "ipvsadm -Sn 2>/dev/null",
    "XDP": "ip -o link show | grep -o 'xdp[a-z]*'; find /sys/fs/bpf/samegate 2>/dev/null",
    "packet filter": "for c in iptables ip6tables; do for t in raw mangle filter nat; do "
    '$c-legacy -t $t -S 2>/dev/null | sed "s/^/$c $t /"; done; done',
    "address sets": "ipset list -n 2>/dev/null",
    "sysctls": "sysctl -a 2>/dev/null | grep -E '^net\\.ipv4\\.(vs\\.|conf\\.(all|default|lo|vec0)\\.|ip_forward|ping_group_range|fwmark)'",
}
_DEFAULT_SYSCTLS = "unshare --net sysctl -a 2>/dev/null | grep '^net\\.ipv4\\.vs\\.'"


def snapshot() -> dict[str, dict[str, tuple[str, ...]]]:
    """The machines as they are now."""
    return {node.name: _machine(Machine(node.name)) for node in topology.NODES}


def _machine(machine: Machine) -> dict[str, tuple[str, ...]]:
    script = "\n".join(f"echo '=== {aspect}'; {command}" for aspect, command in _ASPECTS.items())
    sections = parse(machine.run(f"{script}\ntrue").stdout)
    # IPVS brings its sysctls with its module: what a namespace of its own shows is what the kernel would have without us.
    defaults = machine.run(f"{_DEFAULT_SYSCTLS}; true").stdout.splitlines()
    known = {line.split("=")[0] for line in sections["sysctls"]}
    if not any(name.startswith("net.ipv4.vs.") for name in known):
        sections["sysctls"] = tuple(sorted({*sections["sysctls"], *defaults}))
    sections["default sysctls"] = tuple(sorted(defaults))
    return sections


def parse(text: str) -> dict[str, tuple[str, ...]]:
    """Sections (`=== NAME`) of lines, without foreign ones, sorted."""
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("=== "):
            current = sections.setdefault(line[4:], [])
        elif line.strip() and not _FOREIGN.search(line):
            current.append(line.strip())
    return {name: tuple(sorted(lines)) for name, lines in sections.items()}


def remember_once() -> None:
    """Keep a snapshot as what was there before samegate, unless there is one or samegate is there already."""
    if REMEMBERED.is_file() or cluster.kubectl("get", "namespace", "samegate-system", "--ignore-not-found"):
        return
    write_text(REMEMBERED, json.dumps(snapshot(), indent=1))


def remembered() -> dict[str, dict[str, tuple[str, ...]]] | None:
    """The snapshot that `remember_once` kept, None if it never did."""
    if not REMEMBERED.is_file():
        return None
    raw: dict[str, dict[str, list[str]]] = json.loads(REMEMBERED.read_text())
    return {machine: {aspect: tuple(lines) for aspect, lines in aspects.items()} for machine, aspects in raw.items()}


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What `after` has and `before` had not, or the other way round, one text each. Empty: nothing was left, nothing taken away.

    IPVS's own sysctls count against the defaults of the kernel when they were not there before.
    """
    found = []
    for machine, aspects in after.items():
        for aspect, lines in aspects.items():
            if aspect == "default sysctls":
                continue
            had = set(before.get(machine, {}).get(aspect, ()))
            if aspect == "sysctls" and not any(line.startswith("net.ipv4.vs.") for line in had):
                had |= set(aspects.get("default sysctls", ()))
            found += [f"{machine}: {aspect}: left {line}" for line in sorted(set(lines) - had)]
            found += [f"{machine}: {aspect}: lost {line}" for line in sorted(had - set(lines))]
    return found


def on_host() -> list[str]:
    """What of the lab is on the host: namespaces, links, mounts, processes, files. Empty after `down`."""
    found = [f"namespace {name}" for name in sorted(netns.existing()) if name in topology.NAMESPACES]
    links = netns.run(None, ["ip", "-o", "link", "show"]).stdout
    names = {topology.RACK_BRIDGE, *(node.tap for node in topology.NODES)}
    found += [
        f"link {line.split(':')[1].strip()}" for line in links.splitlines() if line.split(":")[1].strip() in names
    ]
    # With the slash: the state folder of another lab begins with the same letters.
    state = f"{topology.STATE}/"
    found += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if state in line]
    found += [f"process {pid} {command}" for pid, command in _processes() if state in command]
    if topology.STATE.is_dir():
        found += [f"file {path.relative_to(topology.STATE.parent)}" for path in sorted(topology.STATE.iterdir())]
    return found


def _processes() -> Iterable[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield (
                    int(entry.name),
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip(),
                )
            except OSError:
                continue
