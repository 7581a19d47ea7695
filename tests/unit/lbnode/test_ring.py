from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest

from lbnode.model import Destination, Protocol, VirtualKey
from lbnode.ring import SLOTS, mix, ring, slot

HUNDRED = [Destination(IPv4Address("198.18.0.1") + n) for n in range(100)]
WEB = VirtualKey(IPv4Address("203.0.113.1"), Protocol.TCP, 80)


def test_shares_differ_by_at_most_one_slot_for_each_unit_of_weight() -> None:
    weighted = [Destination(d.address, weight) for d, weight in zip(HUNDRED, (3, 1, 2, 5, 1), strict=False)]
    shares = Counter(ring(weighted))
    per_unit = [shares[d] / d.weight for d in weighted]
    assert max(per_unit) - min(per_unit) <= 1
    assert sum(shares.values()) == SLOTS


def test_the_order_of_the_list_changes_nothing() -> None:
    shuffled = random.Random(3).sample(HUNDRED, len(HUNDRED))
    assert ring(shuffled) == ring(HUNDRED)


def test_removing_one_of_a_hundred_moves_few_slots_of_the_others() -> None:
    """0.8 % is what the data plane promises."""
    before, after = ring(HUNDRED), ring(HUNDRED[:50] + HUNDRED[51:])
    others = [(b, a) for b, a in zip(before, after, strict=True) if b != HUNDRED[50]]
    assert 0 < sum(b != a for b, a in others) / len(others) <= 0.008


def test_a_drained_destination_passes_its_slots_on_and_no_other_slot_moves() -> None:
    gone = Destination(HUNDRED[7].address, drained=True)
    before, after = ring(HUNDRED), ring([*HUNDRED[:7], gone, *HUNDRED[8:]])
    assert gone not in after
    assert all(b == a for b, a in zip(before, after, strict=True) if b != HUNDRED[7])
    heirs = Counter(a for b, a in zip(before, after, strict=True) if b == HUNDRED[7])
    # 655 slots among 99: one of them gets none with a chance of e^-6.6, one in 700.
    assert len(heirs) >= 97


def test_without_a_destination_that_takes_flows_there_is_no_ring() -> None:
    assert ring([]) == ()
    assert ring([Destination(IPv4Address("198.18.0.1"), 0)]) == ()
    assert ring([Destination(IPv4Address("198.18.0.1"), drained=True)]) == ()


@pytest.mark.parametrize("client", [IPv4Address("10.0.0.1"), IPv6Address("2001:db8:5::1")])
def test_flows_of_one_client_spread_over_all_destinations(client: IPv4Address | IPv6Address) -> None:
    """10,000 balls in 100 bins: a bin has 100, with a standard deviation of 10; six of them are exceeded once in 10^7 tries."""
    owners = ring(HUNDRED)
    shares = Counter(owners[slot(WEB, client, port)] for port in range(10_000, 20_000))
    assert len(shares) == 100
    assert min(shares.values()) > 40
    assert max(shares.values()) < 160


def test_every_bit_of_the_input_reaches_half_of_the_output() -> None:
    for bit in range(64):
        changed = [(mix(word) ^ mix(word ^ 1 << bit)).bit_count() for word in range(1, 200)]
        assert 28 < sum(changed) / len(changed) < 36
