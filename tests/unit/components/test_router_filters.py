"""The import filters as the platforms would read them, for any pools: what a pool has passes, and nothing else does.

Each platform's filter is read by a reader of its own, written from the platform's manual and not from the generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pool_worlds import IPNetwork, may_pass, pool_worlds, prefixes

from components.routers.model import routers
from components.routers.render import PLATFORMS
from components.settings import parse

Permits = Iterator[tuple[IPNetwork, int, int]]
"""Networks, and the shortest and longest prefix within each that passes."""


def prefix_lists(text: str) -> Permits:
    """IOS's prefix lists: exact without words, `ge` alone reaches to the host route, `le` alone begins at the network."""
    for network, more, less in re.findall(r"permit (\S+/\d+)(?: ge (\d+))?(?: le (\d+))?$", text, re.MULTILINE):
        yield _spanned(network, more, less)


def _spanned(network: str, more: str, less: str) -> tuple[IPNetwork, int, int]:
    net = ip_network(network)
    shortest = int(more) if more else net.prefixlen
    return net, shortest, int(less) if less else (net.max_prefixlen if more else shortest)


def bird_sets(text: str) -> Permits:
    """BIRD's prefix sets: `net{low,high}`."""
    for network, low, high in re.findall(r"([0-9a-f.:]+/\d+)\{(\d+),(\d+)\}", text):
        yield ip_network(network), int(low), int(high)


def vyos_rules(text: str) -> Permits:
    rules: dict[str, dict[str, str]] = {}
    for rule, key, value in re.findall(r"(prefix-list6? \S+ rule \d+) (action|prefix|ge|le) (\S+)", text):
        rules.setdefault(rule, {})[key] = value
    for rule in rules.values():
        assert rule["action"] == "permit"
        yield _spanned(rule["prefix"], rule.get("ge", ""), rule.get("le", ""))


def junos_filters(text: str) -> Permits:
    for network, low, high in re.findall(r"route-filter (\S+) prefix-length-range /(\d+)-/(\d+)", text):
        yield ip_network(network), int(low), int(high)


READERS: dict[str, Callable[[str], Permits]] = {
    **dict.fromkeys(("frr", "sonic", "nx-os", "ios-xe", "eos"), prefix_lists),
    "bird": bird_sets,
    "vyos": vyos_rules,
    "junos": junos_filters,
}
#: What ends the filter, so that nothing else passes: prefix lists end with a denial by themselves.
REST = {"bird": "  reject;\n}", "junos": "policy-statement SAMEGATE-IN then reject"}


def passes(platform: str, text: str, prefix: IPNetwork) -> bool:
    assert REST.get(platform, "") in text
    return any(
        network.version == prefix.version and prefix.subnet_of(network) and low <= prefix.prefixlen <= high  # type: ignore[arg-type]
        for network, low, high in READERS[platform](text)
    )


def texts(world: dict[str, Any]) -> dict[str, str]:
    """The configuration of the world's one router in every language."""
    (router,) = routers(parse(world))
    return {platform: "".join(render(router, {}).values()) for platform, render in PLATFORMS.items()}


@given(data=st.data())
def test_any_prefix_passes_every_filter_exactly_if_a_pool_has_it(data: st.DataObject) -> None:
    world = data.draw(pool_worlds())
    prefix = data.draw(prefixes(world))
    expected = may_pass(world, prefix)
    assert {platform: passes(platform, text, prefix) for platform, text in texts(world).items()} == dict.fromkeys(
        PLATFORMS, expected
    )


@given(data=st.data())
def test_first_and_last_host_route_of_a_pool_pass_and_their_neighbours_and_wider_routes_do_not(
    data: st.DataObject,
) -> None:
    world = data.draw(pool_worlds())
    pool = data.draw(st.sampled_from(world["agent"]["pools"]))
    network = ip_network(data.draw(st.sampled_from(pool["cidrs"])))
    declared = "aggregate" in pool and ("length" if network.version == 4 else "lengthV6") in pool["aggregate"]
    hosts_pass = not declared or pool["aggregate"]["hostRoutes"]
    outside = [ip_network(ip_address(int(network[0]) - 1)), ip_network(ip_address(int(network[-1]) + 1))]
    for platform, text in texts(world).items():
        for address in (network[0], network[-1]):
            assert passes(platform, text, ip_network(address)) == hosts_pass, platform
        assert not passes(platform, text, network.supernet()), platform
        for host in outside:
            assert passes(platform, text, host) == may_pass(world, host), platform


def test_a_reader_tells_a_wide_filter_from_a_narrow_one() -> None:
    """What shows that the readers can fail: the same network with and without its length."""
    for reader, wide in (
        (prefix_lists, "permit 203.0.113.0/25 le 32"),
        (bird_sets, "203.0.113.0/25{25,32}"),
        (
            vyos_rules,
            "prefix-list X rule 5 action permit\nprefix-list X rule 5 prefix 203.0.113.0/25\nprefix-list X rule 5 le 32",
        ),
        (junos_filters, "route-filter 203.0.113.0/25 prefix-length-range /25-/32"),
    ):
        assert list(reader(wide)) == [(ip_network("203.0.113.0/25"), 25, 32)]
