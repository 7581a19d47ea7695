from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.announce import Differences, EdgeFacts, announce
from lbnode.facts import Verdict, VipFacts, Worker, WorkerHealth
from lbnode.health import watermark
from lbnode.model import Destination, EdgeState, Protocol, Remains, ServiceName, VirtualKey, VirtualService
from lbnode.settings import Health

VIP, OTHER = IPv4Address("203.0.113.10"), IPv4Address("203.0.113.11")
W1, W2, W3 = (IPv4Address(f"198.18.0.{n}") for n in (21, 22, 23))
WEB = ServiceName("default", "web")
WORKERS = tuple(Worker(f"w{int(a) & 0xFF}", a, IPv4Address(f"192.0.2.{int(a) & 0xFF}")) for a in (W1, W2))
KEY = VirtualKey(VIP, Protocol.TCP, 80)
STATE = EdgeState(
    sysctls={"net.ipv4.vs.sloppy_tcp": "1"},
    filter_digest="f",
    vips=frozenset({VIP}),
    services=(VirtualService(KEY, (Destination(W1), Destination(W2))),),
)
FACTS = VipFacts(VIP, WEB, workers=frozenset({W1, W2}), endpoints=2)
GOOD = EdgeFacts(
    vips={VIP: FACTS},
    workers=WORKERS,
    desired=STATE,
    observed=STATE,
    health=WorkerHealth(healthy=frozenset({W1, W2})),
)
ALL_FAIL = WorkerHealth(unhealthy=frozenset({W1, W2}))


def verdict(facts: EdgeFacts, settings: Health | None = None) -> Verdict:
    return announce(facts, settings or Health())[VIP]


def on(vip: VipFacts = FACTS, facts: EdgeFacts = GOOD, **changes: object) -> EdgeFacts:
    return replace(facts, vips={VIP: vip}, **changes)


def test_a_program_that_takes_packets_before_ipvs_is_named_with_its_devices() -> None:
    left = frozenset({Remains("xdp", "eth1"), Remains("xdp", "eth0")})
    assert "packets from eth0, eth1 pass IPVS by" in verdict(on(observed=replace(STATE, remains=left))).detail


def test_a_device_without_its_program_is_named_and_keeps_every_vip_off_the_air() -> None:
    told = verdict(on(observed=replace(STATE, lost_programs=frozenset({"eth1"}))))
    assert (told.announce, told.reason) == (False, "DataPlaneDiffers")
    assert "eth1" in told.detail


def test_services_that_ipvs_keeps_behind_xdp_keep_no_vip_off_the_air() -> None:
    assert verdict(on(observed=replace(STATE, remains=frozenset({Remains("ipvs")})))).announce


def test_a_vip_is_announced_when_everything_holds() -> None:
    found = verdict(GOOD)
    assert (found.announce, found.reason) == (True, "Announced")
    assert "2 of 2" in found.detail


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (on(replace(FACTS, deleting=True)), "Deleting"),
        (on(draining=True), "Draining"),
        (on(blocked=("EdgeNodeIsWorker", "both labels")), "EdgeNodeIsWorker"),
        (on(observed=None), "Starting"),
        (on(observed=replace(STATE, filter_digest=None)), "FilterMissing"),
        (on(observed=replace(STATE, sysctls={"net.ipv4.vs.sloppy_tcp": "0"})), "SysctlDiffers"),
        (on(observed=replace(STATE, vips=frozenset())), "DataPlaneDiffers"),
        (on(observed=replace(STATE, services=())), "DataPlaneDiffers"),
        (on(observed=replace(STATE, remains=frozenset({Remains("xdp", "eth0")}))), "DataPlaneDiffers"),
        (on(VipFacts(VIP, WEB)), "NoReadyEndpoints"),
        (on(VipFacts(VIP, WEB, endpoints=3)), "NoWorker"),
        (on(unserved={4: ("NoNodeAddress", "edge1 has none")}), "NoNodeAddress"),
        (on(workers=tuple(replace(w, probe_address=None) for w in WORKERS)), "NotProbed"),
        (on(health=WorkerHealth()), "Starting"),
        (on(health=ALL_FAIL), "AllProbesFail"),
        (on(health=ALL_FAIL, peers_reach_a_worker={4: True}), "NoHealthyWorker"),
        (
            on(replace(FACTS, workers=frozenset({W1})), health=WorkerHealth(frozenset({W2}), frozenset({W1}))),
            "NoHealthyWorker",
        ),
        (
            on(health=replace(GOOD.health, without_endpoints=frozenset({(WEB, W1), (WEB, W2)}))),
            "NoEndpointsOnWorkers",
        ),
        (on(health=replace(GOOD.health, failing_probes=frozenset({(WEB, W1), (WEB, W2)}))), "ActiveProbesFail"),
        (
            on(health=WorkerHealth(frozenset({W1}), frozenset({W2}), failing_probes=frozenset({(WEB, W1)}))),
            "ActiveProbesFail",
        ),
    ],
)
def test_a_vip_that_is_not_announced_has_a_reason(facts: EdgeFacts, reason: str) -> None:
    found = verdict(facts)
    assert (found.announce, found.reason) == (False, reason)
    assert found.detail


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (on(observed=None), "Starting"),
        (on(health=WorkerHealth()), "Starting"),
        (on(blocked=("NodeUnknown", "gone")), "NodeUnknown"),
        (on(health=ALL_FAIL), "AllProbesFail"),
        (on(health=ALL_FAIL, peers_reach_a_worker={4: False}), "AllProbesFail"),
        (on(health=replace(GOOD.health, without_endpoints=frozenset({(WEB, W1), (WEB, W2)}))), "NoEndpointsOnWorkers"),
    ],
)
def test_doubt_leaves_things_as_they_are(facts: EdgeFacts, reason: str) -> None:
    assert verdict(facts) == replace(verdict(replace(facts, announced=frozenset({VIP}))), announce=False)
    held = verdict(replace(facts, announced=frozenset({VIP})))
    assert (held.announce, held.reason) == (True, reason)


@pytest.mark.parametrize(
    "facts",
    [
        on(draining=True),
        on(replace(FACTS, deleting=True)),
        on(observed=replace(STATE, services=())),
        on(observed=replace(STATE, filter_digest=None)),
        on(VipFacts(VIP, WEB)),
        on(health=ALL_FAIL, peers_reach_a_worker={4: True}),
        on(health=replace(GOOD.health, failing_probes=frozenset({(WEB, W1), (WEB, W2)}))),
    ],
)
def test_what_is_known_to_be_broken_is_withdrawn_though_it_was_announced(facts: EdgeFacts) -> None:
    assert not verdict(replace(facts, announced=frozenset({VIP}))).announce


def test_a_worker_whose_pods_fail_their_active_probe_does_not_count_for_that_service_alone() -> None:
    failing = replace(GOOD.health, failing_probes=frozenset({(WEB, W1)}))
    found = verdict(on(health=failing))
    assert (found.announce, found.detail) == (True, "1 of 2 workers healthy")
    assert verdict(on(health=failing), Health(low_watermark=0.6, high_watermark=0.6)).reason == "BelowWatermark"
    other = replace(GOOD.health, failing_probes=frozenset({(ServiceName("default", "other"), W1)}))
    assert verdict(on(health=other)).detail == "2 of 2 workers healthy"


def test_failing_probes_beside_a_kube_proxy_that_contradicts_the_api_are_no_reason_to_withdraw() -> None:
    doubt = replace(GOOD.health, failing_probes=frozenset({(WEB, W1)}), without_endpoints=frozenset({(WEB, W2)}))
    found = verdict(on(health=doubt, announced=frozenset({VIP})))
    assert (found.announce, found.reason) == (True, "NoEndpointsOnWorkers")


def test_an_announced_address_that_nothing_wants_is_withdrawn() -> None:
    found = announce(replace(GOOD, announced=frozenset({VIP, OTHER})), Health())
    assert found[OTHER].reason == "NotWanted"
    assert not found[OTHER].announce
    assert found[VIP].announce


def test_one_healthy_worker_of_two_is_enough() -> None:
    assert verdict(on(health=WorkerHealth(frozenset({W1}), frozenset({W2})))).announce


def test_one_healthy_worker_is_enough_while_the_other_is_undecided() -> None:
    assert verdict(on(health=WorkerHealth(frozenset({W1})))).announce


def test_probes_that_all_fail_do_not_withdraw_while_a_worker_of_another_vip_is_undecided() -> None:
    third = (*WORKERS, Worker("w23", W3, IPv4Address("192.0.2.23")))
    found = verdict(on(workers=third, health=ALL_FAIL, announced=frozenset({VIP})))
    assert found.reason == "NoHealthyWorker", "the undecided one is no worker of this VIP"


def test_workers_that_cannot_be_probed_do_not_count_as_failed_probes() -> None:
    unprobed = (*WORKERS, Worker("w23", W3, None))
    assert verdict(on(workers=unprobed, health=ALL_FAIL, announced=frozenset({VIP}))).reason == "AllProbesFail"


def test_terminating_endpoints_are_delivered_to_though_kube_proxy_reports_none() -> None:
    none = WorkerHealth(frozenset({W1, W2}), without_endpoints=frozenset({(WEB, W1), (WEB, W2)}))
    assert verdict(on(replace(FACTS, terminating_only=True), health=none)).announce


def test_a_vip_that_lives_by_unknown_nodes_only_is_announced_and_says_so() -> None:
    found = verdict(on(replace(FACTS, held=frozenset({W1, W2}))))
    assert (found.announce, found.reason) == (True, "Held")
    assert verdict(on(replace(FACTS, held=frozenset({W1})))).reason == "Announced"


def test_held_workers_that_do_not_answer_are_worth_nothing() -> None:
    held = replace(FACTS, held=frozenset({W1}), workers=frozenset({W1}))
    assert not verdict(on(held, health=WorkerHealth(frozenset({W2}), frozenset({W1})))).announce


SIX, W6 = IPv6Address("2001:db8:113::1"), IPv6Address("2001:db8::21")
BOTH = replace(
    GOOD,
    vips={VIP: FACTS, SIX: replace(FACTS, address=SIX, workers=frozenset({W6}))},
    workers=(*WORKERS, Worker("w21", W6, IPv6Address("2001:db8:2::21"))),
    desired=replace(STATE, vips=frozenset({VIP, SIX})),
    observed=replace(STATE, vips=frozenset({VIP, SIX})),
    announced=frozenset({VIP, SIX}),
)


def test_a_family_whose_probes_all_fail_is_held_alone_until_another_edge_node_does_better() -> None:
    facts = replace(BOTH, health=WorkerHealth(frozenset({W1, W2}), frozenset({W6})))
    found = announce(facts, Health())
    assert {a: (v.announce, v.reason) for a, v in found.items()} == {
        VIP: (True, "Announced"),
        SIX: (True, "AllProbesFail"),
    }
    assert announce(replace(facts, peers_reach_a_worker={4: True}), Health()) == found
    better = announce(replace(facts, peers_reach_a_worker={6: True}), Health())
    assert {a: (v.announce, v.reason) for a, v in better.items()} == {
        VIP: (True, "Announced"),
        SIX: (False, "NoHealthyWorker"),
    }


def test_a_family_that_the_node_cannot_serve_leaves_the_other_announced() -> None:
    facts = replace(BOTH, unserved={6: ("NoNodeAddress", "edge1 has none")}, health=WorkerHealth(frozenset({W1, W6})))
    found = announce(facts, Health())
    assert {a: (v.announce, v.reason) for a, v in found.items()} == {
        VIP: (True, "Announced"),
        SIX: (False, "NoNodeAddress"),
    }


def test_one_broken_vip_leaves_the_others_announced() -> None:
    other_state = VirtualService(VirtualKey(OTHER, Protocol.TCP, 80), (Destination(W1),))
    both = replace(STATE, vips=frozenset({VIP, OTHER}), services=(*STATE.services, other_state))
    facts = replace(
        GOOD,
        vips={VIP: FACTS, OTHER: replace(FACTS, address=OTHER)},
        desired=both,
        observed=replace(both, services=(other_state,)),
    )
    assert {a: v.announce for a, v in announce(facts, Health()).items()} == {VIP: False, OTHER: True}


def test_the_order_of_destinations_is_part_of_being_as_desired() -> None:
    swapped = replace(STATE, services=(VirtualService(KEY, (Destination(W2), Destination(W1))),))
    assert Differences(STATE, swapped).of(VIP) is not None
    assert Differences(STATE, STATE).of(VIP) is None


def test_the_weight_of_a_drained_destination_is_not_compared() -> None:
    want = replace(STATE, services=(VirtualService(KEY, (Destination(W1, 1, True),)),))
    have = replace(STATE, services=(VirtualService(KEY, (Destination(W1, 0, True),)),))
    assert Differences(want, have).of(VIP) is None


def test_below_the_low_watermark_a_vip_goes_and_it_returns_at_the_high_one() -> None:
    marks = Health(low_watermark=0.5, high_watermark=1.0)
    half = on(health=WorkerHealth(frozenset({W1}), frozenset({W2})))
    assert verdict(replace(half, announced=frozenset({VIP})), marks).announce
    below = verdict(half, marks)
    assert (below.announce, below.reason) == (False, "BelowWatermark")
    assert verdict(GOOD, marks).announce


@given(st.lists(st.integers(0, 10), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_between_the_watermarks_nothing_changes(healthy_counts: list[int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    marks = Health(low_watermark=low, high_watermark=high)
    is_up = False
    for healthy in healthy_counts:
        was, is_up = is_up, watermark(is_up, healthy, 10, marks)
        if healthy == 0:
            assert not is_up
        elif low <= healthy / 10 < high:
            assert is_up == was
        else:
            assert is_up == (healthy / 10 >= high)


@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from([{}, {4: True}, {4: False}, {6: True}]),
    st.frozensets(st.sampled_from([W1, W2])),
    st.frozensets(st.sampled_from([W1, W2])),
    st.frozensets(st.sampled_from([VIP, OTHER])),
    st.sampled_from([None, STATE, EdgeState()]),
    st.frozensets(st.sampled_from([W1, W2])),
)
def test_every_verdict_has_a_reason_and_an_announcement_needs_a_healthy_worker_and_the_kernel(
    draining: bool,
    deleting: bool,
    peers: dict[int, bool],
    healthy: frozenset[IPv4Address],
    unhealthy: frozenset[IPv4Address],
    announced: frozenset[IPv4Address],
    observed: EdgeState | None,
    workers: frozenset[IPv4Address],
) -> None:
    facts = on(
        replace(FACTS, deleting=deleting, workers=workers),
        draining=draining,
        peers_reach_a_worker=peers,
        health=WorkerHealth(healthy, unhealthy - healthy),
        announced=announced,
        observed=observed,
    )
    found = announce(facts, Health())
    assert found.keys() == {VIP} | announced
    for address, each in found.items():
        assert each.reason.isalpha()
        assert each.reason[0].isupper()
        if each.announce and address not in announced:
            assert observed == STATE
            assert workers & healthy
        if draining:
            assert not each.announce


# Other edge nodes, and several Services at one address

API = ServiceName("default", "api")


def test_a_vip_that_is_for_other_edge_nodes_is_withdrawn_though_it_was_announced_and_whatever_the_node_does() -> None:
    elsewhere = on(replace(FACTS, elsewhere=("NodeNotSelected", "pool p is for edge2")), announced=frozenset({VIP}))
    for facts in (elsewhere, replace(elsewhere, observed=None), replace(elsewhere, draining=True)):
        assert verdict(facts) == Verdict(False, "NodeNotSelected", "pool p is for edge2")


def test_a_shared_address_is_announced_while_one_of_its_services_can_be_served() -> None:
    alive, empty = FACTS, VipFacts(VIP, API)
    assert verdict(on(replace(empty, sharing=(alive,)))).reason == "Announced"
    assert verdict(on(replace(alive, sharing=(empty,)))).reason == "Announced"
    assert verdict(on(replace(empty, sharing=(VipFacts(VIP, WEB),)))).reason == "NoReadyEndpoints"


def test_a_worker_without_endpoints_of_one_service_still_counts_for_the_other() -> None:
    both = replace(FACTS, sharing=(replace(FACTS, service=API),))
    lacks = WorkerHealth(frozenset({W1, W2}), without_endpoints=frozenset({(WEB, W1), (WEB, W2), (API, W1)}))
    found = verdict(on(both, health=lacks))
    assert (found.announce, found.reason) == (True, "Announced")
    assert "1 of 2" in found.detail
    lacks_all = replace(lacks, without_endpoints=lacks.without_endpoints | {(API, W2)})
    assert verdict(on(both, health=lacks_all)).reason == "NoEndpointsOnWorkers"


def test_a_shared_address_stays_when_one_of_its_services_is_deleted_and_goes_with_the_last() -> None:
    gone, alive = replace(FACTS, deleting=True), replace(FACTS, service=API)
    assert verdict(on(replace(gone, sharing=(alive,)))).reason == "Announced"
    assert verdict(on(replace(gone, sharing=(replace(alive, deleting=True),)))).reason == "Deleting"
