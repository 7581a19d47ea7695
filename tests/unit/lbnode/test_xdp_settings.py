"""The settings of the XDP data plane: what is refused, what the ConfigMap says, what a Service is not served, and the memory that a plan tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest

from lbnode.dataplane.xdp_program import Attached, Mode
from lbnode.errors import ConfigError
from lbnode.plan import plan as offline_plan
from lbnode.roles.xdp import how, sizes_of
from lbnode.settings import AgentSettings, parse, parse_json, with_dataplane
from lbnode.translate.edge import EdgePlan, translate_edge
from lbnode.xdp_settings import Xdp
from tests.unit.lbnode.kube_objects import EDGES, SETTINGS, WORKERS, service, settings, snapshot
from tests.unit.lbnode.test_nat import NAT, WEB
from tests.unit.lbnode.test_sctp import SIGNAL_PORT, SLICE, WEB_PORT

XDP = {"devices": ["eth0"]}
LINK = {"name": "tgw", "node": "edge1", "routerAddress": "198.51.100.1", "addresses": ["169.254.6.1/29"]}


def xdp_settings(**changes: Any) -> AgentSettings:
    return parse({**deepcopy(SETTINGS), "dataplane": "xdp", "xdp": {**XDP, **changes}})


def plan(**changes: Any) -> EdgePlan:
    cluster = snapshot(*EDGES, *WORKERS, service(**changes), SLICE)
    return translate_edge(cluster, xdp_settings(), "edge1")


def test_ipvs_is_what_settings_that_say_nothing_get_and_their_text_says_nothing_of_xdp() -> None:
    silent = settings()
    assert silent.dataplane == "ipvs"
    assert json.loads(silent.to_json()).keys().isdisjoint({"dataplane", "xdp"})


def test_the_text_of_settings_of_either_data_plane_reads_back_to_the_same_value() -> None:
    kept = parse({**deepcopy(SETTINGS), "xdp": XDP})
    for value in (settings(), kept, xdp_settings(mode="generic", flowsPerProcessor=1024)):
        assert parse_json(value.to_json()) == value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"xdp": {}}, ("xdp.devices", "Name the devices")),
        ({"forwarding": "nat"}, ("forwarding nat", "Use forwarding tunnel, or dataplane ipvs")),
        ({"dataplane": "ebpf"}, ("dataplane", "ebpf")),
        ({"ipvs": {"maxSynPerSecond": 5000}}, ("ipvs.maxSynPerSecond", "Remove it")),
        ({"outsideEdges": [{"name": "vm1", "addresses": ["198.18.0.13"]}]}, ("outsideEdges", "IPVS alone")),
        ({"bgp": {**SETTINGS["bgp"], "links": [LINK]}}, ("bgp.links", "peers without links")),
        ({"xdp": {**XDP, "flowsPerProcessor": 1500}}, ("1500", "no power of two", "Set it to 2048")),
        ({"xdp": {"devices": ["eth0", "eth0"]}}, ("eth0", "twice", "Remove one")),
        ({"xdp": {"devices": ["a-name-of-sixteen"]}}, ("devices",)),
        ({"xdp": {**XDP, "mode": "offload"}}, ("mode", "offload")),
        ({"xdp": {**XDP, "flows": 4}}, ("flows", "unknown settings key")),
    ],
)
def test_a_wrong_value_is_refused_with_rule_and_way_out(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        parse({**deepcopy(SETTINGS), "dataplane": "xdp", "xdp": XDP, **changes})
    for word in words:
        assert word in str(refused.value)


def test_settings_go_from_one_data_plane_to_the_other_and_back_unchanged() -> None:
    there = xdp_settings(flowsPerProcessor=1024)
    back = with_dataplane(there, "ipvs", "")
    assert (back.dataplane, back.xdp) == ("ipvs", there.xdp)
    assert with_dataplane(back, "xdp", "") == there
    assert with_dataplane(there, "xdp", "") is there


def test_settings_that_xdp_cannot_serve_say_what_keeps_it() -> None:
    with pytest.raises(ConfigError, match=r"started with xdp.*without xdp.devices.*wait for the pod"):
        with_dataplane(settings(), "xdp", "wait for the pod")


def test_no_sysctl_of_ipvs_is_asked_for() -> None:
    assert plan(ports=[WEB_PORT]).state.sysctls == {"net.ipv4.conf.all.rp_filter": "2"}


def test_replies_that_come_back_through_the_node_are_forwarded_by_its_kernel() -> None:
    cluster = snapshot(*EDGES, *WORKERS, service(ports=[WEB_PORT]), SLICE)
    via_edge = parse({**deepcopy(SETTINGS), "dataplane": "xdp", "xdp": XDP, "return": "via-edge"})
    sysctls = translate_edge(cluster, via_edge, "edge1").state.sysctls
    assert sysctls.get("net.ipv4.ip_forward") == "1"
    assert not [name for name in sysctls if ".vs." in name]


def test_an_sctp_port_is_refused_and_the_others_are_served() -> None:
    result = plan(ports=[SIGNAL_PORT, WEB_PORT])
    [rejection] = result.rejections
    assert rejection.reason == "NotByXdp"
    assert "port sig" in rejection.message and "dataplane ipvs" in rejection.message
    assert [s.key for s in result.state.services] == [WEB]


def test_a_service_that_asks_for_nat_is_refused_instead_of_served_by_tunnel() -> None:
    result = plan(ports=[WEB_PORT], annotations=NAT)
    [rejection] = result.rejections
    assert rejection.reason == "NotByXdp"
    assert "samegate.dev/forwarding" in rejection.message
    assert result.state.services == () and result.state.vips == frozenset()


@pytest.mark.parametrize("services", [1, 2, 63, 1023, 16_383])
@pytest.mark.parametrize("processors", [1, 2, 64])
def test_the_memory_that_settings_tell_is_that_of_the_records_as_they_are_laid_out(
    services: int, processors: int
) -> None:
    given = Xdp(services=services, destinations=8 * services, flows_per_processor=1 << 12)
    sizes = sizes_of(given)
    # The layouts are compared with the C compiler's in dataplane/test_xdp_table.py.
    assert sizes.memory_bytes(processors) == given.memory_bytes(processors)
    assert sizes.vip_places & (sizes.vip_places - 1) == 0
    assert sizes.vip_places >= 2 * (services + services), "as many addresses as services, and as many places free"
    assert sizes.flow_sets * 4 == 1 << 12


def test_a_plan_tells_the_memory_of_the_maps_and_one_of_ipvs_does_not() -> None:
    objects = [*EDGES, *WORKERS, service()]
    [note] = [n for n in offline_plan(objects, xdp_settings(flowsPerProcessor=1 << 20)).notes if "xdp" in n]
    # By hand: a million flows of 16 bytes; 1,023 rings of 65,537 four-byte slots are 255.8 MiB of the whole.
    assert "1,048,576 flows take 16 MiB on each processor" in note
    assert "with 2 processors take at most 290 MiB" in note
    assert not [n for n in offline_plan(objects, settings()).notes if "xdp" in n]


@pytest.mark.parametrize(
    ("attached", "words"),
    [
        (Attached("eth0", Mode.NATIVE), ("eth0", "native mode")),
        (Attached("bond0", Mode.GENERIC, "Operation not supported"), ("bond0", "generic", "Operation not supported")),
    ],
)
def test_the_agent_says_in_which_mode_a_device_is_and_why(attached: Attached, words: tuple[str, ...]) -> None:
    assert all(word in how(attached) for word in words)


def test_an_agent_with_ipvs_does_not_load_what_only_xdp_needs() -> None:
    code = "import sys, lbnode.roles.start; print(sorted(m for m in sys.modules if 'xdp' in m or 'libbpf' in m))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    ).stdout
    assert shown.strip() == "['lbnode.xdp_settings']"
