"""The routes of the way back as the kernel gets them, against the layouts of ``linux/rtnetlink.h`` written out by hand."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from lbnode.dataplane import return_paths
from lbnode.dataplane.devices import Device
from lbnode.model import ReturnPath

RTM_NEWROUTE, RTM_NEWNEXTHOP = 24, 104
RTA_DST, RTA_OIF, RTA_TABLE, RTA_NH_ID = 1, 4, 15, 30
NHA_ID, NHA_GROUP = 1, 2
WORKER, EDGE = ip_address("198.18.0.21"), ip_address("198.18.0.11")
TUNNEL = Device("sgt-1", 5, True, "ipip", WORKER, EDGE, False, True, 1480, 64)
PATH = ReturnPath(4, WORKER, 0x2000, 100, 7310, frozenset({EDGE}), frozenset({EDGE}))


def attributes(message: Any, header_bytes: int) -> dict[int, bytes]:
    message.reset()
    message.encode()
    return dict(_attributes(bytes(message.data[16 + header_bytes :])))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[(length + 3) & ~3 :]


def ask(channel: object, question: Callable[[object], Coroutine[Any, Any, Any]]) -> Any:
    coroutine = question(None)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Any]]:
    """What a kernel without anything of ours is asked for."""
    asked: list[tuple[int, int, Any]] = []

    async def dump(*question: object) -> list[Any]:
        return []

    async def batch(socket: object, wanted: list[tuple[int, int, Any]]) -> list[int]:
        asked.extend(wanted)
        return [0] * len(wanted)

    monkeypatch.setattr(return_paths, "dump", dump)
    monkeypatch.setattr(return_paths, "batch", batch)
    monkeypatch.setattr(return_paths.Channel, "ask", ask)
    return asked


def test_the_default_route_names_the_group_also_where_pyroute2_has_met_routes_of_its_own_before(
    requests: list[tuple[int, int, Any]],
) -> None:
    rtmsg()
    return_paths.ReturnPaths().set(PATH, [TUNNEL])
    groups = [found for kind, _, m in requests if kind == RTM_NEWNEXTHOP and NHA_GROUP in (found := attributes(m, 8))]
    routes = [attributes(m, 12) for kind, _, m in requests if kind == RTM_NEWROUTE]
    table = struct.pack("=I", 7310)
    assert routes == [
        {RTA_TABLE: table, RTA_DST: EDGE.packed, RTA_OIF: struct.pack("=I", 5)},
        {RTA_TABLE: table, RTA_NH_ID: groups[0][NHA_ID]},
    ]


@pytest.mark.parametrize("error", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_kernel_that_knows_no_such_thing_has_none(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """As one does that was booted without IPv6, when it is asked for rules of that family."""

    async def dump(*question: object) -> list[Any]:
        raise NetlinkError(error)

    monkeypatch.setattr(return_paths, "dump", dump)
    monkeypatch.setattr(return_paths.Channel, "ask", ask)
    assert return_paths.ReturnPaths().read([]) == frozenset()
