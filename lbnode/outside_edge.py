"""Edge nodes that are no Nodes of the cluster, in settings: machines that run the image by themselves and know the cluster by a kubeconfig."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, field_validator

from lbnode.model import IPAddress, IPNetwork
from lbnode.schema import Address, Strict, first_duplicate


class OutsideEdge(Strict):
    """``addresses`` are its own, the IPv4 one needed, at most one a family; other agents reach it at the first. ``labels`` are for the selectors of pools. ``draining`` is
    what ``samegate.dev/drain`` is on a Node.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)
    addresses: tuple[Address, ...] = Field(min_length=1, max_length=2)
    labels: dict[str, str] = Field(default_factory=dict)
    draining: bool = False

    @field_validator("addresses")
    @classmethod
    def _one_a_family(cls, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        shown = ", ".join(map(str, addresses))
        if first_duplicate(str(a.version) for a in addresses) is not None:
            raise ValueError(
                f"{shown} are of one family: a node has one of each. Keep the one that the others reach it at"
            )
        if not any(a.version == 4 for a in addresses):
            raise ValueError(
                f"{shown} has no IPv4 address, and a BGP router id is one (RFC 6286). Add the node's IPv4 address"
            )
        return addresses


def check_outside_edges(edges: Iterable[OutsideEdge], taken: Iterable[tuple[str, IPNetwork]]) -> None:
    """Raises ``ValueError`` when two share a name or an address, or an address is in a network that VIPs or probes are ``taken`` from."""
    taken = tuple(taken)
    edges = tuple(edges)
    if (twice := first_duplicate(edge.name for edge in edges)) is not None:
        raise ValueError(f"two outside edge nodes are named {twice}: names must be unique. Rename one")
    owners: dict[IPAddress, str] = {}
    for edge in edges:
        for address in edge.addresses:
            if (owner := owners.setdefault(address, edge.name)) != edge.name:
                raise ValueError(
                    f"outside edge nodes {owner} and {edge.name} both have the address {address}. Mend one"
                )
            for what, network in taken:
                if address in network:
                    raise ValueError(
                        f"outside edge node {edge.name} has the address {address}, which lies in {what} {network}: it would be taken for a VIP or a probe. "
                        "Give the node another address, or choose another network"
                    )
