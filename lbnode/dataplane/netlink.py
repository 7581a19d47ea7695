"""pyroute2's netlink sockets for a thread without event loop.

pyroute2 0.9 answers through asyncio, which takes longer than the kernel does, above all where system calls are slow. Here a question
reads the socket itself, so nothing of pyroute2 ever waits for anything else. pyroute2 also does not look at ``NLM_F_DUMP_INTR``, and
its errors are no ``OSError``. Flags are those of ``linux/netlink.h``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from socket import AF_INET, AF_INET6
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.core import CoreMessageQueue
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.nlsocket import AsyncNetlinkSocket, NetlinkRequest

from lbnode.errors import Bug, Retry

#: Requests of one ``sendmsg``. Their acknowledgements must fit the receive buffer together: the kernel answers while it reads.
BATCH_MESSAGES = 128
#: By IP version.
FAMILIES = {4: AF_INET, 6: AF_INET6}
_RECEIVE_BYTES = 1 << 16
_TIMEOUT_SECONDS = 5
_SEQUENCE_NUMBER = struct.Struct("=8xI")  # in struct nlmsghdr
_ACKNOWLEDGEMENT = struct.Struct("=IH2xI4xi")  # struct nlmsghdr and the error of struct nlmsgerr

Answer = TypeVar("Answer")


class WholeDumps(Marshal):
    """Refuses a dump that the kernel says is inconsistent."""

    def get_parser(self, key: int, flags: int, sequence_number: int) -> Any:
        if flags & NLM_F_DUMP_INTR:
            raise NetlinkDumpInterrupted()
        return super().get_parser(key, flags, sequence_number)


class _Answers(CoreMessageQueue):
    """Reads the socket when an answer is wanted. Others may still come, to requests that were given up."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive

    def ensure_tag(self, tag: int) -> None:
        pass

    def free_tag(self, tag: int) -> None:
        pass

    async def get(self, tag: int) -> bytes:
        while True:
            datagram = self._receive(_RECEIVE_BYTES)
            if _SEQUENCE_NUMBER.unpack_from(datagram)[0] == tag:
                return datagram


class _SequenceNumbers:
    """One after the other. pyroute2's own pool looks through 255 former numbers for each new one, a quarter of the time of a short question."""

    def __init__(self) -> None:
        self._last = 0

    def alloc(self) -> int:
        self._last = self._last % 0xFFFFFFFF + 1
        return self._last

    def free(self, number: int, ban: int = 0) -> None:
        pass


class BlockingSocket(AsyncNetlinkSocket):
    """A socket of pyroute2 without transport and event loop. For one thread at a time."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        # As pyroute2's own IPRSocket has it: what is kept for each thread and its loop is kept once.
        self.local = SimpleNamespace(msg_queue=_Answers(self.recv))
        self.addr_pool = _SequenceNumbers()

    async def setup_endpoint(self) -> None:
        if not hasattr(self.local, "socket"):
            self.socket.settimeout(_TIMEOUT_SECONDS)


Socket = TypeVar("Socket", bound=BlockingSocket)


class Channel(Generic[Socket]):
    """One socket, opened at the first question and kept open."""

    def __init__(self, make: Callable[[], Socket]) -> None:
        self._make = make
        self._socket: Socket | None = None

    def ask(self, question: Callable[[Socket], Coroutine[Any, Any, Answer]]) -> Answer:
        """What ``question``, a coroutine function of the socket, comes to.

        Raises:
            OSError: the kernel refuses.
            Retry: no answer, or a table that changed while it was read.
        """
        if self._socket is None:
            self._socket = self._make()
        try:
            _finish(self._socket.setup_endpoint())
            return _finish(question(self._socket))
        except NetlinkDumpInterrupted:
            self.close()
            raise Retry("the kernel's table changed while it was read", after_seconds=0.1) from None
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        except TimeoutError:
            self.close()
            raise Retry(f"the kernel did not answer on netlink within {_TIMEOUT_SECONDS} s") from None
        except BaseException:
            # The rest of a dump that nobody reads to its end would stand in the way of the next one.
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _finish(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Answer = end.value
        return result
    coroutine.close()
    raise Bug("a netlink question waits for something else than the kernel")


def message_with(message: type[Any], **fields: object) -> Any:
    """A message of this class with these fields, without header."""
    made = message()
    made.update(fields)
    return made


async def dump(socket: Any, kind: int, message: Any, take: Callable[[Any], Answer]) -> list[Answer]:
    """What ``take`` makes of each answer to a dump request. At once, since pyroute2's messages are large."""
    answers = await socket.nlm_request(message, kind, NLM_F_REQUEST | NLM_F_DUMP)
    return [take(answer) async for answer in answers]


async def get(socket: Any, kind: int, message: Any) -> Any:
    """The one answer to a request that is no dump."""
    (answer,) = [answer async for answer in await socket.nlm_request(message, kind, NLM_F_REQUEST)]
    return answer


async def batch(socket: Any, requests: Sequence[tuple[int, int, Any]]) -> list[int]:
    """Send (type, flags, message) requests, many at a time; each one's error number, 0 for success, in order. All must ask for ``NLM_F_ACK``.

    The kernel carries out every message of a batch, also those behind one that failed. ``nlm_request_batch`` of pyroute2 cannot
    tell which failed. Acknowledgements are read as they are (``struct nlmsgerr``): as objects they took longer than the requests.
    """
    results: list[int] = []
    for start in range(0, len(requests), BATCH_MESSAGES):
        sent = [
            NetlinkRequest(socket, message, msg_type=kind, msg_flags=flags)
            for kind, flags, message in requests[start : start + BATCH_MESSAGES]
        ]
        for request in sent:
            await request.prepare()
        socket.send(b"".join(request.msg.data for request in sent))
        wanted = {request.msg_seq: place for place, request in enumerate(sent)}
        told = [0] * len(sent)
        while wanted:
            for sequence_number, error in acknowledgements(socket.recv(_RECEIVE_BYTES)):
                # Others may still come, to requests that were given up.
                if (place := wanted.pop(sequence_number, None)) is not None:
                    told[place] = error
        results += told
    return results


def acknowledgements(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Sequence number and error number (0 or positive) of each acknowledgement in a datagram."""
    at = 0
    while at + _ACKNOWLEDGEMENT.size <= len(datagram):
        length, kind, sequence_number, error = _ACKNOWLEDGEMENT.unpack_from(datagram, at)
        if length < _ACKNOWLEDGEMENT.size:
            return
        if kind == NLMSG_ERROR:
            yield sequence_number, -error
        at += (length + 3) & ~3
