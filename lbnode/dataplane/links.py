"""Addresses, tunnel devices and routes over rtnetlink.

Numbers are those of ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/if_tunnel.h`` and ``linux/lwtunnel.h``.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from lbnode.dataplane.ipvs import missing_module, missing_privilege
from lbnode.dataplane.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Attributes,
    Netlink,
    attribute,
    attributes,
    nested,
)
from lbnode.errors import ConfigError, Retry
from lbnode.model import PROBE_DEVICE, TUNNEL_DEVICE_PREFIX, IPAddress, IPNetwork, ProbeRoute, Tunnel

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_U16, _U32 = struct.Struct("=H"), struct.Struct("=I")

_AF_INET, _AF_INET6 = 2, 10
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 4, 18, 29
_INFO_KIND, _INFO_DATA = 1, 2
_EXT_MASK_SKIP_STATS = 8
_IPTUN_LOCAL, _IPTUN_REMOTE, _IPTUN_PMTUDISC, _IPTUN_COLLECT_METADATA = 2, 3, 10, 19
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 2
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _RTA_ENCAP_TYPE, _RTA_ENCAP = 1, 4, 7, 21, 22
_ENCAP_TYPE_IP = 2
_LWT_DST, _LWT_SRC, _LWT_FLAGS = 2, 3, 6
_TUNNEL_DONT_FRAGMENT = 0x0100
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_LINK, _SCOPE_HOST, _TYPE_UNICAST = 254, 4, 253, 254, 1

_LOOPBACK_INDEX = 1  # in every network namespace
_IPIP = "ipip"


@dataclass(frozen=True, slots=True)
class Device:
    """An IPIP device as the kernel has it."""

    name: str
    index: int
    up: bool
    kind: str
    local: IPAddress | None
    remote: IPAddress | None
    external: bool
    mtu_bytes: int


class Links:
    """The rtnetlink side of a data plane. Methods raise ``OSError`` with the kernel's error number unless they say otherwise."""

    def __init__(self) -> None:
        self._socket: Netlink | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> Netlink:
        if self._socket is None:
            self._socket = Netlink(NETLINK_ROUTE)
        return self._socket

    # Addresses

    def addresses(self, networks: Iterable[IPNetwork]) -> frozenset[IPAddress]:
        """Host addresses on the loopback device that lie in ``networks``."""
        wanted = tuple(networks)
        found: set[IPAddress] = set()
        for version in {n.version for n in wanted}:
            for address, prefix_length in self._addresses_of(_LOOPBACK_INDEX, version):
                if prefix_length == address.max_prefixlen and any(address in n for n in wanted):
                    found.add(address)
        return frozenset(found)

    def add_address(self, address: IPAddress, index: int = _LOOPBACK_INDEX) -> None:
        """Hold a host address; holding it already is fine."""
        self._open().request(_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address_payload(address, index))

    def remove_address(self, address: IPAddress, index: int = _LOOPBACK_INDEX) -> None:
        """Let go of a host address; not having it is fine."""
        self._forgiving(_DELADDR, _address_payload(address, index), errno.EADDRNOTAVAIL)

    def _addresses_of(self, index: int, version: int) -> list[tuple[IPAddress, int]]:
        number = _AF_INET if version == 4 else _AF_INET6
        found: list[tuple[IPAddress, int]] = []
        for answer in self._open().dump(_GETADDR, _ADDRESS.pack(number, 0, 0, 0, index)):
            family, prefix_length, _, _, at = _ADDRESS.unpack_from(answer)
            fields = attributes(answer, _ADDRESS.size)
            packed = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
            if family == number and at == index and packed:
                found.append((_unpacked(packed), prefix_length))
        return found

    # Devices

    def device(self, name: str) -> Device | None:
        try:
            return _device(
                self._open().get(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0"))
            )
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def ipip_devices(self) -> list[Device]:
        """All IPIP devices."""
        request = (
            _LINK.pack(0, 0, 0, 0, 0)
            + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, _IPIP.encode() + b"\0"))
            + attribute(_IFLA_EXT_MASK, _U32.pack(_EXT_MASK_SKIP_STATS))
        )
        try:
            found = [_device(answer) for answer in self._open().dump(_GETLINK, request)]
        except OSError as error:
            # The kernel knows no such kind yet: the module is not loaded, so there is no device.
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        return [d for d in found if d.kind == _IPIP]

    def set_up(self, device: Device) -> None:
        self._open().request(_NEWLINK, 0, _LINK.pack(0, 0, device.index, _IFF_UP, _IFF_UP))

    def remove_device(self, device: Device) -> None:
        self._forgiving(_DELLINK, _LINK.pack(0, 0, device.index, 0, 0), errno.ENODEV)

    def _add_device(self, name: str, mtu_bytes: int | None, *data: bytes) -> Device:
        request = _LINK.pack(0, 0, 0, _IFF_UP, _IFF_UP) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
        if mtu_bytes is not None:
            request += attribute(_IFLA_MTU, _U32.pack(mtu_bytes))
        request += nested(_IFLA_LINKINFO, attribute(_INFO_KIND, _IPIP.encode() + b"\0"), nested(_INFO_DATA, *data))
        try:
            self._open().request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise missing_module("ipip", "IPIP tunnel device") from None
            raise
        made = self.device(name)
        if made is None:
            raise Retry(f"device {name} vanished as soon as it was made")
        return made

    # The edge's one probe device: it sends where the route says, and the packet filter drops whatever it receives.

    def probe_device_ready(self, mtu_bytes: int) -> bool:
        device = self.device(PROBE_DEVICE)
        return device is not None and _is_probe_device(device, mtu_bytes) and device.up

    def ensure_probe_device(self, mtu_bytes: int) -> None:
        device = self.device(PROBE_DEVICE)
        if device is not None and not _is_probe_device(device, mtu_bytes):
            self.remove_device(device)
            device = None
        if device is None:
            device = self._add_device(PROBE_DEVICE, mtu_bytes, attribute(_IPTUN_COLLECT_METADATA, b""))
        if not device.up:
            self.set_up(device)

    def probe_routes(self) -> frozenset[ProbeRoute]:
        """The routes by the probe device with their encapsulation."""
        device = self.device(PROBE_DEVICE)
        if device is None:
            return frozenset()
        request = _ROUTE.pack(_AF_INET, 0, 0, 0, _TABLE_MAIN, 0, 0, 0, 0) + attribute(_RTA_OIF, _U32.pack(device.index))
        found = set()
        for answer in self._open().dump(_GETROUTE, request):
            fields = attributes(answer, _ROUTE.size)
            encapsulation = attributes(fields.get(_RTA_ENCAP, b""))
            # Without a destination it is a default route, which is none of ours.
            if fields.get(_RTA_OIF) != _U32.pack(device.index) or _RTA_DST not in fields:
                continue
            worker = encapsulation.get(_LWT_DST, b"\0\0\0\0")
            found.add(ProbeRoute(_unpacked(fields[_RTA_DST]), _unpacked(worker)))
        return frozenset(found)

    def add_probe_route(self, route: ProbeRoute, source: IPAddress) -> None:
        """Route to the probe address in a tunnel from ``source`` to the worker, unfragmented; replaces one to the same address."""
        self._open().request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, self._route_payload(route, source))

    def remove_probe_route(self, route: ProbeRoute) -> None:
        if self.device(PROBE_DEVICE) is not None:
            self._forgiving(_DELROUTE, self._route_payload(route, None), errno.ESRCH)

    def _route_payload(self, route: ProbeRoute, source: IPAddress | None) -> bytes:
        _only_ipv4(route.worker_address)
        _only_ipv4(route.probe_address)
        device = self.device(PROBE_DEVICE)
        if device is None:
            raise Retry(f"device {PROBE_DEVICE} is missing")
        payload = _ROUTE.pack(_AF_INET, 32, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_LINK, _TYPE_UNICAST, 0)
        payload += attribute(_RTA_DST, route.probe_address.packed) + attribute(_RTA_OIF, _U32.pack(device.index))
        if source is not None:
            # The inner source must be the node's: the loopback device holds VIPs, which the kernel could choose as well.
            payload += attribute(_RTA_PREFSRC, source.packed)
            payload += attribute(_RTA_ENCAP_TYPE, _U16.pack(_ENCAP_TYPE_IP))
            payload += nested(
                _RTA_ENCAP,
                attribute(_LWT_DST, route.worker_address.packed),
                attribute(_LWT_SRC, source.packed),
                attribute(_LWT_FLAGS, struct.pack("!H", _TUNNEL_DONT_FRAGMENT)),
            )
        return payload

    # The worker's tunnels: one device for each edge node, so that nobody else's packets are taken out of their wrapping.

    def tunnel_devices(self) -> list[Device]:
        return [d for d in self.ipip_devices() if d.name.startswith(TUNNEL_DEVICE_PREFIX)]

    def holds(self, device: Device, address: IPAddress) -> bool:
        return (address, address.max_prefixlen) in self._addresses_of(device.index, address.version)

    def ensure_tunnel(self, tunnel: Tunnel) -> None:
        """Create the device or mend it; a device of this name with other ends is replaced. Address and state included."""
        _only_ipv4(tunnel.edge_address)
        device = self.device(tunnel.device)
        if device is not None and (device.kind, device.local, device.remote) != (
            _IPIP,
            tunnel.node_address,
            tunnel.edge_address,
        ):
            self.remove_device(device)
            device = None
        if device is None:
            device = self._add_device(
                tunnel.device,
                None,
                attribute(_IPTUN_LOCAL, tunnel.node_address.packed),
                attribute(_IPTUN_REMOTE, tunnel.edge_address.packed),
                attribute(_IPTUN_PMTUDISC, b"\1"),
            )
        # An interface without address drops packets in spite of a loose reverse path filter.
        self.add_address(tunnel.node_address, device.index)
        if not device.up:
            self.set_up(device)

    def remove_tunnel(self, name: str) -> None:
        """Remove the tunnel ``name``, or one of ours under another name that leads to the same edge node."""
        for device in self.tunnel_devices():
            ends = (
                device.local is not None
                and device.remote is not None
                and Tunnel(device.remote, device.local).device == name
            )
            if device.name == name or ends:
                self.remove_device(device)

    def _forgiving(self, kind: int, payload: bytes, *forgiven: int) -> None:
        try:
            self._open().request(kind, 0, payload)
        except OSError as error:
            if error.errno not in forgiven:
                raise


def failure(what: object, error: OSError) -> ConfigError | Retry:
    """What an ``OSError`` of this module means for the caller."""
    if error.errno == errno.EPERM:
        return missing_privilege()
    return Retry(f"the kernel refused {what}: {error.strerror}")


def _is_probe_device(device: Device, mtu_bytes: int) -> bool:
    return device.kind == _IPIP and device.external and device.mtu_bytes == mtu_bytes


def _address_payload(address: IPAddress, index: int) -> bytes:
    # Host scope keeps the kernel from choosing a VIP as source of the node's own packets.
    family = _AF_INET if address.version == 4 else _AF_INET6
    payload = _ADDRESS.pack(family, address.max_prefixlen, 0, _SCOPE_HOST if address.version == 4 else 0, index)
    payload += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    return payload + (attribute(_IFA_FLAGS, _U32.pack(_IFA_F_NODAD)) if address.version == 6 else b"")


def _device(answer: bytes) -> Device:
    _, _, index, flags, _ = _LINK.unpack_from(answer)
    fields = attributes(answer, _LINK.size)
    information = attributes(fields.get(_IFLA_LINKINFO, b""))
    data: Attributes = attributes(information.get(_INFO_DATA, b""))
    return Device(
        name=fields[_IFLA_IFNAME].rstrip(b"\0").decode(),
        index=index,
        up=bool(flags & _IFF_UP),
        kind=information.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        local=_end(data, _IPTUN_LOCAL),
        remote=_end(data, _IPTUN_REMOTE),
        external=_IPTUN_COLLECT_METADATA in data,
        mtu_bytes=_U32.unpack(fields[_IFLA_MTU])[0] if _IFLA_MTU in fields else 0,
    )


def _end(data: Attributes, kind: int) -> IPAddress | None:
    packed = data.get(kind, b"")
    return _unpacked(packed) if len(packed) == 4 and any(packed) else None


def _unpacked(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _only_ipv4(address: IPAddress) -> None:
    if address.version != 4:
        raise ConfigError(
            str(address),
            "tunnels between nodes run over IPv4 only",
            "Give the nodes IPv4 addresses in network.nodeCidrs",
        )
