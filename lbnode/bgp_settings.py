"""What the agent is told of BGP: its own AS, the routers that edge nodes announce to, and how a dead one is noticed."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lbnode.communities import canonical
from lbnode.link import Link
from lbnode.model import IPAddress
from lbnode.schema import Address, Milliseconds, Port, Strict, Whole, first_duplicate

#: RFC 7607 forbids AS 0; RFC 6793 reserves AS_TRANS.
FORBIDDEN_ASNS = {0: "RFC 7607 forbids it", 23456: "RFC 6793 reserves it as AS_TRANS"}


def _asn(value: int) -> int:
    if value in FORBIDDEN_ASNS:
        raise ValueError(
            f"ASN {value} cannot be used: {FORBIDDEN_ASNS[value]}. Use a private one: 64512-65534 or 4200000000-4294967294 (RFC 6996)"
        )
    return value


Asn = Annotated[Whole, Field(ge=0, le=4294967295)]


class Bfd(Strict):
    """Bidirectional forwarding detection (RFC 5880): a neighbour is down after ``interval_ms * multiplier`` without a packet."""

    interval_ms: Milliseconds = 300
    multiplier: Whole = Field(default=3, ge=2, le=255)


class GracefulRestart(Strict):
    """Routes outlive their speaker for ``restart_seconds`` (RFC 4724), also when its node is dead: so never together with BFD."""

    restart_seconds: Whole = Field(default=20, ge=1, le=4095)


class Peer(Strict):
    """A router that edge nodes announce to.

    ``nodes`` limits the peer to the named edge nodes; empty means all. ``address_families`` are what goes over the session, whatever family
    its own addresses have (RFC 4760): both over one, or one each over two sessions with the same router. ``password_key`` names a key of the BGP Secret (TCP MD5, RFC 2385);
    the key itself never stands in settings. ``ttl_security`` is RFC 5082 and needs a peer that is one hop away.

    ``local_addresses`` are what its one node speaks from instead of its node addresses: those of a link that leads to the router, such as a GRE
    tunnel. At most one a family; routes of a family have the link's address of that family as next hop, else the node's.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=30)
    address: Address
    local_addresses: tuple[Address, ...] = Field(default=(), max_length=2)
    asn: Asn
    port: Port = 179
    nodes: tuple[str, ...] = ()
    address_families: tuple[Literal["IPv4", "IPv6"], ...] = Field(default=("IPv4", "IPv6"), min_length=1)
    password_key: str | None = Field(default=None, pattern=r"^[-._a-zA-Z0-9]+$")
    multihop: Whole | None = Field(default=None, ge=2, le=255)
    ttl_security: bool = False
    bfd: Bfd | None = Bfd()
    graceful_restart: GracefulRestart | None = None
    hold_time_seconds: Whole = 9
    keepalive_seconds: Whole | None = Field(default=None, ge=1)

    _check_asn = field_validator("asn")(_asn)

    @model_validator(mode="before")
    @classmethod
    def _no_tcp_ao(cls, raw: Any) -> Any:
        for key in raw if isinstance(raw, dict) else ():
            if str(key).lower().replace("_", "").startswith("tcpao"):
                raise ValueError(
                    # BIRD's NEWS of 2.17, "TCP-AO implementation for Linux"; Linux' Documentation/networking/tcp_ao.rst, there since 6.7.
                    f"{key} of peer {raw.get('name')}: TCP-AO (RFC 5925) is not there: it needs BIRD 2.17 and Linux 6.7 with CONFIG_TCP_AO on every "
                    "edge node, and the image has BIRD 2.0.12 of Debian 12, which knows TCP MD5 only. "
                    "Use passwordKey on both sides, and ttlSecurity where the peer is one hop away"
                )
        return raw

    @field_validator("address")
    @classmethod
    def _scope(cls, address: IPAddress) -> IPAddress:
        # It goes into BIRD's configuration, where it must be a symbol; a name is at most 15 bytes (IFNAMSIZ).
        scope = address.scope_id if isinstance(address, IPv6Address) else None
        if scope is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,14}", scope):
            raise ValueError(
                f"{address} has an interface name that BIRD cannot take. Use letters, digits and _, or an address that needs no interface"
            )
        return address

    @model_validator(mode="after")
    def _local_addresses_fit(self) -> Peer:
        if not self.local_addresses:
            return self
        shown = ", ".join(map(str, self.local_addresses))
        if len(self.nodes) != 1:
            raise ValueError(
                f"peer {self.name} has localAddresses {shown} for {len(self.nodes) or 'all'} nodes: an address is held by one node only. "
                "Name that node in `nodes`, and write a peer for each other node"
            )
        if first_duplicate(str(a.version) for a in self.local_addresses) is not None:
            raise ValueError(
                f"peer {self.name} has two localAddresses of one family, {shown}: a session has one end. "
                "Keep one IPv4 and one IPv6 address at most"
            )
        if self.local_address(self.address.version) is None:
            raise ValueError(
                f"peer {self.name} at {self.address} has no IPv{self.address.version} in localAddresses {shown}: a session has both ends in one family. "
                f"Add the link's IPv{self.address.version} address"
            )
        for own in self.local_addresses:
            if own == self.address:
                raise ValueError(
                    f"peer {self.name} has {own} on both ends. Put the router's address into `address` and the node's into localAddresses"
                )
            if isinstance(own, IPv6Address) and own.is_link_local:
                raise ValueError(
                    f"peer {self.name} has the link-local address {own} in localAddresses: as a next hop it means nothing without its interface. "
                    "Use a global or unique local one (RFC 4193)"
                )
        return self

    def local_address(self, version: int) -> IPAddress | None:
        """The link's address of this family, ``None`` when the node's own is used."""
        return next((a for a in self.local_addresses if a.version == version), None)

    @field_validator("hold_time_seconds")
    @classmethod
    def _hold_time(cls, value: int) -> int:
        if value != 0 and not 3 <= value <= 65535:
            raise ValueError(f"hold time {value} s is not allowed: RFC 4271 wants 0 or at least 3. Use 9, the default")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Peer:
        if self.bfd is not None and self.graceful_restart is not None:
            raise ValueError(
                f"peer {self.name} has BFD together with graceful restart: BFD cancels graceful restart, and without BFD a dead node keeps its routes. "
                "Keep one: `bfd: null` for graceful restart, or leave gracefulRestart out"
            )
        if self.ttl_security and self.multihop is not None:
            raise ValueError(
                f"peer {self.name} has ttlSecurity together with multihop: RFC 5082 expects a peer one hop away. Drop one of them"
            )
        if self.bfd is None and self.graceful_restart is None and self.hold_time_seconds == 0:
            raise ValueError(
                f"peer {self.name} would never be noticed to be dead: hold time 0 and no BFD. Set one of them"
            )
        if self.hold_time_seconds and self.keepalive >= self.hold_time_seconds:
            raise ValueError(
                f"peer {self.name} has keepalive {self.keepalive} s at a hold time of {self.hold_time_seconds} s: it would be declared dead between two. "
                "Leave keepaliveSeconds out for a third of the hold time (RFC 4271 section 10)"
            )
        return self

    @property
    def keepalive(self) -> int:
        """Seconds between keepalives: a third of the hold time unless set (RFC 4271 section 10)."""
        return self.keepalive_seconds or max(1, self.hold_time_seconds // 3)


class Bgp(Strict):
    """BGP on the edge nodes. ``communities`` are ``"65010:100"`` or large ``"65010:1:2"`` and go with every announcement. ``links`` are tunnels
    that the edge nodes make for peers whose ``local_addresses`` lie in them.
    """

    local_asn: Asn
    peers: tuple[Peer, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    communities: tuple[str, ...] = ()
    listen_port: Whole = Field(default=1790, ge=1024, le=65535)

    _check_asn = field_validator("local_asn")(_asn)

    @field_validator("communities")
    @classmethod
    def _communities(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(canonical, values))

    @model_validator(mode="after")
    def _distinct(self) -> Bgp:
        for what, values in (("name", [p.name for p in self.peers]), ("address", [str(p.address) for p in self.peers])):
            if (twice := first_duplicate(values)) is not None:
                raise ValueError(f"two peers have the {what} {twice}: it must be unique. Remove or rename one")
        return self

    @model_validator(mode="after")
    def _peers_reached_by_their_links(self) -> Bgp:
        for peer in self.peers:
            for link in (each for each in self.links if each.node in peer.nodes):
                for address in link.addresses:
                    if address.ip == peer.local_address(peer.address.version) and peer.address not in address.network:
                        raise ValueError(
                            f"peer {peer.name} speaks from {address.ip} of link {link.name}, but its address {peer.address} is not in {address.network}: "
                            "it would be sought elsewhere. Put the router's end of the link into `address`"
                        )
        return self

    @property
    def has_internal(self) -> bool:
        """Whether a peer is of our own AS."""
        return any(p.asn == self.local_asn for p in self.peers)

    @property
    def has_external(self) -> bool:
        """Whether a peer is of another AS."""
        return any(p.asn != self.local_asn for p in self.peers)

    def unheard(self, local_preference: int | None, prepend: int) -> str | None:
        """Why no peer of ours would hear of a local preference or of prepending, with the way out; ``None`` when all asked for is heard."""
        if local_preference is not None and not self.has_internal:
            return (
                f"local preference {local_preference} would reach no router: it is sent to peers of our own AS only (RFC 4271 section 5.1.5), "
                f"and none has {self.local_asn}. Use med, prepend or a community"
            )
        if prepend and not self.has_external:
            return (
                f"prepend {prepend} would reach no router: it is for peers of other ASes, and all of ours have {self.local_asn}. "
                "Use localPreference, med or a community"
            )
        return None
