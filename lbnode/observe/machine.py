"""What a node is, for ``samegate doctor``: kernel build, modules, sysctls, path MTU, connection tracking. Read when asked, never in a pass.

Everything is read from ``/proc`` and ``/sys`` or asked of the kernel with an unprivileged socket; what is not there is left out.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lbnode.model import IPAddress

#: linux/in.h and linux/in6.h; Python's socket module lacks them. Of a connected socket: what the kernel knows of the path's MTU.
IP_MTU, IPV6_MTU = 14, 24
#: The discard port (RFC 863); connecting a datagram socket sends nothing.
DISCARD_PORT = 9
_TABLE_INDEX = re.compile(r"^CONFIG_IP_VS_MH_TAB_INDEX=([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a role's node is looked at.

    Args:
        modules: what the role needs, and whether it is seen at work, which a module that is built into the kernel shows by nothing else.
        sysctls: names below ``net.`` in dotted form, read below ``sysctl_base``.
        peers: the nodes at the other ends of the tunnels.
    """

    modules: Callable[[], dict[str, bool]]
    sysctls: tuple[str, ...]
    peers: Callable[[], Iterable[IPAddress]]
    sysctl_base: Path = Path("/proc/sys/net")
    proc: Path = Path("/proc")

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        release = os.uname()
        return {
            "kernel_release": release.release,
            "kernel_build": release.version,
            "mh_table_index": mh_table_index(self.proc),
            "modules": self._modules(),
            "sysctls": {name: value for name in self.sysctls if (value := self._sysctl(name)) is not None},
            "path_mtu_bytes": {str(p): mtu for p in self.peers() if (mtu := path_mtu_bytes(p)) is not None},
            "conntrack": self._conntrack(),
        }

    def _modules(self) -> dict[str, str]:
        loaded: set[str] = set()
        with suppress(OSError):
            loaded = {line.split(" ", 1)[0] for line in (self.proc / "modules").read_text().splitlines()}
        return {
            name: "loaded" if name in loaded else "built in" if at_work else "absent"
            for name, at_work in self.modules().items()
        }

    def _sysctl(self, name: str) -> str | None:
        try:
            return " ".join((self.sysctl_base / name.removeprefix("net.").replace(".", "/")).read_text().split())
        except OSError:
            return None

    def _conntrack(self) -> dict[str, int] | None:
        count, most = (self._sysctl(f"net.netfilter.nf_conntrack_{what}") for what in ("count", "max"))
        return {"count": int(count), "max": int(most)} if count and most else None


@cache
def mh_table_index(proc: Path = Path("/proc")) -> int | None:
    """``CONFIG_IP_VS_MH_TAB_INDEX`` of a kernel that shows its configuration (``CONFIG_IKCONFIG_PROC``)."""
    try:
        found = _TABLE_INDEX.search(gzip.decompress((proc / "config.gz").read_bytes()).decode("latin-1"))
    except (OSError, EOFError):
        return None
    return int(found[1]) if found else None


def path_mtu_bytes(peer: IPAddress) -> int | None:
    """The largest packet that the kernel would send to ``peer`` whole: the device's MTU, or what it has learnt of the path."""
    family, level, option = (
        (socket.AF_INET, socket.IPPROTO_IP, IP_MTU)
        if peer.version == 4
        else (socket.AF_INET6, socket.IPPROTO_IPV6, IPV6_MTU)
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect((str(peer), DISCARD_PORT))
            return asked.getsockopt(level, option)
    except OSError:
        return None
