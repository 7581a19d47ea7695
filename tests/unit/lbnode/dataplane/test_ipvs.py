"""IPVS messages, against the layouts of ``linux/ip_vs.h`` written out by hand."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.ipvs_messages import IpvsMessage, destination_of, message_of, service_of, staged
from lbnode.errors import Retry
from lbnode.model import Destination, Protocol, VirtualKey, VirtualService
from lbnode.operations import AddDestination, AddService, RemoveService, SetWeight

WEB = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
NAMES = VirtualKey(ip_address("2001:db8:113::1"), Protocol.UDP, 53)


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def encoded(message: IpvsMessage) -> bytes:
    """What follows the netlink header."""
    message.reset()
    message.encode()
    return bytes(message.data[16:])


def decoded(payload: bytes) -> Any:
    header = struct.pack("=IHHII", 16 + len(payload), 0x1C, 0, 1, 0)
    message = IpvsMessage(header + payload)
    message.decode()
    return message


KEY_OF_WEB = (
    attribute(1, struct.pack("=H", 2))
    + attribute(2, struct.pack("=H", 6))
    + attribute(3, bytes([203, 0, 113, 1]) + bytes(12))
    + attribute(4, b"\x00\x50")
)


def test_a_destination_is_added_by_tunnel_with_its_weight() -> None:
    destination = (
        attribute(1, bytes([198, 18, 0, 21]) + bytes(12))
        + attribute(2, b"\x00\x50")
        + attribute(3, struct.pack("=I", 2))
        + attribute(4, struct.pack("=I", 7))
        + attribute(5, bytes(4))
        + attribute(6, bytes(4))
        + attribute(11, struct.pack("=H", 2))
        + attribute(13, b"\x00")
    )
    expected = struct.pack("=BBH", 5, 1, 0) + attribute(1, KEY_OF_WEB) + attribute(2, destination)
    assert encoded(message_of(AddDestination(WEB, ip_address("198.18.0.21"), 7))) == expected


def test_a_pod_is_added_by_masquerading_to_its_own_port() -> None:
    # IP_VS_CONN_F_MASQ is 0; port 8080 is 0x1f90.
    destination = (
        attribute(1, bytes([198, 18, 131, 5]) + bytes(12))
        + attribute(2, b"\x1f\x90")
        + attribute(3, bytes(4))
        + attribute(4, struct.pack("=I", 1))
        + attribute(5, bytes(4))
        + attribute(6, bytes(4))
        + attribute(11, struct.pack("=H", 2))
        + attribute(13, b"\x00")
    )
    expected = struct.pack("=BBH", 5, 1, 0) + attribute(1, KEY_OF_WEB) + attribute(2, destination)
    assert encoded(message_of(AddDestination(WEB, ip_address("198.18.131.5"), 1, 8080))) == expected


def test_a_service_of_ipv6_has_a_prefix_length_for_a_netmask() -> None:
    service = (
        attribute(1, struct.pack("=H", 10))
        + attribute(2, struct.pack("=H", 17))
        + attribute(3, ip_address("2001:db8:113::1").packed)
        + attribute(4, b"\x00\x35")
        + attribute(6, b"mh\x00")
        + attribute(
            7, struct.pack("=II", 0x8 | 0x4, 0x1 | 0x4 | 0x8 | 0x10)
        )  # fallback and one packet; port is not hashed
        + attribute(8, bytes(4))
        + attribute(9, struct.pack("=I", 128))
    )
    wanted = VirtualService(NAMES, hash_source_port=False, one_packet=True)
    assert encoded(message_of(AddService(wanted))) == struct.pack("=BBH", 1, 1, 0) + attribute(1, service)


def test_a_service_is_removed_by_its_key_alone() -> None:
    assert encoded(message_of(RemoveService(WEB))) == struct.pack("=BBH", 3, 1, 0) + attribute(1, KEY_OF_WEB)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(min_size=16, max_size=16), st.binary(max_size=24))
def test_what_is_known_of_a_destination_is_read_between_what_is_not(
    port: int, weight: int, address: bytes, statistics: bytes
) -> None:
    fields = (
        attribute(1, address)
        + attribute(10, statistics)
        + attribute(2, struct.pack("!H", port))
        + attribute(4, struct.pack("=I", weight))
    )
    found = decoded(struct.pack("=BBH", 5, 1, 0) + attribute(2 | 0x8000, fields)).get_attr("destination")
    assert (found["address"], found["port"], found["weight"]) == (address, port, weight)
    assert "forward" not in found


def test_an_attribute_that_is_cut_off_ends_the_reading() -> None:
    fields = attribute(2, b"\x00\x50") + struct.pack("=HH", 40, 4) + bytes(4)
    found = decoded(struct.pack("=BBH", 5, 1, 0) + attribute(2, fields)).get_attr("destination")
    assert found["port"] == 80 and "weight" not in found


# Readback

EVERYWHERE = [ip_network("0.0.0.0/0"), ip_network("::/0")]
SERVICE_OF_WEB = (
    KEY_OF_WEB
    + attribute(6, b"mh\x00")
    + attribute(7, struct.pack("=II", 0x8 | 0x10, 0x1 | 0x4 | 0x8 | 0x10))
    + attribute(8, bytes(4))
    + attribute(9, b"\xff\xff\xff\xff")
    + attribute(10, bytes(40))  # statistics
)
DESTINATION = (
    attribute(1, bytes([198, 18, 0, 21]) + bytes(12))
    + attribute(2, b"\x00\x50")
    + attribute(3, struct.pack("=I", 2))
    + attribute(4, struct.pack("=I", 7))
    + attribute(11, struct.pack("=H", 2))
)


def answer(command: int, number: int, fields: bytes) -> bytes:
    return struct.pack("=BBH", command, 1, 0) + attribute(number | 0x8000, fields)


def test_a_service_and_its_destination_are_read_back_as_they_were_written() -> None:
    assert service_of(decoded(answer(1, 1, SERVICE_OF_WEB)), EVERYWHERE) == VirtualService(WEB)
    found = destination_of(decoded(answer(5, 2, DESTINATION)), WEB, {})
    assert found == (Destination(ip_address("198.18.0.21"), 7), True)


def test_a_service_outside_the_pools_or_by_firewall_mark_is_none_of_ours() -> None:
    assert service_of(decoded(answer(1, 1, SERVICE_OF_WEB)), [ip_network("198.51.100.0/24")]) is None
    assert service_of(decoded(answer(1, 1, attribute(5, struct.pack("=I", 9)) + SERVICE_OF_WEB)), EVERYWHERE) is None


@pytest.mark.parametrize("left_out", range(4))
def test_an_answer_that_lacks_something_is_a_reason_to_ask_again(left_out: int) -> None:
    parts = [
        attribute(1, struct.pack("=H", 2)),
        attribute(2, struct.pack("=H", 6)),
        attribute(4, b"\x00\x50"),
        attribute(7, struct.pack("=II", 0x18, 0x1D)),
    ]
    fields = attribute(3, bytes([203, 0, 113, 1]) + bytes(12)) + b"".join(parts[:left_out] + parts[left_out + 1 :])
    with pytest.raises(Retry, match="an IPVS service cannot be read"):
        service_of(decoded(answer(1, 1, fields)), EVERYWHERE)


def test_a_field_that_is_too_short_is_not_filled_from_what_comes_behind() -> None:
    fields = attribute(1, bytes(16)) + struct.pack("=HH", 6, 4) + b"\x01\x02\xff\xff"
    with pytest.raises(Retry, match="'weight'"):
        destination_of(decoded(answer(5, 2, fields)), WEB, {})


overwritten = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=5)


@given(overwritten, st.integers(0, 200))
def test_an_answer_with_bytes_overwritten_or_cut_is_read_or_asked_again(
    changes: list[tuple[int, int]], kept_bytes: int
) -> None:
    for whole, read in (
        (answer(1, 1, SERVICE_OF_WEB), lambda m: service_of(m, EVERYWHERE)),
        (answer(5, 2, DESTINATION), lambda m: destination_of(m, WEB, {})),
    ):
        # The generic netlink header in front is pyroute2's to judge.
        payload = bytearray(whole)
        for position, value in changes:
            payload[4 + position % (len(payload) - 4)] = value
        try:
            found = read(decoded(bytes(payload[: max(4, kept_bytes)])))
        except Retry as error:
            assert "cannot be read" in str(error)
        else:
            assert found is None or isinstance(found, VirtualService | tuple)


ONE, TWO = ip_address("198.18.0.21"), ip_address("198.18.0.22")
NEW_SERVICE, SET_SERVICE, NEW_DEST, SET_DEST = 1, 2, 5, 6  # enum in linux/ip_vs.h


def sent(*operations: Any) -> list[tuple[Any, int, bytes | None]]:
    """Each request's operation, command and scheduler."""
    found = []
    for operation, message in staged(operations):
        read = decoded(encoded(message))
        service: Any = read.get_attr("service")
        found.append((operation, read["cmd"], service.get("scheduler")))
    return found


def test_a_service_gets_its_scheduler_when_all_its_destinations_are_there() -> None:
    web, names = AddService(VirtualService(WEB)), AddService(VirtualService(NAMES))
    one, two = AddDestination(WEB, ONE, 1), AddDestination(WEB, TWO, 1)
    far = AddDestination(NAMES, ip_address("2001:db8::21"), 1)
    assert sent(web, one, two, names, far) == [
        (web, NEW_SERVICE, b"none\0"),
        (one, NEW_DEST, None),
        (two, NEW_DEST, None),
        (web, SET_SERVICE, b"mh\0"),
        (names, NEW_SERVICE, b"none\0"),
        (far, NEW_DEST, None),
        (names, SET_SERVICE, b"mh\0"),
    ]


def test_a_service_without_destinations_and_a_destination_of_one_that_is_there_are_sent_as_they_are() -> None:
    web, names, one = AddService(VirtualService(WEB)), AddService(VirtualService(NAMES)), AddDestination(WEB, ONE, 1)
    weight = SetWeight(WEB, ONE, 0)
    assert sent(one, weight, web, names) == [
        (one, NEW_DEST, None),
        (weight, SET_DEST, None),
        (web, NEW_SERVICE, b"mh\0"),
        (names, NEW_SERVICE, b"mh\0"),
    ]


@given(
    st.lists(
        st.sampled_from(
            [
                AddService(VirtualService(WEB)),
                AddService(VirtualService(NAMES)),
                AddDestination(WEB, ONE, 1),
                SetWeight(WEB, ONE, 3),
            ]
        )
    )
)
def test_every_operation_is_sent_in_its_order_and_no_service_is_left_without_scheduler(operations: list[Any]) -> None:
    steps = sent(*operations)
    assert [o for o, command, _ in steps if command != SET_SERVICE] == operations
    last = {o: scheduler for o, _, scheduler in steps if isinstance(o, AddService)}
    assert all(scheduler == b"mh\0" for scheduler in last.values())
