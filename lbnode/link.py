"""Links: tunnels from edge nodes to routers that can be reached by BGP in no other way.

A link carries BGP and the packets that the router sends to VIPs, and nothing else: the packet filter of the edge node sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lbnode.model import GRE_OVERHEAD_BYTES, SMALLEST_IPV6_MTU_BYTES, IPAddress, IPNetwork
from lbnode.schema import Address, Strict, Whole, as_text, first_duplicate, overlap

#: What is left of IFNAMSIZ (linux/if.h: 15 bytes and a zero) after ``LINK_DEVICE_PREFIX``.
_LONGEST_NAME = 11

Interface = Annotated[IPv4Interface | IPv6Interface, BeforeValidator(as_text)]


class Link(Strict):
    """A GRE tunnel (RFC 2784) over IPv4 from ``node``, one edge node, to ``router_address``, without key or checksum.

    ``addresses`` are the node's own in the tunnel, each with the length of the network that the router's end lies in, at most one a family. ``ttl``
    is that of the outer header: one that is copied from inside would end BGP's packets, whose own is small, on the way. ``mtu_bytes`` is what a
    packet may have inside the tunnel: the fabric's MTU less 24 bytes unless the router's side takes less.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=_LONGEST_NAME)
    kind: Literal["gre"] = "gre"
    node: str = Field(min_length=1)
    router_address: Address
    addresses: tuple[Interface, ...] = Field(min_length=1, max_length=2)
    ttl: Whole = Field(default=64, ge=1, le=255)
    mtu_bytes: Whole | None = Field(default=None, ge=576, le=65535)

    @field_validator("router_address")
    @classmethod
    def _over_ipv4(cls, address: IPAddress) -> IPAddress:
        if address.version != 4:
            raise ValueError(
                f"{address} is an IPv6 address: links are GRE over IPv4. Give the router's IPv4 address; IPv6 goes inside the tunnel"
            )
        return address

    @model_validator(mode="after")
    def _one_end_a_family(self) -> Link:
        shown = ", ".join(map(str, self.addresses))
        if first_duplicate(str(a.version) for a in self.addresses) is not None:
            raise ValueError(f"link {self.name} has two addresses of one family, {shown}. Keep one IPv4 and one IPv6")
        for address in self.addresses:
            if address.network.prefixlen == address.max_prefixlen:
                raise ValueError(
                    f"link {self.name} has {address}, a network with no room for the router's end. Write it with the link's length, like 169.254.6.1/29"
                )
        return self

    def inside_mtu_bytes(self, fabric_mtu_bytes: int) -> int:
        """The largest packet that goes through."""
        return self.mtu_bytes or fabric_mtu_bytes - GRE_OVERHEAD_BYTES


def check_links(
    links: Iterable[Link], taken: Iterable[tuple[str, IPNetwork]], families: Iterable[int], fabric_mtu_bytes: int
) -> None:
    """Check links against each other and the rest of the settings.

    Args:
        taken: what uses which network.
        families: the IP versions of the pools.

    Raises:
        ValueError: naming the value, the rule and the way out.
    """
    links, taken, families = tuple(links), tuple(taken), frozenset(families)
    for what, values in (
        ("the name {} on node {}", [(link.name, link.node) for link in links]),
        ("the router address {} on node {}", [(str(link.router_address), link.node) for link in links]),
        ("the address {}", [(str(a.ip),) for link in links for a in link.addresses]),
    ):
        if len(set(values)) < len(values):
            twice = next(v for n, v in enumerate(values) if v in values[:n])
            raise ValueError(f"two links have {what.format(*twice)}: it must be unique. Change or remove one")
    for link in links:
        for address in link.addresses:
            if address.version not in families:
                raise ValueError(
                    f"link {link.name} has {address}, but no pool is IPv{address.version}, so nothing would guard that address. "
                    "Take the address out, or add such a pool"
                )
            for what, network in taken:
                if overlap(address.network, network):
                    raise ValueError(
                        f"link {link.name} has {address}, which overlaps {what} {network}: packets would go astray. Choose a network that nothing else uses"
                    )
        if (inside := link.inside_mtu_bytes(fabric_mtu_bytes)) > fabric_mtu_bytes - GRE_OVERHEAD_BYTES:
            raise ValueError(
                f"link {link.name} has mtuBytes {inside}, but the fabric takes {fabric_mtu_bytes} with the tunnel's {GRE_OVERHEAD_BYTES}. "
                f"Lower it to {fabric_mtu_bytes - GRE_OVERHEAD_BYTES}, or raise fabricMtuBytes"
            )
        if 6 in families and inside < SMALLEST_IPV6_MTU_BYTES:
            raise ValueError(
                f"link {link.name} takes packets of {inside} bytes, and IPv6 needs {SMALLEST_IPV6_MTU_BYTES} (RFC 8200 section 5). "
                "Raise mtuBytes or fabricMtuBytes, or drop the IPv6 pools"
            )
