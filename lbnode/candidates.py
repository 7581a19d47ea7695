"""Which pools and addresses a Service may have: by the pools' own rules, and by what the Service asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import ip_address

from lbnode.model import IPAddress, IPNetwork
from lbnode.objects import ADDRESS_ANNOTATION, POOL_ANNOTATION, ServiceObject
from lbnode.pools import Pool, pool_of


class Refused(Exception):
    """A wish cannot be granted; ``reason`` is one CamelCase word, the text names value, rule and way out."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _span(network: IPNetwork) -> tuple[IPAddress, int]:
    if network.num_addresses <= 2:
        return network[0], network.num_addresses
    return network[1], network.num_addresses - (2 if network.version == 4 else 1)


def usable_addresses(network: IPNetwork) -> int:
    """How many addresses of a network are given out to Services that do not ask for one."""
    return _span(network)[1]


class Row:
    """All networks of one family as one row of usable addresses.

    The first address of a network and, in IPv4, the last one are left out where there are more than two: hosts and routers that
    still treat them as network, broadcast or anycast address exist (RFC 4291 section 2.6.1 for IPv6). They may be asked for.
    """

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = tuple(networks)
        self._usable = [_span(n) for n in self._networks]
        self.size = sum(size for _, size in self._usable)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks))

    def find(self, seed: str, taken: Container[IPAddress], taken_count: int) -> IPAddress | None:
        """The address that the hash of ``seed`` points at, or the next free one after it; ``None`` when all are taken."""
        if not self.size:
            return None
        start = int.from_bytes(hashlib.sha256(seed.encode()).digest()) % self.size
        # Among one more than there are taken ones one is free, if the row is that long.
        for offset in range(min(self.size, taken_count + 1)):
            address = self._at((start + offset) % self.size)
            if address not in taken:
                return address
        return None

    def _at(self, index: int) -> IPAddress:
        for first, size in self._usable:
            if index < size:
                return first + index
            index -= size
        raise IndexError(index)


def rows_of(pools: Sequence[Pool], family: int) -> list[Row]:
    """The networks of these pools in one family: a row for each priority, the lowest number first."""
    rows = []
    for priority in sorted({p.priority for p in pools}):
        row = Row(n for p in pools if p.priority == priority for n in p.cidrs if n.version == family)
        if row.size:
            rows.append(row)
    return rows


class Candidates:
    """The pools of the settings, as one Service after the other sees them. ``namespaces`` are their labels by name."""

    def __init__(self, pools: Sequence[Pool], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self._pools = pools
        self._namespaces = namespaces

    def admits(self, pool: Pool, service: ServiceObject) -> bool:
        """Whether the rules of ``pool`` let the Service have an address of it."""
        namespace = service.name.namespace
        return pool.admits(namespace, self._namespaces.get(namespace, {}), service.labels)

    def requested_pools(self, service: ServiceObject) -> tuple[Pool, ...] | None:
        """The pools that the Service names, ``None`` when it names none.

        Raises:
            Refused: there is no such pool, or it is not for this Service.
        """
        names = [n for n in (p.strip() for p in service.annotations.get(POOL_ANNOTATION, "").split(",")) if n]
        if not names:
            return None
        by_name = {p.name: p for p in self._pools}
        for name in names:
            if name not in by_name:
                known = ", ".join(by_name)
                message = f"annotation {POOL_ANNOTATION} = {name[:63]!r}: there is no such pool. There are: {known}"
                raise Refused("UnknownPool", message)
            self.must_admit(by_name[name], service, f"annotation {POOL_ANNOTATION} = {name!r}")
        return tuple(by_name[n] for n in dict.fromkeys(names))

    def must_admit(self, pool: Pool, service: ServiceObject, source: str) -> None:
        """Raises :class:`Refused` when ``pool`` is not for this Service, which wants it by ``source``."""
        if not self.admits(pool, service):
            rules = [
                rule
                for rule, given in (
                    (f"namespaces {', '.join(pool.namespaces)}", pool.namespaces),
                    ("its namespaceSelector", pool.namespace_selector),
                    ("its serviceSelector", pool.service_selector),
                )
                if given
            ]
            message = (
                f"{source}: pool {pool.name} is not for this Service, by {' and '.join(rules)}. "
                "Use another pool, or change the labels or the pool"
            )
            raise Refused("PoolNotForService", message)

    def requested_addresses(self, service: ServiceObject) -> dict[int, IPAddress]:
        """The addresses that the Service asks for, by family.

        Raises:
            Refused: one is no address, of a family that the Service does not have, or in no pool for it.
        """
        source = f"annotation {ADDRESS_ANNOTATION}"
        text = service.annotations.get(ADDRESS_ANNOTATION, "")
        if not text.strip():
            source, text = "spec.loadBalancerIP", service.load_balancer_ip
        named = self.requested_pools(service)
        found: dict[int, IPAddress] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            try:
                address = ip_address(part)
            except ValueError:
                raise Refused(
                    "InvalidAddress", f"{source} = {part!r} is not an IP address. Write one like 203.0.113.10"
                ) from None
            if address.version not in service.families:
                families = " and ".join(f"IPv{v}" for v in service.families)
                message = f"{source} = {address} is IPv{address.version}, but the Service has {families} (spec.ipFamilies). Use an address of that family"
                raise Refused("WrongAddressFamily", message)
            if address.version in found:
                raise Refused(
                    "WrongAddressFamily",
                    f"{source} = {text!r} names two IPv{address.version} addresses. A Service has one of each family",
                )
            self._must_be_in_a_pool(address, service, named, f"{source} = {address}")
            found[address.version] = address
        return found

    def _must_be_in_a_pool(
        self, address: IPAddress, service: ServiceObject, named: Sequence[Pool] | None, source: str
    ) -> None:
        pool = pool_of(address, self._pools)
        if pool is None:
            networks = ", ".join(str(n) for p in self._pools for n in p.cidrs if n.version == address.version)
            message = f"{source} is in no pool ({networks or 'none of this family'}). Ask for one that is, or remove it to get one"
            raise Refused("AddressOutsidePool", message)
        if named is not None and pool not in named:
            message = (
                f"{source} is in pool {pool.name}, and annotation {POOL_ANNOTATION} asks for "
                f"{', '.join(p.name for p in named)}. Make the two agree, or remove one"
            )
            raise Refused("AddressOutsidePool", message)
        # What it has it keeps, though the pool's rules were changed since.
        if address not in service.addresses:
            self.must_admit(pool, service, source)

    def pools_for(self, service: ServiceObject, family: int) -> tuple[Pool, ...]:
        """The pools that a Service gets an address of ``family`` from.

        Raises:
            Refused: there is none.
        """
        named = self.requested_pools(service)
        of_family = [p for p in self._pools if any(n.version == family for n in p.cidrs)]
        if not of_family:
            raise Refused(
                "NoPoolForFamily",
                f"no pool has addresses of this family (IPv{family}). Add one to the settings, or change spec.ipFamilies",
            )
        if named is not None:
            fitting = tuple(p for p in of_family if p in named)
            if not fitting:
                message = (
                    f"annotation {POOL_ANNOTATION} = {', '.join(p.name for p in named)!r}: it has no IPv{family} network. "
                    f"Name a pool beside it that has ({', '.join(p.name for p in of_family)}), or change spec.ipFamilies"
                )
                raise Refused("NoPoolForFamily", message)
            return fitting
        fitting = tuple(p for p in of_family if p.auto_assign and self.admits(p, service))
        if not fitting:
            why = ", ".join(f"{p.name} ({'its selectors' if p.auto_assign else 'autoAssign off'})" for p in of_family)
            message = (
                f"no pool gives this Service an IPv{family} address by itself: {why}. "
                f"Name one that is for it with {POOL_ANNOTATION}, or change the labels or a pool"
            )
            raise Refused("NoPoolForService", message)
        return fitting
