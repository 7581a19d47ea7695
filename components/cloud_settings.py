"""What stacks say alike of every cloud: access to the API server, where edge nodes stand, and which pools it can carry."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings


class CloudSettings(BaseModel):
    """Base of the sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class ApiAccess(CloudSettings):
    """How the program and operators reach the API server. There is no default: whether it stands on the internet is a decision.

    A cloud says which ways it has.
    """

    access: str
    cidrs: tuple[IPv4Network, ...] = ()
    proxy_url: str | None = Field(default=None, pattern=r"^(https?|socks5)://")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.access == "cidrs") != bool(self.cidrs):
            raise ValueError(
                f"apiServer.access is {self.access!r} and cidrs are {[str(c) for c in self.cidrs]}: they go together. "
                "Name the networks with access: cidrs, or leave cidrs out"
            )
        if (self.access == "proxy") != (self.proxy_url is not None):
            raise ValueError(
                f"apiServer.access is {self.access!r} and proxyUrl is {self.proxy_url!r}: they go together. "
                "Give proxyUrl with access: proxy, or leave it out"
            )
        if any(block.prefixlen == 0 for block in self.cidrs):
            raise ValueError(
                "apiServer.cidrs has 0.0.0.0/0: everybody could try keys at the API server. Name the networks of your operators"
            )
        return self


class NumberedNode(CloudSettings):
    """One edge node. Its name and addresses follow from ``number``, so that no other node changes when one comes or goes.

    A cloud says how high numbers go.
    """

    number: int
    zone: str

    @property
    def name(self) -> str:
        return f"edge{self.number}"


def check_zones(nodes: Sequence[NumberedNode], zones: Sequence[str]) -> None:
    """Edge nodes have numbers of their own, and stand in at least two of ``zones``.

    Raises:
        ValueError: one is in another zone or has the number of another, or all are in one zone.
    """
    numbers = [node.number for node in nodes]
    for node in nodes:
        if node.zone not in zones:
            raise ValueError(
                f"{node.name} is in zone {node.zone!r}, which zones does not have ({', '.join(zones)}). Correct the one or the other"
            )
        if numbers.count(node.number) > 1:
            raise ValueError(
                f"two edge nodes have the number {node.number}: their addresses follow from it. Change one"
            )
    if len({node.zone for node in nodes}) < 2:
        raise ValueError(
            f"all edge nodes are in zone {nodes[0].zone}: the loss of a zone would take every VIP. Put at least one into another zone"
        )


def check_pools(
    agent: AgentSettings, taken: Sequence[tuple[str, IPv4Network]], cloud: str, why_not: str, way_out: str
) -> None:
    """Pools are IPv4 and overlap none of the ``taken`` networks, which are given with their names.

    Raises:
        ConfigError: one is or does; ``why_not`` and ``way_out`` say what is wrong with the latter, and what to do.
    """
    for pool in agent.pools:
        for network in pool.cidrs:
            if network.version == 6:
                raise ConfigError(
                    f"pool {pool.name} {network}",
                    f"IPv6 VIPs on {cloud} are not there yet",
                    "Leave IPv6 networks out of this stack",
                )
            for what, block in taken:
                if network.overlaps(block):
                    raise ConfigError(f"pool {pool.name} {network}", f"overlaps {what} {block}, {why_not}", way_out)
