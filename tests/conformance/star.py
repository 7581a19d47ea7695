"""Network namespaces around a router, each with one link to it, for tests with real packets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address

from tests.conformance.node import inside, sh


@contextmanager
def at(name: str) -> Iterator[None]:
    """This thread in the namespace ``name``."""
    with inside(f"/run/netns/{name}"):
        yield


def build_star(stack: ExitStack, addresses: Mapping[str, IPv4Address]) -> None:
    """Namespaces ``router`` and one for each address, whose network of /24 has the router at the address before. ``stack`` takes them away."""
    for name in ("router", *addresses):
        sh(f"ip netns add {name}")
        stack.callback(sh, f"ip netns del {name}")
        sh(f"ip -n {name} link set lo up")
        with at(name):
            sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0")
    with at("router"):
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0")
    for name, address in addresses.items():
        sh(f"ip link add eth0 netns {name} type veth peer name to-{name} netns router")
        sh(f"ip -n {name} addr add {address}/24 dev eth0")
        sh(f"ip -n router addr add {address - 1}/24 dev to-{name}")
        sh(f"ip -n {name} link set eth0 up")
        sh(f"ip -n router link set to-{name} up")
        sh(f"ip -n {name} route add default via {address - 1}")
