"""A node's data plane as a role has it: made from the settings when it starts, and taken away at the end where that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from lbnode.dataplane.base import EdgeDataPlane
from lbnode.dataplane.bpf_pins import BPF_DIRECTORY
from lbnode.dataplane.edge import KernelEdge
from lbnode.dataplane.worker import KernelWorker
from lbnode.errors import ConfigError, Retry
from lbnode.model import IPNetwork
from lbnode.roles.outside import Outside
from lbnode.settings import AgentSettings
from lbnode.translate.sysctls import ALL_WORKER_SYSCTLS, EVERY_SYSCTL_OF

#: Where the pod mounts the node's /proc/sys/net, which in the container itself is read-only.
MOUNTED_SYSCTLS = Path("/host/proc/sys/net")
OWN_SYSCTLS = Path("/proc/sys/net")
#: Survives pods: what the sysctls were before us.
RECORD_DIRECTORY = Path("/var/lib/samegate")

log = structlog.get_logger()


def edge_kernel(settings: AgentSettings) -> KernelEdge:
    """The data plane of an edge node, with the balancer that the settings ask for."""
    pools = networks_of_this_kernel(settings.pool_networks)
    balancer = None
    if settings.dataplane == "xdp":
        # Here, because an agent with IPVS has no need of it.
        from lbnode.roles.xdp import xdp_balancer

        balancer = xdp_balancer(pools, settings, BPF_DIRECTORY)
    return KernelEdge(
        pools,
        balancer=balancer,
        sysctls=EVERY_SYSCTL_OF[settings.dataplane],
        fabric_mtu_bytes=settings.network.fabric_mtu_bytes,
        sysctl_base=sysctl_base(),
        record_directory=RECORD_DIRECTORY,
    )


def worker_kernel(settings: AgentSettings) -> KernelWorker:
    """The data plane of a worker."""
    return KernelWorker(
        networks_of_this_kernel(settings.pool_networks),
        networks_of_this_kernel(settings.network.probe_cidrs),
        sysctls=ALL_WORKER_SYSCTLS,
        sysctl_base=sysctl_base(),
        record_directory=RECORD_DIRECTORY,
    )


def networks_of_this_kernel(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Those that the kernel can have: one that was booted with ``ipv6.disable=1`` still serves IPv4."""
    return tuple(n for n in networks if n.version == 4 or (sysctl_base() / "ipv6").is_dir())


def sysctl_base() -> Path:
    """Where the node's sysctls below ``net.`` are files."""
    # An empty folder is a place to mount at that nothing is mounted at, as under systemd.
    return MOUNTED_SYSCTLS if (MOUNTED_SYSCTLS / "ipv4").is_dir() else OWN_SYSCTLS


async def leave_edge(outside: Outside, kernel: EdgeDataPlane) -> None:
    """The edge's last act, when nothing is announced from here any more. As a rule all stays for the next agent."""
    if await outside.is_removed():
        await take_away(kernel.clean)
    elif await outside.changes_dataplane():
        # The next agent may not have the right to do it.
        await take_away(kernel.clear)


async def take_away(remove: Callable[[], None]) -> None:
    """Remove what is in the kernel; three tries, and a word in the log when it stays."""
    for attempt in range(3):
        try:
            await asyncio.get_running_loop().run_in_executor(None, remove)
        except ConfigError as error:
            log.error("kernel.not_cleaned", error=str(error))
            return
        except Retry:
            await asyncio.sleep(0.5)
        else:
            log.info("kernel.cleaned", attempt=attempt)
            return
    log.error("kernel.not_cleaned", text="run `python -m lbnode clean` on this node")
