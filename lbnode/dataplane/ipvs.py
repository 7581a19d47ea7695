"""IPVS over generic netlink: services, destinations and timeouts of the pools, and nothing else.

Numbers are those of ``linux/ip_vs.h``. Traps: the netmask field of an IPv6 service is a prefix length; a dump gives destinations in
list order, head first, which is the order that ``ip_vs_mh`` fills its table in; a service is changed with the *set* command.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from lbnode.dataplane.netlink import (
    NETLINK_GENERIC,
    Attributes,
    Netlink,
    attribute,
    attributes,
    family,
    generic,
    generic_attributes,
    nested,
)
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import (
    AddDestination,
    AddService,
    Destination,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    Protocol,
    RemoveDestination,
    RemoveService,
    SetTimeouts,
    SetWeight,
    UpdateService,
    VirtualKey,
    VirtualService,
)

IpvsOperation = (
    AddService | UpdateService | RemoveService | AddDestination | SetWeight | RemoveDestination | SetTimeouts
)

_VERSION = 1
_NEW_SERVICE, _SET_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 2, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST = 5, 6, 7, 8
_SET_CONFIG, _GET_CONFIG = 12, 13

_CMD_SERVICE, _CMD_DEST, _CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP = 1, 2, 4, 5, 6
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_FWMARK, _SVC_SCHED, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = range(
    1, 10
)
_DEST_ADDR, _DEST_PORT, _DEST_FWD, _DEST_WEIGHT, _DEST_UPPER, _DEST_LOWER = range(1, 7)
_DEST_FAMILY, _DEST_TUN_TYPE = 11, 13

_FLAG_PERSISTENT, _FLAG_ONE_PACKET, _FLAG_MH_FALLBACK, _FLAG_MH_PORT = 0x1, 0x4, 0x8, 0x10
_FLAGS_OF_OURS = _FLAG_PERSISTENT | _FLAG_ONE_PACKET | _FLAG_MH_FALLBACK | _FLAG_MH_PORT
_FORWARD_MASK, _FORWARD_TUNNEL = 0x7, 2
_TUNNEL_TYPE_IPIP = 0
_SCHEDULER = "mh"
_ALL_ONES = {4: 0xFFFFFFFF, 6: 128}

_PROTOCOLS = {p.number: p for p in Protocol}
_U16, _U32, _PORT = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("!H")


class Ipvs:
    """IPVS services whose address lies in ``pools``, which may be changed at any time."""

    def __init__(self, pools: Sequence[IPNetwork]) -> None:
        self.pools = tuple(pools)
        self._link: Netlink | None = None
        self._family = 0
        # The kernel keeps the last weight of a drained destination to itself.
        self._last_weight: dict[tuple[VirtualKey, IPAddress], int] = {}

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _open(self) -> Netlink:
        if self._link is None:
            link = Netlink(NETLINK_GENERIC)
            number = family(link, "IPVS")
            if number is None:
                link.close()
                raise missing_module("ip_vs", "IPVS")
            self._link, self._family = link, number
        return self._link

    def services(self) -> tuple[VirtualService, ...]:
        """The services of the pools, sorted by key, with their destinations in list order.

        Raises:
            Retry: the kernel cannot be asked now.
        """
        link = self._open()
        try:
            found = [
                service
                for answer in link.dump(self._family, generic(_GET_SERVICE, _VERSION))
                if (service := self._service(generic_attributes(answer))) is not None
            ]
            full = [self._with_destinations(link, service) for service in found]
        except OSError as error:
            self.close()
            raise Retry(f"cannot read IPVS: {error.strerror}") from None
        return tuple(sorted(full, key=lambda s: s.key.order))

    def timeouts(self) -> IpvsTimeouts:
        """Raises :class:`Retry` when the kernel cannot be asked."""
        link = self._open()
        try:
            answer = generic_attributes(link.get(self._family, generic(_GET_CONFIG, _VERSION)))
        except OSError as error:
            raise Retry(f"cannot read the IPVS timeouts: {error.strerror}") from None
        tcp, fin, udp = (
            _U32.unpack(answer[k])[0] if k in answer else 0
            for k in (_CMD_TIMEOUT_TCP, _CMD_TIMEOUT_TCP_FIN, _CMD_TIMEOUT_UDP)
        )
        return IpvsTimeouts(tcp_seconds=tcp, tcp_fin_seconds=fin, udp_seconds=udp)

    def apply(self, operations: Sequence[IpvsOperation]) -> None:
        """Send all operations in batches.

        Raises:
            ConfigError: the scheduler is missing, or the privilege.
            Retry: at least one operation failed, named in the message; the others of the batch were carried out.
        """
        link = self._open()
        try:
            results = link.batch([(self._family, 0, self._request(o)) for o in operations])
        except OSError as error:
            self.close()
            raise Retry(f"cannot send to IPVS: {error.strerror}") from None
        for operation, result in zip(operations, results, strict=True):
            if result:
                raise _failure(operation, result)
            self._remember(operation)

    def _remember(self, operation: IpvsOperation) -> None:
        if isinstance(operation, AddDestination | SetWeight) and operation.weight:
            self._last_weight[operation.key, operation.address] = operation.weight
        elif isinstance(operation, RemoveDestination):
            self._last_weight.pop((operation.key, operation.address), None)
        elif isinstance(operation, RemoveService):
            self._last_weight = {k: w for k, w in self._last_weight.items() if k[0] != operation.key}

    def _request(self, operation: IpvsOperation) -> bytes:
        match operation:
            case AddService(service):
                return generic(_NEW_SERVICE, _VERSION, _whole_service(service))
            case UpdateService(service):
                return generic(_SET_SERVICE, _VERSION, _whole_service(service))
            case RemoveService(key):
                return generic(_DEL_SERVICE, _VERSION, _service_key(key))
            case AddDestination(key, address, weight):
                return generic(_NEW_DEST, _VERSION, _service_key(key), _whole_destination(key, address, weight))
            case SetWeight(key, address, weight):
                return generic(_SET_DEST, _VERSION, _service_key(key), _whole_destination(key, address, weight))
            case RemoveDestination(key, address):
                return generic(
                    _DEL_DEST, _VERSION, _service_key(key), nested(_CMD_DEST, *_destination_key(key, address))
                )
            case SetTimeouts(timeouts):
                return generic(
                    _SET_CONFIG,
                    _VERSION,
                    attribute(_CMD_TIMEOUT_TCP, _U32.pack(timeouts.tcp_seconds)),
                    attribute(_CMD_TIMEOUT_TCP_FIN, _U32.pack(timeouts.tcp_fin_seconds)),
                    attribute(_CMD_TIMEOUT_UDP, _U32.pack(timeouts.udp_seconds)),
                )

    def _service(self, answer: Attributes) -> VirtualService | None:
        """The service without destinations; ``None`` if it is none of ours: by firewall mark, outside the pools, another protocol."""
        fields = attributes(answer[_CMD_SERVICE])
        if _SVC_FWMARK in fields or _SVC_ADDR not in fields:
            return None
        address = _address(_U16.unpack(fields[_SVC_AF])[0], fields[_SVC_ADDR])
        protocol = _PROTOCOLS.get(_U16.unpack(fields[_SVC_PROTOCOL])[0])
        if protocol is None or not any(address in pool for pool in self.pools):
            return None
        flags = _U32.unpack_from(fields[_SVC_FLAGS])[0]
        (netmask,) = struct.unpack("!I" if address.version == 4 else "=I", fields[_SVC_NETMASK])
        scheduler = fields.get(_SVC_SCHED, b"").rstrip(b"\0").decode()
        return VirtualService(
            key=VirtualKey(address, protocol, _PORT.unpack(fields[_SVC_PORT])[0]),
            hash_source_port=bool(flags & _FLAG_MH_PORT),
            one_packet=bool(flags & _FLAG_ONE_PACKET),
            intact=scheduler == _SCHEDULER
            and bool(flags & _FLAG_MH_FALLBACK)
            and not flags & _FLAG_PERSISTENT
            and netmask == _ALL_ONES[address.version],
        )

    def _with_destinations(self, link: Netlink, service: VirtualService) -> VirtualService:
        key, intact = service.key, service.intact
        destinations = []
        for answer in link.dump(self._family, generic(_GET_DEST, _VERSION, _service_key(key))):
            # One attribute wraps the destination: behind the generic header (4 bytes) and its own (4 bytes) lie the fields.
            fields = attributes(answer, 8)
            number = _U16.unpack(fields[_DEST_FAMILY])[0] if _DEST_FAMILY in fields else _family_of(key.address)
            address = _address(number, fields[_DEST_ADDR])
            intact &= (
                _U32.unpack(fields[_DEST_FWD])[0] & _FORWARD_MASK == _FORWARD_TUNNEL
                and _PORT.unpack(fields[_DEST_PORT])[0] == key.port
                and fields.get(_DEST_TUN_TYPE, b"\0")[0] == _TUNNEL_TYPE_IPIP
            )
            (weight,) = _U32.unpack(fields[_DEST_WEIGHT])
            destinations.append(
                Destination(address, weight or self._last_weight.get((key, address), 1), drained=weight == 0)
            )
        return VirtualService(key, tuple(destinations), service.hash_source_port, service.one_packet, intact)


def missing_module(module: str, what: str) -> ConfigError:
    """The kernel can neither do ``what`` nor load the module for it."""
    return ConfigError(
        f"kernel {os.uname().release}",
        f"has no {what} and could not load module {module}",
        f"Run `modprobe {module}` on the node, and write {module} into /etc/modules-load.d/samegate.conf so that it stays",
    )


def missing_privilege() -> ConfigError:
    return ConfigError(
        "the agent's capabilities",
        "CAP_NET_ADMIN is missing",
        "Give the container the capability NET_ADMIN and run it as uid 0",
    )


def _failure(operation: IpvsOperation, error: int) -> ConfigError | Retry | Bug:
    if error == errno.ENOENT and isinstance(operation, AddService | UpdateService):
        return missing_module("ip_vs_mh", "IPVS scheduler mh")
    if error == errno.EPERM:
        return missing_privilege()
    return Retry(f"IPVS refused {operation}: {os.strerror(error)}")


def _family_of(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _address(number: int, packed: bytes) -> IPAddress:
    return IPv4Address(packed[:4]) if number == socket.AF_INET else IPv6Address(packed)


def _packed(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")  # union nf_inet_addr


def _service_key_fields(key: VirtualKey) -> tuple[bytes, ...]:
    return (
        attribute(_SVC_AF, _U16.pack(_family_of(key.address))),
        attribute(_SVC_PROTOCOL, _U16.pack(key.protocol.number)),
        attribute(_SVC_ADDR, _packed(key.address)),
        attribute(_SVC_PORT, _PORT.pack(key.port)),
    )


def _service_key(key: VirtualKey) -> bytes:
    return nested(_CMD_SERVICE, *_service_key_fields(key))


def _whole_service(service: VirtualService) -> bytes:
    flags = _FLAG_MH_FALLBACK
    flags |= _FLAG_MH_PORT if service.hash_source_port else 0
    flags |= _FLAG_ONE_PACKET if service.one_packet else 0
    version = service.key.address.version
    return nested(
        _CMD_SERVICE,
        *_service_key_fields(service.key),
        attribute(_SVC_SCHED, _SCHEDULER.encode() + b"\0"),
        attribute(_SVC_FLAGS, _U32.pack(flags) + _U32.pack(_FLAGS_OF_OURS)),
        attribute(_SVC_TIMEOUT, _U32.pack(0)),
        attribute(_SVC_NETMASK, struct.pack("!I" if version == 4 else "=I", _ALL_ONES[version])),
    )


def _destination_key(key: VirtualKey, address: IPAddress) -> tuple[bytes, ...]:
    return (
        attribute(_DEST_ADDR, _packed(address)),
        attribute(_DEST_PORT, _PORT.pack(key.port)),
        attribute(_DEST_FAMILY, _U16.pack(_family_of(address))),
    )


def _whole_destination(key: VirtualKey, address: IPAddress, weight: int) -> bytes:
    return nested(
        _CMD_DEST,
        *_destination_key(key, address),
        attribute(_DEST_FWD, _U32.pack(_FORWARD_TUNNEL)),
        attribute(_DEST_WEIGHT, _U32.pack(weight)),
        attribute(_DEST_UPPER, _U32.pack(0)),
        attribute(_DEST_LOWER, _U32.pack(0)),
        attribute(_DEST_TUN_TYPE, bytes([_TUNNEL_TYPE_IPIP])),
    )
