from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbnode.maglev import DEFAULT_TABLE_SIZE, choose, hsiphash, table
from lbnode.model import Destination

NODES = [IPv4Address("198.18.0.21") + n for n in range(5)]
WEIGHTS = [(1, 1, 1, 1, 1), (3, 1, 2, 5, 1), (100, 7, 64, 1, 33), (1, 0, 1, 1, 1)]


def destinations(*weights: int) -> list[Destination]:
    return [Destination(a, w) for a, w in zip(NODES, weights, strict=True)]


def test_the_hash_is_siphash_1_3() -> None:
    """Python's own hash of bytes is SipHash-1-3 of a zero key when its seed is 0, cut here to 32 bits as hsiphash does."""
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this Python hashes bytes with {sys.hash_info.algorithm}")
    words = [0, 1, 0x50, 0xC6120015, 0xFFFFFFFF]
    code = f"import json; print(json.dumps([hash(n.to_bytes(4, 'little')) & 0xFFFFFFFF for n in {words}]))"
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [hsiphash(w, 0) for w in words] == json.loads(result.stdout)


@pytest.mark.parametrize(
    ("size", "case", "expected"),
    [
        (251, 0, 16667620530927785202),
        (251, 1, 12785407384916144682),
        (251, 2, 13627585404843000737),
        (251, 3, 11890220415415283047),
        (4093, 0, 15166463685931018441),
        (4093, 1, 12611824703177310306),
        (4093, 2, 4290009117696996888),
        (4093, 3, 568799096687670727),
        (65521, 0, 1956280850316374074),
        (65521, 1, 8545948883398768856),
        (65521, 2, 4633715824295875589),
        (65521, 3, 14308955574236168908),
    ],
)
def test_tables_equal_those_of_a_c_port_of_the_kernel_module(size: int, case: int, expected: int) -> None:
    """Vectors from a separate C port of ip_vs_mh.c: five nodes from 198.18.0.21 on, port 80; slots folded as h = 31 h + owner."""
    folded = 0
    for owner in table(destinations(*WEIGHTS[case]), 80, size):
        folded = (folded * 31 + owner) & 0xFFFFFFFFFFFFFFFF
    assert folded == expected


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 65535))
def test_equal_weights_get_equal_shares_to_the_slot(count: int, port: int) -> None:
    nodes = [Destination(IPv4Address("10.0.0.1") + 7 * n) for n in range(count)]
    shares = Counter(table(nodes, port))
    assert max(shares.values()) - min(shares.values()) <= 1
    assert sum(shares.values()) == DEFAULT_TABLE_SIZE


def test_shares_follow_weights() -> None:
    shares = Counter(table(destinations(3, 1, 2, 5, 1), 80))
    for index, weight in enumerate((3, 1, 2, 5, 1)):
        assert shares[index] == pytest.approx(DEFAULT_TABLE_SIZE * weight / 12, abs=6)


def test_a_common_factor_of_the_weights_changes_nothing() -> None:
    assert table(destinations(30, 10, 20, 50, 10), 80) == table(destinations(3, 1, 2, 5, 1), 80)


def test_a_weight_of_zero_has_no_slots_and_none_at_all_has_no_table() -> None:
    assert 1 not in table(destinations(1, 0, 1, 1, 1), 80)
    assert table(destinations(0, 0, 0, 0, 0), 80) == []
    assert table([], 80) == []


def test_a_drained_destination_keeps_its_slots() -> None:
    drained = [Destination(d.address, d.weight, d.address == NODES[1]) for d in destinations(1, 1, 1, 1, 1)]
    assert table(drained, 80) == table(destinations(1, 1, 1, 1, 1), 80)


def test_removing_one_of_a_hundred_moves_few_slots_of_the_others() -> None:
    """The bound of 3.5 % of the slots of the others comes from simulations of tables of 4093 slots."""
    nodes = [Destination(IPv4Address("198.18.0.1") + n) for n in range(100)]
    before = table(nodes, 80)
    rest = nodes[:50] + nodes[51:]
    after = table(rest, 80)
    others = [i for i in range(len(before)) if before[i] != 50]
    moved = sum(nodes[before[i]].address != rest[after[i]].address for i in others)
    assert 0 < moved / len(others) <= 0.035


def test_the_order_of_the_list_changes_the_table_so_it_has_to_be_canonical() -> None:
    nodes = destinations(1, 1, 1, 1, 1)
    shuffled = random.Random(3).sample(nodes, len(nodes))
    one = [nodes[i].address for i in table(nodes, 80)]
    other = [shuffled[i].address for i in table(shuffled, 80)]
    assert one != other
    again = sorted(shuffled, key=lambda d: int(d.address))
    assert [again[i].address for i in table(again, 80)] == one


def test_adding_a_drained_destination_at_weight_zero_disagrees_with_the_others() -> None:
    """Why destinations are added with their weight before they are drained."""
    first_seen_drained = destinations(1, 0, 1, 1, 1)
    one, other = table(destinations(1, 1, 1, 1, 1), 80), table(first_seen_drained, 80)
    differ = sum(a != b for a, b in zip(one, other, strict=True) if a != 1)
    assert differ > 0


def test_flows_of_healthy_destinations_stay_where_they_are_when_another_drains() -> None:
    nodes = destinations(1, 1, 1, 1, 1)
    drained = [Destination(d.address, 1, d.address == NODES[2]) for d in nodes]
    slots = table(nodes, 80)
    for port in range(10000, 10500):
        client = IPv4Address("198.18.8.2")
        before, after = choose(slots, nodes, client, port), choose(slots, drained, client, port)
        assert before is not None
        assert after is not None
        assert not after.drained
        if before.address != NODES[2]:
            assert after.address == before.address


def test_all_drained_leaves_nobody() -> None:
    nodes = [Destination(a, 1, True) for a in NODES]
    assert choose(table(nodes, 80), nodes, IPv4Address("198.18.8.2")) is None
    assert choose([], [], IPv4Address("198.18.8.2")) is None


def test_flows_without_a_source_port_go_where_their_client_goes() -> None:
    nodes = destinations(1, 1, 1, 1, 1)
    slots = table(nodes, 80)
    clients = [IPv4Address("198.18.8.2") + n for n in range(50)]
    assert len({choose(slots, nodes, c) for c in clients}) == 5


def test_an_ipv6_address_is_folded_by_exclusive_or() -> None:
    same_fold = [Destination(IPv6Address("::1:0:0:0:2")), Destination(IPv6Address("::2:0:0:0:1"))]
    spread = table(same_fold, 80, 251)
    assert sorted(Counter(spread).values()) == [125, 126]
    assert table(same_fold[:1], 80, 251) == [0] * 251


def test_a_size_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(ValueError, match="CONFIG_IP_VS_MH_TAB_INDEX"):
        table(destinations(1, 1, 1, 1, 1), 80, 1000)


def test_more_destinations_than_slots_are_refused_as_the_kernel_does() -> None:
    with pytest.raises(ValueError, match="252 destinations"):
        table([Destination(IPv4Address("10.0.0.0") + n) for n in range(252)], 80, 251)


# A backend goes, and then an edge node: what both together break, in shares of all flows. Which slot and which edge node a flow has are two hashes that
# know nothing of each other, so shares multiply and no flow has to be drawn.


def moved_by_the_router(edge_nodes: int, leaver: int) -> float:
    """The share of flows that a router with equal regions of its hash for each next hop (RFC 2992) sends elsewhere when one of them leaves."""
    left = [e for e in range(edge_nodes) if e != leaver]
    regions = edge_nodes * (edge_nodes - 1)
    return sum(r // (edge_nodes - 1) != left[r // edge_nodes] for r in range(regions)) / regions


def broken_by_both(before: list[int], after: list[int], removed: int, moved_share: float) -> float:
    """Flows of the removed backend end. Others go on at their edge node, which remembers them; those that come to another one are placed anew."""
    own = before.count(removed)
    misplaced = sum(b != a for b, a in zip(before, after, strict=True) if b != removed)
    return (own + misplaced * moved_share) / len(before)


@pytest.mark.parametrize("edge_nodes", [2, 3, 4, 8])
@pytest.mark.parametrize("backends", [2, 4, 16, 100])
def test_a_backend_that_goes_and_then_an_edge_node_break_little_more_than_the_backends_own_flows(
    backends: int, edge_nodes: int
) -> None:
    nodes = [Destination(IPv4Address("198.18.0.1") + n) for n in range(backends)]
    whole = table(nodes, 80)
    for removed in {0, backends // 2, backends - 1}:
        rest = [n for n in range(backends) if n != removed]
        after = [rest[owner] for owner in table([nodes[n] for n in rest], 80)]
        for leaver in range(edge_nodes):
            moved = moved_by_the_router(edge_nodes, leaver)
            assert 0.25 <= moved <= 0.5, "the bounds that RFC 2992 gives"
            assert broken_by_both(whole, after, removed, moved) <= 1 / backends + 0.02


@pytest.mark.parametrize("backends", [4, 16, 100])
def test_with_the_remainder_of_a_division_both_would_break_far_more(backends: int) -> None:
    """The control: the same change and the same count with the simplest hash there is."""
    whole = [slot % backends for slot in range(DEFAULT_TABLE_SIZE)]
    rest = [n for n in range(backends) if n != backends // 2]
    after = [rest[slot % len(rest)] for slot in range(DEFAULT_TABLE_SIZE)]
    moved = moved_by_the_router(4, 0)
    assert broken_by_both(whole, after, backends // 2, moved) > 1 / backends + 0.1
