"""Stacks on a cloud: what follows from the platform, and every mistake that is told before anything is registered."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stack_values import IMAGE, raw

from components.aws import credential as aws_credential
from components.gcp import credential as gcp_credential
from components.gcp.plan import edge_user
from components.gcp.settings import Gcp
from components.provision import provision
from components.settings import StackSettings, parse
from lbnode.errors import ConfigError
from tests.providers.stacks import aws, gcp

ROOT = Path(__file__).resolve().parents[3]
CLOUDS = {"aws": aws, "gcp": gcp}


def _stack(platform: dict[str, Any], agent: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    least = {
        "pools": [{"name": "public", "cidrs": ["203.0.113.0/26"]}],
        "bgp": {"localAsn": 65010},
        "forwarding": "nat",
    }
    return {"platform": platform, "image": IMAGE, "agent": least if agent is None else {**least, **agent}, **changes}


def _refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(values)
    return str(caught.value)


def _read(values: dict[str, Any]) -> StackSettings:
    return parse(values)


def test_sessions_of_a_transit_gateway_come_out_of_each_nodes_own_tunnel() -> None:
    # Transit Gateway guide, Connect peers: the appliance has the first address of the /29, the gateway the second and third.
    peers = _read(_stack(aws())).agent.bgp.peers
    assert [(p.name, str(p.address), [str(a) for a in p.local_addresses]) for p in peers] == [
        ("tgw-edge1-1", "169.254.100.2", ["169.254.100.1"]),
        ("tgw-edge1-2", "169.254.100.3", ["169.254.100.1"]),
        ("tgw-edge2-1", "169.254.100.10", ["169.254.100.9"]),
        ("tgw-edge2-2", "169.254.100.11", ["169.254.100.9"]),
    ]
    assert {p.nodes for p in peers[:2]} == {("ip-10-64-128-10.eu-central-1.compute.internal",)}
    assert all(p.bfd is None and p.multihop == 2 for p in peers)


def test_nodes_of_one_zone_share_the_endpoints_of_a_route_server() -> None:
    # VPC guide, Route Server: an endpoint is an address in one subnet; quotas: two of them a subnet.
    peers = _read(_stack(aws("route-server", numbers=(1, 2, 3)))).agent.bgp.peers
    assert [(p.name, len(p.nodes)) for p in peers] == [
        ("rs-eu-central-1a-1", 2),
        ("rs-eu-central-1a-2", 2),
        ("rs-eu-central-1b-1", 1),
        ("rs-eu-central-1b-2", 1),
    ]
    assert len({p.address for p in peers}) == 4


def test_every_node_has_the_same_two_sessions_with_a_cloud_router_without_bfd() -> None:
    peers = _read(_stack(gcp(numbers=(1, 2, 3, 4)))).agent.bgp.peers
    assert [(str(p.address), p.nodes, p.bfd) for p in peers] == [("10.80.16.4", (), None), ("10.80.16.5", (), None)]


@given(st.sampled_from(["10.64.0.0/16", "172.31.16.0/20"]), st.integers(4, 4000), st.integers(4, 4000))
def test_no_two_nodes_of_a_vpc_have_the_same_probe_address(vpc: str, one: int, other: int) -> None:
    agent = _read(_stack(aws(vpcCidr=vpc, serviceCidr="10.100.0.0/16"))).agent
    network = IPv4Network(vpc)
    first, second = agent.probe_address(network[one]), agent.probe_address(network[other])
    assert (first == second) == (one == other)
    # RFC 6890: for tests of devices; never in a VPC.
    assert isinstance(first, IPv4Address)
    assert first in IPv4Network("198.18.0.0/15")


def test_a_stacks_own_probe_network_counts() -> None:
    agent = _read(_stack(aws(), {"network": {"probeCidrs": ["198.19.0.0/16"]}})).agent
    assert [str(n) for n in agent.network.probe_cidrs] == ["198.19.0.0/16"]


PEER = {"name": "tor1", "address": "198.51.100.2", "asn": 65001}


@pytest.mark.parametrize("make", CLOUDS.values(), ids=CLOUDS)
@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ({"bgp": {"localAsn": 65010, "peers": [PEER]}}, ("agent.bgp.peers", "follow from platform", "Remove it")),
        ({"bgp": {"localAsn": 65010, "links": []}}, ("agent.bgp.links", "follow from platform", "Remove it")),
        ({"network": {"nodeCidrs": ["10.0.0.0/8"]}}, ("network.nodeCidrs", "follows from platform", "Remove it")),
        ({"network": {"fabricMtuBytes": 1500}}, ("network.fabricMtuBytes = 1500", "would be ignored", "Remove it")),
        ({"forwarding": "tunnel"}, ("forwarding 'tunnel'", "VIP as source", "forwarding: nat", "return: via-edge")),
        ({"bgp": {"localAsn": 64512}}, ("localAsn 64512", "Change one")),
        ({"pools": [{"name": "v6", "cidrs": ["2001:db8::/64"]}]}, ("IPv6", "addressFamilies")),
        ({"bgp": {}}, ("bgp.localAsn", "required and missing")),
        (
            {"pools": [{"name": "p", "cidrs": ["203.0.113.0/26"], "nodes": ["edge9"]}]},
            ("pool p", "'edge9'", "Correct the one or the other"),
        ),
    ],
)
def test_a_mistake_in_the_agents_share_names_value_rule_and_way_out(
    make: Any, agent: dict[str, Any], words: tuple[str, ...]
) -> None:
    text = _refused(_stack(make(), agent))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("platform", "pool", "words"),
    [
        (aws(), "10.64.192.0/26", ("10.64.192.0/26", "overlaps", "10.64.0.0/16", "Choose a network")),
        (aws(), "10.255.0.0/26", ("10.255.0.0/26", "transitGateway.cidr 10.255.0.0/24", "outside every VPC")),
        (aws("route-server"), "203.0.113.0/24", ("256 addresses", "100 routes", "/26")),
        (gcp(), "10.80.16.64/26", ("10.80.16.64/26", "overlaps", "10.80.16.0/24", "Choose a network")),
        (gcp(), "203.0.113.0/24", ("256 addresses", "250 prefixes", "Use smaller pools")),
    ],
)
def test_a_pool_that_the_fabric_cannot_carry_is_refused(
    platform: dict[str, Any], pool: str, words: tuple[str, ...]
) -> None:
    text = _refused(_stack(platform, {"pools": [{"name": "public", "cidrs": [pool]}]}))
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ({**aws(), "kind": "azure"}, ("platform.kind = 'azure'", "Use one of onprem, aws, gcp")),
        ({**gcp(), "kind": "aws"}, ("platform.", "more finding")),
        ({**aws(), "kind": "gcp"}, ("platform.", "more finding")),
        ({**aws(), "kind": "onprem"}, ("platform.", "more finding")),
        (aws(bfd=True), ("platform.bfd", "unknown settings key", "Remove it")),
        (gcp("passthrough"), ("'passthrough'", "no BGP", "router-appliance")),
        (gcp(cloudRouter={"bfd": {}}), ("cloudRouter", "bfd would be ignored", "Remove it")),
    ],
)
def test_a_platform_that_cannot_be_is_refused_with_its_key(platform: dict[str, Any], words: tuple[str, ...]) -> None:
    text = _refused(_stack(platform))
    for word in words:
        assert word in text


def test_a_platform_without_a_kind_is_your_own_cluster_as_ever() -> None:
    values = raw()
    del values["platform"]["kind"]
    assert parse(values, bgp_keys=["tor"]).platform.kind == "onprem"


def _provisioned(platform: dict[str, Any], kubeconfig: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        provision(parse(_stack(platform)), ROOT, kubeconfig, None)
    return str(caught.value)


def test_googles_edge_nodes_stand_outside_the_cluster_under_the_names_that_pools_use() -> None:
    nodes = [{"number": 2, "zone": "europe-west3-b", "draining": True}, {"number": 1, "zone": "europe-west3-a"}]
    settings = parse(_stack(gcp(edge={**gcp()["edge"], "nodes": nodes})))
    assert [edge.model_dump(mode="json") for edge in settings.agent.outside_edges] == [
        # VPC documentation: the first two addresses and the last two of a subnet are Google's; ours count from ten.
        {
            "name": f"samegate-edge{number}",
            "addresses": [f"10.80.16.{9 + number}"],
            "labels": {"topology.kubernetes.io/zone": f"europe-west3-{zone}"},
            "draining": draining,
        }
        for number, zone, draining in ((1, "a", False), (2, "b", True))
    ]
    assert {edge.name for edge in settings.agent.outside_edges} == set(settings.edge_node_names)


def test_edge_nodes_of_aws_are_nodes_of_the_cluster() -> None:
    assert parse(_stack(aws())).agent.outside_edges == ()


def test_outside_edge_nodes_that_would_be_ignored_are_refused() -> None:
    text = _refused(_stack(gcp(), {"outsideEdges": [{"name": "vm1", "addresses": ["198.51.100.31"]}]}))
    for word in ("agent.outsideEdges", "would be ignored", "Remove it", "draining: true"):
        assert word in text


@pytest.mark.parametrize(
    ("project", "user"),
    [
        ("samegate-test", "samegate-edge@samegate-test.iam.gserviceaccount.com"),
        # IAM documentation, service accounts: projects of a domain.
        ("example.com:samegate-test", "samegate-edge@samegate-test.example.com.iam.gserviceaccount.com"),
    ],
)
def test_edge_vms_are_to_the_api_server_what_iam_calls_their_account(project: str, user: str) -> None:
    assert edge_user(Gcp.model_validate(gcp(project=project))) == user


def test_each_edge_node_has_the_link_into_its_transit_gateway_that_its_sessions_need() -> None:
    agent = parse(_stack(aws())).agent
    assert [link.model_dump(mode="json") for link in agent.bgp.links] == [
        {
            "name": "tgw",
            "kind": "gre",
            "node": f"ip-10-64-{host}.eu-central-1.compute.internal",
            "router_address": f"10.255.0.{number}",
            "addresses": [f"169.254.100.{inside}/29"],
            "ttl": 64,
            "mtu_bytes": 8456,
        }
        for number, host, inside in ((1, "128-10", 1), (2, "136-11", 9))
    ]
    ends = {link.node: link.addresses[0].network for link in agent.bgp.links}
    for peer in agent.bgp.peers:
        assert peer.address in ends[peer.nodes[0]]


@pytest.mark.parametrize("make", CLOUDS.values(), ids=CLOUDS)
def test_a_cloud_takes_tunnels_whose_replies_return_by_an_edge_node(make: Any) -> None:
    assert parse(_stack(make(), {"forwarding": "tunnel", "return": "via-edge"})).agent.return_path == "via-edge"


def test_a_route_server_needs_no_links() -> None:
    assert parse(_stack(aws("route-server"))).agent.bgp.links == ()


@pytest.mark.parametrize("make", CLOUDS.values(), ids=CLOUDS)
def test_a_kubeconfig_for_a_cluster_that_is_yet_to_be_made_is_refused(make: Any) -> None:
    text = _provisioned(make(), "apiVersion: v1")
    for word in ("samegate:kubeconfig", "would be ignored", "pulumi config rm"):
        assert word in text


def test_missing_aws_credentials_are_told_before_anything_is_registered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    text = _provisioned(aws("route-server"))
    for word in ("AWS credentials", "there are none", "AWS_PROFILE"):
        assert word in text
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(ConfigError, match="absent"):
        aws_credential.require()


def test_missing_google_credentials_are_told_with_where_to_set_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Neither a user's nor a machine's, so that nobody is asked.
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(ConfigError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        gcp_credential.require()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(ROOT / "tests/providers/google_user.json"))
    gcp_credential.require()


@pytest.mark.parametrize("stack", sorted(p.name for p in (ROOT / "stacks").glob("Pulumi.*.yaml")))
def test_every_committed_stack_fits_the_schema_that_editors_use(stack: str) -> None:
    schema = json.loads((ROOT / "stacks/schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load((ROOT / "stacks" / stack).read_text()))


def test_the_schema_refuses_sessions_on_a_cloud_and_wants_them_elsewhere() -> None:
    schema = jsonschema.Draft202012Validator(json.loads((ROOT / "stacks/schema.json").read_text()))

    def fits(values: dict[str, Any]) -> bool:
        config = {f"samegate:{key}": value for key, value in values.items()}
        return bool(schema.is_valid({"config": config}))

    assert fits(_stack(aws()))
    assert not fits(_stack(aws(), {"bgp": {"localAsn": 65010, "peers": [PEER]}}))
    assert fits(raw())
    without = raw()
    del without["agent"]["bgp"]["peers"]
    assert not fits(without)
