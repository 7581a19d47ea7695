"""AWS settings: every mistake is told with value, rule and way out, before anything is registered."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stack_values import agent_with

from components.aws.addressing import layout
from components.aws.cost import estimate
from components.aws.settings import RESERVED_INSIDE, Aws, TransitGateway, check_agent
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings
from tests.providers.stacks import aws


def _refused(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Aws.model_validate(values)
    return str(caught.value)


@pytest.mark.parametrize("fabric", ["transit-gateway", "route-server"])
def test_a_small_stack_of_each_fabric_is_read(fabric: str) -> None:
    settings = Aws.model_validate(aws(fabric))
    check_agent(settings, agent_with())
    assert [node.name for node in settings.edge.nodes] == ["edge1", "edge2"]


NODES = [{"number": 1, "zone": "eu-central-1a"}, {"number": 2, "zone": "eu-central-1b"}]
IMAGE = "ami-0123456789abcdef0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zones": ["eu-central-1a"]}, ("zones", "at least 2")),
        ({"zones": ["eu-central-1a", "us-east-1b"]}, ("us-east-1b", "region eu-central-1", "Name zones like")),
        ({"vpcCidr": "10.0.0.0/8"}, ("10.0.0.0/8", "/16 to /20", "Choose another")),
        ({"serviceCidr": "10.64.128.0/20"}, ("serviceCidr 10.64.128.0/20", "overlaps vpcCidr", "Move one")),
        (
            {"transitGateway": {"cidr": "10.64.255.0/24"}},
            ("transitGateway.cidr", "overlaps vpcCidr", "outside every VPC"),
        ),
        ({"transitGateway": {"cidr": "10.255.0.0/25"}}, ("10.255.0.0/25", "a /24 or larger", "Widen")),
        ({"transitGateway": {"inside": "10.0.0.0/22"}}, ("10.0.0.0/22", "169.254.0.0/16", "Use 169.254.100.0/22")),
        ({"transitGateway": {"inside": "169.254.4.0/22"}}, ("169.254.4.0/29", "AWS keeps", "Move")),
        ({"routeServer": {}}, ("routeServer", "would be ignored", "Remove it")),
        ({"kubernetesVersion": "1.19"}, ("'1.19'", "Use one of")),
        ({"internetIngress": "nlb"}, ("'nlb'", "hide the VIP", "Leave it out")),
        ({"apiServer": {"access": "cidrs"}}, ("'cidrs'", "go together", "Name the networks")),
        ({"apiServer": {"access": "cidrs", "cidrs": ["0.0.0.0/0"]}}, ("0.0.0.0/0", "everybody", "operators")),
        ({"apiServer": {"access": "proxy"}}, ("proxyUrl", "go together")),
        ({"edge": {"image": IMAGE, "nodes": NODES, "machineType": "c7gm.large"}}, ("c7gm.large", "families")),
        ({"edge": {"image": "latest", "nodes": NODES}}, ("image", "ami-")),
        ({"edge": {"image": IMAGE, "nodes": [NODES[0]]}}, ("zone eu-central-1a", "every VIP", "another zone")),
        (
            {"edge": {"image": IMAGE, "nodes": [NODES[0], {"number": 1, "zone": "eu-central-1b"}]}},
            ("number 1", "Change one"),
        ),
        (
            {"edge": {"image": IMAGE, "nodes": [NODES[0], {"number": 2, "zone": "eu-central-1c"}]}},
            ("'eu-central-1c'", "Correct"),
        ),
    ],
)
def test_a_mistake_names_value_rule_and_way_out(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    text = _refused(aws(**changes))
    for word in words:
        assert word in text


def test_a_route_server_without_clients_is_refused() -> None:
    assert "clientCidrs is empty" in _refused(aws("route-server", routeServer={}))


def test_more_nodes_than_a_route_server_has_sessions_for_are_refused() -> None:
    text = _refused(aws("route-server", numbers=tuple(range(1, 22))))
    assert "21 edge nodes" in text
    assert "transit-gateway" in text


@pytest.mark.parametrize(
    ("fabric", "agent", "words"),
    [
        ("transit-gateway", agent_with(asn=64512), ("localAsn 64512", "Change one")),
        ("transit-gateway", agent_with("10.64.3.0/24"), ("10.64.3.0/24", "vpcCidr", "outside every VPC")),
        ("transit-gateway", agent_with("10.255.0.0/26"), ("10.255.0.0/26", "transitGateway.cidr")),
        ("route-server", agent_with("203.0.113.0/25"), ("128 addresses", "100 routes", "transit-gateway")),
    ],
)
def test_a_pool_or_number_that_the_fabric_cannot_carry_is_refused(
    fabric: str, agent: AgentSettings, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_agent(Aws.model_validate(aws(fabric)), agent)
    for word in words:
        assert word in str(caught.value)


def test_a_large_pool_is_no_matter_to_a_transit_gateway() -> None:
    check_agent(Aws.model_validate(aws()), agent_with("203.0.113.0/24"))


@given(st.integers(16, 20), st.integers(2, 3))
def test_subnets_lie_in_the_vpc_and_never_overlap(length: int, zones: int) -> None:
    vpc = IPv4Network(("10.64.0.0", length))
    plan = layout(vpc, ("a", "b", "c")[:zones])
    blocks = [b for part in (plan.workers, plan.edge, plan.public) for b in part.values()]
    assert len(blocks) == 3 * zones
    assert all(b.subnet_of(vpc) for b in blocks)
    assert not any(x.overlaps(y) for i, x in enumerate(blocks) for y in blocks[:i])


def test_a_third_zone_moves_no_subnet_of_the_first_two() -> None:
    vpc = IPv4Network("10.64.0.0/16")
    two, three = layout(vpc, ("a", "b")), layout(vpc, ("a", "b", "c"))
    assert three.workers.items() >= two.workers.items()
    assert three.edge.items() >= two.edge.items()


@given(st.integers(1, 64))
def test_inside_blocks_are_distinct_and_none_of_awss_own(number: int) -> None:
    gateway = TransitGateway()
    block = gateway.inside_block(number)
    assert block.prefixlen == 29
    assert block not in RESERVED_INSIDE
    assert number == 64 or not block.overlaps(gateway.inside_block(number + 1))


def test_six_route_server_endpoints_cost_what_the_evidence_says() -> None:
    # clouds evidence, 1a: six endpoints (2 in each of 3 zones) are about $3,300 a month.
    zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    lines = estimate(Aws.model_validate(aws("route-server", zones=zones))).lines
    assert lines["Route Server endpoints"] == pytest.approx(3300, rel=0.01)


def test_a_second_connect_attachment_costs_another_attachment() -> None:
    one, two = (
        estimate(Aws.model_validate(aws(numbers=tuple(range(1, last + 1))))).lines[
            "Transit Gateway attachments (VPC and Connect)"
        ]
        for last in (4, 5)
    )
    # $0.05 an attachment-hour (evidence F7), 730 hours.
    assert two - one == pytest.approx(36.5)
