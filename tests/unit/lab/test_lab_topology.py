"""The rack's plan does not contradict itself."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network, IPv6Network
from itertools import combinations

import pytest

from lab import network, topology


def test_every_address_of_the_rack_is_given_once() -> None:
    ends = [end for link in topology.LINKS for end in (link.left, link.right)]
    given = [address.ip for end in ends for address in end.addresses]
    given += [address for node in topology.NODES for address in (node.address, node.address6)]
    assert [address for address, times in Counter(given).items() if times > 1] == []


NETWORKS6 = [
    topology.RACK_NETWORK6,
    topology.CORE_TOR1_NETWORK6,
    topology.CORE_TOR2_NETWORK6,
    topology.CLIENT_NETWORK6,
    topology.POD_NETWORK6,
    topology.SERVICE_NETWORK6,
    topology.VIP_POOL6,
    topology.PROBE_NETWORK6,
]


def test_ipv6_networks_of_different_purpose_do_not_overlap_and_are_for_documentation() -> None:
    assert [(a, b) for a, b in combinations(NETWORKS6, 2) if a.overlaps(b)] == []
    assert all(network.subnet_of(IPv6Network("2001:db8::/32")) for network in NETWORKS6)


def test_ends_and_nodes_lie_in_the_network_of_their_cable() -> None:
    for link in topology.LINKS:
        networks = {end.address6.network for end in (link.left, link.right) if end.address6 is not None}
        assert len(networks) <= 1
        assert networks <= set(NETWORKS6)
    assert all(node.address6 in topology.RACK_NETWORK6 for node in topology.NODES)


def test_networks_of_different_purpose_do_not_overlap() -> None:
    networks = [
        topology.RACK_NETWORK,
        topology.CORE_TOR1_NETWORK,
        topology.CORE_TOR2_NETWORK,
        topology.CLIENT_NETWORK,
        topology.POD_NETWORK,
        topology.SERVICE_NETWORK,
        topology.VIP_POOL,
        topology.PROBE_NETWORK,
    ]
    assert [(a, b) for a, b in combinations(networks, 2) if a.overlaps(b)] == []


def test_no_address_of_the_lab_can_be_a_real_one() -> None:
    reserved = [IPv4Network("198.18.0.0/15"), IPv4Network("203.0.113.0/24"), IPv4Network("192.0.2.0/24")]
    used = [topology.RACK_NETWORK, topology.CLIENT_NETWORK, topology.POD_NETWORK, topology.SERVICE_NETWORK]
    used += [topology.VIP_POOL, topology.PROBE_NETWORK, topology.CORE_TOR1_NETWORK, topology.CORE_TOR2_NETWORK]
    assert [network for network in used if not any(network.subnet_of(whole) for whole in reserved)] == []


def test_each_node_has_its_own_share_of_the_pod_network() -> None:
    shares = [node.pod_network for node in topology.NODES]
    assert all(share.subnet_of(topology.POD_NETWORK) for share in shares)
    assert not any(a.overlaps(b) for a, b in combinations(shares, 2))
    shares6 = [node.pod_network6 for node in topology.NODES]
    assert all(share.subnet_of(topology.POD_NETWORK6) for share in shares6)
    assert not any(a.overlaps(b) for a, b in combinations(shares6, 2))


def test_macs_are_locally_administered_unicast_and_distinct() -> None:
    macs = [node.mac for node in topology.NODES]
    assert len(set(macs)) == len(macs)
    assert all(int(mac.split(":")[0], 16) & 0b11 == 0b10 for mac in macs)


def test_device_names_fit_the_kernel() -> None:
    names = [end.interface for link in topology.LINKS for end in (link.left, link.right)]
    names += [node.tap for node in topology.NODES]
    assert [name for name in names if len(name) > 15] == []  # IFNAMSIZ - 1


def test_devices_of_one_namespace_have_different_names() -> None:
    ends = [(end.namespace, end.interface) for link in topology.LINKS for end in (link.left, link.right)]
    ends += [(topology.RACK, node.tap) for node in topology.NODES] + [(topology.RACK, topology.RACK_BRIDGE)]
    assert [end for end, times in Counter(ends).items() if times > 1] == []


def test_cables_lie_between_namespaces_of_the_lab() -> None:
    used = {end.namespace for link in topology.LINKS for end in (link.left, link.right)}
    assert used == set(topology.NAMESPACES)
    assert all(name.startswith("sg-") for name in topology.NAMESPACES)


def test_an_unknown_node_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'edge9'.*edge1, edge2, worker1, worker2"):
        topology.node("edge9")


def test_an_unknown_router_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"'spine'.*core, tor1, tor2"):
        topology.router("spine")


@pytest.mark.parametrize("namespace", [topology.CLIENT, topology.CONTROL])
def test_hosts_believe_redirects_of_neither_family(namespace: str) -> None:
    settings = network.sysctls(namespace)
    keys = [f"net.{family}.conf.{what}.accept_redirects" for family in ("ipv4", "ipv6") for what in ("all", "default")]
    assert [settings.get(key) for key in keys] == ["0", "0", "0", "0"]
