"""The pools of the settings: where VIPs come from, for which Services, on which edge nodes, and how routers hear of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lbnode.communities import MOST, canonical, in_order
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.schema import Cidr, Strict, Whole, overlap

#: A pool is announced as host routes and imported by routers with a maximum; wider ones are mistakes (a /8, the default route).
WIDEST_POOL = {4: 16, 6: 64}
#: No router forwards these to a host (IANA special-purpose address registries).
NO_HOSTS = {
    ip_network("0.0.0.0/8"): '"this network" (RFC 1122)',
    ip_network("127.0.0.0/8"): "loopback (RFC 1122)",
    ip_network("169.254.0.0/16"): "link-local (RFC 3927)",
    ip_network("224.0.0.0/4"): "multicast (RFC 5771)",
    ip_network("::/127"): "unspecified and loopback (RFC 4291)",
    ip_network("fe80::/10"): "link-local (RFC 4291)",
    ip_network("ff00::/8"): "multicast (RFC 4291)",
}
#: LOCAL_PREF and MULTI_EXIT_DISC are 32-bit numbers without sign (RFC 4271 section 4.3).
LARGEST_METRIC = 4294967295
#: More never decides anything, and routers refuse paths beyond their own limits.
MOST_PREPENDS = 10
#: Every namespace has it with its own name as the value (Kubernetes: well-known labels).
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"

_LABEL_KEY = re.compile(r"([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")

Metric = Annotated[Whole, Field(ge=0, le=LARGEST_METRIC)]
Prepends = Annotated[Whole, Field(ge=0, le=MOST_PREPENDS)]


def _label_key(key: str) -> str:
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} cannot be the key of a label, so it would select nothing. Write it like example.com/tier or tier"
        )
    return key


def _label_values(values: Sequence[str]) -> None:
    for value in values:
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"{value!r} cannot be the value of a label, so it would select nothing. Use up to 63 letters, digits, '-', '_' and '.'"
            )


class Requirement(Strict):
    """One rule about a label, as in a Kubernetes label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    _check_key = field_validator("key")(_label_key)

    @model_validator(mode="after")
    def _values_fit(self) -> Requirement:
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} on {self.key} has no values to compare with. Add values")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(
                f"operator {self.operator} on {self.key} asks for the key alone and has values. Remove values, or use In or NotIn"
            )
        _label_values(self.values)
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes has it: ``NotIn`` holds too where the label is absent."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class Selector(Strict):
    """A Kubernetes label selector: all of it must hold."""

    match_labels: dict[str, str] = Field(default={})
    match_expressions: tuple[Requirement, ...] = ()

    @model_validator(mode="after")
    def _selects(self) -> Selector:
        for key in self.match_labels:
            _label_key(key)
        _label_values(tuple(self.match_labels.values()))
        if not self.match_labels and not self.match_expressions:
            raise ValueError("an empty selector selects everything, as none does. Leave it out, or add matchLabels")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(labels.get(k) == v for k, v in self.match_labels.items()) and all(
            r.holds(labels) for r in self.match_expressions
        )


class Aggregate(Strict):
    """Wider routes that are announced while at least one VIP in them is: ``length`` for IPv4, ``lengthV6`` for IPv6.

    With ``hostRoutes`` the host routes stay beside it. Without, routers see the aggregate alone: then an edge node that cannot serve
    *one* of its VIPs still gets that VIP's traffic, and what single Services ask for their route is refused. ``communities`` stand in
    for the pool's on the aggregate alone, so that host routes can be ``no-export`` under an aggregate that is not.
    """

    length: Whole | None = Field(default=None, ge=WIDEST_POOL[4], le=31)
    length_v6: Whole | None = Field(default=None, ge=WIDEST_POOL[6], le=127)
    host_routes: bool = True
    communities: tuple[str, ...] | None = Field(default=None, max_length=MOST)

    @field_validator("communities")
    @classmethod
    def _communities(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if values is None else in_order(map(canonical, values))

    @model_validator(mode="after")
    def _of_a_family(self) -> Aggregate:
        if self.length is None and self.length_v6 is None:
            raise ValueError("an aggregate without a length announces nothing. Set length (IPv4) or lengthV6 (IPv6)")
        return self

    def of_family(self, version: int) -> int | None:
        """The prefix length in one IP version."""
        return self.length if version == 4 else self.length_v6


class Pool(Strict):
    """A named set of networks that VIPs are taken from. At most ``2**(32-16)`` IPv4 addresses a network.

    Who gets from it: Services in a namespace that is named in ``namespaces`` or selected by ``namespaceSelector``, and selected by
    ``serviceSelector``; what is not given does not limit. With ``autoAssign: false`` only those that name the pool or an address. Of the pools
    for a Service those with the lowest ``priority`` number come first; pools of one number are one row of addresses.

    Who announces it: edge nodes that ``nodes`` names or whose labels match ``nodeSelector``; all where neither is given.

    How: ``communities`` (beside ``bgp.communities``), ``localPreference`` (towards peers of our own AS only), ``med``, ``prepend`` (so many more of our AS,
    towards other ASes only), ``aggregate``. A Service may ask for more communities and other numbers unless ``serviceAttributes`` is off.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    cidrs: tuple[Cidr, ...] = Field(min_length=1)
    priority: Whole = Field(default=100, ge=0)
    auto_assign: bool = True
    namespaces: tuple[str, ...] = ()
    namespace_selector: Selector | None = None
    service_selector: Selector | None = None
    nodes: tuple[str, ...] = ()
    node_selector: dict[str, str] | None = Field(default=None, min_length=1)
    communities: tuple[str, ...] = Field(default=(), max_length=MOST)
    local_preference: Metric | None = None
    med: Metric | None = None
    prepend: Prepends = 0
    service_attributes: bool = True
    aggregate: Aggregate | None = None

    @field_validator("cidrs")
    @classmethod
    def _not_too_wide(cls, cidrs: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        for network in cidrs:
            widest = WIDEST_POOL[network.version]
            if network.prefixlen < widest:
                raise ValueError(
                    f"{network} is wider than a pool may be (/{widest}). Name a longer prefix; several are allowed"
                )
        return cidrs

    @field_validator("cidrs")
    @classmethod
    def _for_hosts(cls, cidrs: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
        for network in cidrs:
            for special, what in NO_HOSTS.items():
                if overlap(network, special):
                    raise ValueError(
                        f"{network} overlaps {special}, which is {what}: no router forwards it to a VIP. Choose a network of your own"
                    )
        return cidrs

    @field_validator("communities")
    @classmethod
    def _communities(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return in_order(map(canonical, values))

    @field_validator("node_selector")
    @classmethod
    def _labels(cls, labels: dict[str, str] | None) -> dict[str, str] | None:
        for key in labels or {}:
            _label_key(key)
        _label_values(tuple((labels or {}).values()))
        return labels

    @model_validator(mode="after")
    def _aggregate_fits(self) -> Pool:
        for network in self.cidrs:
            length = self.aggregate.of_family(network.version) if self.aggregate is not None else None
            if length is not None and length < network.prefixlen:
                raise ValueError(
                    f"the aggregate /{length} of pool {self.name} is wider than its network {network}: routers would send us what is not ours. "
                    f"Use /{network.prefixlen} or longer"
                )
        for version, key in ((4, "length"), (6, "lengthV6")):
            wants = self.aggregate is not None and self.aggregate.of_family(version) is not None
            if wants and all(n.version != version for n in self.cidrs):
                raise ValueError(
                    f"aggregate.{key} of pool {self.name} is for IPv{version}, and the pool has no such network. Remove it, or add the network"
                )
        return self

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in network for network in self.cidrs)

    @property
    def attributes(self) -> RouteAttributes:
        """What the pool says of the routes to its VIPs."""
        return RouteAttributes(self.communities, self.local_preference, self.med, self.prepend)

    @property
    def aggregate_attributes(self) -> RouteAttributes:
        """What the pool says of its aggregates."""
        own = self.aggregate.communities if self.aggregate is not None else None
        return self.attributes if own is None else replace(self.attributes, communities=own)

    def aggregate_of(self, address: IPAddress) -> IPNetwork | None:
        """The aggregate that covers a VIP of this pool."""
        length = self.aggregate.of_family(address.version) if self.aggregate is not None else None
        if length is None:
            return None
        return ip_network((address, length), strict=False)

    def announces_host_route(self, address: IPAddress) -> bool:
        """Whether routers hear of a VIP of this pool by itself."""
        return self.aggregate is None or self.aggregate.host_routes or self.aggregate_of(address) is None

    def admits(self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        """Whether a Service in ``namespace`` with ``labels`` may have an address of this pool."""
        if self.namespaces or self.namespace_selector is not None:
            known = {NAMESPACE_NAME_LABEL: namespace, **namespace_labels}
            selected = self.namespace_selector is not None and self.namespace_selector.matches(known)
            if namespace not in self.namespaces and not selected:
                return False
        return self.service_selector is None or self.service_selector.matches(labels)

    def announced_by(self, node: str, labels: Mapping[str, str]) -> bool:
        """Whether the edge node ``node`` with ``labels`` announces the VIPs of this pool."""
        if not self.nodes and self.node_selector is None:
            return True
        matches = self.node_selector is not None and self.node_selector.items() <= labels.items()
        return node in self.nodes or matches


def pool_of(address: IPAddress, pools: Sequence[Pool]) -> Pool | None:
    """The pool that holds an address. Pools do not overlap."""
    return next((pool for pool in pools if address in pool), None)
