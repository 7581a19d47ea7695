"""The routes that an edge node's probes take: to a worker's probe address, in a tunnel of the route's own, and as the kernel tells of them.

Numbers that pyroute2 does not name are those of ``linux/rtnetlink.h``, ``linux/lwtunnel.h`` and ``net/ip_tunnels.h``.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl.rtmsg import LWTUNNEL_ENCAP_IP, LWTUNNEL_ENCAP_IP6, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, rtmsg

from lbnode.dataplane.netlink import FAMILIES
from lbnode.model import ProbeRoute

TABLE_MAIN = 254
_TUNNEL_DONT_FRAGMENT = 0x0100


class _EncapIp(nla):
    """``LWTUNNEL_IP_*``: the ``encap ip`` of a route, which pyroute2 0.9 leaves as bytes."""

    nla_map = ((2, "destination", "ip4addr"), (3, "source", "ip4addr"), (6, "flags", "be16"))


class _EncapIp6(nla):
    """``LWTUNNEL_IP6_*``: the same for ``encap ip6``."""

    nla_map = ((2, "destination", "ip6addr"), (3, "source", "ip6addr"))


_ENCAPSULATIONS = {4: LWTUNNEL_ENCAP_IP, 6: LWTUNNEL_ENCAP_IP6}
rtmsg.encaps |= {LWTUNNEL_ENCAP_IP: _EncapIp, LWTUNNEL_ENCAP_IP6: _EncapIp6}


def host_route(route: ProbeRoute, index: int) -> dict[str, object]:
    """pyroute2's arguments for the route by the probe device with this index, without its tunnel."""
    version = route.probe_address.version
    return {
        "family": FAMILIES[version],
        "dst": f"{route.probe_address}/{route.probe_address.max_prefixlen}",
        "oif": index,
        "table": TABLE_MAIN,
        "proto": "static",
        # IPv6 routes have no scope.
        "scope": RT_SCOPE_LINK if version == 4 else RT_SCOPE_UNIVERSE,
        "type": "unicast",
    }


def encapsulated(route: ProbeRoute) -> dict[str, object]:
    """pyroute2's arguments for the tunnel of the route, unfragmented."""
    version = route.probe_address.version
    # The inner source must be the node's: the loopback device holds VIPs, which the kernel could choose as well.
    source = str(route.edge_address)
    encapsulation: list[tuple[str, object]] = [("destination", str(route.worker_address)), ("source", source)]
    if version == 4:
        # IPv6 has no such bit: nothing but the sender fragments (RFC 8200 section 4.5), and the device's MTU keeps the sender from it.
        encapsulation.append(("flags", _TUNNEL_DONT_FRAGMENT))
    return {
        "prefsrc": source,
        "attrs": [("RTA_ENCAP_TYPE", _ENCAPSULATIONS[version]), ("RTA_ENCAP", {"attrs": encapsulation})],
    }


def probe_route_of(answer: Any, index: int) -> ProbeRoute | None:
    """The route in an answer to ``RTM_GETROUTE``, if it is a host route by the probe device with this index. What is no tunnel shows as one to nowhere."""
    # What is no host route is none of ours: a default route, or the link-local network of an IPv6 device.
    if (text := answer.get_attr("RTA_DST")) is None or answer.get_attr("RTA_OIF") != index:
        return None
    probe_address = ip_address(text)
    if answer["dst_len"] != probe_address.max_prefixlen:
        return None
    nowhere = type(probe_address)(0)
    encapsulation = answer.get_attr("RTA_ENCAP")
    ours = isinstance(encapsulation, _EncapIp | _EncapIp6)
    worker, outer = (
        ip_address(encapsulation.get_attr(end) or nowhere) if ours else nowhere for end in ("destination", "source")
    )
    inner = ip_address(answer.get_attr("RTA_PREFSRC") or nowhere)
    return ProbeRoute(probe_address, worker, inner if inner == outer else nowhere)
