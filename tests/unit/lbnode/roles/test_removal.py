"""The controller removed for good: Services that outlive it are as they were before, foreign ones untouched."""

from __future__ import annotations

import asyncio
from copy import deepcopy

import pytest

from lbnode.model import ServiceName
from lbnode.roles.controller import FINALIZER
from lbnode.roles.removal import release_services
from tests.unit.lbnode.roles.test_controller import WEB, Cluster
from tests.unit.lbnode.roles.world import service


def _release(cluster: Cluster) -> tuple[str, ...]:
    return asyncio.run(release_services(cluster.copy, cluster.settings, cluster))


@pytest.fixture
def served() -> Cluster:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    assert cluster.address() is not None
    return cluster


def test_a_service_that_stays_loses_address_conditions_and_finalizer(served: Cluster) -> None:
    assert _release(served) == ()
    assert served.address() is None
    assert served.condition("Accepted") == served.condition("Announced") == {}
    assert served.copy.services[WEB]["metadata"]["finalizers"] == []


def test_a_service_that_was_waiting_for_its_release_goes(served: Cluster) -> None:
    served.copy.services[WEB]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    served.refused = set()
    with pytest.raises(KeyError):
        # The twin has no such Service any more when its status is written; the real API answers 404, which the writer takes as done.
        _release(served)
    assert WEB not in served.copy.services


def test_finalizers_of_others_stay(served: Cluster) -> None:
    served.copy.services[WEB]["metadata"]["finalizers"].append("example.org/other")
    _release(served)
    assert served.copy.services[WEB]["metadata"]["finalizers"] == ["example.org/other"]


def test_a_service_of_another_class_keeps_address_and_the_finalizer_that_is_now_its_controllers(
    served: Cluster,
) -> None:
    raw = served.copy.services[WEB]
    raw["spec"]["loadBalancerClass"] = "example.org/other"
    raw["status"]["loadBalancer"] = {"ingress": [{"ip": "192.0.2.99"}]}
    _release(served)
    assert raw["metadata"]["finalizers"] == [FINALIZER]
    assert served.address() == "192.0.2.99"
    assert served.condition("Accepted") == {}


def test_a_service_that_never_was_ours_is_not_touched() -> None:
    cluster = Cluster()
    raw = service(vip=None)
    raw["spec"]["loadBalancerClass"] = "example.org/other"
    raw["metadata"]["finalizers"] = [FINALIZER]
    cluster.put(raw)
    before = deepcopy(raw)
    _release(cluster)
    assert cluster.copy.services[WEB] == before
    assert cluster.writes == 0


def test_a_service_that_cannot_be_written_is_named_and_does_not_hold_up_the_others(served: Cluster) -> None:
    other = service(vip=None)
    other["metadata"] = {**other["metadata"], "name": "zzz", "uid": "other"}
    served.put(other)
    served.run()
    served.refused = {WEB}
    assert _release(served) == (str(WEB),)
    assert served.copy.services[ServiceName("shop", "zzz")]["metadata"]["finalizers"] == []
