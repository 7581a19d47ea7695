"""The rack as values: every name, address, AS number and MAC of the lab, and nothing else.

Everything is in network namespaces whose names begin with `sg-`, for a lab with a name (lab/naming.py) with `sg-NAME-`. Addresses come from 198.18.0.0/15 (RFC 2544,
benchmarking), 203.0.113.0/24 and 192.0.2.0/24 (RFC 5737, documentation) and 2001:db8::/32 (RFC 3849, documentation), AS numbers
from the private range (RFC 6996), so nothing in the lab can be mistaken for, or reach, a real network. IPv6 addresses end in the
same digits as their IPv4 neighbours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from pathlib import Path
from typing import Literal

from lab import naming

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
try:
    _NAMES = naming.names(os.environ.get(naming.VARIABLE, ""), ROOT)
except ValueError as _error:  # every command begins here, and none can go on
    raise SystemExit(f"error: {naming.VARIABLE}: {_error}") from None
NAME = _NAMES.name
"""Of this lab among those of the checkout; empty for the one without a name."""
STATE = _NAMES.state
"""Everything that a run of the lab makes; ignored by git, removed by `lab down`."""
PREFIX = _NAMES.prefix
NAMESPACES = _NAMES.namespaces
CORE, TOR1, TOR2, RACK, CONTROL, CLIENT = NAMESPACES

RACK_BRIDGE = "rack"
MTU_BYTES = 1500

RACK_NETWORK = IPv4Network("198.18.0.0/24")
CORE_TOR1_NETWORK = IPv4Network("198.18.1.0/31")
CORE_TOR2_NETWORK = IPv4Network("198.18.1.2/31")
CLIENT_NETWORK = IPv4Network("198.18.8.0/24")
POD_NETWORK = IPv4Network("198.18.128.0/20")
SERVICE_NETWORK = IPv4Network("198.18.96.0/20")
VIP_POOL = IPv4Network("203.0.113.0/24")
PROBE_NETWORK = IPv4Network("192.0.2.0/24")

RACK_NETWORK6 = IPv6Network("2001:db8:0:1::/64")
CORE_TOR1_NETWORK6 = IPv6Network("2001:db8:0:11::/64")
CORE_TOR2_NETWORK6 = IPv6Network("2001:db8:0:12::/64")
CLIENT_NETWORK6 = IPv6Network("2001:db8:0:8::/64")
POD_NETWORK6 = IPv6Network("2001:db8:0:100::/56")
SERVICE_NETWORK6 = IPv6Network("2001:db8:0:96::/112")
VIP_POOL6 = IPv6Network("2001:db8:203:113::/120")
"""As many addresses as the IPv4 pool, so that one maximum of prefixes is right for both."""
PROBE_NETWORK6 = IPv6Network("2001:db8:0:2::/64")

VIP_POOLS: dict[int, IPv4Network | IPv6Network] = {4: VIP_POOL, 6: VIP_POOL6}
"""By IP version."""
CLIENT_NETWORKS: dict[int, IPv4Network | IPv6Network] = {4: CLIENT_NETWORK, 6: CLIENT_NETWORK6}

API_SERVICE_ADDRESS = IPv4Address("198.18.96.1")
DNS_SERVICE_ADDRESS = IPv4Address("198.18.96.10")
CLUSTER_DOMAIN = "cluster.local"

CONTROL_ADDRESS = IPv4Address("198.18.0.10")
API_PORT = 6443
API_SERVER = f"https://{CONTROL_ADDRESS}:{API_PORT}"
REGISTRY_PORT = 5000
REGISTRY = f"{CONTROL_ADDRESS}:{REGISTRY_PORT}"

CLIENT_GATEWAY = IPv4Address("198.18.8.1")
CLIENT_ADDRESS = IPv4Address("198.18.8.2")
CLIENT_GATEWAY6 = IPv6Address("2001:db8:0:8::1")
CLIENT_ADDRESS6 = IPv6Address("2001:db8:0:8::2")

EDGE_ASN = 65010
ROLE_LABEL = "samegate.dev/role"
EDGE_TAINT = "samegate.dev/edge"

Role = Literal["edge", "worker"]


@dataclass(frozen=True)
class Router:
    """One router in its own namespace."""

    name: str
    namespace: str
    asn: int
    router_id: IPv4Address
    address6: IPv6Address
    """Towards the rack; the core's is towards tor1."""


@dataclass(frozen=True)
class Node:
    """One User-Mode Linux machine in the rack, a node of the cluster."""

    name: str
    role: Role
    address: IPv4Address
    pod_network: IPv4Network
    address6: IPv6Address
    pod_network6: IPv6Network

    def address_of(self, version: int) -> IPv4Address | IPv6Address:
        """Its address of that IP version."""
        return self.address if version == 4 else self.address6

    @property
    def tap(self) -> str:
        """Its tap device in the rack's namespace."""
        return f"tap-{self.name}"

    @property
    def mac(self) -> str:
        """Locally administered unicast address (IEEE 802: second-lowest bit of the first octet set)."""
        return f"02:53:47:00:00:{int(self.address) & 0xFF:02x}"


@dataclass(frozen=True)
class End:
    """One end of a cable."""

    namespace: str
    interface: str
    address: IPv4Interface | None
    """None: a port of the rack's bridge."""
    address6: IPv6Interface | None = None
    """None: a port of the bridge, or an end that has no IPv6."""

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Those that it has."""
        return tuple(address for address in (self.address, self.address6) if address is not None)


@dataclass(frozen=True)
class Link:
    """A cable: a veth pair between two namespaces."""

    left: End
    right: End


CORE_ROUTER = Router("core", CORE, 65000, IPv4Address("198.18.1.0"), IPv6Address("2001:db8:0:11::1"))
TOR1_ROUTER = Router("tor1", TOR1, 65001, IPv4Address("198.18.0.2"), IPv6Address("2001:db8:0:1::2"))
TOR2_ROUTER = Router("tor2", TOR2, 65002, IPv4Address("198.18.0.3"), IPv6Address("2001:db8:0:1::3"))
ROUTERS = (CORE_ROUTER, TOR1_ROUTER, TOR2_ROUTER)
TORS = (TOR1_ROUTER, TOR2_ROUTER)


def _node(name: str, role: Role, host: int, pods: str) -> Node:
    address6 = IPv6Address(f"2001:db8:0:1::{host}")
    pods6 = IPv6Network(f"2001:db8:0:{pods.split('.')[2]}::/64")
    return Node(name, role, RACK_NETWORK[host], IPv4Network(pods), address6, pods6)


NODES = (
    _node("edge1", "edge", 11, "198.18.129.0/24"),
    _node("edge2", "edge", 12, "198.18.130.0/24"),
    _node("worker1", "worker", 21, "198.18.131.0/24"),
    _node("worker2", "worker", 22, "198.18.132.0/24"),
)
EDGES = tuple(node for node in NODES if node.role == "edge")
WORKERS = tuple(node for node in NODES if node.role == "worker")


def _end(namespace: str, interface: str, address: str | None, address6: object = None) -> End:
    return End(
        namespace,
        interface,
        IPv4Interface(address) if address else None,
        IPv6Interface(f"{address6}/64") if address6 else None,
    )


LINKS = (
    Link(
        _end(CORE, "tor1", "198.18.1.0/31", "2001:db8:0:11::1"),
        _end(TOR1, "core", "198.18.1.1/31", "2001:db8:0:11::2"),
    ),
    Link(
        _end(CORE, "tor2", "198.18.1.2/31", "2001:db8:0:12::1"),
        _end(TOR2, "core", "198.18.1.3/31", "2001:db8:0:12::2"),
    ),
    Link(
        _end(CORE, "clients", f"{CLIENT_GATEWAY}/24", CLIENT_GATEWAY6),
        _end(CLIENT, "eth0", f"{CLIENT_ADDRESS}/24", CLIENT_ADDRESS6),
    ),
    Link(_end(TOR1, "rack", f"{TOR1_ROUTER.router_id}/24", TOR1_ROUTER.address6), _end(RACK, "tor1", None)),
    Link(_end(TOR2, "rack", f"{TOR2_ROUTER.router_id}/24", TOR2_ROUTER.address6), _end(RACK, "tor2", None)),
    # The control plane speaks IPv4 only: what is under test is the way of the packets, not the way to the API server.
    Link(_end(CONTROL, "eth0", f"{CONTROL_ADDRESS}/24"), _end(RACK, "control", None)),
)


def version_of(address: str) -> int:
    """The IP version of an address, or of a prefix."""
    return ip_address(address.partition("/")[0]).version


def host_route(address: str) -> str:
    """The prefix of one address."""
    return f"{address}/{ip_address(address).max_prefixlen}"


def node(name: str) -> Node:
    """The node of that name.

    Raises ValueError that lists the names there are.
    """
    for candidate in NODES:
        if candidate.name == name:
            return candidate
    raise ValueError(f"node {name!r} is not in the rack; its nodes are {', '.join(n.name for n in NODES)}")


def router(name: str) -> Router:
    """The router of that name (`core`, `tor1`, `tor2`).

    Raises ValueError that lists the names there are.
    """
    for candidate in ROUTERS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"router {name!r} is not in the lab; its routers are {', '.join(r.name for r in ROUTERS)}")
