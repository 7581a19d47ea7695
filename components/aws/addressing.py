"""Subnets of the VPC by role and zone. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

ZONES = 3
"""The most that a stack has; EKS needs two."""


@dataclass(frozen=True)
class Layout:
    """Networks by zone. An eighth of the VPC for the workers (and the VPC CNI's pods) of each zone; a quarter is free for later."""

    workers: Mapping[str, IPv4Network]
    edge: Mapping[str, IPv4Network]
    public: Mapping[str, IPv4Network]


def layout(vpc: IPv4Network, zones: tuple[str, ...]) -> Layout:
    """The layout for a VPC of /16 to /20. A zone keeps its networks when another is added behind it."""
    eighths = list(vpc.subnets(prefixlen_diff=3))
    # The fifth eighth is for edge nodes, the sixth for what faces the internet, in quarters: one for each zone, one free.
    edge, public = (list(eighths[n].subnets(prefixlen_diff=2)) for n in (ZONES + 1, ZONES + 2))
    return Layout(
        {zone: eighths[n] for n, zone in enumerate(zones)},
        {zone: edge[n] for n, zone in enumerate(zones)},
        {zone: public[n] for n, zone in enumerate(zones)},
    )
