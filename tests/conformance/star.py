"""Network namespaces around a router, each with one link to it, for tests with real packets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from lbnode.model import IPAddress
from tests.conformance.node import inside, sh


@contextmanager
def at(name: str) -> Iterator[None]:
    """This thread in the namespace ``name``."""
    with inside(f"/run/netns/{name}"):
        yield


def build_star(stack: ExitStack, addresses: Mapping[str, IPAddress]) -> None:
    """Namespaces ``router`` and one for each address, whose network (/24, or /64 over IPv6) has the router at the address before. ``stack``
    takes them away.
    """
    for name in ("router", *addresses):
        sh(f"ip netns add {name}")
        stack.callback(sh, f"ip netns del {name}")
        sh(f"ip -n {name} link set lo up")
        with at(name):
            sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0")
            sh("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    with at("router"):
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv6.conf.all.forwarding=1")
    for name, address in addresses.items():
        length, nodad = (24, "") if address.version == 4 else (64, "nodad")
        sh(f"ip link add eth0 netns {name} type veth peer name to-{name} netns router")
        sh(f"ip -n {name} addr add {address}/{length} dev eth0 {nodad}")
        sh(f"ip -n router addr add {address - 1}/{length} dev to-{name} {nodad}")
        sh(f"ip -n {name} link set eth0 up")
        sh(f"ip -n router link set to-{name} up")
        sh(f"ip -n {name} -{address.version} route add default via {address - 1}")
