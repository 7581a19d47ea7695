"""Links from settings to what an edge node should have, and to the rules that guard them."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import Any

import pytest

from lbnode.dataplane.rules import render
from lbnode.errors import ConfigError
from lbnode.model import RouterLink
from lbnode.packet_tables import LinkSession
from lbnode.settings import parse
from lbnode.translate.edge import EdgePlan, translate_edge
from tests.unit.lbnode.kube_objects import EDGES, SETTINGS, WORKERS, node, snapshot

LINK: dict[str, Any] = {
    "name": "tgw",
    "node": "edge1",
    "routerAddress": "198.51.100.1",
    "addresses": ["169.254.6.1/29"],
}
PEER: dict[str, Any] = {
    "name": "tgw-1",
    "address": "169.254.6.2",
    "localAddresses": ["169.254.6.1"],
    "nodes": ["edge1"],
    "asn": 64512,
    "bfd": None,
    "multihop": 2,
}
TOR = SETTINGS["bgp"]["peers"][0]
BOTH_FAMILIES = [{"name": "public", "cidrs": ["203.0.113.0/24", "2001:db8:113::/64"]}]


def raw(links: list[dict[str, Any]], peers: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    return SETTINGS | {"bgp": {"localAsn": 65010, "links": links, "peers": [TOR, *(peers or [])]}} | changes


def plan(settings: dict[str, Any], node_name: str = "edge1", *more: Any) -> EdgePlan:
    return translate_edge(snapshot(*EDGES, *WORKERS, *more), parse(settings), node_name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (raw([LINK | {"name": "a-name-too-long"}]), ["links.0.name", "at most 11"]),
        (raw([LINK | {"kind": "vxlan"}]), ["links.0.kind", "'gre'"]),
        (raw([LINK | {"routerAddress": "2001:db8::1"}]), ["2001:db8::1 is an IPv6 address", "GRE over IPv4"]),
        (raw([LINK | {"addresses": []}]), ["links.0.addresses", "at least 1"]),
        (raw([LINK | {"addresses": ["169.254.6.1/32"]}]), ["169.254.6.1/32", "no room", "169.254.6.1/29"]),
        (raw([LINK | {"addresses": ["169.254.6.1/29", "169.254.7.1/29"]}]), ["two addresses of one family"]),
        (raw([LINK | {"addresses": ["169.254.6.1/29", "fd00::1/125"]}]), ["no pool is IPv6", "guard"]),
        (raw([LINK | {"addresses": ["203.0.113.1/29"]}]), ["203.0.113.1/29", "overlaps pool public"]),
        (raw([LINK | {"addresses": ["198.18.0.1/29"]}]), ["198.18.0.1/29", "overlaps the node network"]),
        (raw([LINK | {"ttl": 0}]), ["links.0.ttl = 0"]),
        (raw([LINK | {"mtuBytes": 1500}]), ["mtuBytes 1500", "1500", "Lower it to 1476"]),
        (raw([LINK | {"mtuBytes": 1000}], pools=BOTH_FAMILIES), ["1000 bytes", "1280", "RFC 8200"]),
        (raw([LINK, LINK | {"routerAddress": "198.51.100.2"}]), ["two links have the name tgw on node edge1"]),
        (raw([LINK, LINK | {"name": "b"}]), ["two links have the router address 198.51.100.1 on node edge1"]),
        (raw([LINK, LINK | {"node": "edge2"}]), ["two links have the address 169.254.6.1"]),
        (raw([LINK], [PEER | {"address": "169.254.9.2"}]), ["peer tgw-1", "169.254.9.2 is not in 169.254.6.0/29"]),
    ],
)  # fmt: skip
def test_a_wrong_link_is_refused_with_value_rule_and_way_out(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(settings)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.way_out


def test_a_link_is_made_by_its_own_node_from_the_nodes_address_and_for_the_size_that_gre_leaves() -> None:
    assert plan(raw([LINK], [PEER])).state.links == {
        RouterLink(
            "tgw",
            node_address=ip_address("198.18.0.11"),
            router_address=ip_address("198.51.100.1"),
            addresses=frozenset({IPv4Interface("169.254.6.1/29")}),
            ttl=64,
            mtu_bytes=1476,
        )
    }
    assert plan(raw([LINK], [PEER]), "edge2").state.links == frozenset()


def test_a_link_takes_ipv6_when_there_are_ipv6_pools_that_the_node_serves() -> None:
    two = raw([LINK | {"addresses": ["169.254.6.1/29", "fd00::1/125"]}], pools=BOTH_FAMILIES)
    (link,) = plan(two).state.links
    assert (link.ipv6, link.addresses) == (False, {IPv4Interface("169.254.6.1/29")}), "edge1 has no IPv6 address"
    dual = node("edge9", "198.18.0.19,2001:db8::19", role="edge")
    two["bgp"]["links"][0]["node"] = "edge9"
    (link,) = plan(two, "edge9", dual).state.links
    assert (link.ipv6, link.addresses) == (True, {IPv4Interface("169.254.6.1/29"), IPv6Interface("fd00::1/125")})


def test_the_filter_knows_the_links_addresses_and_who_speaks_bgp_to_them() -> None:
    table = plan(raw([LINK], [PEER])).filter
    own, router = ip_address("169.254.6.1"), ip_address("169.254.6.2")
    assert table.link_addresses == {own}
    assert table.sessions == {LinkSession(own, 1790, router, 179, bfd=False)}
    assert plan(raw([LINK], [PEER | {"bfd": {}}])).filter.sessions == {LinkSession(own, 1790, router, 179, bfd=True)}
    assert plan(raw([], [])).filter.sessions == frozenset()


def test_bgp_is_let_in_by_the_link_and_bfd_only_where_it_is_spoken() -> None:
    def rules(peer: dict[str, Any]) -> list[str]:
        chains = render(plan(raw([LINK], [peer])).filter)[4, "mangle"].chains
        assert chains["SAMEGATE-FORWARD"] == ("-d 203.0.113.0/24 -j DROP", "-i sgl-+ -j DROP")
        return [r for r in chains["SAMEGATE-INPUT"] if "203.0.113.0/24" not in r]

    between = "-s 169.254.6.2/32 -d 169.254.6.1/32 -i sgl-+"
    tcp = [
        f"{between} -p tcp -m tcp --dport 1790 -j ACCEPT",
        f"{between} -p tcp -m tcp --sport 179 ! --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
    ]
    rest = [
        "-d 169.254.6.1/32 -i sgl-+ -p icmp -m icmp --icmp-type 3 -j ACCEPT",
        "-d 169.254.6.1/32 -j DROP",
        "-i sgl-+ -j DROP",
    ]
    assert rules(PEER) == [*tcp, *rest]
    # RFC 5881 for one hop, RFC 5883 for several.
    bfd = [f"{between} -p udp -m udp --dport {port} -j ACCEPT" for port in (3784, 4784)]
    assert rules(PEER | {"bfd": {}}) == [*tcp, *bfd, *rest]


@pytest.mark.parametrize(
    ("mtu_bytes", "segment_bytes"),
    # GRE leaves 1476 of 1500, the tunnel to the worker 1480; 40 are headers. A smaller link counts, a larger one does not.
    [(None, 1436), (1400, 1360)],
)
def test_segments_fit_the_link_that_requests_come_by_too(mtu_bytes: int | None, segment_bytes: int) -> None:
    assert parse(raw([LINK | {"mtuBytes": mtu_bytes}])).max_segment_bytes(4) == segment_bytes
    assert parse(raw([])).max_segment_bytes(4) == 1440


def test_a_link_that_nobody_makes_is_told_of() -> None:
    assert "link tgw is for node worker1, which is no edge node" in " ".join(
        plan(raw([LINK | {"node": "worker1"}])).warnings
    )
    only6 = node("edge9", "2001:db8::19", role="edge")
    assert "edge node edge9 has no internal IPv4 address" in " ".join(
        plan(raw([LINK | {"node": "edge9"}]), "edge9", only6).warnings
    )


def test_a_node_without_an_address_of_the_routers_family_speaks_from_its_link() -> None:
    far = {"name": "tgw-6", "address": "fd00::2", "nodes": ["edge1"]}
    link = LINK | {"addresses": ["169.254.6.1/29", "fd00::1/125"]}
    without, with_link = (
        " ".join(plan(raw([link], [PEER | far | local], pools=BOTH_FAMILIES)).warnings)
        for local in ({"localAddresses": []}, {"localAddresses": ["fd00::1"]})
    )
    assert "to speak from to peer tgw-6" in without
    assert "to speak from to peer tgw-6" not in with_link
