"""The tunnel devices of a role, whole: the device, the address on it and its sysctls. A worker's lead to edge nodes, an edge node's take back
replies from workers.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

from lbnode.dataplane.devices import Device, is_tunnel
from lbnode.dataplane.links import Links
from lbnode.dataplane.sysctl import Sysctls
from lbnode.model import RETURN_DEVICE_PREFIX, TUNNEL_DEVICE_PREFIX, IPAddress, ReturnTunnel, Tunnel

Kind = TypeVar("Kind", Tunnel, ReturnTunnel)


class Tunnels(Generic[Kind]):
    """The tunnels of one ``kind``. Every method raises ``OSError`` where the kernel refuses."""

    def __init__(self, links: Links, sysctls: Sysctls, kind: type[Kind]) -> None:
        self._links = links
        self._sysctls = sysctls
        self._kind: type[Kind] = kind

    def devices(self) -> list[Device]:
        """Those that are there, whatever they lack."""
        return self._links.tunnel_devices(TUNNEL_DEVICE_PREFIX if self._kind is Tunnel else RETURN_DEVICE_PREFIX)

    def read(self, devices: Iterable[Device]) -> frozenset[Kind]:
        """The tunnels that these devices are; one that lacks anything with ``ready=False``."""
        devices = tuple(devices)
        held = self._links.held(devices)
        found = (self._tunnel(device, held.get(device.index, set())) for device in devices)
        return frozenset(tunnel for tunnel in found if tunnel is not None)

    def _tunnel(self, device: Device, held: Container[IPAddress]) -> Kind | None:
        if device.local is None or device.remote is None:
            return None
        tunnel: Kind = self._kind(device.remote, device.local)
        wanted = device_sysctls(tunnel)
        ready = (
            device.up
            and device.name == tunnel.device
            and is_tunnel(device, tunnel)
            and (device.local.version == 6 or device.local in held)
            and self._sysctls.read(wanted) == wanted
        )
        return replace(tunnel, ready=ready)

    def ensure(self, tunnel: Kind) -> None:
        """Have it, whole. Raises as :meth:`lbnode.dataplane.links.Links.ensure_tunnel`, too."""
        device = self._links.ensure_tunnel(tunnel)
        # Before the device is up: a tunnel has no moment in which it takes or sends what it must not.
        for name, value in device_sysctls(tunnel).items():
            self._sysctls.write(name, value)
        if not device.up:
            self._links.set_up(device)

    def remove(self, name: str) -> None:
        """As :meth:`lbnode.dataplane.links.Links.remove_tunnel`."""
        self._links.remove_tunnel(name, self._kind)

    def remove_all(self) -> None:
        """Remove every device of this kind."""
        for device in self.devices():
            self._links.remove_device(device)


def device_sysctls(tunnel: Tunnel | ReturnTunnel) -> dict[str, str]:
    """``ip-sysctl``. IPv4: 2 is loose; 0 would lose to ``all``, of which the kernel takes the larger; and where replies come back, the node's own
    VIPs are the source of what comes, which the kernel takes for forged otherwise. IPv6 has no such checks: no link-local address, with which the
    device would send multicast reports into the tunnel; and on, whatever the default for new devices is.
    """
    if tunnel.node_address.version == 6:
        return {
            f"net.ipv6.conf.{tunnel.device}.addr_gen_mode": "1",
            f"net.ipv6.conf.{tunnel.device}.disable_ipv6": "0",
        }
    own = {f"net.ipv4.conf.{tunnel.device}.accept_local": "1"} if isinstance(tunnel, ReturnTunnel) else {}
    return {**own, f"net.ipv4.conf.{tunnel.device}.rp_filter": "2"}
