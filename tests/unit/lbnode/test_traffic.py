"""What grew between two looks at the kernel's counters, against a tally of what was really sent."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from lbnode.model import Counters, Destination, DestinationTraffic, IPAddress, Protocol, VirtualKey, VirtualService
from lbnode.traffic import Round, add, drops_growth, growth, seen

WEB, DNS = (VirtualKey(ip_address("203.0.113.1"), p, n) for p, n in ((Protocol.TCP, 80), (Protocol.UDP, 53)))
ONE, TWO = ip_address("198.18.0.21"), ip_address("198.18.0.22")
AT = (WEB, ONE)


def test_the_first_look_counts_nothing_because_the_former_agent_did() -> None:
    assert growth(None, {AT: Counters(5, 50, 500)}) == {AT: Counters()}


def test_what_came_in_between_is_counted() -> None:
    assert growth({AT: Counters(5, 50, 500)}, {AT: Counters(7, 60, 900)}) == {AT: Counters(2, 10, 400)}


def test_a_destination_that_is_new_counts_whole_and_one_that_went_counts_nothing() -> None:
    assert growth({AT: Counters(5, 50, 500)}, {(WEB, TWO): Counters(1, 2, 3)}) == {(WEB, TWO): Counters(1, 2, 3)}


def test_a_destination_that_was_put_in_anew_counts_from_nothing() -> None:
    assert growth({AT: Counters(5, 50, 500)}, {AT: Counters(1, 60, 10)}) == {AT: Counters(1, 60, 10)}


def test_hits_grow_too_where_the_data_plane_tells_them_and_are_told_by_nobody_else() -> None:
    now = {AT: Counters(7, 60, 900, 55)}
    assert growth(None, now) == {AT: Counters(0, 0, 0, 0)}
    assert growth({AT: Counters(5, 50, 500, 47)}, now) == {AT: Counters(2, 10, 400, 8)}
    assert growth({AT: Counters(5, 50, 500, 56)}, now) == now, "fewer than before: put in anew"
    assert growth({}, {AT: Counters(7, 60, 900)})[AT].table_hits is None


def test_drops_count_from_the_agents_start_and_anew_from_maps_that_begin_at_nothing() -> None:
    route, big, going = (WEB, "NoRoute"), (WEB, "TooBig"), (None, "NoRoute")
    assert drops_growth(None, {route: 9, big: 0}) == {route: 0, big: 0}
    assert drops_growth({route: 9, big: 4}, {route: 12, big: 1, going: 2}) == {route: 3, big: 1, going: 2}
    assert drops_growth({route: 9}, {}) == {}, "IPVS tells none"


def test_what_counted_nothing_in_one_round_counts_whole_in_the_next() -> None:
    first = Round([], None)
    first.take([DestinationTraffic(WEB, ONE, Counters()), DestinationTraffic(WEB, TWO, Counters(5, 50, 500))])
    second = Round([], first.seen)
    second.take([DestinationTraffic(WEB, ONE, Counters(1, 2, 3)), DestinationTraffic(WEB, TWO, Counters(6, 51, 501))])
    assert {worker: tally.grown for worker, tally in second.by_worker.items()} == {
        ONE: Counters(1, 2, 3),
        TWO: Counters(1, 1, 1),
    }


def test_looks_are_remembered_by_service_and_worker() -> None:
    looks = [DestinationTraffic(WEB, ONE, Counters(1, 1, 1)), DestinationTraffic(DNS, ONE, Counters(2, 2, 2))]
    assert seen(looks) == {(WEB, ONE): Counters(1, 1, 1), (DNS, ONE): Counters(2, 2, 2)}


small = st.integers(0, 9)
sent = st.builds(Counters, *[st.integers(1, 1000)] * 3)
steps = st.lists(st.one_of(st.just("replaced"), sent), max_size=30)


@given(steps)
def test_the_sum_of_what_grew_is_all_that_was_sent_however_often_a_destination_is_put_in_anew(
    moves: list[Counters | str],
) -> None:
    """Each look comes after one packet at least, so none that was sent is lost between a look and a replacement."""
    kernel, before, told = Counters(), seen([DestinationTraffic(WEB, ONE, Counters())]), Counters()
    for move in moves:
        if isinstance(move, str):
            kernel = Counters()
            before = growth(None, {})  # it was seen to be gone
            continue
        kernel = add(kernel, move)
        now = {AT: kernel}
        told, before = add(told, growth(before, now)[AT]), now
    expected = Counters()
    for move in moves:
        if not isinstance(move, str):
            expected = Counters(*(a + b for a, b in zip(_row(expected), _row(move), strict=True)))
    assert told == expected


def _row(counters: Counters) -> tuple[int, int, int]:
    return counters.connections, counters.received_packets, counters.received_bytes


WORKERS = [ip_address(f"198.18.0.{n}") for n in range(21, 25)]
services = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 2), st.sets(st.sampled_from(WORKERS), max_size=4)),
    max_size=8,
    unique_by=lambda each: each[:2],
)


@given(services, st.integers(1, 5), st.booleans(), st.data())
def test_a_round_in_small_looks_comes_to_what_one_look_at_everything_does(
    listed: list[tuple[int, int, set[IPAddress]]], destinations: int, first: bool, data: st.DataObject
) -> None:
    made, looks = [], {}
    before = None if first else {}
    for vip, port, workers in listed:
        key = VirtualKey(ip_address(f"203.0.113.{vip}"), Protocol.TCP, port)
        made.append(VirtualService(key, tuple(map(Destination, sorted(workers, key=int)))))
        counted = st.one_of(st.just(Counters()), sent)
        looks[key] = [
            DestinationTraffic(key, w, data.draw(counted), data.draw(small), data.draw(small)) for w in workers
        ]
        if before is not None:
            before |= {(key, w): data.draw(sent) for w in workers if data.draw(st.booleans())}

    round_, sizes = Round(made, before), []
    while not round_.is_over:
        keys = round_.next(destinations)
        sizes.append(sum(max(1, len(looks[key])) for key in keys))
        assert sizes[-1] - max(1, len(looks[keys[-1]])) < destinations, "no more than the last one past the bound"
        round_.take([look for key in keys for look in looks[key]])

    everything = [look for each in looks.values() for look in each]
    grown = growth(before, seen(everything))
    assert round_.seen == {at: total for at, total in seen(everything).items() if total != Counters()}
    for tallies, of in ((round_.by_vip, lambda t: t.key.address), (round_.by_worker, lambda t: t.worker)):
        assert tallies.keys() == {of(t) for t in everything}
        for address, tally in tallies.items():
            own = [t for t in everything if of(t) == address]
            assert _row(tally.grown) == tuple(map(sum, zip(*(_row(grown[t.key, t.worker]) for t in own), strict=True)))
            assert tally.active_connections == sum(t.active_connections for t in own)
            assert tally.inactive_connections == sum(t.inactive_connections for t in own)
