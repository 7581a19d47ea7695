"""The controller over an API server in memory: what it writes, when, and what it never touches."""

from __future__ import annotations

import asyncio
import time
from copy import deepcopy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from lbnode.errors import Retry
from lbnode.kube.watcher import Copy
from lbnode.model import IPAddress, ServiceName
from lbnode.observe import ControllerMetrics
from lbnode.overview import Overview
from lbnode.roles.controller import FINALIZER, Controller
from lbnode.roles.neighbours import Neighbours
from lbnode.settings import AgentSettings, parse
from tests.unit.lbnode.roles.world import EDGES, SETTINGS, WORKERS, endpoints, node, service

WEB = ServiceName("shop", "web")


class Cluster:
    """An API server with the merges that the controller relies on, and edge nodes that say what they are told to."""

    def __init__(self) -> None:
        self.copy = Copy(listed={"services", "slices", "nodes"})
        self.settings: AgentSettings = parse(SETTINGS)
        self.events: list[tuple[str, str, str]] = []
        self.writes = 0
        self.refused: set[ServiceName] = set()
        self.edge_pages: dict[str, dict[str, Any] | None] = {name: {"vips": {}} for name in EDGES}
        self.now_seconds = 0.0
        self.leads = True
        for name, address in (*WORKERS.items(), *EDGES.items()):
            self.put(node(name, address, "worker" if name in WORKERS else "edge"))
        self.metrics = ControllerMetrics("test")
        self.controller = Controller(
            lambda: self.settings,
            lambda: self.copy,
            self,
            self.metrics,
            lambda: self.leads,
            lambda: self.now_seconds,
        )
        self.controller.edges = Neighbours(self.controller.edge_pages, self.fetch, lambda: None)

    async def fetch(self, url: str, _timeout_seconds: float) -> dict[str, Any]:
        name = next(n for n, a in EDGES.items() if str(a) in url)
        page = self.edge_pages[name]
        if page is None:
            raise Retry("silent")
        return page

    def put(self, *raws: dict[str, Any]) -> None:
        stores = {"Service": self.copy.services, "EndpointSlice": self.copy.slices, "Node": self.copy.nodes}
        for raw in raws:
            stores[raw["kind"]][ServiceName(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])] = raw
        self.copy.version += 1

    def announce(self, address: str, **reasons: str) -> None:
        for name, reason in reasons.items():
            on_air = reason == "Announced"
            self.edge_pages[name] = {
                "vips": {address: {"announce": on_air, "announced": on_air, "reason": reason, "detail": ""}}
            }

    # The writes.

    def _service(self, name: ServiceName) -> dict[str, Any]:
        if name in self.refused:
            raise Retry(f"{name}: conflict")
        self.writes += 1
        self.copy.version += 1
        # What the API server sends of a change is another object.
        changed = self.copy.services[name] = deepcopy(self.copy.services[name])
        return changed

    async def patch_status(self, service: ServiceName, status: dict[str, Any]) -> None:
        raw = self._service(service)
        raw["status"] = raw["status"] or {}
        conditions = {c["type"]: c for c in raw["status"].get("conditions") or []}
        for patch in status.get("conditions", []):
            if patch.get("$patch") == "delete":
                conditions.pop(patch["type"], None)
            else:
                conditions[patch["type"]] = patch
        raw["status"]["conditions"] = list(conditions.values())
        if "loadBalancer" in status:
            raw["status"]["loadBalancer"] = {k: v for k, v in status["loadBalancer"].items() if v is not None}

    async def set_finalizers(self, service: ServiceName, finalizers: list[str], resource_version: str) -> None:
        raw = self._service(service)
        assert resource_version == raw["metadata"]["resourceVersion"]
        raw["metadata"]["finalizers"] = finalizers
        if raw["metadata"].get("deletionTimestamp") and not finalizers:
            del self.copy.services[service]

    async def event(self, service: ServiceName, uid: str, kind: str, reason: str, message: str) -> None:
        self.events.append((str(service), kind, reason))

    # Looking.

    def run(self, passes: int = 3) -> None:
        async def go() -> None:
            for _ in range(passes):
                assert self.controller.edges is not None
                await self.controller.edges.round()
                await self.controller.pass_once()

        asyncio.run(go())

    def condition(self, kind: str, name: ServiceName = WEB) -> dict[str, Any]:
        listed = self.copy.services[name]["status"].get("conditions", [])
        return next((c for c in listed if c["type"] == f"samegate.dev/{kind}"), {})

    def address(self, name: ServiceName = WEB) -> str | None:
        ingress = self.copy.services[name]["status"].get("loadBalancer", {}).get("ingress", [])
        return ingress[0]["ip"] if ingress else None


def test_a_new_service_gets_its_finalizer_before_its_address() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run(1)
    assert cluster.copy.services[WEB]["metadata"]["finalizers"] == [FINALIZER]
    assert cluster.address() is None
    cluster.run(1)
    address = cluster.address()
    assert address is not None
    assert ip_address(address) in cluster.settings.pool_networks[0]


def test_the_ingress_says_that_the_address_is_a_vip() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    assert cluster.copy.services[WEB]["status"]["loadBalancer"]["ingress"][0]["ipMode"] == "VIP"


def test_a_second_look_at_an_unchanged_world_writes_nothing() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None), endpoints(worker1="ready"))
    cluster.run()
    writes, events = cluster.writes, len(cluster.events)
    cluster.run(5)
    assert (cluster.writes, len(cluster.events)) == (writes, events)


def test_conditions_follow_what_the_edge_nodes_say() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    assert cluster.condition("Accepted")["status"] == "True"
    assert cluster.condition("Announced")["status"] == "False"
    address = cluster.address()
    assert address is not None
    cluster.announce(address, edge1="Announced", edge2="Draining")
    cluster.run()
    announced = cluster.condition("Announced")
    assert announced["status"] == "True"
    assert f"{address} by edge1." in announced["message"]
    assert "edge2: Draining" in announced["message"]
    assert ("shop/web", "Normal", "Announced") in cluster.events


def test_a_replica_that_does_not_lead_writes_nothing() -> None:
    cluster = Cluster()
    cluster.leads = False
    cluster.put(service(vip=None))
    cluster.run()
    assert cluster.writes == 0


def test_a_foreign_class_is_never_touched_even_with_the_finalizer_that_all_clouds_share() -> None:
    cluster = Cluster()
    foreign = service(vip=None, finalizers=[FINALIZER])
    foreign["spec"]["loadBalancerClass"] = "example.org/other"
    cluster.put(foreign)
    cluster.run()
    assert cluster.writes == 0
    assert cluster.events == []


def test_one_service_that_cannot_be_written_does_not_hold_up_the_others() -> None:
    cluster = Cluster()
    cluster.put(service("a", vip=None), service("b", vip=None))
    cluster.refused = {ServiceName("shop", "a")}
    for _ in range(3):
        with pytest.raises(Retry):
            cluster.run(1)
    assert cluster.address(ServiceName("shop", "b")) is not None


def test_an_exhausted_pool_is_a_condition_and_an_event_and_others_keep_theirs() -> None:
    cluster = Cluster()
    cluster.settings = parse(SETTINGS | {"pools": [{"name": "tiny", "cidrs": ["203.0.113.8/32"]}]})
    cluster.put(service("a", vip=None))
    cluster.run()
    cluster.put(service("b", vip=None))
    cluster.run()
    assert cluster.address(ServiceName("shop", "a")) == "203.0.113.8"
    refused = cluster.condition("Accepted", ServiceName("shop", "b"))
    assert refused["status"] == "False"
    assert "tiny" in refused["message"] or "203.0.113.8/32" in refused["message"]
    assert any(name == "shop/b" and kind == "Warning" for name, kind, _ in cluster.events)


def test_a_deleted_service_keeps_its_finalizer_until_no_edge_node_announces_it() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    address = cluster.address()
    assert address is not None
    cluster.announce(address, edge1="Announced", edge2="Announced")
    delete(cluster, WEB)
    with pytest.raises(Retry, match="edge1, edge2"):
        cluster.run(1)
    cluster.announce(address, edge1="Deleting", edge2="Announced")
    with pytest.raises(Retry, match="edge2"):
        cluster.run(1)
    cluster.announce(address, edge1="Deleting", edge2="Deleting")
    cluster.run(1)
    assert WEB not in cluster.copy.services


def test_an_edge_node_that_stays_silent_holds_a_deletion_for_thirty_seconds_only() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    cluster.edge_pages = {"edge1": {"vips": {}}, "edge2": None}
    cluster.controller.edges = Neighbours(cluster.controller.edge_pages, cluster.fetch, lambda: None)
    delete(cluster, WEB)
    with pytest.raises(Retry, match="edge2"):
        cluster.run(1)
    cluster.now_seconds += 31
    cluster.run(1)
    assert WEB not in cluster.copy.services


def test_a_service_that_changes_its_type_in_place_loses_address_conditions_and_finalizer() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    raw = deepcopy(cluster.copy.services[WEB])
    raw["spec"]["type"] = "ClusterIP"
    cluster.put(raw)
    cluster.run()
    assert cluster.address() is None
    assert cluster.condition("Accepted") == {}
    assert cluster.copy.services[WEB]["metadata"]["finalizers"] == []


def test_a_service_that_goes_to_another_class_keeps_the_finalizer_for_its_new_controller() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    raw = deepcopy(cluster.copy.services[WEB])
    raw["spec"]["loadBalancerClass"] = "example.org/other"
    raw["status"]["loadBalancer"] = {"ingress": [{"ip": "192.0.2.99"}]}
    cluster.put(raw)
    cluster.run()
    assert cluster.address() == "192.0.2.99"
    assert cluster.condition("Accepted") == {}
    assert cluster.copy.services[WEB]["metadata"]["finalizers"] == [FINALIZER]


def test_a_service_without_a_class_is_served_only_when_the_settings_say_so() -> None:
    cluster = Cluster()
    plain = service(vip=None)
    del plain["spec"]["loadBalancerClass"]
    cluster.put(plain)
    cluster.run()
    assert cluster.writes == 0
    cluster.settings = parse(SETTINGS | {"serveWithoutClass": True})
    cluster.run()
    assert cluster.address() is not None


def test_a_cluster_policy_is_told_that_it_hides_the_clients_address() -> None:
    cluster = Cluster()
    hiding = service(vip=None)
    hiding["spec"]["externalTrafficPolicy"] = "Cluster"
    cluster.put(hiding)
    cluster.run()
    assert "hides the client's address" in cluster.condition("Accepted")["message"]


def test_what_xdp_does_not_forward_is_a_condition_of_the_service_and_goes_with_the_data_plane() -> None:
    cluster = Cluster()
    with_ipvs = cluster.settings
    cluster.settings = parse(SETTINGS | {"dataplane": "xdp", "xdp": {"devices": ["eth0"]}})
    asking = service(vip=None)
    asking["metadata"]["annotations"] = {"samegate.dev/forwarding": "nat"}
    cluster.put(asking, service("plain", vip=None))
    cluster.run()
    told = cluster.condition("Accepted")
    assert told["reason"] == "NotByXdp"
    assert "samegate.dev/forwarding" in told["message"] and "dataplane ipvs" in told["message"]
    assert cluster.condition("Accepted", ServiceName("shop", "plain"))["reason"] == "Accepted"

    cluster.settings = with_ipvs
    cluster.run()
    assert cluster.condition("Accepted")["reason"] == "Accepted"


def test_a_full_pool_shows_as_full_though_its_first_and_last_address_are_not_given_out() -> None:
    cluster = Cluster()
    cluster.settings = parse(SETTINGS | {"pools": [{"name": "tiny", "cidrs": ["203.0.113.8/30"]}]})
    cluster.put(*(service(name, vip=None) for name in ("a", "b", "c")))
    cluster.run()
    value = cluster.metrics.registry.get_sample_value
    assert value("samegate_pool_addresses", {"pool": "tiny"}) == 2
    assert value("samegate_pool_addresses_used", {"pool": "tiny"}) == 2
    assert value("samegate_rejections", {"reason": "PoolExhausted"}) == 1


def test_an_edge_node_that_does_not_answer_shows_at_every_replica() -> None:
    cluster = Cluster()
    cluster.leads = False
    cluster.edge_pages["edge2"] = None
    cluster.run(1)
    answers = {e: cluster.metrics.registry.get_sample_value("samegate_edge_node_answers", {"edge": e}) for e in EDGES}
    assert answers == {"edge1": 1, "edge2": 0}


def overview_of(cluster: Cluster) -> Overview:
    async def look() -> Overview:
        assert cluster.controller.edges is not None
        await cluster.controller.edges.round()
        return cluster.controller.overview("replica", "")

    return asyncio.run(look())


def test_the_status_page_shows_vips_and_the_events_that_were_written() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    address = cluster.address()
    assert address is not None
    cluster.announce(address, edge1="Announced", edge2="Draining")
    cluster.run()
    seen = overview_of(cluster)
    assert [(str(v.address), v.announced_by) for v in seen.vips] == [(address, ("edge1",))]
    assert [(e.service, e.kind, e.reason) for e in reversed(seen.events)] == cluster.events


def test_the_status_page_tells_for_how_long_the_api_has_been_silent() -> None:
    cluster = Cluster()
    assert overview_of(cluster).api_silence_seconds == 0
    now = time.time()
    cluster.copy.answered = {"services": now - 1, "slices": now - 500, "nodes": now - 2}
    assert overview_of(cluster).api_silence_seconds == pytest.approx(500, abs=60)


def test_a_replica_that_stands_by_shows_the_same_vips() -> None:
    cluster = Cluster()
    cluster.put(service(vip=ip_address("203.0.113.7")))
    cluster.leads = False
    cluster.announce("203.0.113.7", edge1="Announced")
    seen = overview_of(cluster)
    assert (seen.leads, [v.announced_by for v in seen.vips]) == (False, [("edge1",)])


# Pools and shared addresses


def sharer(name: str, port: int, vip: IPAddress | None = None, **metadata: Any) -> dict[str, Any]:
    raw = service(name, vip, annotations={"samegate.dev/sharing-key": "front"}, **metadata)
    raw["spec"]["ports"] = [{"name": "p", "port": port, "protocol": "TCP"}]
    return raw


def on_the_air_together() -> tuple[Cluster, IPAddress]:
    cluster, vip = Cluster(), ip_address("203.0.113.7")
    cluster.put(sharer("web", 80, vip), sharer("api", 443, vip))
    cluster.run()
    cluster.announce(str(vip), edge1="Announced", edge2="Deleting")
    return cluster, vip


def delete(cluster: Cluster, *names: ServiceName) -> None:
    for name in names:
        raw = deepcopy(cluster.copy.services[name])
        raw["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
        cluster.put(raw)


def test_services_that_share_get_one_address_and_are_told_of_each_other() -> None:
    cluster = Cluster()
    cluster.put(sharer("web", 80), sharer("api", 443))
    cluster.run()
    api = ServiceName("shop", "api")
    assert cluster.address() == cluster.address(api) is not None
    assert "Shared with shop/api." in cluster.condition("Accepted")["message"]
    assert "Shared with shop/web." in cluster.condition("Accepted", api)["message"]


def test_a_port_conflict_is_a_condition_and_an_event_on_the_younger_service_alone() -> None:
    cluster = Cluster()
    cluster.put(sharer("web", 80, ip_address("203.0.113.7")), sharer("api", 80))
    cluster.run()
    condition = cluster.condition("Accepted", ServiceName("shop", "api"))
    assert (condition["status"], condition["reason"]) == ("False", "SharingPortConflict")
    assert "TCP 80" in condition["message"]
    assert cluster.condition("Accepted")["status"] == "True"
    assert next(e for e in cluster.events if e[0] == "shop/api") == ("shop/api", "Warning", "SharingPortConflict")


def test_a_service_that_goes_does_not_wait_for_an_address_that_stays_on_the_air_for_another() -> None:
    cluster, vip = on_the_air_together()
    delete(cluster, WEB)
    cluster.run()
    assert WEB not in cluster.copy.services
    assert cluster.address(ServiceName("shop", "api")) == str(vip)


def test_the_last_service_at_a_shared_address_waits_until_nobody_announces_it() -> None:
    cluster, vip = on_the_air_together()
    delete(cluster, WEB, ServiceName("shop", "api"))
    for _ in range(3):
        with pytest.raises(Retry, match="still announced by edge1"):
            cluster.run(1)
    cluster.announce(str(vip), edge1="Deleting", edge2="Deleting")
    cluster.run(1)
    assert cluster.copy.services == {}


def test_pools_are_chosen_by_the_labels_of_namespaces() -> None:
    cluster = Cluster()
    pools = [
        {"name": "gold", "cidrs": ["203.0.113.0/28"], "namespaceSelector": {"matchLabels": {"tier": "gold"}}},
        {"name": "rest", "cidrs": ["203.0.113.128/25"], "priority": 200},
    ]
    cluster.settings = parse(SETTINGS | {"pools": pools})
    labels = {"metadata": {"name": "shop", "labels": {"tier": "gold"}}, "kind": "Namespace"}
    cluster.copy.namespaces[ServiceName("", "shop")] = labels
    cluster.put(service(vip=None))
    cluster.run()
    address = cluster.address()
    assert address is not None
    assert ip_address(address) in ip_network("203.0.113.0/28")


def test_a_service_that_gets_the_label_that_excludes_it_is_let_go_and_can_be_deleted() -> None:
    cluster = Cluster()
    cluster.put(service(vip=None))
    cluster.run()
    assert cluster.address() is not None
    raw = deepcopy(cluster.copy.services[WEB])
    raw["metadata"]["labels"] = {"service.kubernetes.io/exclude-from-external-load-balancers": "true"}
    cluster.put(raw)
    cluster.run()
    assert cluster.address() is None
    assert cluster.condition("Accepted") == {}
    assert cluster.copy.services[WEB]["metadata"]["finalizers"] == [], "nothing would take it off later"
    writes = cluster.writes
    cluster.run()
    assert cluster.writes == writes
