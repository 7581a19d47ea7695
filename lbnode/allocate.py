"""Addresses for Services: a function of their names, the pools and what they hold already, without shared state.

In this order, each step deterministic and independent of the order of the input:

1. a Service keeps the addresses of its status that lie in a pool, unless it asks for others; of two that hold one address and may not share
   it (:mod:`lbnode.sharing`) the older keeps it;
2. a Service that asks (``samegate.dev/address``, or the older ``spec.loadBalancerIP``) gets that address if nobody holds it or
   its holders share it; what it held stays its own if it cannot;
3. everybody else, by order of name: with a sharing key the address of those that have the same key, else the address that the hash of
   ``namespace/name`` (of the key, for the first one with it) points at, or the next free one after it, in the pools that are for the
   Service (:mod:`lbnode.candidates`). The same manifests get the same addresses on every stack whose pools are equal.

``ipFamilyPolicy``: ``RequireDualStack`` is all or nothing for a Service that has nothing yet; ``PreferDualStack`` is content with one family,
whichever it is; ``SingleStack`` has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lbnode import sharing
from lbnode.candidates import Candidates, Refused, rows_of
from lbnode.facts import Rejection
from lbnode.model import IPAddress, ServiceName
from lbnode.objects import ServiceObject, is_ours
from lbnode.pools import pool_of
from lbnode.settings import AgentSettings

#: What ``PreferDualStack`` puts up with in one of its families.
_NONE_LEFT = frozenset({"NoPoolForFamily", "NoPoolForService", "PoolExhausted"})


@dataclass(frozen=True, slots=True)
class Allocation:
    """Addresses per Service in the order of its families. A Service with a rejection may still have the addresses that it held."""

    addresses: Mapping[ServiceName, tuple[IPAddress, ...]] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()

    def by_address(self) -> dict[IPAddress, tuple[ServiceName, ...]]:
        """The Services at each address, by name."""
        found: dict[IPAddress, tuple[ServiceName, ...]] = {}
        for name, addresses in sorted(self.addresses.items()):
            for address in addresses:
                found[address] = (*found.get(address, ()), name)
        return found


def allocate(
    services: Iterable[ServiceObject],
    settings: AgentSettings,
    namespaces: Mapping[str, Mapping[str, str]] | None = None,
) -> Allocation:
    """Addresses for all Services that are ours; others are ignored. ``namespaces`` are the labels of Namespaces by name."""
    ours = sorted((s for s in services if is_ours(s, settings)), key=lambda s: s.seniority)
    given = _Allocator(settings, namespaces or {})
    for service in ours:
        given.keep(service)
    for service in ours:
        given.grant_request(service)
    for service in sorted(ours, key=lambda s: s.name):
        given.assign(service)
    return given.result(ours)


class _Allocator:
    """Who holds what, while the steps go on."""

    def __init__(self, settings: AgentSettings, namespaces: Mapping[str, Mapping[str, str]]) -> None:
        self._settings = settings
        self._candidates = Candidates(settings.pools, namespaces)
        self._owners: dict[IPAddress, list[ServiceObject]] = {}
        self._given: dict[ServiceName, dict[int, IPAddress]] = {}
        self._keyed: dict[tuple[str, str], list[ServiceObject]] = {}
        self._out: set[ServiceName] = set()
        self._rejections: list[Rejection] = []

    def result(self, ours: Iterable[ServiceObject]) -> Allocation:
        addresses = {
            s.name: tuple(held[v] for v in s.families if v in held) for s in ours if (held := self._given[s.name])
        }
        return Allocation(addresses, tuple(sorted(self._rejections, key=lambda r: (r.service, r.reason, r.message))))

    # The three steps.

    def keep(self, service: ServiceObject) -> None:
        """What the Service holds by its status stays its own."""
        held = self._given.setdefault(service.name, {})
        for address in service.addresses:
            version = address.version
            if version not in service.families or version in held or pool_of(address, self._settings.pools) is None:
                continue
            if self._obstacle(service, address) is None:
                self._hold(service, address)

    def grant_request(self, service: ServiceObject) -> None:
        """The addresses that the Service asks for, if it may have them."""
        held = self._given[service.name]
        try:
            wanted = self._candidates.requested_addresses(service)
        except Refused as refusal:
            # What it asks for is wrong, so another address in its place would be a surprise: it keeps what it has, or has none.
            self._refuse(service, refusal.reason, str(refusal))
            self._out.add(service.name)
            return
        if service.deleting:
            return
        for family, address in wanted.items():
            if held.get(family) == address:
                continue
            if (problem := self._obstacle(service, address)) is None:
                # The address that it leaves becomes free for nobody in this round, so that a swap cannot depend on the order.
                self._hold(service, address)
                continue
            self._refuse(service, *problem)
            if family not in held:
                held.clear()
                self._out.add(service.name)
                break

    def assign(self, service: ServiceObject) -> None:
        """An address for each family that the Service has none of yet, or has one of outside the pools that it names."""
        if service.deleting or service.name in self._out:
            return
        held = self._given[service.name]
        found: dict[int, IPAddress] = {}
        problems: list[Refused] = []
        for family in service.families:
            try:
                if family in held and not self._is_to_move(service, held[family]):
                    continue
                found[family] = self._choose(service, family)
            except Refused as refusal:
                problems.append(refusal)
        has_one = bool(held or found)
        is_content = (
            service.family_policy == "PreferDualStack" and has_one and all(p.reason in _NONE_LEFT for p in problems)
        )
        has_kept = any(a in service.addresses for a in held.values())
        needs_all = service.family_policy == "RequireDualStack" and not has_kept
        if problems and not is_content:
            for problem in problems:
                self._refuse(service, problem.reason, str(problem))
            if needs_all:
                held.clear()
                return
        for address in found.values():
            self._hold(service, address)

    # What they consist of.

    def _is_to_move(self, service: ServiceObject, address: IPAddress) -> bool:
        named = self._candidates.requested_pools(service)
        return named is not None and pool_of(address, named) is None

    def _choose(self, service: ServiceObject, family: int) -> IPAddress:
        pools = self._candidates.pools_for(service, family)
        key = sharing.sharing_key(service, self._settings.share_across_namespaces)
        seed = str(service.name)
        if key is not None:
            seed = sharing.seed(key)
            if (shared := self._address_of_key(key, service, family)) is not None:
                if (pool := pool_of(shared, self._settings.pools)) is not None and pool not in pools:
                    self._candidates.must_admit(pool, service, f"address {shared} of the same sharing key")
                    raise Refused(
                        "PoolNotForService",
                        f"address {shared} of the same sharing key is in pool {pool.name}, which this Service does not ask for. "
                        "Ask for that pool, or use another key",
                    )
                if (problem := self._obstacle(service, shared)) is not None:
                    raise Refused(*problem)
                return shared
        rows = rows_of(pools, family)
        for row in rows:
            if (address := row.find(seed, self._owners, len(self._owners))) is not None:
                return address
        raise Refused(
            "PoolExhausted",
            f"all {sum(r.size for r in rows)} addresses of {', '.join(map(str, rows))} are taken. Add a network to a pool, or delete Services",
        )

    def _address_of_key(self, key: tuple[str, str], service: ServiceObject, family: int) -> IPAddress | None:
        """The address of the oldest other Service with this sharing key."""
        holders = [s for s in self._keyed.get(key, ()) if s.name != service.name and family in self._given[s.name]]
        if not holders:
            return None
        return self._given[min(holders, key=lambda s: s.seniority).name][family]

    def _obstacle(self, service: ServiceObject, address: IPAddress) -> tuple[str, str] | None:
        across = self._settings.share_across_namespaces
        others = (o for o in self._owners.get(address, ()) if o.name != service.name)
        problems = (sharing.obstacle(service, other, address, across) for other in others)
        return next((p for p in problems if p is not None), None)

    def _hold(self, service: ServiceObject, address: IPAddress) -> None:
        self._owners.setdefault(address, []).append(service)
        self._given[service.name][address.version] = address
        if (key := sharing.sharing_key(service, self._settings.share_across_namespaces)) is not None:
            self._keyed.setdefault(key, []).append(service)

    def _refuse(self, service: ServiceObject, reason: str, message: str) -> None:
        self._rejections.append(Rejection(service.name, reason, message))
