"""Netlink messages as bytes: attributes, batches of requests, dumps.

Written on the standard library because pyroute2 0.9 has none of what the data plane needs: its IPVS "update" sends the delete
command and decodes forwarding and statistics wrongly, it sends one message at a time, and it knows neither ``encap ip`` routes nor
IPIP devices with external control. Layouts: ``linux/netlink.h``, ``linux/genetlink.h`` and RFC 3549; all numbers are host byte order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from lbnode.errors import Retry

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_GET_STRICT_CHK = 12

#: A message's header: length, type, flags, sequence number, port (``struct nlmsghdr``).
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ATTRIBUTE_TYPE_MASK = 0x3FFF  # less NLA_F_NESTED and NLA_F_NET_BYTEORDER

#: Messages of one ``sendmsg``. Their acknowledgements must fit the receive buffer together: the kernel answers while it reads.
BATCH_MESSAGES = 128
_RECEIVE_BYTES = 1 << 16
_RECEIVE_BUFFER_BYTES = 1 << 20

Attributes = dict[int, bytes]


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes (flag ``NLA_F_NESTED``)."""
    return attribute(kind | 0x8000, b"".join(attributes))


def attributes(payload: bytes, offset: int = 0) -> Attributes:
    """The attributes that start at ``offset``, by type; of a repeated type the last."""
    found: Attributes = {}
    end = len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            break
        found[kind & _ATTRIBUTE_TYPE_MASK] = payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and payload of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def error_number(payload: bytes) -> int:
    """The positive error number of an ``NLMSG_ERROR`` or ``NLMSG_DONE`` payload; 0 is an acknowledgement."""
    return -int(struct.unpack_from("=i", payload)[0]) if len(payload) >= 4 else 0


class Netlink:
    """One netlink socket. Not for use by several threads at once."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(5)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        # An error report need not repeat the request.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        # Dumps then honour the filter of the request.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def _pack(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return (
            _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, self._sequence, 0)
            + payload
            + b"\0" * (-len(payload) % 4)
        )

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise Retry("the kernel did not answer on netlink within 5 s") from None

    def batch(self, requests: Sequence[tuple[int, int, bytes]]) -> list[int]:
        """Send (type, flags, payload) requests and return each one's error number, 0 for success, in order.

        The kernel carries out every message of a batch, also those behind one that failed.
        """
        results: list[int] = []
        for start in range(0, len(requests), BATCH_MESSAGES):
            chunk = requests[start : start + BATCH_MESSAGES]
            first = self._sequence + 1
            self._socket.send(b"".join(self._pack(kind, flags | NLM_F_ACK, payload) for kind, flags, payload in chunk))
            errors: dict[int, int] = {}
            while len(errors) < len(chunk):
                for kind, _, sequence, payload in messages(self._receive()):
                    # Answers to an earlier request that was given up may still come.
                    if kind == NLMSG_ERROR and 0 <= sequence - first < len(chunk):
                        errors[sequence] = error_number(payload)
            results += [errors[first + i] for i in range(len(chunk))]
        return results

    def request(self, kind: int, flags: int, payload: bytes) -> None:
        """One request; raises :class:`OSError` with the kernel's error number."""
        (error,) = self.batch([(kind, flags, payload)])
        if error:
            raise OSError(error, os.strerror(error))

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """The payloads of all answers to a dump request.

        Raises:
            OSError: the kernel refuses.
            Retry: the table changed meanwhile.
        """
        self._socket.send(self._pack(kind, NLM_F_DUMP, payload))
        answers: list[bytes] = []
        interrupted = False
        while True:
            for answer, flags, sequence, body in messages(self._receive()):
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if answer in (NLMSG_ERROR, NLMSG_DONE):
                    if (error := error_number(body)) != 0:
                        raise OSError(error, os.strerror(error))
                    if interrupted:
                        raise Retry("the kernel's table changed while it was read", after_seconds=0.1)
                    return answers
                answers.append(body)

    def get(self, kind: int, payload: bytes) -> bytes:
        """The payload of the one answer to a request that is no dump. Raises :class:`OSError` with the kernel's error number."""
        self._socket.send(self._pack(kind, NLM_F_ACK, payload))
        result = b""
        while True:
            for answer, _, sequence, body in messages(self._receive()):
                if sequence != self._sequence:
                    continue
                if answer != NLMSG_ERROR:
                    result = body
                elif (error := error_number(body)) != 0:
                    raise OSError(error, os.strerror(error))
                else:
                    return result


_GENL = struct.Struct("=BBH")
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2


def generic(command: int, version: int, *parts: bytes) -> bytes:
    """A generic netlink payload (``struct genlmsghdr``)."""
    return _GENL.pack(command, version, 0) + b"".join(parts)


def generic_attributes(payload: bytes) -> Attributes:
    """The attributes behind a ``struct genlmsghdr``."""
    return attributes(payload, _GENL.size)


def family(link: Netlink, name: str) -> int | None:
    """The message type of a generic netlink family; ``None`` if the kernel neither has it nor can load it."""
    try:
        answer = link.get(
            _GENL_ID_CTRL, generic(_CTRL_CMD_GETFAMILY, 1, attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0"))
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return int(struct.unpack("=H", generic_attributes(answer)[_CTRL_ATTR_FAMILY_ID])[0])
