"""Namespaces, cables, the rack's bridge, addresses, routes and sysctls, brought to what the topology says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lab import netns, topology
from lab.topology import End, Link

ROUTER_SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    # Layer-4 hash: a flow stays with one next hop, flows of one client spread (ip-sysctl).
    "net.ipv4.fib_multipath_hash_policy": "1",
    # Replies come back through whichever ToR the node's ECMP picks.
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv6.fib_multipath_hash_policy": "1",
}
# The core picks a ToR by other fields than the ToRs pick an edge node by: client, VIP and source port. With the same fields, namespaces of one
# kernel compute the same hash, and each ToR sees only flows of one half: then one edge node may get them all. Routers have a seed each.
CORE_SYSCTLS = {
    f"net.ipv{version}.fib_multipath_hash_{key}": value
    for version in (4, 6)
    for key, value in (("policy", "3"), ("fields", str(0x0001 | 0x0002 | 0x0010)))
}
HOST_SYSCTLS = {
    # The packet hash crosses veth: without this a client's retransmission is hashed to another edge node by the
    # namespace router, which no real router does.
    "net.core.txrehash": "0",
    # A machine that boots and has no pod network yet sends what comes for its pods on to a ToR. Its redirects would be believed for minutes.
    **{f"net.ipv{version}.conf.{what}.accept_redirects": "0" for version in (4, 6) for what in ("all", "default")},
}
QUIET_SYSCTLS = {f"net.ipv6.conf.{what}.disable_ipv6": "1" for what in ("all", "default")}
"""Of a namespace that has no IPv6 address: nothing announces itself."""
STATIC_IPV6_SYSCTLS = {
    # Every address is given by hand and known to be the only one; nobody advertises routers here.
    f"net.ipv6.conf.{what}.{key}": value
    for what in ("all", "default")
    for key, value in (("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"))
}


def sysctls(namespace: str) -> dict[str, str]:
    """The sysctls of a namespace."""
    if namespace == topology.CORE:
        return STATIC_IPV6_SYSCTLS | ROUTER_SYSCTLS | CORE_SYSCTLS
    if namespace in {router.namespace for router in topology.ROUTERS}:
        return STATIC_IPV6_SYSCTLS | ROUTER_SYSCTLS
    if namespace == topology.CLIENT:
        return STATIC_IPV6_SYSCTLS | HOST_SYSCTLS
    if namespace == topology.CONTROL:
        return QUIET_SYSCTLS | HOST_SYSCTLS | {"net.ipv4.fib_multipath_hash_policy": "1"}
    return QUIET_SYSCTLS | HOST_SYSCTLS


def static_routes(namespace: str) -> tuple[str, ...]:
    """The routes, as ip-route(8) arguments, that are not learnt."""
    if namespace == topology.CLIENT:
        return (f"default via {topology.CLIENT_GATEWAY}", f"-6 default via {topology.CLIENT_GATEWAY6}")
    if namespace == topology.CONTROL:
        tors = " ".join(f"nexthop via {tor.router_id}" for tor in topology.TORS)
        pods = tuple(f"{node.pod_network} via {node.address}" for node in topology.NODES)
        return (f"default {tors}", *pods)
    return ()


def _family_of(route: str) -> tuple[list[str], list[str]]:
    """The option of ip(8) that a route begins with, if any, and the words of the route."""
    words = route.split()
    return (words[:1], words[1:]) if words[0] == "-6" else ([], words)


def _json(namespace: str, *arguments: str) -> list[dict[str, Any]]:
    text = netns.run(namespace, ["ip", "-json", *arguments]).stdout
    parsed: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return parsed


def _links(namespace: str) -> dict[str, dict[str, Any]]:
    return {link["ifname"]: link for link in _json(namespace, "-details", "link", "show")}


def namespaces_trouble() -> str | None:
    """The namespaces that are missing, or None."""
    missing = [name for name in topology.NAMESPACES if not netns.usable(name)]
    return f"missing: {', '.join(missing)}" if missing else None


def make_namespaces() -> None:
    """Make the missing namespaces and set their sysctls."""
    for name in topology.NAMESPACES:
        if not netns.usable(name):
            netns.create(name)
        _write_sysctls(name)


def _write_sysctls(namespace: str) -> None:
    settings = [f"{key}={value}" for key, value in sysctls(namespace).items()]
    netns.run(namespace, ["sysctl", "--quiet", "--write", *settings])


def _end_trouble(end: End) -> str | None:
    link = _links(end.namespace).get(end.interface)
    where = f"{end.namespace}/{end.interface}"
    if link is None:
        return f"{where} missing"
    if "UP" not in link["flags"]:
        return f"{where} down"
    if end.address is None:
        return None if link.get("master") == topology.RACK_BRIDGE else f"{where} not in the bridge"
    held = {
        info.get("local")
        for entry in _json(end.namespace, "address", "show", "dev", end.interface)
        for info in entry.get("addr_info", [])
    }
    missing = [str(address) for address in end.addresses if str(address.ip) not in held]
    return f"{where} has no {', '.join(missing)}" if missing else None


def _nodes_trouble() -> str | None:
    links = _links(topology.RACK)
    for node in topology.NODES:
        link = links.get(node.tap)
        if link is None or link.get("master") != topology.RACK_BRIDGE or "UP" not in link["flags"]:
            return f"{node.tap} missing or not in the bridge"
    return None


def _routes_trouble(namespace: str) -> str | None:
    for route in static_routes(namespace):
        family, words = _family_of(route)
        prefix = words[0]
        if not netns.run(namespace, ["ip", *family, "route", "show", "exact", prefix]).stdout.strip():
            return f"{namespace} has no route to {prefix}"
    return None


def cabling_trouble() -> str | None:
    """The first cable, tap, address or static route that is not as wanted, or None."""
    if topology.RACK_BRIDGE not in _links(topology.RACK):
        return "the rack's bridge is missing"
    for link in topology.LINKS:
        for end in (link.left, link.right):
            if reason := _end_trouble(end):
                return reason
    if reason := _nodes_trouble():
        return reason
    for namespace in topology.NAMESPACES:
        if reason := _routes_trouble(namespace):
            return reason
    return None


def _ip(namespace: str, arguments: str | Sequence[str]) -> None:
    netns.run(namespace, ["ip", *(arguments.split() if isinstance(arguments, str) else arguments)])


def _set_up(end: End) -> None:
    if end.address is None:
        _ip(end.namespace, f"link set {end.interface} master {topology.RACK_BRIDGE}")
    else:
        for address in end.addresses:
            _ip(
                end.namespace,
                f"address replace {address} dev {end.interface}{' nodad' if address.version == 6 else ''}",
            )
    _ip(end.namespace, f"link set {end.interface} mtu {topology.MTU_BYTES} up")


def _connect(link: Link) -> None:
    left, right = link.left, link.right
    if left.interface not in _links(left.namespace) or right.interface not in _links(right.namespace):
        for end in (left, right):  # half a cable (a namespace died) cannot be kept
            netns.run(end.namespace, ["ip", "link", "delete", end.interface], check=False)
        _ip(
            left.namespace,
            f"link add {left.interface} type veth peer name {right.interface} netns {right.namespace}",
        )
    _set_up(left)
    _set_up(right)


def cable() -> None:
    """Bring bridge, cables, taps, addresses and static routes to what the topology says; what is right stays."""
    links = _links(topology.RACK)
    if topology.RACK_BRIDGE not in links:
        # No spanning tree, no multicast snooping: the rack's switch has no loop and the lab no multicast.
        _ip(topology.RACK, f"link add {topology.RACK_BRIDGE} type bridge stp_state 0 mcast_snooping 0")
    _ip(topology.RACK, f"link set {topology.RACK_BRIDGE} mtu {topology.MTU_BYTES} up")
    for link in topology.LINKS:
        _connect(link)
    for node in topology.NODES:
        if node.tap not in links:
            _ip(topology.RACK, f"tuntap add dev {node.tap} mode tap")
        _ip(topology.RACK, f"link set {node.tap} master {topology.RACK_BRIDGE} mtu {topology.MTU_BYTES} up")
    for namespace in topology.NAMESPACES:
        for route in static_routes(namespace):
            family, words = _family_of(route)
            _ip(namespace, [*family, "route", "replace", *words])


def remove() -> None:
    """Remove every namespace of the lab, and with them their devices."""
    for name in topology.NAMESPACES:
        netns.delete(name)
