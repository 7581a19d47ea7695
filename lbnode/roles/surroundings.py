"""What else runs on this node and would get in the way: the Service proxy, and another BGP speaker.

Looked at now and then, because a node's kube-proxy may be reconfigured under a running agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

#: kube-proxy tells its mode on its metrics address (cmd/kube-proxy, ``--metrics-bind-address``, default 127.0.0.1:10249).
PROXY_MODE_PORT = 10249
LONGEST_ANSWER_BYTES = 4096
LOOK_SECONDS = 10.0
TIMEOUT_SECONDS = 1.0
#: kube-proxy's ipvs mode binds every Service address to this device (pkg/proxy/ipvs).
KUBE_IPVS_DEVICE = "kube-ipvs0"
#: Devices of Service proxies that live in eBPF and take packets before netfilter sees them.
EBPF_DEVICES = ("cilium_host", "cilium_net")
BGP_PORT = 179

log = structlog.get_logger()

Refusal = tuple[str, str]


def edge_refusal(proxy_mode: str | None, devices: frozenset[str]) -> Refusal | None:
    """Why an edge node with this kube-proxy cannot serve, or ``None``."""
    if proxy_mode == "ipvs" or KUBE_IPVS_DEVICE in devices:
        return (
            "KubeProxyIpvs",
            "kube-proxy on this edge node is in ipvs mode and owns the same kernel table. Run it in iptables or nftables mode here, "
            f"and delete the device {KUBE_IPVS_DEVICE}",
        )
    return None


def worker_refusal(proxy_mode: str | None, devices: frozenset[str]) -> Refusal | None:
    """Why a worker with this Service proxy cannot deliver tunnelled packets, or ``None``."""
    found = [d for d in EBPF_DEVICES if d in devices]
    if proxy_mode is None and found:
        return (
            "EbpfServiceProxy",
            f"the Service proxy on this worker is eBPF (device {found[0]}, and no kube-proxy answers on port {PROXY_MODE_PORT}): it does not deliver "
            "tunnelled packets. Run kube-proxy beside it (kubeProxyReplacement=false)",
        )
    return None


def listens_on(port: int, table: str) -> bool:
    """Whether ``/proc/net/tcp`` or ``tcp6`` shows a listener (state 0A) on the port."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == "0A" and fields[1].rpartition(":")[2] == f"{port:04X}":
            return True
    return False


class Surroundings:
    """Keeps looking; ``refusal`` is what was found last."""

    def __init__(
        self,
        judge: Callable[[str | None, frozenset[str]], Refusal | None],
        changed: Callable[[], None],
        devices: Path = Path("/sys/class/net"),
        tables: tuple[Path, ...] = (Path("/proc/net/tcp"), Path("/proc/net/tcp6")),
    ) -> None:
        self._judge = judge
        self._changed = changed
        self._devices = devices
        self._tables = tables
        self.refusal: Refusal | None = None
        self.other_speaker = False
        #: kube-proxy's mode, ``None`` when none answers, and the devices of Service proxies that are there.
        self.proxy_mode: str | None = None
        self.proxy_devices: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What was found last, as plain JSON values."""
        return {
            "proxy_mode": self.proxy_mode,
            "proxy_devices": list(self.proxy_devices),
            "other_speaker": self.other_speaker,
        }

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once."""
        devices = frozenset(p.name for p in self._devices.iterdir()) if self._devices.is_dir() else frozenset()
        self.proxy_mode = await proxy_mode()
        self.proxy_devices = tuple(d for d in (KUBE_IPVS_DEVICE, *EBPF_DEVICES) if d in devices)
        refusal = self._judge(self.proxy_mode, devices)
        other_speaker = any(listens_on(BGP_PORT, t.read_text()) for t in self._tables if t.is_file())
        if other_speaker and not self.other_speaker:
            log.warning(
                "node.other_speaker",
                text=f"another BGP speaker listens on port {BGP_PORT} of this node. samegate's BIRD does not need the port, but a router keeps one "
                "session per neighbour address: do not peer both with the same router",
            )
        self.other_speaker = other_speaker
        if refusal != self.refusal:
            self.refusal = refusal
            if refusal is not None:
                log.error("node.refused", reason=refusal[0], text=refusal[1])
            self._changed()


async def proxy_mode(host: str = "127.0.0.1", port: int = PROXY_MODE_PORT) -> str | None:
    """kube-proxy's mode, or ``None`` when none answers."""
    status, body = await _get(host, port, "/proxyMode")
    return body.strip() if status == 200 else None


async def kube_proxy_has_endpoints(port: int) -> bool | None:
    """kube-proxy's health check node port: 200 while the Service has a ready endpoint on this node, 503 while not (KEP-1669).

    ``None`` when there is no such answer.
    """
    return {200: True, 503: False}.get((await _get("127.0.0.1", port, "/"))[0])


async def _get(host: str, port: int, path: str) -> tuple[int, str]:
    # Asked twice a second for each Service on slow machines: an HTTP client library costs more than the request.
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode("ascii"))
                answer = (await reader.read(LONGEST_ANSWER_BYTES)).decode("latin-1")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, ""
    head, _, body = answer.partition("\r\n\r\n")
    words = head.split(" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body
