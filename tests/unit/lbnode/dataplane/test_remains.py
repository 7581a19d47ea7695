"""What one data plane takes for left over by the other."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.edge import read_programs, written_programs
from lbnode.dataplane.xdp import is_left_over
from lbnode.model import Destination, Protocol, VirtualKey, VirtualService

VIP, WORKER = ip_address("203.0.113.10"), ip_address("198.18.0.21")
WEB, SIGNAL = VirtualKey(VIP, Protocol.TCP, 80), VirtualKey(VIP, Protocol.SCTP, 2905)
TUNNEL, TRANSLATED = Destination(WORKER), Destination(WORKER, nat_port=8080)
NOBODYS: frozenset[VirtualKey] = frozenset()


@pytest.mark.parametrize(
    ("service", "ours", "left"),
    [
        (VirtualService(WEB, (TUNNEL,)), NOBODYS, True),
        (VirtualService(WEB, (TUNNEL,)), frozenset({WEB}), True),
        (VirtualService(WEB), frozenset({WEB}), True),
        (VirtualService(WEB), NOBODYS, False),
        (VirtualService(WEB, (TRANSLATED,)), NOBODYS, False),
        (VirtualService(SIGNAL, (TUNNEL,)), NOBODYS, False),
    ],
    ids=["by tunnel", "served by the program too", "empty, served too", "empty", "by translation", "SCTP"],
)
def test_xdp_takes_those_services_of_ipvs_for_left_over_that_it_would_not_put_there(
    service: VirtualService, ours: frozenset[VirtualKey], left: bool
) -> None:
    assert is_left_over(service, ours) is left


#: dev_valid_name() of the kernel: neither slash, colon nor blank, at most 15 bytes.
names = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="/:"), min_size=1, max_size=15
)


@given(st.dictionaries(names, st.integers(1, 2**31 - 1), max_size=4))
def test_the_programs_in_the_record_read_back_whatever_the_devices_are_called(programs: dict[str, int]) -> None:
    assert read_programs(written_programs(programs)) == programs


@pytest.mark.parametrize("text", ["", "eth0", "eth0=", "eth0=-1", "= ="])
def test_a_damaged_record_names_no_program(text: str) -> None:
    assert read_programs(text) == {}
