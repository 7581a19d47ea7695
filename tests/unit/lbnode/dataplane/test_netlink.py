"""Questions to the kernel, against one that is played: what it says is written out by hand from the kernel's headers."""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import genlmsg

from lbnode.dataplane.netlink import (
    BATCH_MESSAGES,
    BlockingSocket,
    Channel,
    WholeDumps,
    acknowledgements,
    batch,
    dump,
    get,
)
from lbnode.errors import Bug, Retry

KIND, MULTI, INTERRUPTED = 0x1C, 0x2, 0x10
ERROR, DONE = 2, 3


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def refusal(sequence: int, number: int) -> bytes:
    """An acknowledgement for number 0. A refusal repeats the request."""
    return message(ERROR, 0, sequence, struct.pack("=i", -number) + message(KIND, 1, sequence, bytes(4)))


def answer(sequence: int, command: int, flags: int = 0) -> bytes:
    return message(KIND, flags, sequence, struct.pack("=BBH", command, 1, 0))


class PlayedSocket(BlockingSocket):
    """``kernel`` makes the datagrams that answer the sequence numbers of one ``sendmsg``."""

    marshal_class = WholeDumps
    kernel: Callable[[list[int]], list[bytes]]
    closed = 0

    def __init__(self) -> None:
        super().__init__()
        self.marshal.msg_map[KIND] = genlmsg
        self.pending: list[bytes] = []
        self.sent: list[int] = []

    async def setup_endpoint(self) -> None:
        pass

    def send(self, data: bytes, flags: int = 0) -> int:
        sequences, at = [], 0
        while at < len(data):
            length, _, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
            sequences.append(sequence)
            at += length
        self.sent.append(len(sequences))
        self.pending += type(self).kernel(sequences)
        return len(data)

    def recv(self, buffersize: int, flags: int = 0) -> bytes:
        if not self.pending:
            raise TimeoutError
        return self.pending.pop(0)

    def close(self, code: int = 0) -> None:
        type(self).closed += 1
        super().close()


def channel(kernel: Callable[[list[int]], list[bytes]]) -> tuple[Channel[PlayedSocket], type[PlayedSocket]]:
    played = type("Played", (PlayedSocket,), {"kernel": staticmethod(kernel), "closed": 0})
    return Channel(played), played


async def commands(socket: PlayedSocket) -> list[int]:
    return await dump(socket, KIND, genlmsg(), lambda a: int(a["cmd"]))


def test_a_dump_is_all_messages_up_to_the_end() -> None:
    def kernel(sequences: list[int]) -> list[bytes]:
        (s,) = sequences
        return [answer(s, 1, MULTI) + answer(s, 2, MULTI), answer(s, 3, MULTI), message(DONE, MULTI, s, bytes(4))]

    asked, _ = channel(kernel)
    assert asked.ask(commands) == [1, 2, 3]
    asked.close()


def test_answers_to_a_request_that_was_given_up_are_passed_over() -> None:
    def kernel(sequences: list[int]) -> list[bytes]:
        (s,) = sequences
        return [answer(s + 7, 9), refusal(s + 8, errno.EBUSY), answer(s, 4)]

    async def one(socket: PlayedSocket) -> int:
        return int((await get(socket, KIND, genlmsg()))["cmd"])

    asked, _ = channel(kernel)
    assert asked.ask(one) == 4
    asked.close()


def test_a_refusal_is_an_operating_system_error_and_the_socket_stays() -> None:
    asked, played = channel(lambda sequences: [refusal(sequences[0], errno.EPERM)])
    for _ in range(2):
        with pytest.raises(PermissionError):
            asked.ask(commands)
    assert played.closed == 0
    asked.close()


@pytest.mark.parametrize("place", ["first", "last", "end"])
def test_a_table_that_changed_while_it_was_read_is_read_again(place: str) -> None:
    def kernel(sequences: list[int]) -> list[bytes]:
        (s,) = sequences
        flags = {p: MULTI | (INTERRUPTED if p == place else 0) for p in ("first", "last", "end")}
        return [answer(s, 1, flags["first"]), answer(s, 2, flags["last"]), message(DONE, flags["end"], s, bytes(4))]

    asked, played = channel(kernel)
    with pytest.raises(Retry, match="changed while it was read"):
        asked.ask(commands)
    assert played.closed == 1


def test_a_silent_kernel_is_asked_again_later_by_another_socket() -> None:
    asked, played = channel(lambda _: [])
    with pytest.raises(Retry, match="did not answer"):
        asked.ask(commands)
    assert played.closed == 1


def test_a_batch_tells_the_error_of_each_message_and_goes_on_to_its_end() -> None:
    refused = {3: errno.EEXIST, BATCH_MESSAGES + 1: errno.ENOENT}
    seen: list[int] = []

    def kernel(sequences: list[int]) -> list[bytes]:
        first = len(seen)
        seen.extend(sequences)
        return [refusal(s, refused.get(first + n, 0)) for n, s in enumerate(sequences)]

    asked, _ = channel(kernel)
    number = BATCH_MESSAGES + 5

    async def send(socket: PlayedSocket) -> tuple[list[int], list[int]]:
        return await batch(socket, [(KIND, 5, genlmsg()) for _ in range(number)]), socket.sent

    results, sent = asked.ask(send)
    assert results == [refused.get(n, 0) for n in range(number)]
    assert sent == [BATCH_MESSAGES, 5]
    assert len(set(seen)) == number
    asked.close()


def test_acknowledgements_share_datagrams_come_in_any_order_and_strangers_are_passed_over() -> None:
    def kernel(sequences: list[int]) -> list[bytes]:
        first, second, third = sequences
        stranger = refusal(first - 1, errno.EPERM)
        return [stranger + refusal(third, 0) + answer(second, 7), refusal(first, errno.EEXIST) + refusal(second, 0)]

    asked, _ = channel(kernel)
    assert asked.ask(lambda socket: batch(socket, [(KIND, 5, genlmsg()) for _ in range(3)])) == [errno.EEXIST, 0, 0]
    asked.close()


def test_an_acknowledgement_that_never_comes_ends_the_batch() -> None:
    asked, played = channel(lambda sequences: [refusal(s, 0) for s in sequences[1:]])
    with pytest.raises(Retry, match="did not answer"):
        asked.ask(lambda socket: batch(socket, [(KIND, 5, genlmsg()) for _ in range(3)]))
    assert played.closed == 1


@given(st.binary(max_size=80))
def test_any_datagram_has_an_end(datagram: bytes) -> None:
    assert len(list(acknowledgements(datagram))) <= len(datagram) // 20


def test_a_question_that_waits_for_anything_but_the_kernel_is_a_bug() -> None:
    async def other(_: PlayedSocket) -> None:
        await asyncio.Future(loop=loop)

    loop = asyncio.new_event_loop()
    asked, _ = channel(lambda _: [])
    with pytest.raises(Bug, match="something else"):
        asked.ask(other)
    loop.close()
