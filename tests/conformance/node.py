"""Network namespaces for the suite, and the tools that say independently what the kernel has."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from lbnode.model import IPAddress

POOLS = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))
PROBE_NETWORKS = (ip_network("192.0.2.0/24"), ip_network("2001:db8:2::/64"))
SYSCTLS = ("net.ipv4.vs.sloppy_tcp", "net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.conn_reuse_mode")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Family:
    """Addresses of one IP version for the tests that both have to pass."""

    version: int
    vip: IPAddress
    node: IPAddress
    prefix_length: int
    first_worker: IPAddress
    first_edge: IPAddress
    probe: IPAddress
    tunnel_kind: str

    def worker(self, number: int) -> IPAddress:
        """The workers stand one after the other, from 1 on."""
        return self.first_worker + number

    def edge(self, number: int) -> IPAddress:
        return self.first_edge + number

    @property
    def tools(self) -> str:
        """The program of the packet filter."""
        return "iptables-legacy" if self.version == 4 else "ip6tables-legacy"

    @property
    def probe_device(self) -> str:
        return "sgprobe" if self.version == 4 else "sgprobe6"


def _family(version: int, kind: str, prefix_length: int, *texts: str) -> Family:
    vip, node, worker, edge, probe = map(ip_address, texts)
    return Family(version, vip, node, prefix_length, worker, edge, probe, kind)


IPV4 = _family(4, "ipip", 24, "203.0.113.1", "198.18.0.11", "198.18.0.20", "198.18.0.30", "192.0.2.21")
IPV6 = _family(6, "ip6tnl", 64, "2001:db8:113::1", "2001:db8::11", "2001:db8::20", "2001:db8::30", "2001:db8:2::21")
FAMILIES = (IPV4, IPV6)


def with_port(address: object, port: int) -> str:
    """As ``ipvsadm`` writes it."""
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def sh(command: str, stdin: str | None = None) -> str:
    """Run a command without shell in the present namespace; its standard output. Raises when it fails."""
    done = subprocess.run(shlex.split(command), input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {path}")
    os.close(descriptor)


@contextmanager
def inside(path: Path | str) -> Iterator[None]:
    """This thread in another network namespace, and its children too."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(str(path))
        yield
    finally:
        _LIBC.setns(home, _CLONE_NEWNET)
        os.close(home)


@contextmanager
def new_namespace() -> Iterator[None]:
    """A fresh network namespace with the node's addresses on device ``eth0``; it vanishes with what is in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        sh("ip link set lo up")
        sh("ip link add eth0 type veth peer name peer0")
        for family in FAMILIES:
            sh(f"ip addr add {family.node}/{family.prefix_length} dev eth0 {'nodad' if family.version == 6 else ''}")
        sh("ip link set eth0 up")
        sh("ip link set peer0 up")
        yield
    finally:
        _LIBC.setns(home, _CLONE_NEWNET)
        os.close(home)


def ipvs_services() -> dict[str, str]:
    """``"tcp 203.0.113.1:80"`` to scheduler and flags, from ``ipvsadm``."""
    found = {}
    for line in sh("ipvsadm -Sn").splitlines():
        if match := re.match(r"-A -(\w) (\S+) (.*)", line):
            found[f"{ {'t': 'tcp', 'u': 'udp'}[match[1]] } {match[2]}"] = match[3].strip()
    return found


def ipvs_destinations(service: str) -> list[tuple[str, str, int]]:
    """Address with port, forwarding and weight of a service's destinations in the kernel's order, head first."""
    protocol, address = service.split()
    lines = sh(f"ipvsadm -Ln --nosort -{protocol[0]} {address}").splitlines()
    rows = [line.split() for line in lines if line.strip().startswith("->") and "RemoteAddress" not in line]
    return [(row[1], row[2], int(row[3])) for row in rows]


def loopback_addresses() -> set[IPAddress]:
    """Host addresses on ``lo`` but its own, from ``ip``."""
    found = re.findall(r"inet6? (\S+)/(?:32|128) ", sh("ip -o addr show dev lo"))
    return {ip_address(a) for a in found} - {ip_address("::1")}


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(t) for t in texts)
