"""What the report reads from an edge node's XDP maps, against the agent's own records and ring, which other tests hold against C and the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.report import xdp_maps
from lbnode.dataplane.xdp_records import DestinationRecord, Vip
from lbnode.dataplane.xdp_table import address_vips, destination_record, made_of, vip_of
from lbnode.model import Destination, IPAddress, Protocol, VirtualKey, VirtualService
from lbnode.ring import SLOTS, ring

EDGE, WORKER1, WORKER2 = map(ip_address, ("198.18.0.11", "198.18.0.21", "198.18.0.22"))
EDGE6, WORKER6 = map(ip_address, ("2001:db8:0:1::11", "2001:db8:0:1::21"))
WEB = VirtualKey(ip_address("203.0.113.7"), Protocol.TCP, 80)
DNS = VirtualKey(ip_address("2001:db8:203:113::7"), Protocol.UDP, 53)


def raw_table(*vips: Vip) -> bytes:
    """With empty places around them, and at its end the rest of a page."""
    return b"".join(bytes(v) for vip in vips for v in (Vip(), vip)) + bytes(40)


def record(number: int, vip: int, worker: IPAddress, *, drained: bool = False) -> DestinationRecord:
    made = destination_record(number, worker, EDGE if worker.version == 4 else EDGE6)
    made.vip, made.weight, made.drained = vip, 3, drained
    return made


def test_services_are_read_by_the_names_that_ipvsadm_gives_them_and_whole_addresses_are_none() -> None:
    numbers = {WEB: 4, DNS: 5}
    services = [vip_of(VirtualService(key), number, 0, limited=False) for key, number in numbers.items()]
    found = list(xdp_maps.vips(raw_table(*services, *address_vips(numbers))))
    assert [(vip.name, vip.address, vip.number, vip.ring) for vip in found] == [
        ("t 203.0.113.7:80", "203.0.113.7", 4, 4),
        ("u [2001:db8:203:113::7]:53", "2001:db8:203:113::7", 5, 5),
    ]


def test_what_a_ring_was_made_of_stands_where_turning_spoils_it() -> None:
    word = made_of({1: record(1, 4, WORKER1)})
    raw = raw_table(vip_of(VirtualService(WEB), 4, word, limited=False))
    (vip,) = xdp_maps.vips(raw)
    at = vip.at + xdp_maps._MADE_OF_AT
    assert int.from_bytes(raw[at : at + 8], "little") == word


def test_workers_are_read_with_what_they_get_of_new_flows_and_forgotten_ones_are_not() -> None:
    records = [
        DestinationRecord(),
        record(7, 4, WORKER1),
        record(8, 4, WORKER2, drained=True),
        DestinationRecord(retired=9),
        record(10, 0, WORKER2),
        record(11, 5, WORKER6),
    ]
    found = list(xdp_maps.destinations(b"".join(map(bytes, records))))
    assert [(d.number, d.vip, d.worker, d.weight) for d in found] == [
        (1, 4, "198.18.0.21", 3),
        (2, 4, "198.18.0.22", 0),
        (5, 5, "2001:db8:0:1::21", 3),
    ]


def slots(numbers: dict[IPAddress, int]) -> list[int]:
    """The slots of an edge node that has given its workers these numbers."""
    return [numbers[d.address] for d in ring(Destination(worker) for worker in numbers)]


def digest(numbers: dict[IPAddress, int], of: Sequence[int]) -> str:
    return xdp_maps.digest(of, {number: str(worker) for worker, number in numbers.items()})


def test_rings_are_alike_whatever_numbers_an_edge_node_has_given_its_workers() -> None:
    one, other = {WORKER1: 1, WORKER2: 2}, {WORKER2: 30, WORKER1: 400}
    assert digest(one, slots(one)) == digest(other, slots(other))


def test_a_ring_that_differs_in_one_slot_or_in_a_workers_name_is_not_alike() -> None:
    one = {WORKER1: 1, WORKER2: 2}
    owners = slots(one)
    assert digest(one, [3 - owners[0], *owners[1:]]) != digest(one, owners)
    assert digest({WORKER1: 1, WORKER6: 2}, owners) != digest(one, owners)
    assert digest(one, [0] * SLOTS) != digest(one, owners)


@given(st.lists(st.integers(1, 8191), min_size=2, max_size=50).filter(lambda owners: len(set(owners)) > 1))
def test_a_turned_ring_has_another_worker_in_each_slot_and_each_worker_somewhere(owners: list[int]) -> None:
    found = list(xdp_maps.turned(owners))
    assert all(new != old for new, old in zip(found, owners, strict=True))
    assert set(found) == set(owners)


def test_a_ring_of_one_worker_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="1 worker cannot be turned"):
        xdp_maps.turned([4] * 10)
