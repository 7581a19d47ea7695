"""Addresses, tunnel devices and routes over rtnetlink.

Numbers that pyroute2 does not name are those of ``linux/if_addr.h`` and ``linux/rtnetlink.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Iterable, Mapping
from ipaddress import ip_address, ip_interface
from typing import Any

from pyroute2.iproute import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import (
    RT_SCOPE_HOST,
    rtmsg,
)

from lbnode.dataplane.devices import (
    IP6_TNL_F_IGN_ENCAP_LIMIT,
    IPPROTO_IPV6,
    LINK_KIND,
    MODULES,
    TUNNEL_KINDS,
    Device,
    device_of,
    far_end,
    is_probe_device,
    is_router_link,
    is_tunnel,
)
from lbnode.dataplane.netlink import FAMILIES, BlockingSocket, Channel, WholeDumps, dump, get, message_with
from lbnode.dataplane.probe_routes import TABLE_MAIN, encapsulated, host_route, probe_route_of
from lbnode.dataplane.refusals import missing_module
from lbnode.errors import ConfigError, Retry
from lbnode.model import (
    LINK_DEVICE_PREFIX,
    PROBE_DEVICES,
    RETURN_DEVICE_PREFIX,
    TUNNEL_DEVICE_PREFIX,
    IPAddress,
    IPInterface,
    IPNetwork,
    ProbeRoute,
    ReturnTunnel,
    RouterLink,
    Tunnel,
)

_EXT_MASK_SKIP_STATS = 8
_IFA_F_NODAD = 2

_LOOPBACK_INDEX = 1  # in every network namespace


class _Marshal(WholeDumps, MarshalRtnl):
    pass


class _RouteSocket(BlockingSocket, AsyncIPRoute):
    """The kernel filters the dumps: ``strict_check`` is ``NETLINK_GET_STRICT_CHK``."""

    def __init__(self) -> None:
        super().__init__(strict_check=True)
        self.set_marshal(_Marshal())


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
        return [(address, length) for at, address, length in self._addresses(index, versions) if at == index]

    def _addresses(self, index: int, versions: Iterable[int]) -> list[tuple[int, IPAddress, int]]:
        """Device, address and prefix length; ``index`` 0 for all devices."""

        def held(answer: Any) -> tuple[int, IPAddress, int]:
            address = ip_address(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"))
            return answer["index"], address, answer["prefixlen"]

        async def read(link: _RouteSocket) -> list[tuple[int, IPAddress, int]]:
            requests = [message_with(ifaddrmsg, family=FAMILIES[version], index=index) for version in versions]
            return [found for request in requests for found in await dump(link, RTM_GETADDR, request, held)]

        return self._channel.ask(read)

    # Devices

    def device(self, name: str) -> Device | None:
        return self._channel.ask(lambda link: _device_named(link, name))

    def _devices(self, kind: str) -> list[Device]:
        """All devices of this kind."""
        information = {"attrs": [("IFLA_INFO_KIND", kind)]}
        request = message_with(
            ifinfmsg, attrs=[("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS), ("IFLA_LINKINFO", information)]
        )
        try:
            found = self._channel.ask(lambda link: dump(link, RTM_GETLINK, request, device_of))
        except OSError as error:
            # The kernel knows no such kind yet: the module is not loaded, so there is no device.
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        return [d for d in found if d.kind == kind]

    def xdp_program(self, name: str) -> int:
        """The kernel's number of the XDP program at a device; 0 without one, and without the device."""

        async def read(link: _RouteSocket) -> int:
            request = message_with(ifinfmsg, attrs=[("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS)])
            try:
                answer = await get(link, RTM_GETLINK, request)
            except NetlinkError as error:
                if error.code == errno.ENODEV:
                    return 0
                raise
            attached = answer.get_attr("IFLA_XDP")
            return int((attached.get_attr("IFLA_XDP_PROG_ID") if attached is not None else None) or 0)

        return self._channel.ask(read)

    def set_up(self, device: Device) -> None:
        self._channel.ask(lambda link: link.link("set", index=device.index, state="up"))

    def remove_device(self, device: Device) -> None:
        self._forgiving(lambda link: link.link("del", index=device.index), errno.ENODEV)

    def _add_device(
        self, kind: str, name: str, attributes: Mapping[str, object], mtu_bytes: int | None = None
    ) -> Device:
        """A device that is down, so that it can be set up before the first packet."""
        given: dict[str, object] = {f"{kind}_{key}": value for key, value in attributes.items()}
        if kind == TUNNEL_KINDS[6]:
            # The option header of RFC 2473 would take eight bytes more, and IPv4 in IPv6 is not ours.
            given |= {"ip6tnl_flags": IP6_TNL_F_IGN_ENCAP_LIMIT, "ip6tnl_proto": IPPROTO_IPV6}
        if mtu_bytes is not None:
            given["mtu"] = mtu_bytes
        try:
            self._channel.ask(lambda link: link.link("add", ifname=name, kind=kind, **given))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise missing_module(*MODULES[kind]) from None
            raise
        made = self.device(name)
        if made is None:
            raise Retry(f"device {name} vanished as soon as it was made")
        return made

    # The edge's one probe device a family: it sends where the route says, and the packet filter drops whatever it receives.

    def probe_paths(self, version: int, mtu_bytes: int) -> tuple[bool, frozenset[ProbeRoute]]:
        """Whether the probe device is ready, and the host routes by it with their encapsulation."""

        async def read(link: _RouteSocket) -> tuple[bool, frozenset[ProbeRoute]]:
            device = await _device_named(link, PROBE_DEVICES[version])
            if device is None:
                return False, frozenset()
            attributes = [("RTA_TABLE", TABLE_MAIN), ("RTA_OIF", device.index)]
            request = message_with(rtmsg, family=FAMILIES[version], attrs=attributes)
            routes = await dump(link, RTM_GETROUTE, request, lambda answer: probe_route_of(answer, device.index))
            ready = is_probe_device(device, version, mtu_bytes) and device.up
            return ready, frozenset(r for r in routes if r is not None)

        return self._channel.ask(read)

    def ensure_probe_device(self, version: int, mtu_bytes: int) -> None:
        device = self.device(PROBE_DEVICES[version])
        if device is not None and not is_probe_device(device, version, mtu_bytes):
            self.remove_device(device)
            device = None
        if device is None:
            device = self._add_device(
                TUNNEL_KINDS[version], PROBE_DEVICES[version], {"collect_metadata": True}, mtu_bytes
            )
        if not device.up:
            self.set_up(device)

    def remove_probe_device(self, version: int) -> None:
        """Remove the device with its routes; not having it is fine."""
        if (device := self.device(PROBE_DEVICES[version])) is not None:
            self.remove_device(device)

    def add_probe_route(self, route: ProbeRoute) -> None:
        """Route to the probe address in a tunnel from the edge node to the worker, unfragmented; replaces one to the same address."""
        arguments = self._route_arguments(route) | encapsulated(route)
        self._channel.ask(lambda link: link.route("replace", **arguments))

    def remove_probe_route(self, route: ProbeRoute) -> None:
        if self.device(PROBE_DEVICES[route.probe_address.version]) is not None:
            arguments = self._route_arguments(route)
            self._forgiving(lambda link: link.route("del", **arguments), errno.ESRCH)

    def _route_arguments(self, route: ProbeRoute) -> dict[str, object]:
        version = route.probe_address.version
        device = self.device(PROBE_DEVICES[version])
        if device is None:
            raise Retry(f"device {PROBE_DEVICES[version]} is missing")
        return host_route(route, device.index)

    # The worker's tunnels: one device for each edge node, so that nobody else's packets are taken out of their wrapping.

    def tunnel_devices(self, prefix: str = TUNNEL_DEVICE_PREFIX) -> list[Device]:
        """Those of both families."""
        return [d for kind in TUNNEL_KINDS.values() for d in self._devices(kind) if d.name.startswith(prefix)]

    def held(self, devices: Iterable[Device]) -> dict[int, set[IPAddress]]:
        """The IPv4 host addresses on each of these devices that has any, by its index."""
        wanted, found = {d.index for d in devices}, dict[int, set[IPAddress]]()
        if not wanted:
            return found
        for index, address, prefix_length in self._addresses(0, [4]):
            if index in wanted and prefix_length == address.max_prefixlen:
                found.setdefault(index, set()).add(address)
        return found

    def ensure_tunnel(self, tunnel: Tunnel | ReturnTunnel) -> Device:
        """Create the device, down, or mend it; a device of this name with other ends is replaced. Address included."""
        version = tunnel.node_address.version
        device = self.device(tunnel.device)
        if device is not None and not is_tunnel(device, tunnel):
            self.remove_device(device)
            device = None
        if device is None:
            attributes: dict[str, object] = {"local": str(tunnel.node_address), "remote": str(far_end(tunnel))}
            attributes |= {"pmtudisc": 1} if version == 4 else {}
            device = self._add_device(TUNNEL_KINDS[version], tunnel.device, attributes)
        if version == 4:
            # An interface without address drops packets in spite of a loose reverse path filter.
            self.add_address(tunnel.node_address, device.index)
        return device

    def remove_tunnel(self, name: str, kind: type[Tunnel] | type[ReturnTunnel] = Tunnel) -> None:
        """Remove the tunnel ``name``, or one of ours under another name that leads to the same node."""
        prefix = TUNNEL_DEVICE_PREFIX if kind is Tunnel else RETURN_DEVICE_PREFIX
        for device in self.tunnel_devices(prefix):
            ends = (
                device.local is not None
                and device.remote is not None
                and kind(device.remote, device.local).device == name
            )
            if device.name == name or ends:
                self.remove_device(device)

    # An edge node's links to routers.

    def router_links(self) -> list[tuple[Device, RouterLink]]:
        """The devices of links, and what they are by themselves: whether they are up and their sysctls right is for the caller to see."""
        found = []
        for device in self._devices(LINK_KIND):
            if device.name.startswith(LINK_DEVICE_PREFIX) and device.local is not None and device.remote is not None:
                link = RouterLink(
                    device.name.removeprefix(LINK_DEVICE_PREFIX),
                    device.local,
                    device.remote,
                    self._interfaces(device),
                    device.ttl,
                    device.mtu_bytes,
                )
                found.append((device, link))
        return found

    def _interfaces(self, device: Device) -> frozenset[IPInterface]:
        # A link-local address is the kernel's doing; where it may not be, the device's sysctls say so.
        held = self._addresses_of(device.index, FAMILIES)
        return frozenset(ip_interface(f"{a}/{n}") for a, n in held if not (a.version == 6 and a.is_link_local))

    def ensure_router_link(self, link: RouterLink) -> Device:
        """Create the device, down and without addresses, or take the one that is there; one of this name with other ends is replaced.

        Raises:
            ConfigError: the kernel has no GRE, or a device of somebody else has the same ends.
        """
        device = self.device(link.device)
        if device is not None and not is_router_link(device, link):
            self.remove_device(device)
            device = None
        if device is not None:
            return device
        attributes: dict[str, object] = {"local": str(link.node_address), "remote": str(link.router_address)}
        attributes |= {"ttl": link.ttl, "pmtudisc": 1}
        try:
            return self._add_device(LINK_KIND, link.device, attributes, link.mtu_bytes)
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise ConfigError(
                    f"link {link.name} from {link.node_address} to {link.router_address}",
                    "another GRE device on this node has the same ends",
                    "Find it with `ip -d link show type gre` and remove it, or take the link out of bgp.links and leave it to its owner",
                ) from None
            raise

    def set_interfaces(self, device: Device, wanted: frozenset[IPInterface]) -> None:
        """Have these addresses on the device, and no other."""
        there = self._interfaces(device)
        for interface in there - wanted:
            self._change_interface("del", interface, device.index)
        for interface in wanted - there:
            self._change_interface("replace", interface, device.index)

    def _change_interface(self, command: str, interface: IPInterface, index: int) -> None:
        arguments = _interface_arguments(interface, index)
        self._forgiving(lambda link: link.addr(command, **arguments), errno.EADDRNOTAVAIL)

    def remove_router_link(self, name: str) -> None:
        """Remove the device of a link; not having it is fine."""
        if (device := self.device(name)) is not None:
            self.remove_device(device)

    def _forgiving(self, question: Callable[[_RouteSocket], Coroutine[Any, Any, object]], *forgiven: int) -> None:
        try:
            self._channel.ask(question)
        except OSError as error:
            if error.errno not in forgiven:
                raise


def _address_arguments(address: IPAddress, index: int) -> dict[str, object]:
    arguments: dict[str, object] = {
        "index": index,
        "family": FAMILIES[address.version],
        "address": str(address),
        "local": str(address),
        "prefixlen": address.max_prefixlen,
    }
    if address.version == 6:
        return arguments | {"flags": _IFA_F_NODAD}
    # Host scope keeps the kernel from choosing a VIP as source of the node's own packets.
    return arguments | {"scope": RT_SCOPE_HOST}


def _interface_arguments(interface: IPInterface, index: int) -> dict[str, object]:
    arguments: dict[str, object] = {
        "index": index,
        "family": FAMILIES[interface.version],
        "address": str(interface.ip),
        "prefixlen": interface.network.prefixlen,
    }
    # Nobody else is on the link to have the address, and until that is found out BGP could not speak from it.
    return arguments | ({"flags": _IFA_F_NODAD} if interface.version == 6 else {"local": str(interface.ip)})


async def _device_named(link: _RouteSocket, name: str) -> Device | None:
    request = message_with(ifinfmsg, attrs=[("IFLA_IFNAME", name), ("IFLA_EXT_MASK", _EXT_MASK_SKIP_STATS)])
    try:
        return device_of(await get(link, RTM_GETLINK, request))
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
