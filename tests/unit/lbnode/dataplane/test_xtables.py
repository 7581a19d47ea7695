"""What of a table a fingerprint sees, on tables laid out by hand as ``linux/netfilter_ipv4/ip_tables.h`` and ``ip6_tables.h`` say."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbnode.dataplane.xtables import LAYOUTS, share

ENTRY_BYTES = {4: 112, 6: 168}  # sizeof(struct ipt_entry), sizeof(struct ip6t_entry)
ACCEPT = -2  # -NF_ACCEPT - 1


@dataclass(frozen=True)
class Rule:
    """What it matches, and where it sends: the name of a chain, a verdict, or nowhere (the next rule)."""

    match: bytes
    goal: str | int | None = ACCEPT


Chains = dict[str, list[Rule]]


class Table:
    """Built-in chains first, as the tools lay them out: each ends with its policy; then each other chain behind its name."""

    def __init__(self, version: int, built_in: Chains, others: Chains, packets: int = 0) -> None:
        self.version, self.packets = version, packets
        starts: dict[str, int] = {}
        self.chains: list[tuple[int, int]] = []
        for _ in range(2):  # a chain's place has to be known before a rule can jump there
            laid = b""
            self.chains = []
            for rules in built_in.values():
                first = len(laid)
                for rule in rules:
                    laid += self._rule(rule, starts, len(laid))
                self.chains.append((first, len(laid)))
                laid += self._rule(Rule(b""), starts, len(laid))
            for name, rules in others.items():
                laid += self._entry(b"", b"ERROR", name.encode().ljust(32, b"\0"))
                starts[name] = len(laid)
                for rule in rules:
                    laid += self._rule(rule, starts, len(laid))
                laid += self._rule(Rule(b"", -5), starts, len(laid))
            laid += self._entry(b"", b"ERROR", b"ERROR".ljust(32, b"\0"))
            self.entries = laid

    def _rule(self, rule: Rule, starts: dict[str, int], place: int) -> bytes:
        match rule.goal:
            case str():
                verdict = starts.get(rule.goal, 0)
            case int():
                verdict = rule.goal
            case None:
                verdict = place + len(self._entry(rule.match, b"", bytes(8)))
        return self._entry(rule.match, b"", struct.pack("=i4x", verdict))

    def _entry(self, match: bytes, target: bytes, data: bytes) -> bytes:
        head = ENTRY_BYTES[self.version]
        match = match.ljust(-(-len(match) // 8) * 8, b"\0")
        tail = struct.pack("=H29sB", 32 + len(data), target, 0) + data
        at = head + len(match)
        fields = struct.pack("=HHI", at, at + len(tail), self.packets)
        counters = struct.pack("=QQ", self.packets, self.packets * 60)
        return (
            (fields.rjust(head - 16 - (4 if self.version == 6 else 0), b"\0").ljust(head - 16, b"\0") + counters)
            + match
            + tail
        )

    @property
    def ours(self) -> list[bytes]:
        return list(share(self.entries, LAYOUTS[self.version], self.chains, "SAMEGATE-"))


BUILT_IN: Chains = {
    "PREROUTING": [Rule(b"ours", "SAMEGATE-PREROUTING"), Rule(b"theirs", "KUBE-SERVICES"), Rule(b"counts only", None)],
    "OUTPUT": [Rule(b"theirs", "KUBE-SERVICES")],
}
OURS: Chains = {
    "SAMEGATE-PREROUTING": [Rule(b"tunnel", "SAMEGATE-1f2e"), Rule(b"vip")],
    "SAMEGATE-1f2e": [Rule(b"port 80")],
}
THEIRS = st.dictionaries(
    st.sampled_from(["KUBE-SVC-A", "KUBE-SVC-B", "KUBE-SEP-1", "CNI-2"]),
    st.lists(st.builds(Rule, st.binary(max_size=20), st.sampled_from([ACCEPT, -5, None, "KUBE-SERVICES"])), max_size=4),
)
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def table(
    version: int, built_in: Chains = BUILT_IN, ours: Chains = OURS, theirs: Chains | None = None, packets: int = 0
) -> list[bytes]:
    others = {"KUBE-SERVICES": [], **(theirs or {}), **ours}
    return Table(version, built_in, others, packets).ours


@VERSIONS
@given(THEIRS, THEIRS, st.integers(0, 1000), st.integers(0, 1000))
def test_other_peoples_chains_and_counters_do_not_count(
    version: int, before: Chains, after: Chains, few: int, many: int
) -> None:
    assert table(version, theirs=before, packets=few) == table(version, theirs=after, packets=many)


@VERSIONS
@given(THEIRS)
def test_our_share_is_our_chains_with_their_names_and_the_built_in_ones(version: int, theirs: Chains) -> None:
    # 3 and 1 rules with a policy each; a name, rules and an end for each of ours.
    assert len(table(version, theirs=theirs)) == (3 + 1) + (1 + 1) + (1 + 2 + 1) + (1 + 1 + 1)


@VERSIONS
@pytest.mark.parametrize(
    ("built_in", "ours"),
    [
        (BUILT_IN | {"OUTPUT": []}, OURS),
        (BUILT_IN | {"PREROUTING": [*BUILT_IN["PREROUTING"][1:], BUILT_IN["PREROUTING"][0]]}, OURS),
        (BUILT_IN | {"PREROUTING": BUILT_IN["PREROUTING"][1:]}, OURS),
        (BUILT_IN | {"PREROUTING": [Rule(b"ours", "KUBE-SERVICES"), *BUILT_IN["PREROUTING"][1:]]}, OURS),
        (BUILT_IN | {"PREROUTING": [Rule(b"ours", "SAMEGATE-1f2e"), *BUILT_IN["PREROUTING"][1:]]}, OURS),
        (BUILT_IN, OURS | {"SAMEGATE-1f2e": []}),
        (BUILT_IN, OURS | {"SAMEGATE-1f2e": [Rule(b"port 81")]}),
        (BUILT_IN, OURS | {"SAMEGATE-1f2e": [Rule(b"port 80", -1)]}),
        (BUILT_IN, OURS | {"SAMEGATE-1f2e": [Rule(b"port 80"), Rule(b"more")]}),
        (BUILT_IN, OURS | {"SAMEGATE-PREROUTING": list(reversed(OURS["SAMEGATE-PREROUTING"]))}),
        (BUILT_IN, OURS | {"SAMEGATE-stale": []}),
        (BUILT_IN, OURS | {"KUBE-FORWARD": [Rule(b"from elsewhere", "SAMEGATE-1f2e")]}),
    ],
    ids=[
        "kube-proxy's jump is gone", "kube-proxy is first", "our jump is gone", "our jump goes to kube-proxy", "our jump goes to another of ours",
        "a rule is gone", "a rule matches otherwise", "a rule does otherwise", "a rule is added", "the order is another", "a chain is added",
        "another chain jumps to ours",
    ],
)  # fmt: skip
def test_whatever_changes_in_our_share_is_seen(version: int, built_in: Chains, ours: Chains) -> None:
    assert table(version, built_in, ours) != table(version)


@given(st.binary(min_size=112, max_size=400), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_bytes_that_are_no_table_end_the_walk(garbage: bytes, target: int, length: int) -> None:
    garbage = garbage[:88] + struct.pack("=HH", target, length) + garbage[92:]
    list(share(garbage, LAYOUTS[4], [(0, len(garbage))], "SAMEGATE-"))
