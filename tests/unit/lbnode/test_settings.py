from __future__ import annotations

import copy
import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings, json_schema, parse, parse_json
from tests.unit.lbnode.kube_objects import SETTINGS

PEER = ("bgp", "peers", 0)


def with_value(value: Any, *path: str | int) -> dict[str, Any]:
    raw = copy.deepcopy(SETTINGS)
    place: Any = raw
    for step in path[:-1]:
        place = place[step] if isinstance(step, int) else place.setdefault(step, {})
    place[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        # Pools
        (["198.18.0.0/25"], ("pools", 0, "cidrs"), ["198.18.0.0/25", "overlaps the node network", "Choose a network"]),
        (["198.18.130.0/24"], ("pools", 0, "cidrs"), ["198.18.130.0/24", "overlaps the pod network"]),
        (["198.18.96.0/28"], ("pools", 0, "cidrs"), ["198.18.96.0/28", "overlaps the service network"]),
        (["192.0.2.0/25"], ("pools", 0, "cidrs"), ["192.0.2.0/25", "overlaps the probe network"]),
        (["203.0.113.0/24", "203.0.113.128/25"], ("pools", 0, "cidrs"), ["203.0.113.128/25", "overlaps pool public"]),
        (["198.0.0.0/8"], ("pools", 0, "cidrs"), ["198.0.0.0/8", "wider than a pool may be (/16)", "longer prefix"]),
        (["0.0.0.0/0"], ("pools", 0, "cidrs"), ["0.0.0.0/0", "wider"]),
        (["2001:db8::/48"], ("pools", 0, "cidrs"), ["2001:db8::/48", "(/64)"]),
        (
            ["203.0.113.7/24"],
            ("pools", 0, "cidrs"),
            ["pools.0.cidrs.0", "203.0.113.7/24", "host bits", "203.0.113.0/24"],
        ),
        (["everything"], ("pools", 0, "cidrs"), ["'everything'", "CIDR", "Write it like"]),
        ([], ("pools",), ["settings.pools", "at least 1"]),
        ("Public!", ("pools", 0, "name"), ["pools.0.name", "Public!"]),
        (
            ["IPv5"],
            (*PEER, "addressFamilies"),
            ["peers.0.addressFamilies.0 = 'IPv5'", "'IPv4' or 'IPv6'"],
        ),
        (["IPv6"], (*PEER, "addressFamilies"), ["no peer has IPv4", "announced to nobody", "Add the family"]),
        ([], (*PEER, "addressFamilies"), ["addressFamilies", "at least 1"]),
        (["198.18.128.0/24"], ("network", "probeCidrs"), ["probe network 198.18.128.0/24", "pod network"]),
        # Keys and types
        (1, ("nope",), ["settings.nope = 1", "unknown settings key", "Remove it"]),
        ("x", ("bgp", "localAs"), ["settings.bgp.localAs", "unknown settings key"]),
        (7, ("ipvs",), ["settings.ipvs = 7", "not an object"]),
        ("many", ("health", "rise"), ["settings.health.rise = 'many'", "integer"]),
        (True, ("bgp", "localAsn"), ["settings.bgp.localAsn = True", "integer"]),
        ("9", (*PEER, "holdTimeSeconds"), ["holdTimeSeconds = '9'", "integer"]),
        (0, ("health", "rise"), ["settings.health.rise = 0", "greater than or equal to 1"]),
        (999, ("ipvs", "maxSynPerSecond"), ["settings.ipvs.maxSynPerSecond = 999", "greater than or equal to 1000"]),
        (100_001, ("ipvs", "maxSynPerSecond"), ["maxSynPerSecond = 100001", "less than or equal to 100000"]),
        ("1000", ("ipvs", "maxSynPerSecond"), ["maxSynPerSecond = '1000'", "integer"]),
        ("direct", ("forwarding",), ["settings.forwarding = 'direct'", "'tunnel' or 'nat'"]),
        ("by-edge", ("return",), ["settings.return = 'by-edge'", "'direct' or 'via-edge'"]),
        (0, (*PEER, "port"), ["peers.0.port = 0"]),
        ("tor1.example", (*PEER, "address"), ["peers.0.address = 'tor1.example'", "not an IP address"]),
        # BGP
        (0, ("bgp", "localAsn"), ["localAsn = 0", "RFC 7607", "64512-65534"]),
        (23456, ("bgp", "localAsn"), ["localAsn = 23456", "AS_TRANS", "64512-65534"]),
        (0, (*PEER, "asn"), ["peers.0.asn = 0", "RFC 7607"]),
        (23456, (*PEER, "asn"), ["peers.0.asn = 23456", "AS_TRANS"]),
        (4294967296, (*PEER, "asn"), ["peers.0.asn = 4294967296", "4294967295"]),
        (1, (*PEER, "holdTimeSeconds"), ["holdTimeSeconds = 1", "RFC 4271", "Use 9"]),
        (2, (*PEER, "holdTimeSeconds"), ["holdTimeSeconds = 2", "RFC 4271", "Use 9"]),
        (65536, (*PEER, "holdTimeSeconds"), ["holdTimeSeconds = 65536", "RFC 4271"]),
        (9, (*PEER, "keepaliveSeconds"), ["keepalive 9 s", "hold time of 9 s", "Leave keepaliveSeconds out"]),
        ({}, (*PEER, "gracefulRestart"), ["peer tor1", "BFD together with graceful restart", "`bfd: null`"]),
        (["65010"], ("bgp", "communities"), ["'65010'", "RFC 1997", "65010:100"]),
        (["65536:1"], ("bgp", "communities"), ["'65536:1'", "RFC 1997"]),
        ([], ("bgp", "peers"), ["settings.bgp.peers"]),
        (80, ("bgp", "listenPort"), ["listenPort = 80", "1024"]),
        # Health and roles
        ({"timeoutMs": 900}, ("health",), ["timeoutMs 900", "intervalMs 500", "Lower the timeout"]),
        ({"lowWatermark": 0.9, "highWatermark": 0.5}, ("health",), ["lowWatermark 0.9", "flap", "Swap"]),
        (1.5, ("health", "lowWatermark"), ["lowWatermark = 1.5", "less than or equal to 1"]),
        ({"samegate.dev/role": "edge"}, ("workerNodeSelector",), ["select the same nodes", "different labels"]),
        ({"samegate.dev/role": "edge", "zone": "a"}, ("workerNodeSelector",), ["select the same nodes"]),
    ],
)
def test_a_wrong_value_is_refused_with_value_rule_and_way_out(value: Any, path: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(with_value(value, *path))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.value
    assert caught.value.rule
    assert caught.value.way_out
    assert "[" not in caught.value.value.split(" = ")[0], "pydantic's inner names do not show"


@pytest.mark.parametrize("key", ["pools", "bgp", "network"])
def test_a_missing_part_is_named(key: str) -> None:
    raw = {k: v for k, v in SETTINGS.items() if k != key}
    with pytest.raises(ConfigError, match=rf"settings\.{key}: required and missing\. Add it"):
        parse(raw)


def peers(*changes: dict[str, Any]) -> dict[str, Any]:
    base = SETTINGS["bgp"]["peers"][0]
    return with_value([base | c for c in changes], "bgp", "peers")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (peers({}, {"address": "198.18.0.3"}), ["two peers have the name tor1", "Remove or rename"]),
        (peers({}, {"name": "tor2"}), ["two peers have the address 198.18.0.2"]),
        (peers({"localAddresses": ["169.254.6.1"]}), ["169.254.6.1 for all nodes", "held by one node", "Name that node"]),
        (peers({"localAddresses": ["169.254.6.1"], "nodes": ["a", "b"]}), ["for 2 nodes", "a peer for each other node"]),
        (peers({"localAddresses": ["169.254.6.1", "169.254.6.2"], "nodes": ["a"]}), ["two localAddresses of one family"]),
        (peers({"localAddresses": ["fd00::1"], "nodes": ["a"]}), ["no IPv4 in localAddresses fd00::1", "Add the link's IPv4"]),
        (peers({"localAddresses": ["198.18.0.2"], "address": "198.18.0.2", "nodes": ["a"]}), ["198.18.0.2 on both ends"]),
        (peers({"localAddresses": ["169.254.6.1", "fe80::1"], "nodes": ["a"]}), ["link-local address fe80::1", "RFC 4193"]),
        (peers({"localAddresses": ["203.0.113.9"], "nodes": ["a"]}), ["203.0.113.9, which lies in pool", "outside every pool"]),
        (peers({"multihop": 2, "ttlSecurity": True}), ["ttlSecurity together with multihop", "RFC 5082", "Drop one"]),
        (peers({"bfd": None, "holdTimeSeconds": 0}), ["never be noticed to be dead", "Set one"]),
        (with_value([{"name": "a", "cidrs": ["203.0.113.0/25"]}, {"name": "a", "cidrs": ["203.0.113.128/25"]}], "pools"),
         ["two pools are named a", "Rename"]),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(raw: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    for word in words:
        assert word in str(caught.value)


def test_several_findings_are_counted_and_the_first_is_told() -> None:
    raw = with_value(0, "bgp", "localAsn") | {"nope": 1, "neither": 2}
    with pytest.raises(ConfigError, match=r"localAsn = 0.*2 more finding"):
        parse(raw)


def test_the_root_of_the_path_is_the_callers() -> None:
    with pytest.raises(ConfigError, match=r"^samegate:agent\.nope"):
        parse(SETTINGS | {"nope": 1}, "samegate:agent")


@pytest.mark.parametrize("text", ["", "{", "not json", "[" * 100_000, "null", "7", '"text"', "[]"])
def test_a_text_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 500


def test_graceful_restart_is_accepted_where_bfd_is_off() -> None:
    found = parse(peers({"bfd": None, "gracefulRestart": {"restartSeconds": 30}}))
    assert found.bgp.peers[0].graceful_restart is not None


@pytest.mark.parametrize(("hold", "keepalive", "expected"), [(9, None, 3), (3, None, 1), (90, 10, 10), (0, None, 1)])
def test_keepalives_are_a_third_of_the_hold_time_unless_set(hold: int, keepalive: int | None, expected: int) -> None:
    found = parse(peers({"holdTimeSeconds": hold, "keepaliveSeconds": keepalive}))
    assert found.bgp.peers[0].keepalive == expected


def test_the_defaults_are_those_of_the_architecture() -> None:
    found = parse(SETTINGS)
    peer = found.bgp.peers[0]
    assert peer.bfd is not None
    assert (peer.bfd.interval_ms, peer.bfd.multiplier, peer.hold_time_seconds) == (300, 3, 9)
    assert found.service_class == "samegate.dev/lb"
    assert not found.serve_without_class
    assert (found.weights, found.forwarding, found.return_path) == ("equal", "tunnel", "direct")
    assert (found.ipvs.udp_seconds, found.ipvs.max_syn_per_second) == (30, None)


def test_segments_fit_the_tunnel_with_their_headers() -> None:
    """1500 less 20 (RFC 2003) less 20 (IPv4) less 20 (TCP); 1500 less 40 (RFC 2473) less 40 (IPv6) less 20 (TCP)."""
    assert parse(SETTINGS).max_segment_bytes(4) == 1440
    assert parse(SETTINGS).max_segment_bytes(6) == 1400


@pytest.mark.parametrize(("mtu", "fits"), [(1319, False), (1320, True)])
def test_ipv6_pools_need_a_tunnel_of_the_smallest_ipv6_link(mtu: int, fits: bool) -> None:
    """RFC 8200 section 5: 1,280 bytes; RFC 2473: the outer header takes 40."""
    raw = with_value(["203.0.113.0/24", "2001:db8:1::/64"], "pools", 0, "cidrs")
    raw["network"]["fabricMtuBytes"] = mtu
    if fits:
        assert parse(raw).network.fabric_mtu_bytes == mtu
    else:
        with pytest.raises(ConfigError, match=r"fabricMtuBytes 1319 is too small for IPv6 pools.*Raise.*1320"):
            parse(raw)
    assert parse(with_value(mtu, "network", "fabricMtuBytes")).network.fabric_mtu_bytes == mtu


def test_a_worker_has_the_probe_address_with_the_low_bits_of_its_own() -> None:
    found = parse(with_value(["192.0.2.0/24", "2001:db8:2::/64"], "network", "probeCidrs"))
    assert found.probe_address(IPv4Address("198.18.0.21")) == IPv4Address("192.0.2.21")
    assert found.probe_address(IPv6Address("2001:db8:3::15")) == IPv6Address("2001:db8:2::15")
    assert parse(SETTINGS).probe_address(IPv6Address("2001:db8:3::15")) is None


@given(st.ip_addresses(v=4), st.integers(8, 32))
def test_probe_addresses_lie_in_the_probe_network_and_tell_neighbours_apart(address: IPv4Address, length: int) -> None:
    probe = IPv4Network((192 << 24, length), strict=False)
    found = AgentSettings.model_construct(network=parse(SETTINGS).network.model_copy(update={"probe_cidrs": (probe,)}))
    mine = found.probe_address(address)
    assert mine in probe
    neighbour = ip_address(int(address) ^ 1)
    if length < 32:
        assert found.probe_address(neighbour) != mine


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
seconds = st.integers(1, 10_000)


@st.composite
def raw_settings(draw: st.DrawFn) -> dict[str, Any]:
    def maybe(key: str, values: st.SearchStrategy[Any]) -> dict[str, Any]:
        return {key: draw(values)} if draw(st.booleans()) else {}

    def peer(index: int) -> dict[str, Any]:
        liveness: dict[str, Any] = draw(
            st.sampled_from([{}, {"bfd": {"intervalMs": 100}}, {"bfd": None, "gracefulRestart": {"restartSeconds": 5}}])
        )
        return (
            {"name": f"tor{index}", "address": f"198.18.0.{index + 2}", "asn": draw(st.integers(64512, 65534))}
            | liveness
            | maybe("holdTimeSeconds", st.integers(3, 65535))
            | maybe("nodes", st.lists(names, max_size=2))
            | maybe("passwordKey", names)
            | draw(st.sampled_from([{}, {"multihop": 2}, {"ttlSecurity": True}]))
        )

    return (
        copy.deepcopy(SETTINGS)
        | {"bgp": {"localAsn": draw(st.integers(1, 23455)), "peers": [peer(i) for i in range(draw(st.integers(1, 3)))]}}
        | {"pools": [{"name": draw(names), "cidrs": draw(st.sampled_from([["203.0.113.0/24"], ["203.0.113.0/28", "2001:db8:1::/64"]]))}]}
        | maybe("serviceClass", st.text(min_size=1, max_size=20))
        | maybe("serveWithoutClass", st.booleans())
        | maybe("weights", st.sampled_from(["equal", "endpoints"]))
        | maybe("ipvs", st.fixed_dictionaries({"tcpSeconds": seconds, "udpSeconds": seconds, "maxSynPerSecond": st.none() | st.integers(1000, 100_000)}))
        | maybe("drain", st.builds(dict, withdrawSeconds=st.floats(0, 100)))
        | maybe("edgeNodeSelector", st.dictionaries(names.map("e/".__add__), names, min_size=1, max_size=2))
    )  # fmt: skip


@effort(deadline=None)
@given(raw_settings())
def test_what_the_program_writes_the_agent_reads_back_to_an_equal_value(raw: dict[str, Any]) -> None:
    found = parse(raw)
    assert parse_json(found.to_json()) == found
    assert parse_json(found.to_json()).to_json() == found.to_json(), (
        "the text is stable, so an unchanged stack changes nothing"
    )


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@effort(deadline=None)
@given(
    st.sampled_from(
        ["pools", "bgp", "network", "health", "activeProbes", "ipvs", "ports", "weights", "return", "drain"]
    ),
    junk,
)
def test_junk_is_refused_as_a_configuration_error_and_nothing_else(key: str, value: Any) -> None:
    def attempt(read: Callable[[], AgentSettings]) -> None:
        try:
            read()
        except ConfigError as error:
            assert str(error)

    attempt(lambda: parse(SETTINGS | {key: value}))
    attempt(lambda: parse(value))
    attempt(lambda: parse_json(json.dumps(value)))


@effort(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 2000))
def test_a_text_with_bytes_overwritten_or_cut_gives_settings_or_a_configuration_error(
    changes: list[tuple[int, int]], kept_bytes: int
) -> None:
    text = bytearray(json.dumps(SETTINGS).encode())
    for position, value in changes:
        text[position % len(text)] = value
    try:
        found = parse_json(bytes(text[: kept_bytes or None]).decode("utf-8", "surrogateescape"))
    except ConfigError as error:
        assert str(error)
    else:
        assert parse_json(found.to_json()) == found


@pytest.mark.parametrize(
    "text",
    [
        "1" * 5000,
        '{"pools": ' + "1" * 5000 + "}",
        "[" * 100_000,
        '{"edgeNodeSelector": {"\\ud800": "x"}}',
        "\x00",
        "\udcff",
    ],
    ids=["a huge number", "a huge number inside", "too deep", "half a surrogate pair", "a zero byte", "no UTF-8"],
)
def test_a_text_that_python_itself_chokes_on_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        parse_json(text)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (5, (*PEER, "address")),
        (True, (*PEER, "address")),
        (3405803776, ("pools", 0, "cidrs", 0)),
        (7, ("network", "nodeCidrs", 0)),
        ('fe80::1%"; }', (*PEER, "address")),
        ("fe80::1%eth0;", (*PEER, "address")),
        ("fe80::1%" + "x" * 16, (*PEER, "address")),
        (float("inf"), ("drain", "withdrawSeconds")),
        (float("nan"), ("drain", "withdrawSeconds")),
        (1e300, ("drain", "withdrawSeconds")),
        (10**400, ("health", "intervalMs")),
        (10**400, ("health", "fall")),
        (2**31, ("ipvs", "tcpSeconds")),
        (["²:1"], ("bgp", "communities")),
        (["1:" + "1" * 5000], ("bgp", "communities")),
        ("127.0.0.0/24", ("pools", 0, "cidrs", 0)),
        ("224.0.1.0/24", ("pools", 0, "cidrs", 0)),
        ("169.254.1.0/24", ("pools", 0, "cidrs", 0)),
        ("0.0.0.0/24", ("pools", 0, "cidrs", 0)),
        ("fe80::/64", ("pools", 0, "cidrs", 0)),
        ("ff02::/64", ("pools", 0, "cidrs", 0)),
        (99, ("activeProbes", "intervalMs")),
        (1025, ("activeProbes", "atOnce")),
    ],
)
def test_a_value_that_would_fail_later_is_refused_at_once(value: Any, path: tuple[str | int, ...]) -> None:
    with pytest.raises(ConfigError):
        parse(with_value(value, *path))


def test_a_link_local_peer_may_name_its_interface() -> None:
    found = parse(with_value("fe80::1%eth0", *PEER, "address"))
    assert str(found.bgp.peers[0].address) == "fe80::1%eth0"


def test_the_schema_names_every_key_as_the_settings_write_it() -> None:
    schema = json_schema()
    assert {"pools", "bgp", "network", "return", "serveWithoutClass"} <= schema["properties"].keys()
    assert "localAsn" in schema["$defs"]["Bgp"]["properties"]
    assert schema["additionalProperties"] is False
