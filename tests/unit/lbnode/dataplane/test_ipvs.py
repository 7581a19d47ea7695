"""IPVS messages, against the layouts of ``linux/ip_vs.h`` written out by hand."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.ipvs import IpvsMessage, message_of
from lbnode.model import AddDestination, AddService, Protocol, RemoveService, VirtualKey, VirtualService

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
