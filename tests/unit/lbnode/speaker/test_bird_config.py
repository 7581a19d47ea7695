"""BIRD's configuration: compared with golden files, and accepted by the real BIRD whatever the settings."""

from __future__ import annotations

import random
import shutil
import subprocess
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbnode.bgp_settings import Bfd, Bgp, GracefulRestart, Peer
from lbnode.errors import Bug, ConfigError
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.pools import Pool
from lbnode.routes import routes_of
from lbnode.speaker.bird_config import Renderer, protocol_name, render, render_key

GOLDEN = Path(__file__).parents[3] / "golden" / "bird"
NETWORK = ip_network("203.0.113.0/24")
NETWORK6 = ip_network("2001:db8:113::/64")
POOL = Pool.model_validate({"name": "public", "cidrs": [NETWORK]})
POOL6 = Pool.model_validate({"name": "public6", "cidrs": [NETWORK6]})
NODE_ADDRESS = ip_address("198.18.0.11")
NODE_ADDRESS6 = ip_address("2001:db8::11")
RACK = Bgp(
    local_asn=65010,
    communities=("65010:100", "65010:1:2"),
    peers=(
        Peer(name="tor2", address=IPv4Address("198.18.0.3"), asn=65002, ttl_security=True, password_key="tor2"),
        Peer(name="tor1", address=IPv4Address("198.18.0.2"), asn=65001, ttl_security=True, password_key="tor1"),
        Peer(name="elsewhere", address=IPv4Address("198.18.9.2"), asn=65009, nodes=("edge9",)),
    ),
)
BOTH_FAMILIES = Bgp(
    local_asn=4200000010,
    listen_port=1791,
    peers=(
        Peer(
            name="route-server",
            address=IPv4Address("192.0.2.1"),
            asn=4200000001,
            port=1179,
            multihop=4,
            bfd=None,
            graceful_restart=GracefulRestart(restart_seconds=15),
            hold_time_seconds=30,
            keepalive_seconds=7,
        ),
        Peer(
            name="v6",
            address=ip_address("2001:db8::2"),
            asn=65002,
            bfd=Bfd(interval_ms=100, multiplier=5),
            hold_time_seconds=0,
        ),
    ),
)

#: A router of our own AS beside one of another; aggregates beside host routes and alone; every attribute.
MIXED = Bgp(
    local_asn=65010,
    communities=("no-export",),
    peers=(
        Peer(name="core", address=IPv4Address("198.18.0.4"), asn=65010),
        Peer(name="tor1", address=IPv4Address("198.18.0.2"), asn=65001),
    ),
)
MIXED_POOLS = tuple(
    Pool.model_validate(p)
    for p in (
        {"name": "plain", "cidrs": ["203.0.113.0/25", "2001:db8:113::/64"]},
        {"name": "beside", "cidrs": ["203.0.113.128/26"], "aggregate": {"length": 28}},
        {"name": "alone", "cidrs": ["203.0.113.192/26"], "aggregate": {"length": 26, "hostRoutes": False}},
    )
)
MIXED_ROUTES = {
    ip_network("203.0.113.1/32"): RouteAttributes(("65010:7", "4200000010:0:1"), 200, 50, 2),
    ip_network("2001:db8:113::5/128"): RouteAttributes(med=0),
    ip_network("203.0.113.130/32"): RouteAttributes(("65535:65281",)),
    ip_network("203.0.113.128/28"): RouteAttributes(),
    ip_network("203.0.113.200/32"): RouteAttributes(covered=True),
    ip_network("203.0.113.192/26"): RouteAttributes(),
}

needs_bird = pytest.mark.skipif(shutil.which("bird") is None, reason="bird is not installed (Debian: bird2)")


def routes(*addresses: IPAddress | str) -> dict[IPNetwork, RouteAttributes]:
    return {ip_network(a): RouteAttributes() for a in addresses}


def accepted(text: str, key_names: list[str], folder: Path) -> str:
    """What the real BIRD says against the text; empty when it takes it."""
    (folder / "keys").mkdir(exist_ok=True)
    for name in key_names:
        (folder / "keys" / f"{name}.conf").write_text('password "x";\n')
    (folder / "bird.conf").write_text(text)
    done = subprocess.run(
        ["bird", "-p", "-c", str(folder / "bird.conf")], capture_output=True, text=True, check=False, timeout=10
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


CASES: dict[str, tuple[Bgp, tuple[IPAddress, ...], tuple[str, ...]]] = {
    "rack.conf": (RACK, (NODE_ADDRESS,), ("203.0.113.10", "203.0.113.9")),
    "nothing_announced.conf": (RACK, (NODE_ADDRESS,), ()),
    "both_families.conf": (BOTH_FAMILIES, (NODE_ADDRESS, NODE_ADDRESS6), ("2001:db8:113::5", "203.0.113.1")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_golden_one(name: str) -> None:
    bgp, addresses, announced = CASES[name]
    pools = (POOL, POOL6) if len(addresses) == 2 else (POOL,)
    text = render(bgp, pools, "edge1", addresses, routes(*announced))
    assert text == (GOLDEN / name).read_text()


def test_the_text_with_attributes_and_aggregates_is_the_golden_one() -> None:
    text = render(MIXED, MIXED_POOLS, "edge1", (NODE_ADDRESS, NODE_ADDRESS6), MIXED_ROUTES)
    assert text == (GOLDEN / "attributes.conf").read_text()


@needs_bird
@pytest.mark.parametrize("name", [*CASES, "attributes.conf"])
def test_the_golden_files_are_accepted_by_bird(name: str, tmp_path: Path) -> None:
    assert accepted((GOLDEN / name).read_text(), ["tor1", "tor2"], tmp_path) == ""


@needs_bird
def test_bird_does_refuse_what_is_wrong(tmp_path: Path) -> None:
    assert "syntax error" in accepted(
        (GOLDEN / "rack.conf").read_text().replace("import none", "import nnoe"), ["tor1", "tor2"], tmp_path
    )


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,27}[a-z0-9])?", fullmatch=True)
asns = st.integers(1, 4294967295).filter(lambda n: n != 23456)
liveness = st.one_of(
    st.builds(lambda b: {"bfd": b}, st.builds(Bfd, interval_ms=st.integers(10, 60000), multiplier=st.integers(2, 255))),
    st.builds(lambda r: {"bfd": None, "graceful_restart": GracefulRestart(restart_seconds=r)}, st.integers(1, 4095)),
)
distances = st.one_of(
    st.just({"ttl_security": True}), st.just({}), st.builds(lambda n: {"multihop": n}, st.integers(2, 255))
)


@st.composite
def bgps(draw: st.DrawFn) -> Bgp:
    peer_names = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    local = draw(asns)
    peers = []
    for number, name in enumerate(peer_names):
        address = (
            ip_address(f"198.18.0.{number + 100}") if draw(st.booleans()) else ip_address(f"2001:db8::{number + 100}")
        )
        hold = draw(st.one_of(st.just(0), st.integers(3, 65535)))
        peers.append(
            Peer.model_validate(
                {
                    "name": name,
                    "address": address,
                    "asn": draw(asns),
                    "port": draw(st.integers(1, 65535)),
                    "hold_time_seconds": hold,
                    "password_key": draw(st.one_of(st.none(), st.just("k"))),
                    **draw(liveness),
                    **draw(distances),
                }
            )
        )
    communities = draw(
        st.lists(
            st.one_of(
                st.builds("{}:{}".format, st.integers(0, 65535), st.integers(0, 65535)),
                st.builds("{}:{}:{}".format, *[st.integers(0, 4294967295)] * 3),
            ),
            max_size=3,
        )
    )
    return Bgp(
        local_asn=local, peers=tuple(peers), communities=tuple(communities), listen_port=draw(st.integers(1024, 65535))
    )


numbers = st.integers(0, 4294967295)
canonical_communities = st.lists(
    st.one_of(
        st.builds("{}:{}".format, st.integers(0, 65535), st.integers(0, 65535)),
        st.builds("{}:{}:{}".format, numbers, numbers, numbers),
    ),
    max_size=4,
    unique=True,
).map(tuple)
route_attributes = st.builds(
    RouteAttributes, canonical_communities, st.none() | numbers, st.none() | numbers, st.integers(0, 10)
)


@needs_bird
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vips=st.dictionaries(st.integers(0, 255).map(lambda n: NETWORK[n]), route_attributes, max_size=6),
    length=st.integers(26, 31),
    host_routes=st.booleans(),
)
def test_bird_accepts_whatever_is_said_of_routes(
    vips: dict[IPAddress, RouteAttributes], length: int, host_routes: bool, tmp_path: Path
) -> None:
    aggregate = {"length": length, "hostRoutes": host_routes}
    pools = (
        *MIXED_POOLS[:1],
        Pool.model_validate({"name": "p", "cidrs": ["203.0.113.128/25"], "aggregate": aggregate}),
    )
    text = render(MIXED, pools, "edge1", (NODE_ADDRESS,), routes_of(vips, pools))
    assert accepted(text, [], tmp_path) == ""


@needs_bird
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bgp=bgps(), lasts=st.sets(st.integers(0, 255), max_size=8))
def test_bird_accepts_every_configuration_that_the_settings_allow(bgp: Bgp, lasts: set[int], tmp_path: Path) -> None:
    announced = [NETWORK[n] for n in lasts] + [NETWORK6[n] for n in lasts]
    text = render(bgp, (POOL, POOL6), "edge1", (NODE_ADDRESS, NODE_ADDRESS6), routes(*announced))
    assert accepted(text, [p.name for p in bgp.peers], tmp_path) == ""


def test_the_order_of_addresses_pools_and_peers_does_not_show() -> None:
    announced = [NETWORK[n] for n in range(50)]
    shuffled = random.Random(7).sample(announced, len(announced))
    turned = RACK.model_copy(update={"peers": RACK.peers[::-1]})
    assert render(RACK, (POOL,), "edge1", (NODE_ADDRESS,), routes(*announced)) == render(
        turned, (POOL,), "edge1", (NODE_ADDRESS,), routes(*shuffled)
    )


@given(st.lists(names, min_size=2, max_size=30, unique=True))
def test_two_peers_never_share_a_protocol_name(peer_names: list[str]) -> None:
    assert len({protocol_name(n) for n in peer_names}) == len(peer_names)


def test_an_address_outside_the_pools_is_a_bug() -> None:
    with pytest.raises(Bug, match=r"192\.0\.2\.1 .*no pool"):
        render(RACK, (POOL,), "edge1", (NODE_ADDRESS,), routes("192.0.2.1"))


def test_a_node_that_no_peer_is_meant_for_is_told_so() -> None:
    only = RACK.model_copy(update={"peers": RACK.peers[2:]})
    with pytest.raises(ConfigError, match="elsewhere: none is meant for node edge1"):
        render(only, (POOL,), "edge1", (NODE_ADDRESS,), {})


def test_a_node_without_an_ipv4_address_has_no_router_id() -> None:
    with pytest.raises(ConfigError, match="router id"):
        render(BOTH_FAMILIES, (POOL6,), "edge1", (NODE_ADDRESS6,), {})


def test_a_vip_of_a_family_that_the_node_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"2001:db8:113::5: node edge1 has no IPv6 address"):
        render(RACK, (POOL, POOL6), "edge1", (NODE_ADDRESS,), routes("2001:db8:113::5"))


def test_a_peer_of_a_family_that_the_node_lacks_is_left_out() -> None:
    only_v4 = BOTH_FAMILIES.model_copy(update={"peers": BOTH_FAMILIES.peers[:1]})
    assert render(BOTH_FAMILIES, (POOL,), "edge1", (NODE_ADDRESS,), {}) == render(
        only_v4, (POOL,), "edge1", (NODE_ADDRESS,), {}
    )


def test_a_node_that_can_speak_to_none_of_its_peers_is_refused_by_name() -> None:
    only_v6 = BOTH_FAMILIES.model_copy(update={"peers": BOTH_FAMILIES.peers[1:]})
    with pytest.raises(ConfigError, match="peer v6 = 2001:db8::2: node edge1 has no IPv6 address"):
        render(only_v6, (POOL,), "edge1", (NODE_ADDRESS,), {})


def test_each_of_two_sessions_with_a_router_carries_the_family_that_it_is_for() -> None:
    """The golden file is of one session that carries both; here each loses one channel and nothing else."""
    one, two = BOTH_FAMILIES.peers
    split = BOTH_FAMILIES.model_copy(
        update={
            "peers": (
                one.model_copy(update={"address_families": ("IPv4",)}),
                two.model_copy(update={"address_families": ("IPv6",)}),
            )
        }
    )
    announced = routes(*CASES["both_families.conf"][2])
    text = render(split, (POOL, POOL6), "edge1", (NODE_ADDRESS, NODE_ADDRESS6), announced)
    sessions = {block.split()[0]: block for block in text.split("protocol bgp ")[1:]}
    assert ("  ipv4 {" in sessions["peer_route_server"], "  ipv6 {" in sessions["peer_route_server"]) == (True, False)
    assert ("  ipv4 {" in sessions["peer_v6"], "  ipv6 {" in sessions["peer_v6"]) == (False, True)


def test_one_line_end_after_a_key_is_not_part_of_it() -> None:
    peer = RACK.peers[0]
    assert render_key(peer, b"abc\n") == render_key(peer, b"abc") == render_key(peer, b"abc\r\n") == 'password "abc";\n'


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (b"", "has 0 bytes"),
        (b"\n", "has 0 bytes"),
        (b"x" * 81, "has 81 bytes"),
        (b'a"b', "double quotes"),
        (b"a\nb", "printable"),
        (b"\xff", "printable"),
    ],
)
def test_a_key_that_bird_cannot_take_is_refused_without_being_shown(key: bytes, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule) as caught:
        render_key(RACK.peers[0], key)
    assert "tor2" in str(caught.value)
    assert "x" * 81 not in str(caught.value)


@needs_bird
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"'), min_size=1, max_size=80)
)
def test_bird_accepts_every_key_that_is_not_refused(key: str, tmp_path: Path) -> None:
    text = render(RACK, (POOL,), "edge1", (NODE_ADDRESS,), {})
    (tmp_path / "keys").mkdir(exist_ok=True)
    (tmp_path / "bird.conf").write_text(text)
    (tmp_path / "keys" / "tor2.conf").write_text("")
    (tmp_path / "keys" / "tor1.conf").write_text(render_key(RACK.peers[1], key.encode()))
    done = subprocess.run(
        ["bird", "-p", "-c", str(tmp_path / "bird.conf")], capture_output=True, check=False, timeout=10
    )
    assert done.returncode == 0, done.stderr


def test_the_first_address_of_each_family_counts() -> None:
    one, two = NODE_ADDRESS, ip_address("198.18.0.99")
    assert render(RACK, (POOL,), "edge1", (one, two), {}) == render(RACK, (POOL,), "edge1", (one,), {})


#: One Transit Gateway Connect peer: both of its sessions end at one address of the node, which is two hops away for BGP (AWS, "Connect peers").
CONNECT = Bgp(
    local_asn=65010,
    peers=tuple(
        Peer(
            name=f"tgw-{last}",
            address=IPv4Address(f"169.254.6.{last}"),
            local_addresses=(IPv4Address("169.254.6.1"), ip_address("fd00:6::1")),
            asn=64512,
            nodes=("edge1",),
            multihop=2,
            bfd=None,
            hold_time_seconds=30,
        )
        for last in (2, 3)
    ),
)


def test_sessions_over_a_link_speak_from_its_addresses_and_lead_routes_over_it() -> None:
    text = render(CONNECT, (POOL, POOL6), "edge1", (NODE_ADDRESS, NODE_ADDRESS6), {})
    sessions = text.split("protocol bgp ")[1:]
    assert len(sessions) == 2
    for session in sessions:
        assert "  local 169.254.6.1 port 1790 as 65010;\n" in session
        assert "  multihop 2;\n" in session
        assert "    next hop self;\n" in session
        assert "    next hop address fd00:6::1;\n" in session
        assert "  free bind yes;\n" in session
    assert f"router id {NODE_ADDRESS};" in text


def test_a_link_is_enough_to_speak_to_a_router_of_a_family_that_the_node_has_not() -> None:
    over6 = Peer(
        name="tgw6",
        address=ip_address("fd00:6::2"),
        local_addresses=(ip_address("fd00:6::1"),),
        asn=64512,
        nodes=("edge1",),
    )
    text = render(Bgp(local_asn=65010, peers=(over6,)), (POOL,), "edge1", (NODE_ADDRESS,), {})
    assert "  local fd00:6::1 port 1790 as 65010;\n" in text
    assert f"    next hop address {NODE_ADDRESS};\n" in text


def test_sessions_from_node_addresses_bind_nothing_that_is_not_there() -> None:
    assert "free bind" not in render(RACK, (POOL,), "edge1", (NODE_ADDRESS,), {})


@given(
    st.lists(
        st.dictionaries(st.sampled_from(list(NETWORK.hosts())[:3]), st.sampled_from([0, 7]), max_size=2), max_size=6
    )
)
def test_who_remembers_the_last_text_says_the_same_as_who_renders_anew(series: list[dict[IPAddress, int]]) -> None:
    renderer = Renderer(RACK, [POOL], "edge1", [NODE_ADDRESS])
    routes: dict[IPNetwork, RouteAttributes] = {}
    for meds in series:
        # The very mapping changes in place, as a careless caller's might.
        routes.clear()
        routes.update({ip_network(a): RouteAttributes(med=med) for a, med in meds.items()})
        assert renderer.text(routes) == render(RACK, [POOL], "edge1", [NODE_ADDRESS], routes)
