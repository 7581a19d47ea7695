"""Messages of IPVS over generic netlink: operations as requests, and answers as services and destinations.

Numbers are those of ``linux/ip_vs.h``. Traps: the netmask field of an IPv6 service is a prefix length; a service is changed with the *set* command.
Commands are pyroute2's. The attribute maps are not: in those of 0.9.7 the netmask is an IPv4 address and a timeout is text, and its ``IPVSDest``
takes every destination that it reads for direct routing.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pyroute2.netlink import genlmsg, nla
from pyroute2.netlink.generic.ipvs import (
    GENL_VERSION,
    IPVS_CMD_DEL_DEST,
    IPVS_CMD_DEL_SERVICE,
    IPVS_CMD_GET_DEST,
    IPVS_CMD_NEW_DEST,
    IPVS_CMD_NEW_SERVICE,
    IPVS_CMD_SET_CONFIG,
    IPVS_CMD_SET_DEST,
    IPVS_CMD_SET_SERVICE,
)

from lbnode.dataplane.base import BalancerOperation
from lbnode.errors import Retry
from lbnode.model import Destination, IPAddress, IPNetwork, Place, Protocol, VirtualKey, VirtualService
from lbnode.operations import (
    AddDestination,
    AddService,
    RemoveDestination,
    RemoveService,
    SetTimeouts,
    SetWeight,
    UpdateService,
)

_FLAG_PERSISTENT, _FLAG_ONE_PACKET, _FLAG_MH_FALLBACK, _FLAG_MH_PORT = 0x1, 0x4, 0x8, 0x10
_FLAGS_OF_OURS = _FLAG_PERSISTENT | _FLAG_ONE_PACKET | _FLAG_MH_FALLBACK | _FLAG_MH_PORT
_FORWARD_MASK, _FORWARD_NAT, _FORWARD_TUNNEL = 0x7, 0, 2
_TUNNEL_TYPE_IPIP = 0
_SCHEDULER, _NO_SCHEDULER = b"mh\0", b"none\0"
_ALL_ONES = {4: 0xFFFFFFFF, 6: 128}

_PROTOCOLS = {p.number: p for p in Protocol}
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_ATTRIBUTE_TYPE_MASK = 0x3FFF  # less NLA_F_NESTED and NLA_F_NET_BYTEORDER
_FLAGS = struct.Struct("=II")  # struct ip_vs_flags: flags and mask
_FORMATS = {"uint8": "=B", "uint16": "=H", "uint32": "=I", "be16": "!H"}


class Fields(nla):
    """Plain fields as ``self[name]``, in one pass each way: with an object for each field 10,000 destinations took two seconds."""

    layout: Mapping[int, tuple[str, struct.Struct | None]]

    def __init_subclass__(cls) -> None:
        cls.layout = {
            number: (name, struct.Struct(_FORMATS[kind]) if kind in _FORMATS else None)
            for number, name, kind in cls.nla_map
        }

    def encode(self) -> None:
        fields = bytearray()
        for kind, (name, layout) in self.layout.items():
            if name in self:
                value = layout.pack(self[name]) if layout else self[name]
                fields += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
        self.length = _ATTRIBUTE.size + len(fields)
        self.data += _ATTRIBUTE.pack(self.length, self["header"]["type"]) + fields

    def decode(self) -> None:
        at = self.offset + _ATTRIBUTE.size
        end = self.offset + _ATTRIBUTE.unpack_from(self.data, self.offset)[0]
        while at + _ATTRIBUTE.size <= end:
            length, kind = _ATTRIBUTE.unpack_from(self.data, at)
            if length < _ATTRIBUTE.size or at + length > end:
                break
            if (field := self.layout.get(kind & _ATTRIBUTE_TYPE_MASK)) is not None:
                name, layout = field
                start = at + _ATTRIBUTE.size
                if layout is not None and length < _ATTRIBUTE.size + layout.size:
                    break
                self[name] = layout.unpack_from(self.data, start)[0] if layout else self.data[start : at + length]
            at += (length + 3) & ~3
        self.decoded = True


class IpvsMessage(genlmsg):
    """``IPVS_CMD_ATTR_*``, ``IPVS_SVC_ATTR_*`` and ``IPVS_DEST_ATTR_*`` as far as they matter here; addresses are ``union nf_inet_addr``."""

    nla_map = (
        (1, "service", "service"),
        (2, "destination", "destination"),
        (4, "tcp", "uint32"),
        (5, "tcp_fin", "uint32"),
        (6, "udp", "uint32"),
    )

    class service(Fields):  # noqa: N801  (pyroute2 looks classes up by the names in the map)
        nla_map = (
            (1, "family", "uint16"),
            (2, "protocol", "uint16"),
            (3, "address", "cdata"),
            (4, "port", "be16"),
            (5, "fwmark", "uint32"),
            (6, "scheduler", "cdata"),
            (7, "flags", "cdata"),
            (8, "timeout", "uint32"),
            (9, "netmask", "uint32"),
        )

    class destination(Fields):  # noqa: N801
        nla_map = (
            (1, "address", "cdata"),
            (2, "port", "be16"),
            (3, "forward", "uint32"),
            (4, "weight", "uint32"),
            (5, "upper", "uint32"),
            (6, "lower", "uint32"),
            (11, "family", "uint16"),
            (13, "tunnel", "uint8"),
        )


def service_of(answer: IpvsMessage, pools: Sequence[IPNetwork]) -> VirtualService | None:
    """The service in an answer, without destinations; ``None`` if it is none of ours: by firewall mark, outside the pools, another protocol.

    Raises:
        Retry: the answer lacks something, or cannot be read.
    """
    with reading(answer, "service") as fields:
        if "fwmark" in fields or "address" not in fields:
            return None
        address = _address(fields["family"], fields["address"])
        protocol = _PROTOCOLS.get(fields["protocol"])
        if protocol is None or not any(address in pool for pool in pools):
            return None
        flags, _ = _FLAGS.unpack(fields["flags"])
        return VirtualService(
            key=VirtualKey(address, protocol, fields["port"]),
            hash_source_port=bool(flags & _FLAG_MH_PORT),
            one_packet=bool(flags & _FLAG_ONE_PACKET),
            intact=fields.get("scheduler") == _SCHEDULER
            and bool(flags & _FLAG_MH_FALLBACK)
            and not flags & _FLAG_PERSISTENT
            and fields["netmask"] == _ALL_ONES[address.version],
        )


def destination_of(
    answer: IpvsMessage, key: VirtualKey, last_weights: Mapping[tuple[VirtualKey, Place], int]
) -> tuple[Destination, bool]:
    """The destination in an answer, and whether forwarding and port are ours. The kernel keeps the last weight of a drained one to itself.

    Raises:
        Retry: the answer lacks something, or cannot be read.
    """
    with reading(answer, "destination") as fields:
        address = _address(fields.get("family", _family_of(key.address)), fields["address"])
        weight = fields["weight"]
        method = fields["forward"] & _FORWARD_MASK
        nat_port = fields["port"] if method == _FORWARD_NAT else None
        intact = method == _FORWARD_NAT or (
            method == _FORWARD_TUNNEL
            and fields["port"] == key.port
            and fields.get("tunnel", _TUNNEL_TYPE_IPIP) == _TUNNEL_TYPE_IPIP
        )
        last = weight or last_weights.get((key, (address, nat_port)), 1)
        return Destination(address, last, drained=weight == 0, nat_port=nat_port), intact


@contextmanager
def reading(answer: genlmsg, name: str) -> Iterator[Mapping[str, Any]]:
    """The fields of the part ``name`` of an answer.

    Raises:
        Retry: the part is missing, or what the block reads of it.
    """
    try:
        fields = answer.get_attr(name)
        if not isinstance(fields, Mapping):
            raise KeyError(name)
        yield fields
    except (KeyError, TypeError, ValueError, struct.error) as error:
        # A pass that ends in a bug would leave the announcements as they are, over a table that nobody knows.
        raise Retry(f"the kernel's answer about an IPVS {name} cannot be read: {error!r}") from None


def request(command: int, **attributes: object) -> IpvsMessage:
    """A request without header."""
    message = IpvsMessage()
    message["cmd"], message["version"] = command, GENL_VERSION
    message["attrs"] = list(attributes.items())
    return message


def destinations_request(key: VirtualKey) -> IpvsMessage:
    """The request for all destinations of a service, without header; the kernel answers with none where there is no such service."""
    return request(IPVS_CMD_GET_DEST, service=_service_key(key))


def staged(operations: Sequence[BalancerOperation]) -> Iterator[tuple[BalancerOperation, IpvsMessage]]:
    """The requests for the operations in their order, each with the operation that it serves.

    A service that is added with destinations is without scheduler (``none``, ``ip_vs_add_service`` in ip_vs_ctl.c) until it has all of
    them: ``ip_vs_mh`` fills its whole table anew with each destination. Broken off in between, it reads back as not intact.
    """
    filled: AddService | None = None
    for place, operation in enumerate(operations):
        if filled is not None and not (isinstance(operation, AddDestination) and operation.key == filled.service.key):
            yield filled, message_of(UpdateService(filled.service))
            filled = None
        following = operations[place + 1] if place + 1 < len(operations) else None
        if (
            isinstance(operation, AddService)
            and isinstance(following, AddDestination)
            and following.key == operation.service.key
        ):
            filled = operation
            unscheduled = _whole_service(operation.service) | {"scheduler": _NO_SCHEDULER}
            yield operation, request(IPVS_CMD_NEW_SERVICE, service=unscheduled)
        else:
            yield operation, message_of(operation)
    if filled is not None:
        yield filled, message_of(UpdateService(filled.service))


def message_of(operation: BalancerOperation) -> IpvsMessage:
    """The request for an operation, without header."""
    match operation:
        case AddService(service):
            return request(IPVS_CMD_NEW_SERVICE, service=_whole_service(service))
        case UpdateService(service):
            return request(IPVS_CMD_SET_SERVICE, service=_whole_service(service))
        case RemoveService(key):
            return request(IPVS_CMD_DEL_SERVICE, service=_service_key(key))
        case AddDestination(key, address, weight, nat_port):
            whole = _whole_destination(key, address, weight, nat_port)
            return request(IPVS_CMD_NEW_DEST, service=_service_key(key), destination=whole)
        case SetWeight(key, address, weight, nat_port):
            whole = _whole_destination(key, address, weight, nat_port)
            return request(IPVS_CMD_SET_DEST, service=_service_key(key), destination=whole)
        case RemoveDestination(key, address, nat_port):
            gone = _destination_key(key, address, nat_port)
            return request(IPVS_CMD_DEL_DEST, service=_service_key(key), destination=gone)
        case SetTimeouts(timeouts):
            return request(
                IPVS_CMD_SET_CONFIG,
                tcp=timeouts.tcp_seconds,
                tcp_fin=timeouts.tcp_fin_seconds,
                udp=timeouts.udp_seconds,
            )


def _family_of(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(number: int, packed: bytes) -> IPAddress:
    return IPv4Address(packed[:4]) if number == socket.AF_INET else IPv6Address(packed)


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")  # union nf_inet_addr


def _service_key(key: VirtualKey) -> dict[str, object]:
    return {
        "family": _family_of(key.address),
        "protocol": key.protocol.number,
        "address": _packed(key.address),
        "port": key.port,
    }


def _whole_service(service: VirtualService) -> dict[str, object]:
    flags = _FLAG_MH_FALLBACK
    flags |= _FLAG_MH_PORT if service.hash_source_port else 0
    flags |= _FLAG_ONE_PACKET if service.one_packet else 0
    return _service_key(service.key) | {
        "scheduler": _SCHEDULER,
        "flags": _FLAGS.pack(flags, _FLAGS_OF_OURS),
        "timeout": 0,
        "netmask": _ALL_ONES[service.key.address.version],
    }


def _destination_key(key: VirtualKey, address: IPAddress, nat_port: int | None) -> dict[str, object]:
    return {"address": _packed(address), "port": nat_port or key.port, "family": _family_of(address)}


def _whole_destination(key: VirtualKey, address: IPAddress, weight: int, nat_port: int | None) -> dict[str, object]:
    return _destination_key(key, address, nat_port) | {
        "forward": _FORWARD_TUNNEL if nat_port is None else _FORWARD_NAT,
        "weight": weight,
        "upper": 0,
        "lower": 0,
        "tunnel": _TUNNEL_TYPE_IPIP,
    }
