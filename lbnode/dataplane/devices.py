"""Network devices as the kernel tells of them, and which of them is a tunnel, a link to a router or a probe device of ours.

Numbers that pyroute2 does not name are those of ``linux/ip6_tunnel.h`` and ``linux/in.h``. A tunnel over IPv4 is the kernel's kind ``ipip``,
one over IPv6 is ``ip6tnl`` that takes nothing but IPv6; a link to a router is of kind ``gre``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from lbnode.model import IPAddress, ReturnTunnel, RouterLink, Tunnel

#: By IP version of the outer header.
TUNNEL_KINDS = {4: "ipip", 6: "ip6tnl"}
LINK_KIND = "gre"
#: By kind: the kernel module that knows it, and what it is called.
MODULES = {
    "ipip": ("ipip", "IPIP tunnel device"),
    "ip6tnl": ("ip6_tunnel", "IPv6 tunnel device"),
    LINK_KIND: ("ip_gre", "GRE tunnel device"),
}
IP6_TNL_F_IGN_ENCAP_LIMIT = 0x1
IPPROTO_IPV6 = 41


@dataclass(frozen=True, slots=True)
class Device:
    """A device as the kernel has it. Of kinds that are none of ours only the name, ``kind``, ``up`` and the MTU are known; ``plain`` says that an
    IPv6 tunnel adds no option header to the packet and takes nothing but IPv6, and that GRE adds nothing but its four bytes. ``ttl`` is that of
    the outer header, 0 when it is copied from inside.
    """

    name: str
    index: int
    up: bool
    kind: str
    local: IPAddress | None
    remote: IPAddress | None
    external: bool
    plain: bool
    mtu_bytes: int
    ttl: int


def far_end(tunnel: Tunnel | ReturnTunnel) -> IPAddress:
    """The address of the node that the tunnel leads to."""
    return tunnel.edge_address if isinstance(tunnel, Tunnel) else tunnel.worker_address


def is_tunnel(device: Device, tunnel: Tunnel | ReturnTunnel) -> bool:
    """Whether the device is this tunnel, whatever its state."""
    ends = (TUNNEL_KINDS[tunnel.node_address.version], tunnel.node_address, far_end(tunnel))
    return device.plain and (device.kind, device.local, device.remote) == ends


def is_router_link(device: Device, link: RouterLink) -> bool:
    """Whether the device is this link, whatever its state and its addresses."""
    wanted = (LINK_KIND, link.node_address, link.router_address, link.ttl, link.mtu_bytes)
    return device.plain and (device.kind, device.local, device.remote, device.ttl, device.mtu_bytes) == wanted


def is_probe_device(device: Device, version: int, mtu_bytes: int) -> bool:
    """Whether the device is the probe device of this IP version, whatever its state."""
    return device.kind == TUNNEL_KINDS[version] and device.external and device.plain and device.mtu_bytes == mtu_bytes


def device_of(answer: Any) -> Device:
    """The device in an answer to ``RTM_GETLINK``."""
    fields = _by_name(answer)
    information = _by_name(fields.get("IFLA_LINKINFO"))
    kind = str(information.get("IFLA_INFO_KIND"))
    prefix = f"IFLA_{kind.upper()}"
    data = _by_name(information.get("IFLA_INFO_DATA") if kind in MODULES else None)
    return Device(
        name=fields["IFLA_IFNAME"],
        index=answer["index"],
        up=bool(answer["flags"] & IFF_UP),
        kind=kind,
        local=_end(data.get(f"{prefix}_LOCAL")),
        remote=_end(data.get(f"{prefix}_REMOTE")),
        external=f"{prefix}_COLLECT_METADATA" in data,
        plain=_is_plain(kind, data),
        mtu_bytes=fields.get("IFLA_MTU", 0),
        ttl=data.get(f"{prefix}_TTL", 0),
    )


def _is_plain(kind: str, data: Mapping[str, Any]) -> bool:
    if kind == TUNNEL_KINDS[6]:
        ignores_limit = bool(data.get("IFLA_IP6TNL_FLAGS", 0) & IP6_TNL_F_IGN_ENCAP_LIMIT)
        return ignores_limit and data.get("IFLA_IP6TNL_PROTO") == IPPROTO_IPV6
    if kind == LINK_KIND:
        return not any(_flags_of(data.get(f"IFLA_GRE_{way}FLAGS")) for way in ("I", "O"))
    return True


def _flags_of(value: Any) -> int:
    return int(value["value"] if isinstance(value, Mapping) else value or 0)


_WANTED_OF_DEVICES = frozenset(
    {
        "IFLA_IFNAME",
        "IFLA_MTU",
        "IFLA_LINKINFO",
        "IFLA_INFO_KIND",
        "IFLA_INFO_DATA",
        "IFLA_IP6TNL_FLAGS",
        "IFLA_IP6TNL_PROTO",
        "IFLA_GRE_IFLAGS",
        "IFLA_GRE_OFLAGS",
        *(f"IFLA_{k.upper()}_{field}" for k in MODULES for field in ("LOCAL", "REMOTE", "TTL", "COLLECT_METADATA")),
    }
)


def _by_name(answer: Any) -> dict[str, Any]:
    # A device has dozens of attributes, of which each get_attr() looks at all.
    return {a.name: a.value for a in answer["attrs"] if a.name in _WANTED_OF_DEVICES} if answer is not None else {}


def _end(text: str | None) -> IPAddress | None:
    address = ip_address(text or 0)
    return None if address.is_unspecified else address
