"""What IPVS counted, over generic netlink: asked by itself and seldom, so that the passes that look for changes do not pay for it.

Numbers are those of ``linux/ip_vs.h``. In pyroute2 0.9.7 the attributes of statistics are off by one, so they are read here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from pyroute2.netlink import genlmsg
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket
from pyroute2.netlink.generic.ipvs import GENL_NAME

from lbnode.dataplane.ipvs import Ipvs
from lbnode.dataplane.ipvs_messages import Fields, destinations_request, reading
from lbnode.dataplane.netlink import BlockingSocket, Channel, WholeDumps, dump
from lbnode.errors import Retry
from lbnode.model import Counters, DestinationTraffic, Drops, IPAddress, IPNetwork, VirtualKey
from lbnode.settings import DataPlane

_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_COUNTER = struct.Struct("=Q")
#: ``IPVS_STATS_ATTR_CONNS``, ``_INPKTS`` and ``_INBYTES``, in the order of :class:`lbnode.model.Counters`.
_STATISTICS = (1, 2, 4)


class TrafficMessage(genlmsg):
    """``IPVS_DEST_ATTR_*`` of an answer, as far as it counts something; ``statistics`` is ``IPVS_DEST_ATTR_STATS64``.

    Not derived from :class:`lbnode.dataplane.ipvs_messages.IpvsMessage`: pyroute2 would take that one's compiled map for this one's too.
    """

    nla_map = ((2, "destination", "destination"),)

    class destination(Fields):  # noqa: N801  (pyroute2 looks classes up by the names in the map)
        nla_map = (
            (1, "address", "cdata"),
            (7, "active", "uint32"),
            (8, "inactive", "uint32"),
            (11, "family", "uint16"),
            (12, "statistics", "cdata"),
        )


class TrafficSocket(BlockingSocket, AsyncGenericNetlinkSocket):
    """A socket that reads :class:`TrafficMessage`."""

    marshal_class = WholeDumps
    module_err_level = "debug"

    async def setup_endpoint(self) -> None:
        if not hasattr(self.local, "socket"):
            await super().setup_endpoint()
            await self.bind(GENL_NAME, TrafficMessage)


class IpvsTraffic:
    """Reads the counters of destinations."""

    def __init__(self) -> None:
        self._channel = Channel(TrafficSocket)

    def close(self) -> None:
        self._channel.close()

    def read(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.traffic`."""

        async def ask(opened: TrafficSocket) -> list[DestinationTraffic]:
            found: list[DestinationTraffic] = []
            for key in keys:
                found += await dump(opened, opened.prid, destinations_request(key), partial(traffic_of, key))
            return found

        try:
            return tuple(self._channel.ask(ask))
        except OSError as error:
            self.close()
            raise Retry(f"cannot read the counters of IPVS: {os.strerror(error.errno or 0)}") from None


class IpvsBalancer(Ipvs):
    """:class:`lbnode.dataplane.base.Balancer` in IPVS."""

    def __init__(self, pools: Sequence[IPNetwork]) -> None:
        super().__init__(pools)
        self._counters = IpvsTraffic()

    def close(self) -> None:
        super().close()
        self._counters.close()

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """As :meth:`lbnode.dataplane.base.Balancer.traffic`."""
        return self._counters.read(keys)

    def drops(self) -> Drops:
        """IPVS does not tell of its services why a packet of theirs was dropped."""
        return {}

    @property
    def dataplane(self) -> DataPlane:
        return "ipvs"

    @property
    def programs(self) -> Mapping[str, int]:
        """None is at work."""
        return {}

    def attach_again(self, devices: Iterable[str]) -> None:
        """There is nothing to attach."""

    def has_remains(self) -> bool:
        """Whatever IPVS has of the pools is of this balancer."""
        return False

    def remove_remains(self) -> None:
        """There are none."""

    def limits_known(self) -> bool:
        """The packet filter sees what IPVS forwards, so nothing is to be known here."""
        return True

    def limit(self, limited: frozenset[tuple[VirtualKey, IPNetwork]]) -> None:
        """Nothing is to be done, as :meth:`limits_known` says."""

    def remove(self) -> None:
        """Without services nothing is left."""


def traffic_of(key: VirtualKey, answer: TrafficMessage) -> DestinationTraffic:
    """One answer to a request for the destinations of ``key``.

    Raises:
        Retry: the answer lacks the worker's address, or cannot be read.
    """
    with reading(answer, "destination") as fields:
        family = fields.get("family", socket.AF_INET if key.address.version == 4 else socket.AF_INET6)
        packed: bytes = fields["address"]
        worker: IPAddress = IPv4Address(packed[:4]) if family == socket.AF_INET else IPv6Address(packed)
        return DestinationTraffic(
            key, worker, _counters(fields.get("statistics", b"")), fields.get("active", 0), fields.get("inactive", 0)
        )


def _counters(statistics: bytes) -> Counters:
    found: dict[int, int] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(statistics):
        length, kind = _ATTRIBUTE.unpack_from(statistics, at)
        if length < _ATTRIBUTE.size or at + length > len(statistics):
            break
        if length == _ATTRIBUTE.size + _COUNTER.size:
            found[kind] = _COUNTER.unpack_from(statistics, at + _ATTRIBUTE.size)[0]
        at += (length + 3) & ~3
    return Counters(*(found.get(kind, 0) for kind in _STATISTICS))
