"""Addresses for Services: a function of their names, the pools and what they hold already, without shared state.

In this order, each step deterministic and independent of the order of the input:

1. a Service keeps the addresses of its status that lie in a pool, unless it asks for others; of two that hold one address the older keeps it;
2. a Service that asks (``samegate.dev/address``, or the older ``spec.loadBalancerIP``) gets that address if nobody holds it; what it
   held stays its own if it cannot;
3. everybody else gets the address that the hash of ``namespace/name`` points at, or the next free one after it, by order of name. The
   same manifests get the same addresses on every stack whose pools are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from lbnode.model import IPAddress, IPNetwork, Rejection, ServiceName
from lbnode.objects import ADDRESS_ANNOTATION, ServiceObject, is_ours
from lbnode.settings import AgentSettings


@dataclass(frozen=True, slots=True)
class Allocation:
    """Addresses per Service in the order of its families. A Service with a rejection may still have the addresses that it held."""

    addresses: Mapping[ServiceName, tuple[IPAddress, ...]] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()


class _Refused(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def allocate(services: Iterable[ServiceObject], settings: AgentSettings) -> Allocation:
    """Addresses for all Services that are ours; others are ignored."""
    ours = sorted((s for s in services if is_ours(s, settings)), key=lambda s: s.seniority)
    pools = {v: _Pool(n for n in settings.pool_networks if n.version == v) for v in (4, 6)}
    owners: dict[IPAddress, ServiceName] = {}
    given: dict[ServiceName, dict[int, IPAddress]] = {s.name: {} for s in ours}
    rejections: list[Rejection] = []
    wanted: dict[ServiceName, dict[int, IPAddress]] = {}

    for service in ours:
        for address in service.addresses:
            version = address.version
            keeps = address in pools[version] and version in service.families
            if keeps and address not in owners and version not in given[service.name]:
                owners[address] = service.name
                given[service.name][version] = address
        try:
            wanted[service.name] = _requested(service, pools)
        except _Refused as refusal:
            rejections.append(Rejection(service.name, refusal.reason, str(refusal)))
            # What it asks for is wrong, so another address in its place would be a surprise: it keeps what it has, or has none.
            wanted[service.name] = {}
            if not given[service.name]:
                given.pop(service.name)

    for service in ours:
        if service.deleting or service.name not in given:
            continue
        for family, address in wanted[service.name].items():
            held = given[service.name].get(family)
            owner = owners.get(address)
            if owner is None:
                # The address that it leaves becomes free for nobody in this round, so that a swap cannot depend on the order.
                owners[address] = service.name
                given[service.name][family] = address
            elif owner != service.name:
                message = f"address {address} belongs to {owner}. Ask for a free one, or remove {ADDRESS_ANNOTATION} to get one"
                rejections.append(Rejection(service.name, "AddressTaken", message))
                if held is None:
                    given.pop(service.name)
                    break

    for service in sorted(ours, key=lambda s: s.name):
        if service.deleting or service.name not in given:
            continue
        for family in service.families:
            if family in given[service.name]:
                continue
            try:
                address = pools[family].find(service.name, owners)
            except _Refused as refusal:
                if not (family != service.families[0] and service.family_policy == "PreferDualStack"):
                    rejections.append(Rejection(service.name, refusal.reason, str(refusal)))
                continue
            owners[address] = service.name
            given[service.name][family] = address

    addresses = {
        s.name: tuple(given[s.name][v] for v in s.families if v in given[s.name]) for s in ours if given.get(s.name)
    }
    return Allocation(addresses, tuple(sorted(rejections, key=lambda r: (r.service, r.reason, r.message))))


def _requested(service: ServiceObject, pools: Mapping[int, _Pool]) -> dict[int, IPAddress]:
    source = f"annotation {ADDRESS_ANNOTATION}"
    text = service.annotations.get(ADDRESS_ANNOTATION, "")
    if not text.strip():
        source, text = "spec.loadBalancerIP", service.load_balancer_ip
    found: dict[int, IPAddress] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            address = ip_address(part)
        except ValueError:
            raise _Refused(
                "InvalidAddress", f"{source} = {part!r} is not an IP address. Write one like 203.0.113.10"
            ) from None
        if address.version not in service.families:
            families = " and ".join(f"IPv{v}" for v in service.families)
            message = f"{source} = {address} is IPv{address.version}, but the Service has {families} (spec.ipFamilies). Use an address of that family"
            raise _Refused("WrongAddressFamily", message)
        if address.version in found:
            raise _Refused(
                "WrongAddressFamily",
                f"{source} = {text!r} names two IPv{address.version} addresses. A Service has one of each family",
            )
        if address not in pools[address.version]:
            message = f"{source} = {address} is in no pool ({pools[address.version]}). Ask for one that is, or remove it to get one"
            raise _Refused("AddressOutsidePool", message)
        found[address.version] = address
    return found


def usable_addresses(network: IPNetwork) -> int:
    """How many addresses of a network are given out to Services that do not ask for one."""
    return _Pool._span(network)[1]


class _Pool:
    """All networks of one family as one row of usable addresses.

    The first address of a network and, in IPv4, the last one are left out where there are more than two: hosts and routers that
    still treat them as network, broadcast or anycast address exist (RFC 4291 section 2.6.1 for IPv6). They may be asked for.
    """

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = tuple(networks)
        self._usable = [self._span(n) for n in self._networks]
        self._size = sum(size for _, size in self._usable)

    @staticmethod
    def _span(network: IPNetwork) -> tuple[IPAddress, int]:
        if network.num_addresses <= 2:
            return network[0], network.num_addresses
        return network[1], network.num_addresses - (2 if network.version == 4 else 1)

    def __contains__(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks)) or "none of this family"

    def find(self, name: ServiceName, owners: Mapping[IPAddress, ServiceName]) -> IPAddress:
        if not self._size:
            raise _Refused(
                "NoPoolForFamily",
                "no pool has addresses of this family. Add one to the settings, or change spec.ipFamilies",
            )
        start = int.from_bytes(hashlib.sha256(str(name).encode()).digest()) % self._size
        # Among one more than there are owners one is free, if the pool is that large.
        for offset in range(min(self._size, len(owners) + 1)):
            address = self._at((start + offset) % self._size)
            if address not in owners:
                return address
        raise _Refused(
            "PoolExhausted",
            f"all {self._size} addresses of {self} are taken. Add a network to a pool, or delete Services",
        )

    def _at(self, index: int) -> IPAddress:
        for first, size in self._usable:
            if index < size:
                return first + index
            index -= size
        raise IndexError(index)
