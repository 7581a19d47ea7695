"""The packet filter as text: what is rendered, what is read back, and which tool is chosen."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane import filter as packet_filter
from lbnode.dataplane.filter import PacketFilter
from lbnode.dataplane.rules import TRANSLATION_TABLES, SavedTable, TableText, parse, render, transaction
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import IPAddress, Protocol, VirtualKey
from lbnode.packet_tables import Delivery, DeliveryTable, EdgeFilter, PacketTable, TranslationTable, WorkerFilter

POOLS = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/64"))
EDGE = EdgeFilter(
    POOLS,
    frozenset(
        {
            VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80),
            VirtualKey(ip_address("203.0.113.1"), Protocol.UDP, 53),
            VirtualKey(ip_address("203.0.113.200"), Protocol.TCP, 443),
            VirtualKey(ip_address("2001:db8::1"), Protocol.TCP, 80),
        }
    ),
)
WORKER = WorkerFilter(POOLS, (ip_address("192.0.2.21"),), ((4, 1440), (6, 1400)))
WEB = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
PODS = tuple((ip_address(f"198.18.131.{n}"), 8080) for n in (5, 6, 7))
NOTHING = SavedTable(TableText({}, ()), (), None)


def saved(table: PacketTable, version: int, name: str) -> str:
    """What ``iptables-save`` prints after the transaction, as the conformance suite has seen real kernels print it."""
    lines = transaction(name, render(table)[version, name], NOTHING, table.digest).splitlines()
    jumps = [line.replace("-I ", "-A ", 1).replace(" 1 -m", " -m", 1) for line in lines if line.startswith("-I ")]
    chains = [line for line in lines if line.startswith(":")]
    return "\n".join(
        [
            "# Generated",
            f"*{name}",
            ":PREROUTING ACCEPT [0:0]",
            *chains,
            *jumps,
            *(line for line in lines if line.startswith("-A ")),
            "COMMIT",
        ]
    )


def test_the_edge_lets_in_the_served_ports_and_echoes_and_nothing_else() -> None:
    chains = render(EDGE)[4, "mangle"].chains
    *let_in, last = chains["SAMEGATE-INPUT"]
    assert let_in[0] == "-d 203.0.113.0/24 -p icmp -j ACCEPT"
    assert last == "-d 203.0.113.0/24 -j DROP"
    groups = {rule.split()[1]: rule.split()[-1] for rule in let_in[1:]}
    assert set(groups) == {"203.0.113.0/28", "203.0.113.192/28"}
    assert chains[groups["203.0.113.0/28"]] == (
        "-d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-d 203.0.113.1/32 -p udp -m udp --dport 53 -j ACCEPT",
    )
    assert chains[groups["203.0.113.192/28"]] == ("-d 203.0.113.200/32 -p tcp -m tcp --dport 443 -j ACCEPT",)


def test_the_edge_tracks_no_connection_of_a_pool_either_way_and_forwards_nothing_to_it() -> None:
    rendered = render(EDGE)
    for version, pool, device in ((4, "203.0.113.0/24", "sgprobe"), (6, "2001:db8::/64", "sgprobe6")):
        raw = rendered[version, "raw"].chains
        assert raw["SAMEGATE-PREROUTING"] == (
            f"-i {device} -j DROP",
            f"-d {pool} -j CT --notrack",
            f"-s {pool} -j CT --notrack",
        )
        assert raw["SAMEGATE-OUTPUT"] == (f"-d {pool} -j CT --notrack", f"-s {pool} -j CT --notrack")
        assert rendered[version, "mangle"].chains["SAMEGATE-FORWARD"] == (f"-d {pool} -j DROP",)


def test_new_connections_of_tcp_are_limited_by_vip_before_their_port_is_let_in() -> None:
    assert not any("hashlimit" in r for text in render(EDGE).values() for rules in text.chains.values() for r in rules)
    ranges = frozenset({(WEB, ip_network("198.51.100.0/24")), (WEB, ip_network("192.0.2.0/24"))})
    chains = render(EdgeFilter(POOLS, EDGE.served, limited=ranges, max_syn_per_second=5000))[4, "mangle"].chains
    (group,) = [rules for rules in chains.values() if any("--dport 53 " in r for r in rules)]
    web = "-d 203.0.113.1/32 -p tcp -m tcp --dport 80"
    too_many = (
        "--tcp-flags FIN,SYN,RST,ACK SYN -m hashlimit --hashlimit-above 5000/sec --hashlimit-burst 5000"
        " --hashlimit-mode dstip --hashlimit-name samegate-5000 -j DROP"
    )
    # Strangers, who are not let in anyway, use up nothing.
    assert group == (
        f"-s 192.0.2.0/24 {web} {too_many}",
        f"-s 192.0.2.0/24 {web} -j ACCEPT",
        f"-s 198.51.100.0/24 {web} {too_many}",
        f"-s 198.51.100.0/24 {web} -j ACCEPT",
        "-d 203.0.113.1/32 -p udp -m udp --dport 53 -j ACCEPT",
    )


@given(st.integers(1000, 100_000))
def test_a_limit_is_written_as_the_kernel_keeps_it_and_is_at_most_a_tenth_more_than_asked_for(asked: int) -> None:
    """``libxt_hashlimit`` gives the kernel a second's parts as whole microseconds, and prints the rate that these come to."""
    text = render(EdgeFilter(POOLS, EDGE.served, max_syn_per_second=asked))[4, "mangle"]
    (written,) = {
        int(found) for rules in text.chains.values() for r in rules for found in re.findall(r"above (\d+)/sec", r)
    }
    microseconds = 1_000_000 // written
    assert 1_000_000 // microseconds == written
    assert asked <= written <= 1.1 * asked


def test_the_worker_takes_only_pools_and_its_probe_address_out_of_tunnels() -> None:
    raw = render(WORKER)[4, "raw"].chains
    ((rule,),) = [r for c, r in raw.items() if c == "SAMEGATE-PREROUTING"]
    assert rule.startswith("-i sgt-+ -j ")
    assert raw[rule.split()[-1]] == ("-d 203.0.113.0/24 -j RETURN", "-d 192.0.2.21/32 -j RETURN", "-j DROP")
    inner6 = render(WORKER)[6, "raw"].chains[rule.split()[-1]]
    assert inner6 == ("-d 2001:db8::/64 -j RETURN", "-j DROP")


def test_the_worker_clamps_replies_by_original_destination_in_each_family() -> None:
    for version, pool, size in ((4, "203.0.113.0/24", 1440), (6, "2001:db8::/64", 1400)):
        (rule,) = render(WORKER)[version, "mangle"].chains["SAMEGATE-POSTROUTING"]
        assert f"--ctorigdst {pool} --ctdir REPLY" in rule
        assert rule.endswith(f"--tcp-flags SYN,RST SYN -j TCPMSS --set-mss {size}")


def delivered(*deliveries: Delivery) -> list[str]:
    """The rules that carry out deliveries, without the ways to them."""
    table = DeliveryTable(POOLS, deliveries)
    rules = [rule for version in (4, 6) for chain in render(table)[version, "nat"].chains.values() for rule in chain]
    return [rule for rule in rules if " DNAT " in rule]


def test_a_delivery_takes_only_what_comes_out_of_tunnels_and_stands_behind_everybody_else() -> None:
    table = DeliveryTable(POOLS, (Delivery(WEB, PODS[:1]),))
    text = render(table)[4, "nat"]
    (rule,) = text.chains["SAMEGATE-PREROUTING"]
    assert rule.startswith("-i sgt-+ -j SAMEGATE-")
    (jump,) = [x for x in transaction("nat", text, NOTHING, table.digest).splitlines() if "-j SAMEGATE-PREROUTING" in x]
    assert jump.startswith("-A PREROUTING -m comment")


def test_a_delivery_shares_out_evenly() -> None:
    to_vip = "-d 203.0.113.1/32 -p tcp -m tcp --dport 80"
    # A third, then half of what is left (as iptables prints 31 bits), then the rest.
    assert delivered(Delivery(WEB, PODS)) == [
        f"{to_vip} -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 198.18.131.5:8080",
        f"{to_vip} -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 198.18.131.6:8080",
        f"{to_vip} -j DNAT --to-destination 198.18.131.7:8080",
    ]


def endpoints_of_clients(rules: list[str], clients: list[IPAddress]) -> list[str]:
    """The endpoint that each client meets: the first rule whose address and mask fit, as the kernel goes through a chain."""

    def fits(rule: str, client: IPAddress) -> bool:
        address, mask = (int(ip_address(part)) for part in rule.split()[1].split("/"))
        return int(client) & mask == address

    return [next(rule.split()[-1] for rule in rules if fits(rule, client)) for client in clients]


@pytest.mark.parametrize("first_client", ["198.51.100.0", "2001:db8:51::"])
@pytest.mark.parametrize("count", [2, 3, 5, 16, 17, 63, 70, 200])
def test_a_delivery_with_session_affinity_gives_each_client_one_endpoint_and_every_endpoint_its_share(
    first_client: str, count: int
) -> None:
    client = ip_address(first_client)
    vip, pod = ("203.0.113.1", "198.18.131.5") if client.version == 4 else ("2001:db8::1", "2001:db8:1::5")
    pods = tuple((ip_address(pod) + n, 8080) for n in range(count))
    rules = delivered(Delivery(VirtualKey(ip_address(vip), Protocol.TCP, 80), pods, by_client=True))
    assert not any("statistic" in rule for rule in rules)
    shares = Counter(endpoints_of_clients(rules, [client + n for n in range(256)]))
    assert len(shares) == count
    assert max(shares.values()) <= (1.25 if count <= 16 else 2) * min(shares.values())
    # A client's connections differ in their port alone, which no rule looks at.
    assert not any("--sport" in rule for rule in rules)


def test_a_delivery_with_session_affinity_keeps_to_its_source_ranges() -> None:
    ranges = (ip_network("198.51.100.0/24"), ip_network("192.0.2.0/25"))
    text = render(DeliveryTable(POOLS, (Delivery(WEB, PODS, ranges, by_client=True),)))[4, "nat"]
    jumps = [r for rules in text.chains.values() for r in rules if r.startswith("-s") and " -j SAMEGATE-" in r]
    assert [rule.split(" -d ")[0] for rule in jumps] == ["-s 198.51.100.0/24", "-s 192.0.2.0/25"]
    (chain,) = {rule.split()[-1] for rule in jumps}
    # There is no other way into the chain.
    assert [r for rules in text.chains.values() for r in rules if f"-j {chain}" in r] == jumps
    assert all(" -j DNAT " in rule for rule in text.chains[chain])


def test_a_delivery_with_session_affinity_to_a_single_pod_is_one_rule() -> None:
    assert delivered(Delivery(WEB, PODS[:1], by_client=True)) == delivered(Delivery(WEB, PODS[:1]))


def test_a_delivery_keeps_to_its_source_ranges_and_everybody_is_no_range() -> None:
    ranges = (ip_network("198.51.100.0/24"), ip_network("192.0.2.0/25"))
    rules = delivered(Delivery(WEB, PODS[:1], ranges))
    assert [rule.split(" -d ")[0] for rule in rules] == ["-s 198.51.100.0/24", "-s 192.0.2.0/25"]
    (rule,) = delivered(Delivery(WEB, PODS[:1], (*ranges, ip_network("0.0.0.0/0"))))
    assert not rule.startswith("-s")


def test_a_delivery_over_ipv6_names_its_endpoint_in_brackets() -> None:
    key = VirtualKey(ip_address("2001:db8::1"), Protocol.UDP, 53)
    (rule,) = delivered(Delivery(key, ((ip_address("2001:db8:1::5"), 5353),)))
    assert rule == "-d 2001:db8::1/128 -p udp -m udp --dport 53 -j DNAT --to-destination [2001:db8:1::5]:5353"


def test_a_family_without_pool_gets_no_rules() -> None:
    assert {version for version, _ in render(EdgeFilter(POOLS[:1], EDGE.served))} == {4}


keys = st.builds(
    VirtualKey,
    st.one_of(st.ip_addresses(v=4, network="203.0.113.0/24"), st.ip_addresses(v=6, network="2001:db8::/64")),
    st.sampled_from(Protocol),
    st.integers(1, 65535),
)


@given(st.frozensets(keys, max_size=40))
def test_what_is_written_reads_back_as_the_same_digest_and_hash(served: frozenset[VirtualKey]) -> None:
    table = EdgeFilter(POOLS, served)
    for (version, name), text in render(table).items():
        there = parse(saved(table, version, name))
        assert there.text.hash == text.hash
        assert there.marks == (table.digest, text.hash)
        assert all(len(chain) <= 28 for chain in text.chains)  # XT_EXTENSION_MAXNAMELEN less the final zero


@given(st.frozensets(keys, min_size=1, max_size=10), st.data())
def test_one_line_less_or_changed_gives_another_hash(served: frozenset[VirtualKey], data: st.DataObject) -> None:
    table = EdgeFilter(POOLS, served)
    version, name = data.draw(st.sampled_from(sorted(render(table))))
    lines = saved(table, version, name).splitlines()
    position = data.draw(st.sampled_from([i for i, line in enumerate(lines) if line.startswith("-A ")]))
    changed = data.draw(st.sampled_from([[], [lines[position] + " -j X"], [lines[position], lines[position]]]))
    there = parse("\n".join([*lines[:position], *changed, *lines[position + 1 :]]))
    assert there.marks is None or there.marks[1] != there.text.hash


def test_a_jump_with_a_condition_is_not_the_one_that_was_put_there() -> None:
    text = saved(EDGE, 4, "mangle").replace("-A INPUT -m comment", "-A INPUT -i lo -m comment")
    there = parse(text)
    assert there.marks is not None and there.marks[1] != there.text.hash


def test_a_transaction_leaves_other_peoples_lines_alone_and_drops_stale_chains() -> None:
    there = parse(saved(EDGE, 4, "mangle") + "\n:KUBE-X - [0:0]\n-A INPUT -j KUBE-X\n-A KUBE-X -j DROP")
    text = transaction("mangle", None, there, "")
    assert "KUBE" not in text
    assert sorted(line for line in text.splitlines() if line.startswith("-X")) == sorted(
        f"-X {c}" for c in there.text.chains
    )
    assert sum(line.startswith("-D ") for line in text.splitlines()) == 2


class Tools:
    """Plays the tools of the ``iptables`` package: which backends work, and what ``-save`` prints."""

    def __init__(self, *working: str, refuses: int = 0) -> None:
        self.working = working
        self.refuses = refuses
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
        self.calls.append(tuple(command))
        backend = command[0].split("-")[1]
        if backend not in self.working:
            return subprocess.CompletedProcess(command, 3, "", f"{backend} cannot\n")
        if command[0].endswith("restore") and "SAMEGATE-TRIAL" not in text and self.refuses:
            return subprocess.CompletedProcess(command, self.refuses, "", "no such match\n")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def tools_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbnode.dataplane.filter.shutil.which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(packet_filter, "fingerprint", lambda version, table: None)


def test_the_nft_backend_is_preferred_and_the_legacy_one_taken_when_nft_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packet_filter, "_legacy_tables", lambda _tool: ["mangle"])
    for working, taken in ((("nft", "legacy"), "nft"), (("legacy",), "legacy")):
        tools = Tools(*working)
        PacketFilter(POOLS, tools).digest()
        assert tools.calls[-1] == (f"ip6tables-{taken}-save", "-t", "mangle")


def test_a_legacy_table_that_is_not_there_is_not_made_by_looking_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "_legacy_tables", lambda _tool: ["mangle"])
    tools = Tools("legacy")
    assert PacketFilter(POOLS, tools, TRANSLATION_TABLES).digest() is None
    assert not [call for call in tools.calls if "nat" in call or "filter" in call]


TRANSLATION = TranslationTable(POOLS, frozenset({ip_address("203.0.113.1"), ip_address("2001:db8::1")}))


def test_a_translated_vip_is_taken_before_kube_proxy_and_its_client_replaced() -> None:
    rendered = render(TRANSLATION)
    nat, own = rendered[4, "nat"], rendered[4, "filter"]
    assert nat.chains == {
        "SAMEGATE-PREROUTING": ("-d 203.0.113.1/32 -j ACCEPT",),
        "SAMEGATE-POSTROUTING": ("-m conntrack --ctorigdst 203.0.113.1 --ctdir ORIGINAL -j MASQUERADE",),
    }
    assert own.chains == {
        "SAMEGATE-INPUT": ("-d 203.0.113.1/32 -j ACCEPT",),
        "SAMEGATE-FORWARD": ("-m conntrack --ctorigdst 203.0.113.1 --ctdir REPLY -j ACCEPT",),
    }
    assert rendered[6, "nat"].chains["SAMEGATE-PREROUTING"] == ("-d 2001:db8::1/128 -j ACCEPT",)
    assert "-I PREROUTING 1 " in transaction("nat", nat, NOTHING, TRANSLATION.digest)


@pytest.mark.parametrize(
    ("before", "after", "overtaken"),
    [("-A PREROUTING -j KUBE-SERVICES", "", True), ("", "-A PREROUTING -j KUBE-SERVICES", False), ("", "", False)],
)
def test_a_translation_that_kube_proxy_has_put_itself_before_is_noticed(
    before: str, after: str, overtaken: bool
) -> None:
    text = saved(TRANSLATION, 4, "nat")
    jump = next(line for line in text.splitlines() if line.startswith("-A PREROUTING"))
    assert parse(text.replace(jump, f"{before}\n{jump}\n{after}")).overtaken is overtaken


def test_a_translated_vip_is_tracked_and_its_clients_limited_by_the_edge_node_itself() -> None:
    vip, other = ip_address("203.0.113.1"), ip_address("203.0.113.200")
    limited = frozenset({(WEB, ip_network("198.51.100.0/24")), (WEB, ip_network("192.0.2.0/24"))})
    rendered = render(EdgeFilter(POOLS, EDGE.served, frozenset({vip}), limited))
    assert rendered[4, "raw"].chains["SAMEGATE-OUTPUT"] == (
        "-d 203.0.113.1/32 -j RETURN",
        "-s 203.0.113.1/32 -j RETURN",
        "-d 203.0.113.0/24 -j CT --notrack",
        "-s 203.0.113.0/24 -j CT --notrack",
    )
    accepts = [r for rules in rendered[4, "mangle"].chains.values() for r in rules if "--dport" in r]
    assert [r for r in accepts if "--dport 80 " in r] == [
        "-s 192.0.2.0/24 -d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-s 198.51.100.0/24 -d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j ACCEPT",
    ]
    assert any(str(other) in r and not r.startswith("-s") for r in accepts)


def test_no_working_backend_names_the_modules_and_the_capability() -> None:
    with pytest.raises(ConfigError, match=r"modprobe.*NET_RAW") as caught:
        PacketFilter(POOLS, Tools()).digest()
    assert "nft cannot" in str(caught.value) and "legacy cannot" in str(caught.value)


def test_a_held_lock_is_tried_again_and_a_refusal_is_not() -> None:
    with pytest.raises(Retry):
        PacketFilter(POOLS, Tools("nft", refuses=4)).replace(EDGE)
    with pytest.raises(ConfigError, match="no such match"):
        PacketFilter(POOLS, Tools("nft", refuses=2)).replace(EDGE)


def test_a_digest_that_was_read_while_the_tables_changed_is_not_believed_when_they_change_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = {"ours": {name: saved(EDGE, 4, name) for name in ("raw", "mangle")}, "nothing": {"raw": "", "mangle": ""}}
    now = "ours"

    def tools(command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
        printed = states[now][command[-1]] if command[0] == "iptables-legacy-save" else ""
        return subprocess.CompletedProcess(command, 3 if "nft" in command[0] else 0, printed, "")

    monkeypatch.setattr(packet_filter, "_legacy_tables", lambda tool: ["raw", "mangle"])
    monkeypatch.setattr(packet_filter, "fingerprint", lambda version, table, prefix: f"{now} {table}")
    watched = PacketFilter(POOLS[:1], tools)
    assert watched.digest() == EDGE.digest

    fingerprints = watched._fingerprints

    def swept_away_right_after() -> tuple[str | None, ...]:
        nonlocal now
        taken = fingerprints()
        now = "nothing"
        return taken

    watched._known = None
    monkeypatch.setattr(watched, "_fingerprints", swept_away_right_after)
    assert watched.digest() is None
    monkeypatch.setattr(watched, "_fingerprints", fingerprints)
    now = "ours"
    assert watched.digest() == EDGE.digest


def test_a_kernel_that_is_given_one_family_is_never_asked_for_the_other() -> None:
    tools = Tools("nft")
    with pytest.raises(Bug):  # these tools read nothing back
        PacketFilter(POOLS[:1], tools).replace(EDGE)
    assert {call[0].split("-")[0] for call in tools.calls} == {"iptables"}


def test_a_filter_that_does_not_read_back_as_written_is_a_bug() -> None:
    with pytest.raises(Bug):
        PacketFilter(POOLS, Tools("nft")).replace(EDGE)
