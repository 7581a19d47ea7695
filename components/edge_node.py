"""An edge node as its fabric plans it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

from lbnode.bgp_settings import Peer
from lbnode.link import Link

PROBE_BLOCK = IPv4Network("198.18.0.0/15")
"""Where the probe networks of clouds come from: networks of tests, which no VPC is made of (RFC 2544, RFC 6890)."""


@dataclass(frozen=True)
class EdgeNode:
    """A node that announces VIPs, the routers it peers with, and the links to them where the fabric has any."""

    name: str
    peers: tuple[Peer, ...]
    links: tuple[Link, ...] = ()
