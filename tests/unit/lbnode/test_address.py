"""Addresses that know their hash stand wherever the standard library's stand."""

from __future__ import annotations

import copy
import pickle
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.address import with_hash
from lbnode.model import IPAddress

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(addresses, addresses)
def test_they_are_equal_hash_alike_and_are_ordered_as_those_of_the_standard_library(
    one: IPAddress, other: IPAddress
) -> None:
    mine = with_hash(one)
    assert mine == one and one == mine
    assert hash(mine) == hash(one)
    assert (mine == with_hash(other)) == (one == other)
    assert {one: 1}[mine] == {mine: 1}[one] == 1
    if one.version == other.version:
        assert (mine < with_hash(other)) == (one < other)


@given(addresses)
def test_they_say_what_the_standard_librarys_say(address: IPAddress) -> None:
    mine = with_hash(address)
    assert isinstance(mine, IPv4Address | IPv6Address)
    assert (str(mine), int(mine), mine.packed, mine.version) == (
        str(address),
        int(address),
        address.packed,
        address.version,
    )
    assert mine in ip_network(address)
    assert ip_network(mine) == ip_network(address)


@given(addresses)
def test_a_copy_keeps_the_hash(address: IPAddress) -> None:
    mine = with_hash(address)
    for other in (copy.copy(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), with_hash(mine)):  # noqa: S301 our own bytes
        assert other == address
        assert hash(other) == hash(address)


@pytest.mark.parametrize("text", ["198.18.0.1", "2001:db8::1", "fe80::1%eth0"])
def test_a_scope_stays(text: str) -> None:
    assert str(with_hash(ip_address(text))) == text
