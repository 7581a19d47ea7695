"""The way of replies through edge nodes in a worker's kernel: policy rule, routes and next-hop objects over rtnetlink.

Numbers that pyroute2 does not name are those of ``linux/rtnetlink.h`` and ``linux/nexthop.h``. Rules, routes and next hops of ours are known by
their protocol number, as those of any routing daemon are, so that settings of a former agent leave nothing behind.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import count
from typing import Any, TypeVar

from pyroute2.iproute import AsyncIPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETROUTE,
    RTM_GETRULE,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import RT_SCOPE_LINK, RT_SCOPE_NOWHERE, RT_SCOPE_UNIVERSE, rtmsg_base

from lbnode.dataplane.devices import Device
from lbnode.dataplane.netlink import FAMILIES, BlockingSocket, Channel, WholeDumps, batch, dump, message_with
from lbnode.errors import Retry
from lbnode.model import IPAddress, IPNetwork, ReturnPath

#: No daemon of ``/etc/iproute2/rt_protos`` has it.
PROTOCOL = 115
#: Next hops have one number space; other programs count from 1.
_FIRST_ID = 0x73670001
_RTM_NEWNEXTHOP, _RTM_DELNEXTHOP, _RTM_GETNEXTHOP = 104, 105, 106
_RTN_UNICAST = 1
_FIB_RULE_INVERT = 2
#: ``struct nexthop_grp``: number, weight less one, 3 reserved bytes.
_MEMBER = struct.Struct("=IB3x")
_VERSIONS = {family: version for version, family in FAMILIES.items()}
_ANYWHERE: Mapping[int, IPNetwork] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_GONE = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT)
#: Of a kernel that was booted without the family, or built without policy rules or next-hop objects: it has none of them.
_UNKNOWN = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)

Request = tuple[int, int, Any]
Found = TypeVar("Found")


class _NextHopMessage(nlmsg):
    """``struct nhmsg``, which pyroute2 0.9 does not know."""

    prefix = "NHA_"
    fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("reserved", "B"), ("flags", "I"))
    nla_map = ((1, "NHA_ID", "uint32"), (2, "NHA_GROUP", "cdata"), (3, "NHA_GROUP_TYPE", "uint16"), (5, "NHA_OIF", "uint32"))  # fmt: skip


class _RouteMessage(rtmsg_base, nlmsg):
    """With the attributes up to ``RTA_NH_ID``, which pyroute2 0.9 leaves out.

    Not a kind of pyroute2's ``rtmsg``: from that it would inherit the attributes as they were worked out at the first use of ``rtmsg``.
    """

    nla_map = (
        *rtmsg_base.nla_map,
        ("RTA_PAD", "hex"),
        ("RTA_UID", "uint32"),
        ("RTA_TTL_PROPAGATE", "uint8"),
        ("RTA_IP_PROTO", "uint8"),
        ("RTA_SPORT", "hex"),
        ("RTA_DPORT", "hex"),
        ("RTA_NH_ID", "uint32"),
    )


class _Marshal(WholeDumps, MarshalRtnl):
    msg_map = MarshalRtnl.msg_map | {_RTM_NEWNEXTHOP: _NextHopMessage, RTM_NEWROUTE: _RouteMessage}


class _Socket(BlockingSocket, AsyncIPRoute):
    def __init__(self) -> None:
        super().__init__(strict_check=True)
        self.set_marshal(_Marshal())


@dataclass(frozen=True, slots=True)
class _Rule:
    version: int
    priority: int
    mark: int
    mask: int
    table: int
    #: It looks at nothing but the mark, and leads to a table.
    plain: bool


@dataclass(frozen=True, slots=True)
class _Route:
    version: int
    table: int
    destination: IPNetwork
    device: int | None
    next_hop: int | None

    @property
    def is_default(self) -> bool:
        return self.destination.prefixlen == 0


@dataclass(frozen=True, slots=True)
class _NextHop:
    number: int
    ours: bool
    #: ``None`` for a group.
    version: int | None
    device: int | None
    #: Numbers and weights.
    members: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Seen:
    rules: tuple[_Rule, ...]
    routes: tuple[_Route, ...]
    next_hops: Mapping[int, _NextHop]

    def of(self, version: int) -> tuple[list[_Rule], list[_Route]]:
        return [r for r in self.rules if r.version == version], [r for r in self.routes if r.version == version]

    def group_of(self, version: int) -> _NextHop | None:
        """That of the family's default route, if it has one."""
        _, routes = self.of(version)
        found = [self.next_hops.get(r.next_hop) for r in routes if r.is_default and r.next_hop is not None]
        return found[0] if len(found) == 1 and found[0] is not None and found[0].version is None else None


class ReturnPaths:
    """Methods raise ``OSError`` with the kernel's error number, and :class:`Retry` when it cannot be asked."""

    def __init__(self) -> None:
        self._channel = Channel(_Socket)

    def close(self) -> None:
        self._channel.close()

    def read(self, tunnels: Iterable[Device]) -> frozenset[ReturnPath]:
        """What there is of each family. ``tunnels`` are the devices that it may lead to."""
        by_index = {d.index: d for d in tunnels}
        seen = self._seen()
        paths = (_path(version, seen, by_index) for version in FAMILIES)
        return frozenset(p for p in paths if p is not None)

    def set(self, path: ReturnPath, tunnels: Iterable[Device]) -> None:
        """Put ``path`` in place of the one of its family. Raises :class:`Retry` when a tunnel that it leads to is missing."""
        devices = {d.remote: d.index for d in tunnels}
        missing = [e for e in path.edges | path.group if e not in devices]
        if missing or not path.group:
            raise Retry(f"the way back leads to tunnels that are missing: {sorted(map(str, missing))}")
        indexes = {e: devices[e] for e in path.edges | path.group}
        self._carry_out(_to_set(path, indexes, self._seen()))

    def remove(self, version: int) -> None:
        """Take away what there is of a family; nothing is fine."""
        self._carry_out(_to_remove(version, self._seen(), keep_next_hops=frozenset()))

    def _seen(self) -> _Seen:
        async def read(link: _Socket) -> _Seen:
            rules: list[_Rule] = []
            routes: list[_Route] = []
            for version, family in FAMILIES.items():
                rules += await _dumped(link, RTM_GETRULE, message_with(fibmsg, family=family), _rule)
                request = message_with(_RouteMessage, family=family, proto=PROTOCOL)
                found = await _dumped(link, RTM_GETROUTE, request, _route)
                routes += [r for r in found if r.version == version]
            hops = await _dumped(link, _RTM_GETNEXTHOP, message_with(_NextHopMessage, family=0), _next_hop)
            return _Seen(tuple(rules), tuple(dict.fromkeys(routes)), {h.number: h for h in hops})

        return self._channel.ask(read)

    def _carry_out(self, requests: Iterable[Request]) -> None:
        wanted = list(requests)
        for (kind, _, _), error in zip(wanted, self._channel.ask(lambda link: batch(link, wanted)), strict=True):
            is_removal = kind in (RTM_DELRULE, RTM_DELROUTE, _RTM_DELNEXTHOP)
            if error and not (is_removal and error in _GONE):
                raise OSError(error, os.strerror(error))


async def _dumped(link: Any, kind: int, message: Any, take: Callable[[Any], Found | None]) -> list[Found]:
    try:
        return [found for found in await dump(link, kind, message, take) if found is not None]
    except NetlinkError as error:
        if error.code in _UNKNOWN:
            return []
        raise


def _rule(answer: Any) -> _Rule | None:
    version = _VERSIONS.get(answer["family"])
    if version is None or answer.get_attr("FRA_PROTOCOL") != PROTOCOL:
        return None
    others = ("FRA_SRC", "FRA_DST", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_IP_PROTO", "FRA_UID_RANGE")
    return _Rule(
        version=version,
        priority=answer.get_attr("FRA_PRIORITY") or 0,
        mark=answer.get_attr("FRA_FWMARK") or 0,
        mask=answer.get_attr("FRA_FWMASK") or 0,
        table=answer.get_attr("FRA_TABLE") or answer["table"],
        plain=answer["action"] == FR_ACT_TO_TBL
        and not answer["flags"] & _FIB_RULE_INVERT
        and all(answer.get_attr(name) is None for name in others),
    )


def _route(answer: Any) -> _Route | None:
    version = _VERSIONS.get(answer["family"])
    if version is None or answer["proto"] != PROTOCOL:
        return None
    text = answer.get_attr("RTA_DST") or str(_ANYWHERE[version].network_address)
    return _Route(
        version=version,
        table=answer.get_attr("RTA_TABLE") or answer["table"],
        destination=ip_network(f"{text}/{answer['dst_len']}"),
        device=answer.get_attr("RTA_OIF"),
        next_hop=answer.get_attr("RTA_NH_ID"),
    )


def _next_hop(answer: Any) -> _NextHop:
    group = bytes(answer.get_attr("NHA_GROUP") or b"")
    return _NextHop(
        number=answer.get_attr("NHA_ID"),
        ours=answer["protocol"] == PROTOCOL,
        version=None if group else _VERSIONS.get(answer["family"]),
        device=answer.get_attr("NHA_OIF"),
        members=tuple(_MEMBER.iter_unpack(group)),
    )


def _path(version: int, seen: _Seen, tunnels: Mapping[int, Device]) -> ReturnPath | None:
    rules, routes = seen.of(version)
    if not rules and not routes:
        return None
    rule = rules[0] if rules else _Rule(version, 0, 0, 0, 0, False)
    hosts = [r for r in routes if not r.is_default]
    group = seen.group_of(version)
    members = [(seen.next_hops.get(number), weight) for number, weight in (group.members if group is not None else ())]
    used = [tunnels.get(index) if index is not None else None for index in (r.device for r in hosts)]
    to_group = [tunnels.get(hop.device) if hop is not None and hop.device is not None else None for hop, _ in members]
    ready = (
        len(rules) == 1
        and rule.plain
        and rule.mark == rule.mask
        and {r.table for r in routes} <= {rule.table}
        and all(d is not None and r.destination == _host(d.remote) for r, d in zip(hosts, used, strict=True))
        and len(routes) - len(hosts) == (group is not None)
        and None not in to_group
        and len({weight for _, weight in members}) <= 1
    )
    own = {device.local for device in (*used, *to_group) if device is not None and device.local is not None}
    return ReturnPath(
        version=version,
        node_address=own.pop() if len(own) == 1 else _ANYWHERE[version].network_address,
        mark_mask=rule.mask,
        rule_priority=rule.priority,
        route_table=rule.table,
        edges=frozenset(d.remote for d in used if d is not None and d.remote is not None),
        group=frozenset(d.remote for d in to_group if d is not None and d.remote is not None),
        ready=ready,
    )


def _to_set(path: ReturnPath, devices: Mapping[IPAddress, int], seen: _Seen) -> Iterator[Request]:
    """Requests in an order in which replies always have a way: what is new comes before what is old goes."""
    version, table = path.version, path.route_table
    rules, routes = seen.of(version)
    free = (number for number in count(_FIRST_ID) if number not in seen.next_hops)
    ours = {h.device: h.number for h in seen.next_hops.values() if h.ours and h.version == version}
    members = []
    for edge in sorted(path.group, key=int):
        index = devices[edge]
        if index not in ours:
            ours[index] = next(free)
            yield _add_next_hop(ours[index], NLM_F_EXCL, family=FAMILIES[version], attrs=[("NHA_OIF", index)])
        members.append(ours[index])
    old = seen.group_of(version)
    group = old.number if old is not None and old.ours else next(free)
    packed = b"".join(_MEMBER.pack(number, 0) for number in members)
    yield _add_next_hop(group, NLM_F_REPLACE, family=0, attrs=[("NHA_GROUP", packed)])

    for edge in sorted(path.edges, key=int):
        yield _route_request(table, ip_network(edge), ("RTA_OIF", devices[edge]))
    yield _route_request(table, _ANYWHERE[version], ("RTA_NH_ID", group))
    rule = _Rule(version, path.rule_priority, path.mark_mask, path.mark_mask, table, True)
    if rule not in rules:
        yield _rule_request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule)

    kept = {_ANYWHERE[version], *map(ip_network, path.edges)}
    stale = _Seen(
        tuple(r for r in rules if r != rule),
        tuple(r for r in routes if r.table != table or r.destination not in kept),
        seen.next_hops,
    )
    yield from _to_remove(version, stale, keep_next_hops=frozenset({group, *members}))


def _to_remove(version: int, seen: _Seen, keep_next_hops: frozenset[int]) -> Iterator[Request]:
    rules, routes = seen.of(version)
    for rule in rules:
        yield _rule_request(RTM_DELRULE, 0, rule)
    for route in routes:
        scope = RT_SCOPE_NOWHERE if version == 4 else RT_SCOPE_UNIVERSE
        message = _route_message(route.table, route.destination, scope)
        yield RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, message
    # Groups before what is in them, so that no group is left that leads to fewer than it should.
    for hop in sorted(seen.next_hops.values(), key=lambda h: h.version is not None):
        if hop.ours and hop.number not in keep_next_hops and _version_of(hop, seen) in (version, None):
            message = message_with(_NextHopMessage, family=0, attrs=[("NHA_ID", hop.number)])
            yield _RTM_DELNEXTHOP, NLM_F_REQUEST | NLM_F_ACK, message


def _version_of(hop: _NextHop, seen: _Seen) -> int | None:
    if hop.version is not None:
        return hop.version
    versions = {seen.next_hops[n].version for n, _ in hop.members if n in seen.next_hops}
    return versions.pop() if len(versions) == 1 else None


def _add_next_hop(number: int, how: int, **fields: Any) -> Request:
    fields["attrs"] = [("NHA_ID", number), *fields["attrs"]]
    message = message_with(_NextHopMessage, protocol=PROTOCOL, **fields)
    return _RTM_NEWNEXTHOP, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | how, message


def _route_request(table: int, destination: IPNetwork, where: tuple[str, int]) -> Request:
    # IPv6 routes have no scope.
    by_device = destination.version == 4 and destination.prefixlen != 0
    message = _route_message(table, destination, RT_SCOPE_LINK if by_device else RT_SCOPE_UNIVERSE, where)
    message["type"] = _RTN_UNICAST
    return RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, message


def _route_message(table: int, destination: IPNetwork, scope: int, *where: tuple[str, int]) -> Any:
    to = [("RTA_DST", str(destination.network_address))] if destination.prefixlen else []
    return message_with(
        _RouteMessage,
        family=FAMILIES[destination.version],
        dst_len=destination.prefixlen,
        proto=PROTOCOL,
        scope=scope,
        attrs=[("RTA_TABLE", table), *to, *where],
    )


def _host(address: IPAddress | None) -> IPNetwork | None:
    return ip_network(address) if address is not None else None


def _rule_request(kind: int, flags: int, rule: _Rule) -> Request:
    attributes = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_FWMARK", rule.mark),
        ("FRA_FWMASK", rule.mask),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", PROTOCOL),
    ]
    message = message_with(fibmsg, family=FAMILIES[rule.version], action=FR_ACT_TO_TBL, attrs=attributes)
    return kind, NLM_F_REQUEST | NLM_F_ACK | flags, message
