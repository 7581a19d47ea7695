"""Links to routers: the devices that an edge node makes, and who is answered on their addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from lbnode.dataplane.base import EdgeDataPlane
from lbnode.dataplane.edge import KernelEdge
from lbnode.diff import diff_edge
from lbnode.errors import ConfigError
from lbnode.model import EdgeState, Protocol, RouterLink, VirtualKey
from lbnode.operations import EnsureLink, RemoveLink
from lbnode.packet_tables import EdgeFilter, LinkSession
from tests.conformance.node import IPV4, IPV6, POOLS, sh
from tests.conformance.star import at, build_star

INSIDE4, INSIDE6 = ip_interface("169.254.6.1/29"), ip_interface("fd00:6::1/125")
ROUTER4, ROUTER6 = INSIDE4.network[2], INSIDE6.network[2]
LINK = RouterLink(
    "tgw-1", IPV4.node, ip_address("198.18.0.77"), frozenset({INSIDE4, INSIDE6}), ttl=64, mtu_bytes=1400, ipv6=True
)


def is_kernel(plane: object) -> bool:
    return isinstance(plane, KernelEdge)


def test_a_link_comes_ready_and_repeating_is_harmless(edge: EdgeDataPlane) -> None:
    edge.apply([EnsureLink(LINK), EnsureLink(LINK)])
    assert edge.read().links == {LINK}
    if is_kernel(edge):
        shown = sh("ip -d addr show dev sgl-tgw-1")
        assert f"gre remote {LINK.router_address} local {LINK.node_address} ttl 64" in shown
        assert "mtu 1400" in shown
        assert ",UP" in shown
        assert "inet 169.254.6.1/29" in shown
        assert "inet6 fd00:6::1/125" in shown


def test_a_link_without_ipv6_takes_none(edge: EdgeDataPlane) -> None:
    only4 = replace(LINK, addresses=frozenset({INSIDE4}), ipv6=False)
    edge.apply([EnsureLink(LINK), EnsureLink(only4)])
    assert edge.read().links == {only4}
    if is_kernel(edge):
        assert "inet6" not in sh("ip addr show dev sgl-tgw-1")


@pytest.mark.parametrize(
    "changed",
    [
        replace(LINK, router_address=ip_address("198.18.0.78")),
        replace(LINK, addresses=frozenset({ip_interface("169.254.7.1/29"), INSIDE6})),
        replace(LINK, addresses=frozenset({ip_interface("169.254.6.1/30")})),
        replace(LINK, mtu_bytes=1300, ttl=255),
        replace(LINK, name="tgw-2"),
    ],
    ids=["router", "address", "length", "size", "name"],
)
def test_the_diff_turns_a_link_into_what_the_settings_say_now(edge: EdgeDataPlane, changed: RouterLink) -> None:
    for wanted in (LINK, changed):
        state = replace(edge.read(), links=frozenset({wanted}))
        edge.apply(diff_edge(state, None, edge.read()))
        assert edge.read() == state
        assert diff_edge(state, None, edge.read()) == ()


def test_a_link_goes_and_the_other_stays(edge: EdgeDataPlane) -> None:
    other = RouterLink(
        "b", IPV4.node, ip_address("198.18.0.78"), frozenset({ip_interface("169.254.7.1/30")}), 64, 1400, True
    )
    edge.apply([EnsureLink(LINK), EnsureLink(other), RemoveLink(LINK.device), RemoveLink(LINK.device)])
    assert edge.read().links == {other}
    edge.clean()
    assert edge.read().links == frozenset()


def test_two_links_with_the_same_ends_are_refused_with_the_way_out(edge: EdgeDataPlane) -> None:
    edge.apply([EnsureLink(LINK)])
    with pytest.raises(ConfigError, match="another GRE device"):
        edge.apply([EnsureLink(replace(LINK, name="again"))])


@pytest.mark.root
@pytest.mark.parametrize(
    "harm",
    [
        "ip link set sgl-tgw-1 down",
        "ip addr del 169.254.6.1/29 dev sgl-tgw-1",
        "ip addr add 198.51.100.1/24 dev sgl-tgw-1",
        "ip link set sgl-tgw-1 mtu 1000",
        "ip tunnel change sgl-tgw-1 mode gre ttl 2",
        "ip tunnel change sgl-tgw-1 mode gre key 7",
        "ip tunnel change sgl-tgw-1 mode gre remote 198.18.0.99",
        "sysctl -qw net.ipv6.conf.sgl-tgw-1.disable_ipv6=1",
        "ip link del sgl-tgw-1",
    ],
)
def test_a_link_that_was_harmed_is_noticed_and_mended(kernel_edge: KernelEdge, harm: str) -> None:
    kernel_edge.apply([EnsureLink(LINK)])
    desired = kernel_edge.read()
    sh(harm)
    assert kernel_edge.read() != desired
    kernel_edge.apply(diff_edge(desired, None, kernel_edge.read()))
    assert kernel_edge.read() == desired


@pytest.mark.root
def test_a_link_of_somebody_else_is_neither_seen_nor_touched(kernel_edge: KernelEdge) -> None:
    sh(f"ip link add theirs type gre local {IPV4.node} remote 198.18.0.99")
    assert kernel_edge.read().links == frozenset()
    kernel_edge.clean()
    assert "theirs" in sh("ip link show type gre")


# Who is answered, with real packets: the router at one end of the link, the edge node at the other.

EDGE_ADDRESS = IPV4.node
OUTER = EDGE_ADDRESS - 1
REAL = replace(LINK, router_address=OUTER)
WEB = {VirtualKey(family.vip, Protocol.TCP, 80) for family in (IPV4, IPV6)}
ANSWERED = EdgeFilter(
    POOLS,
    frozenset(WEB),
    link_addresses=frozenset({INSIDE4.ip, INSIDE6.ip}),
    sessions=frozenset(LinkSession(own.ip, 1790, router, 179) for own, router in ((INSIDE4, ROUTER4), (INSIDE6, ROUTER6))),
)  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[KernelEdge]:
    with ExitStack() as stack:
        build_star(stack, {"edge": EDGE_ADDRESS})
        sh(f"ip -n router link add gre9 type gre local {OUTER} remote {EDGE_ADDRESS} ttl 64")
        sh("ip -n router link set gre9 mtu 1400 up")
        sh(f"ip -n router addr add {ROUTER4}/29 dev gre9")
        sh(f"ip -n router addr add {ROUTER6}/125 dev gre9 nodad")
        # As a router does: VIPs by the link; and what somebody on the link tries beside that.
        for family in (IPV4, IPV6):
            sh(f"ip -n router route add {family.vip} dev gre9")
        with at("edge"):
            plane = KernelEdge(POOLS, sysctls=())
            state = EdgeState(
                timeouts=plane.read().timeouts,
                filter_digest=ANSWERED.digest,
                vips=frozenset({IPV4.vip, IPV6.vip}),
                links=frozenset({REAL}),
            )
            plane.apply(diff_edge(state, ANSWERED, plane.read()))
            assert plane.read() == state
        stack.callback(plane.close)
        yield plane


@contextmanager
def listening(namespace: str, port: int) -> Iterator[None]:
    with at(namespace):
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    with listener:
        yield


def connects(namespace: str, source: object, destination: object, port: int, source_port: int = 0) -> bool:
    with at(namespace):
        try:
            socket.create_connection(
                (str(destination), port), timeout=1.0, source_address=(str(source), source_port)
            ).close()
        except TimeoutError:
            return False
    return True


@pytest.mark.root
@pytest.mark.parametrize(("own", "router"), [(INSIDE4.ip, ROUTER4), (INSIDE6.ip, ROUTER6)], ids=["ipv4", "ipv6"])
def test_bgp_goes_through_the_link_in_both_directions(rig: KernelEdge, own: object, router: object) -> None:
    with listening("edge", 1790), listening("router", 179):
        assert connects("router", router, own, 1790)
        assert connects("edge", own, router, 179)


@pytest.mark.root
@pytest.mark.parametrize(("own", "router"), [(INSIDE4.ip, ROUTER4), (INSIDE6.ip, ROUTER6)], ids=["ipv4", "ipv6"])
def test_nothing_else_answers_on_a_link_address(rig: KernelEdge, own: object, router: object) -> None:
    with listening("edge", 22):
        assert not connects("router", router, own, 22)
        assert not connects("router", router, own, 22, source_port=179), "a port of BGP opens no other door"
    with at("router"), pytest.raises(AssertionError):
        sh(f"ping -c 1 -W 1 {own}")


@pytest.mark.root
def test_a_link_address_answers_nobody_by_another_device_either(rig: KernelEdge) -> None:
    with listening("edge", 22), listening("edge", 1790):
        sh(f"ip -n router route replace {INSIDE4.ip}/32 via {EDGE_ADDRESS}")
        try:
            assert not connects("router", OUTER, INSIDE4.ip, 22)
            assert not connects("router", OUTER, INSIDE4.ip, 1790)
        finally:
            sh(f"ip -n router route del {INSIDE4.ip}/32 via {EDGE_ADDRESS}")


@pytest.mark.root
def test_through_the_link_the_nodes_own_addresses_are_out_of_reach_and_vips_are_not(rig: KernelEdge) -> None:
    with listening("edge", 22), listening("edge", 80):
        assert connects("router", OUTER, EDGE_ADDRESS, 22), "by the uplink it answers: the control"
        sh(f"ip -n router route add {EDGE_ADDRESS}/32 dev gre9 table 77")
        sh(f"ip -n router rule add from {ROUTER4} to {EDGE_ADDRESS} lookup 77")
        try:
            assert not connects("router", ROUTER4, EDGE_ADDRESS, 22)
        finally:
            sh(f"ip -n router rule del from {ROUTER4} to {EDGE_ADDRESS} lookup 77")
        assert connects("router", ROUTER4, IPV4.vip, 80)
        assert connects("router", ROUTER6, IPV6.vip, 80)


@pytest.mark.root
def test_without_the_rules_of_links_everything_answers(rig: KernelEdge) -> None:
    """The control: the same link behind a filter that knows of none."""
    bare = EdgeFilter(POOLS, frozenset(WEB))
    with at("edge"):
        state = rig.read()
        rig.apply(diff_edge(replace(state, filter_digest=bare.digest), bare, state))
    try:
        with listening("edge", 22):
            assert connects("router", ROUTER4, INSIDE4.ip, 22)
    finally:
        with at("edge"):
            rig.apply(diff_edge(state, ANSWERED, rig.read()))


@pytest.mark.root
def test_a_node_whose_new_devices_have_no_ipv6_gets_its_link_all_the_same(kernel_edge: KernelEdge) -> None:
    sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    kernel_edge.apply([EnsureLink(LINK)])
    assert kernel_edge.read().links == {LINK}
