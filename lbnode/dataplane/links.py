"""Addresses, tunnel devices and routes over rtnetlink.

Numbers that pyroute2 does not name are those of ``linux/if_addr.h``, ``linux/rtnetlink.h``, ``linux/lwtunnel.h`` and ``net/ip_tunnels.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.iproute import AsyncIPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import LWTUNNEL_ENCAP_IP, RT_SCOPE_HOST, RT_SCOPE_LINK, rtmsg

from lbnode.dataplane.ipvs import missing_module, missing_privilege
from lbnode.dataplane.netlink import BlockingSocket, Channel, WholeDumps, dump, get
from lbnode.errors import ConfigError, Retry
from lbnode.model import PROBE_DEVICE, TUNNEL_DEVICE_PREFIX, IPAddress, IPNetwork, ProbeRoute, Tunnel

_EXT_MASK_SKIP_STATS = 8
_IFA_F_NODAD = 2
_TUNNEL_DONT_FRAGMENT = 0x0100
_TABLE_MAIN = 254
_FAMILIES = {4: AF_INET, 6: AF_INET6}

_LOOPBACK_INDEX = 1  # in every network namespace
_IPIP = "ipip"


class _EncapIp(nla):
    """``LWTUNNEL_IP_*``: the ``encap ip`` of a route, which pyroute2 0.9 leaves as bytes."""

    nla_map = ((2, "destination", "ip4addr"), (3, "source", "ip4addr"), (6, "flags", "be16"))


rtmsg.encaps[LWTUNNEL_ENCAP_IP] = _EncapIp


class _Marshal(WholeDumps, MarshalRtnl):
    pass


class _RouteSocket(BlockingSocket, AsyncIPRoute):
    """The kernel filters the dumps: ``strict_check`` is ``NETLINK_GET_STRICT_CHK``."""

    def __init__(self) -> None:
        super().__init__(strict_check=True)
        self.set_marshal(_Marshal())


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
        self._channel = Channel(_RouteSocket)

    def close(self) -> None:
        self._channel.close()

    # Addresses

    def addresses(self, networks: Iterable[IPNetwork]) -> frozenset[IPAddress]:
        """Host addresses on the loopback device that lie in ``networks``."""
        wanted = tuple(networks)
        return frozenset(
            address
            for address, prefix_length in self._addresses_of(_LOOPBACK_INDEX, {n.version for n in wanted})
            if prefix_length == address.max_prefixlen and any(address in n for n in wanted)
        )

    def add_address(self, address: IPAddress, index: int = _LOOPBACK_INDEX) -> None:
        """Hold a host address; holding it already is fine."""
        self._channel.ask(lambda link: link.addr("replace", **_address_arguments(address, index)))

    def remove_address(self, address: IPAddress, index: int = _LOOPBACK_INDEX) -> None:
        """Let go of a host address; not having it is fine."""
        self._forgiving(lambda link: link.addr("del", **_address_arguments(address, index)), errno.EADDRNOTAVAIL)

    def _addresses_of(self, index: int, versions: Iterable[int]) -> list[tuple[IPAddress, int]]:
        def held(answer: Any) -> tuple[int, IPAddress, int]:
            address = ip_address(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"))
            return answer["index"], address, answer["prefixlen"]

        async def read(link: _RouteSocket) -> list[tuple[int, IPAddress, int]]:
            requests = [_with(ifaddrmsg, family=_FAMILIES[version], index=index) for version in versions]
            return [found for request in requests for found in await dump(link, RTM_GETADDR, request, held)]

        return [(address, prefix_length) for at, address, prefix_length in self._channel.ask(read) if at == index]

    # Devices

    def device(self, name: str) -> Device | None:
        return self._channel.ask(lambda link: _device_named(link, name))

    def ipip_devices(self) -> list[Device]:
        """All IPIP devices."""
        kind = {"attrs": [("IFLA_INFO_KIND", _IPIP)]}
        request = _with(ifinfmsg, attrs=[("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS), ("IFLA_LINKINFO", kind)])
        try:
            found = self._channel.ask(lambda link: dump(link, RTM_GETLINK, request, _device))
        except OSError as error:
            # The kernel knows no such kind yet: the module is not loaded, so there is no device.
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        return [d for d in found if d.kind == _IPIP]

    def set_up(self, device: Device) -> None:
        self._channel.ask(lambda link: link.link("set", index=device.index, state="up"))

    def remove_device(self, device: Device) -> None:
        self._forgiving(lambda link: link.link("del", index=device.index), errno.ENODEV)

    def _add_device(self, name: str, **attributes: object) -> Device:
        try:
            self._channel.ask(lambda link: link.link("add", ifname=name, kind=_IPIP, state="up", **attributes))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise missing_module("ipip", "IPIP tunnel device") from None
            raise
        made = self.device(name)
        if made is None:
            raise Retry(f"device {name} vanished as soon as it was made")
        return made

    # The edge's one probe device: it sends where the route says, and the packet filter drops whatever it receives.

    def probe_paths(self, mtu_bytes: int) -> tuple[bool, frozenset[ProbeRoute]]:
        """Whether the probe device is ready, and the routes by it with their encapsulation."""

        async def read(link: _RouteSocket) -> tuple[bool, frozenset[ProbeRoute]]:
            device = await _device_named(link, PROBE_DEVICE)
            if device is None:
                return False, frozenset()
            request = _with(rtmsg, family=AF_INET, attrs=[("RTA_TABLE", _TABLE_MAIN), ("RTA_OIF", device.index)])
            routes = await dump(link, RTM_GETROUTE, request, lambda answer: _probe_route(answer, device.index))
            return _is_probe_device(device, mtu_bytes) and device.up, frozenset(r for r in routes if r is not None)

        return self._channel.ask(read)

    def ensure_probe_device(self, mtu_bytes: int) -> None:
        device = self.device(PROBE_DEVICE)
        if device is not None and not _is_probe_device(device, mtu_bytes):
            self.remove_device(device)
            device = None
        if device is None:
            device = self._add_device(PROBE_DEVICE, mtu=mtu_bytes, ipip_collect_metadata=True)
        if not device.up:
            self.set_up(device)

    def add_probe_route(self, route: ProbeRoute, source: IPAddress) -> None:
        """Route to the probe address in a tunnel from ``source`` to the worker, unfragmented; replaces one to the same address."""
        # The inner source must be the node's: the loopback device holds VIPs, which the kernel could choose as well.
        encapsulation = {
            "attrs": [
                ("destination", str(route.worker_address)),
                ("source", str(source)),
                ("flags", _TUNNEL_DONT_FRAGMENT),
            ]
        }
        arguments = self._route_arguments(route) | {
            "prefsrc": str(source),
            "attrs": [("RTA_ENCAP_TYPE", LWTUNNEL_ENCAP_IP), ("RTA_ENCAP", encapsulation)],
        }
        self._channel.ask(lambda link: link.route("replace", **arguments))

    def remove_probe_route(self, route: ProbeRoute) -> None:
        if self.device(PROBE_DEVICE) is not None:
            arguments = self._route_arguments(route)
            self._forgiving(lambda link: link.route("del", **arguments), errno.ESRCH)

    def _route_arguments(self, route: ProbeRoute) -> dict[str, object]:
        _only_ipv4(route.worker_address)
        _only_ipv4(route.probe_address)
        device = self.device(PROBE_DEVICE)
        if device is None:
            raise Retry(f"device {PROBE_DEVICE} is missing")
        return {
            "dst": f"{route.probe_address}/32",
            "oif": device.index,
            "table": _TABLE_MAIN,
            "proto": "static",
            "scope": RT_SCOPE_LINK,
            "type": "unicast",
        }

    # The worker's tunnels: one device for each edge node, so that nobody else's packets are taken out of their wrapping.

    def tunnel_devices(self) -> list[Device]:
        return [d for d in self.ipip_devices() if d.name.startswith(TUNNEL_DEVICE_PREFIX)]

    def holds(self, device: Device, address: IPAddress) -> bool:
        return (address, address.max_prefixlen) in self._addresses_of(device.index, [address.version])

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
                ipip_local=str(tunnel.node_address),
                ipip_remote=str(tunnel.edge_address),
                ipip_pmtudisc=1,
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

    def _forgiving(self, question: Callable[[_RouteSocket], Coroutine[Any, Any, object]], *forgiven: int) -> None:
        try:
            self._channel.ask(question)
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


def _address_arguments(address: IPAddress, index: int) -> dict[str, object]:
    arguments: dict[str, object] = {
        "index": index,
        "family": _FAMILIES[address.version],
        "address": str(address),
        "local": str(address),
        "prefixlen": address.max_prefixlen,
    }
    if address.version == 6:
        return arguments | {"flags": _IFA_F_NODAD}
    # Host scope keeps the kernel from choosing a VIP as source of the node's own packets.
    return arguments | {"scope": RT_SCOPE_HOST}


def _with(message: type[Any], **fields: object) -> Any:
    made = message()
    made.update(fields)
    return made


async def _device_named(link: _RouteSocket, name: str) -> Device | None:
    request = _with(ifinfmsg, attrs=[("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS)])
    try:
        return _device(await get(link, RTM_GETLINK, request))
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def _probe_route(answer: Any, index: int) -> ProbeRoute | None:
    # Without a destination it is a default route, which is none of ours.
    if (probe_address := answer.get_attr("RTA_DST")) is None or answer.get_attr("RTA_OIF") != index:
        return None
    encapsulation = answer.get_attr("RTA_ENCAP")
    worker = encapsulation.get_attr("destination") if isinstance(encapsulation, _EncapIp) else None
    return ProbeRoute(ip_address(probe_address), ip_address(worker or 0))


def _device(answer: Any) -> Device:
    fields = _by_name(answer)
    information = _by_name(fields.get("IFLA_LINKINFO"))
    kind = information.get("IFLA_INFO_KIND")
    data = _by_name(information.get("IFLA_INFO_DATA") if kind == _IPIP else None)
    return Device(
        name=fields["IFLA_IFNAME"],
        index=answer["index"],
        up=bool(answer["flags"] & IFF_UP),
        kind=kind or "",
        local=_end(data.get("IFLA_IPIP_LOCAL")),
        remote=_end(data.get("IFLA_IPIP_REMOTE")),
        external="IFLA_IPIP_COLLECT_METADATA" in data,
        mtu_bytes=fields.get("IFLA_MTU", 0),
    )


_WANTED_OF_DEVICES = frozenset(
    {
        "IFLA_IFNAME",
        "IFLA_MTU",
        "IFLA_LINKINFO",
        "IFLA_INFO_KIND",
        "IFLA_INFO_DATA",
        "IFLA_IPIP_LOCAL",
        "IFLA_IPIP_REMOTE",
        "IFLA_IPIP_COLLECT_METADATA",
    }
)


def _by_name(answer: Any) -> dict[str, Any]:
    # A device has dozens of attributes, of which each get_attr() looks at all.
    return {a.name: a.value for a in answer["attrs"] if a.name in _WANTED_OF_DEVICES} if answer is not None else {}


def _end(text: str | None) -> IPAddress | None:
    address = ip_address(text or 0)
    return None if address.is_unspecified else address


def _only_ipv4(address: IPAddress) -> None:
    if address.version != 4:
        raise ConfigError(
            str(address),
            "tunnels between nodes run over IPv4 only",
            "Give the nodes IPv4 addresses in network.nodeCidrs",
        )
