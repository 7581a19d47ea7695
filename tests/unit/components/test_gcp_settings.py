"""GCP settings: every mistake is told with value, rule and way out, before anything is registered."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from stack_values import agent_with

from components.gcp.settings import Gcp, check_agent
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings
from tests.providers.stacks import gcp


def _refused(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Gcp.model_validate(values)
    return str(caught.value)


@pytest.mark.parametrize("fabric", ["router-appliance", "passthrough"])
def test_a_small_stack_of_each_fabric_is_read(fabric: str) -> None:
    settings = Gcp.model_validate(gcp(fabric))
    check_agent(settings, agent_with())
    assert [node.name for node in settings.edge.nodes] == ["edge1", "edge2"]


IMAGE = "projects/debian-cloud/global/images/debian-13-trixie-v20261110"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datapath": "advanced"}, ("Dataplane V2", "cilium#33020", "Leave it out")),
        ({"autopilot": True}, ("Autopilot", "Leave it out")),
        ({"cloudRouter": {"bfd": True}}, ("cloudRouter.bfd", "would be ignored", "Remove it")),
        ({"zones": ["europe-west3-a", "europe-west4-b"]}, ("europe-west4-b", "region europe-west3", "Name zones like")),
        ({"edgeCidr": "10.80.8.0/24"}, ("edgeCidr 10.80.8.0/24", "overlaps nodeCidr", "Move one")),
        ({"edgeCidr": "10.80.16.0/29"}, ("edgeCidr 10.80.16.0/29", "edge node 2", "Widen")),
        ({"masterCidr": "172.16.255.0/27"}, ("172.16.255.0/27", "/28")),
        ({"mtuBytes": 9001}, ("mtuBytes", "8896")),
        ({"kubernetesVersion": "1.19"}, ("'1.19'", "Use one of")),
        ({"kubernetesVersion": "1.34"}, ("'1.34'", "every preview", "get-server-config")),
        ({"apiServer": {"access": "cidrs", "cidrs": ["0.0.0.0/0"]}}, ("0.0.0.0/0", "everybody", "operators")),
        ({"edge": {"image": "projects/debian-cloud/global/images/family/debian-13", "nodes": []}}, ("image",)),
        ({"edge": {"image": IMAGE, "nodes": [{"number": 1, "zone": "europe-west3-a"}]}}, ("every VIP", "another zone")),
        ({"edge": {**gcp()["edge"], "machineType": "c3.large"}}, ("c3.large", "families")),
        ({"workers": {"machineType": "x9-standard-4"}}, ("x9-standard-4", "families")),
    ],
)
def test_a_mistake_names_value_rule_and_way_out(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    text = _refused(gcp(**changes))
    for word in words:
        assert word in text


def test_a_cloud_router_without_bgp_is_refused() -> None:
    assert "would be ignored" in _refused(gcp("passthrough", cloudRouter={}))


def test_more_nodes_than_a_router_has_peers_for_are_refused() -> None:
    # Cloud Router quotas: 128 peers, and each node has two.
    assert "less than or equal to 64" in _refused(gcp(numbers=(1, 2, 65)))


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (agent_with(asn=64512), ("localAsn 64512", "Change one")),
        (agent_with("10.80.16.128/26"), ("10.80.16.128/26", "edgeCidr", "cannot be overridden")),
        (agent_with("203.0.113.0/24"), ("256 addresses", "250 prefixes", "uniquePrefixes")),
    ],
)
def test_a_pool_or_number_that_the_fabric_cannot_carry_is_refused(agent: AgentSettings, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_agent(Gcp.model_validate(gcp()), agent)
    for word in words:
        assert word in str(caught.value)


def test_a_raised_quota_carries_a_larger_pool() -> None:
    check_agent(Gcp.model_validate(gcp(cloudRouter={"uniquePrefixes": 1000})), agent_with("203.0.113.0/24"))
