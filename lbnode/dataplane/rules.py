"""The packet filter, the worker's own delivery and the edge node's translation as text: written, read back, and turned into one another. Pure.

The filter lives in the ``raw`` and ``mangle`` tables, which kube-proxy does not use: nothing of it comes after a rule that kube-proxy may
accept with, and the two never rewrite the same table. The delivery lives in ``nat``, at the end of PREROUTING, where only what
kube-proxy's rules left alone arrives. The translation lives in ``nat`` and ``filter`` of an edge node, before kube-proxy's rules, and only
while some VIP is served by it. Each jump to our chains carries a comment with the digest of the table asked for and a hash of the rules as
the kernel prints them, so that a rule that somebody deletes or adds is noticed on the next read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from lbnode.model import (
    LINK_DEVICE_PREFIX,
    PROBE_DEVICES,
    RETURN_DEVICE_PREFIX,
    TUNNEL_DEVICE_PREFIX,
    IPAddress,
    IPNetwork,
    Protocol,
    VirtualKey,
    address_order,
)
from lbnode.packet_tables import Delivery, DeliveryTable, EdgeFilter, PacketTable, TranslationTable, WorkerFilter

TABLES = ("raw", "mangle")
DELIVERY_TABLES = ("nat",)
TRANSLATION_TABLES = ("nat", "filter")
CHAIN_PREFIX = "SAMEGATE-"
#: kube-proxy's own way in; it puts itself at the head when it first starts.
_KUBE_PROXY_JUMP = re.compile(r"-j KUBE-\S+$")
_COMMENT = re.compile(r'--comment "?samegate ([0-9a-f]+):([0-9a-f]+)"?')
#: Single hop and multihop BFD (RFC 5881, RFC 5883).
_BFD_PORTS = (3784, 4784)
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
#: Destination unreachable, which says too that a packet is too big (RFC 792), and packet too big (RFC 4443).
_TOO_BIG = {4: "icmp -m icmp --icmp-type 3", 6: "ipv6-icmp -m icmp6 --icmpv6-type 2"}
#: Addresses whose rules share a chain, as host bits: 16 addresses keep both the dispatching chain and each group short.
_GROUP_HOST_BITS = 4

Rules = dict[str, list[str]]
"""Chain to its rules, each without ``-A CHAIN``."""


@dataclass(frozen=True, slots=True)
class TableText:
    """Our share of one table of one family: chains with rules, and the built-in chains that jump to ``SAMEGATE-`` plus their name.

    The jumps stand before everybody else's, or ``behind`` them.
    """

    chains: Mapping[str, tuple[str, ...]]
    hooks: tuple[str, ...]
    behind: bool = False

    @property
    def hash(self) -> str:
        content = repr((sorted((c, tuple(r)) for c, r in self.chains.items()), sorted(self.hooks)))
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def families(pools: Iterable[IPNetwork]) -> tuple[int, ...]:
    """The IP versions that the pools have."""
    return tuple(sorted({p.version for p in pools}))


def render(table: PacketTable) -> dict[tuple[int, str], TableText]:
    """Our chains by IP version and table, in the very words of ``iptables-save``."""
    rendered: dict[tuple[int, str], TableText] = {}
    for version in families(table.pools):
        pools = [p for p in table.pools if p.version == version]
        by_table: dict[str, Rules]
        match table:
            case DeliveryTable():
                by_table = dict.fromkeys(DELIVERY_TABLES, _delivery(table, version))
            case TranslationTable():
                by_table = dict(zip(TRANSLATION_TABLES, _translation(table, version), strict=True))
            case EdgeFilter():
                by_table = dict(zip(TABLES, _edge(table, version, pools), strict=True))
            case WorkerFilter():
                by_table = dict(zip(TABLES, _worker(table, version, pools), strict=True))
        for name, chains in by_table.items():
            hooks = tuple(c.removeprefix(CHAIN_PREFIX) for c in chains if c.removeprefix(CHAIN_PREFIX).isupper())
            # A delivery is for what kube-proxy leaves alone.
            behind = isinstance(table, DeliveryTable)
            rendered[version, name] = TableText({c: tuple(r) for c, r in chains.items()}, hooks, behind)
    return rendered


def _edge(table: EdgeFilter, version: int, pools: Sequence[IPNetwork]) -> tuple[Rules, Rules]:
    vips = _hosts(table.translated, version)
    untracked = [
        *(f"{way} {vip} -j RETURN" for vip in vips for way in ("-d", "-s")),
        *(f"{way} {pool} -j CT --notrack" for pool in pools for way in ("-d", "-s")),
    ]
    raw = {
        # The probe device takes packets out of tunnels from anybody; it is there for sending only.
        f"{CHAIN_PREFIX}PREROUTING": [f"-i {PROBE_DEVICES[version]} -j DROP", *untracked],
        f"{CHAIN_PREFIX}OUTPUT": untracked,
    }
    returning = f"-i {RETURN_DEVICE_PREFIX}+"
    if table.returning:
        inner = _named("returning")
        raw[f"{CHAIN_PREFIX}PREROUTING"].insert(0, f"{returning} -j {inner}")
        raw[inner] = _returning(table, version, pools)
    # Dropped, not rejected: a reset for a port that this node does not serve yet would end a flow that it is about to inherit.
    let_in: list[str] = [
        # A VIP has nothing to say to the node itself.
        *(f"-s {pool} {returning} -j DROP" for pool in pools if table.returning),
        *(f"-d {pool} -p {_ICMP[version]} -j ACCEPT" for pool in pools),
    ]
    mangle: Rules = {
        f"{CHAIN_PREFIX}INPUT": let_in,
        # A VIP that is not here would go back to the router that sent it here.
        f"{CHAIN_PREFIX}FORWARD": [
            *(f"-d {pool} -j DROP" for pool in pools),
            # Routers send to VIPs, and use the node for nothing else.
            *([f"-i {LINK_DEVICE_PREFIX}+ -j DROP"] if table.link_addresses else []),
        ],
    }
    sources: dict[VirtualKey, list[str]] = {}
    for key, network in sorted(table.limited, key=lambda limit: (limit[0].order, str(limit[1]))):
        sources.setdefault(key, []).append(f"-s {network} ")
    for key in sorted(table.served, key=lambda k: k.order):
        if key.address.version != version:
            continue
        rules = _group(mangle, let_in, key.address)
        for source in sources.get(key, [""]):
            if table.max_syn_per_second is not None and key.protocol is Protocol.TCP:
                rules.append(f"{source}{_to(key)} {more_syn_than(table.max_syn_per_second)} -j DROP")
            rules.append(f"{source}{_to(key)} -j ACCEPT")
    let_in += [f"-d {pool} -j DROP" for pool in pools]
    let_in += _link_rules(table, version)
    return raw, mangle


def _returning(table: EdgeFilter, version: int, pools: Sequence[IPNetwork]) -> list[str]:
    """Of what comes back out of the tunnels from workers: replies of VIPs to anybody but VIPs, and probes. Whoever forges a worker's address
    can speak as a VIP, which the fabric would let him do anyway, and for nobody else.
    """
    probes = sorted((n, a) for n, a in table.returning if n.version == version)
    return [
        *(f"-d {pool} -j DROP" for pool in pools),
        *(f"-s {pool} -j RETURN" for pool in pools),
        *(f"-s {n} -d {a}/{a.max_prefixlen} -p {_ICMP[version]} -j RETURN" for n, a in probes),
        "-j DROP",
    ]


def _link_rules(table: EdgeFilter, version: int) -> list[str]:
    """Links are for BGP and for VIPs, whose rules came before these. Their addresses answer nobody else, whatever device it comes by."""
    if not table.link_addresses:
        return []
    rules = []
    for session in sorted((s for s in table.sessions if s.address.version == version), key=str):
        [router, own] = _hosts([session.router_address], version) + _hosts([session.address], version)
        between = f"-s {router} -d {own} -i {LINK_DEVICE_PREFIX}+"
        answers = f"--sport {session.router_port} ! --tcp-flags FIN,SYN,RST,ACK SYN"
        rules += [f"{between} -p tcp -m tcp {match} -j ACCEPT" for match in (f"--dport {session.listen_port}", answers)]
        rules += [f"{between} -p udp -m udp --dport {port} -j ACCEPT" for port in _BFD_PORTS if session.bfd]
    own_addresses = _hosts(table.link_addresses, version)
    rules += [f"-d {own} -i {LINK_DEVICE_PREFIX}+ -p {_TOO_BIG[version]} -j ACCEPT" for own in own_addresses]
    return [*rules, *(f"-d {own} -j DROP" for own in own_addresses), f"-i {LINK_DEVICE_PREFIX}+ -j DROP"]


def _hosts(addresses: Iterable[IPAddress], version: int) -> list[str]:
    return [f"{a}/{a.max_prefixlen}" for a in sorted((a for a in addresses if a.version == version), key=int)]


def _translation(table: TranslationTable, version: int) -> tuple[Rules, Rules]:
    vips = [a for a in sorted(table.vips, key=address_order) if a.version == version]
    own = [f"-m conntrack --ctorigdst {a}" for a in vips]
    nat = {
        # Taken before kube-proxy can send it elsewhere: what is accepted here goes on to IPVS unchanged.
        f"{CHAIN_PREFIX}PREROUTING": [f"-d {a}/{a.max_prefixlen} -j ACCEPT" for a in vips],
        # Replies have to come back here, since only this node can undo what IPVS did.
        f"{CHAIN_PREFIX}POSTROUTING": [f"{match} --ctdir ORIGINAL -j MASQUERADE" for match in own],
    }
    packet_filter = {
        # kube-proxy drops what has no endpoint on this node, or comes from outside the ranges; ranges are in our own filter here.
        f"{CHAIN_PREFIX}INPUT": [f"-d {a}/{a.max_prefixlen} -j ACCEPT" for a in vips],
        f"{CHAIN_PREFIX}FORWARD": [f"{match} --ctdir REPLY -j ACCEPT" for match in own],
    }
    return nat, packet_filter


def _group(chains: Rules, dispatch: list[str], address: IPAddress) -> list[str]:
    """The rules of the chain for ``address`` and its neighbours, which ``dispatch`` jumps to."""
    group = ip_network((address, address.max_prefixlen - _GROUP_HOST_BITS), strict=False)
    chain = _named(str(group))
    if chain not in chains:
        chains[chain] = []
        dispatch.append(f"-d {group} -j {chain}")
    return chains[chain]


def _to(key: VirtualKey) -> str:
    protocol = key.protocol.value.lower()
    return f"-d {key.address}/{key.address.max_prefixlen} -p {protocol} -m {protocol} --dport {key.port}"


def more_syn_than(per_second: int) -> str:
    """A match for the SYNs that are too many for one address, all its ports together, as ``iptables-save`` prints it: the kernel keeps the time
    from one to the next in whole microseconds (``linux/netfilter/xt_hashlimit.h``, scale of revision 2). A second's worth may come at once.

    The name tells the rate, because the kernel goes on with the rate of a table that is there already under a name.
    """
    kept = 1_000_000 // (1_000_000 // per_second)
    return (
        f"--tcp-flags FIN,SYN,RST,ACK SYN -m hashlimit --hashlimit-above {kept}/sec --hashlimit-burst {kept}"
        f" --hashlimit-mode dstip --hashlimit-name samegate-{kept}"
    )


def _named(what: str) -> str:
    return CHAIN_PREFIX + hashlib.sha256(what.encode()).hexdigest()[:12]


def _delivery(table: DeliveryTable, version: int) -> Rules:
    dispatch: list[str] = []
    arrivals = _named("delivery")
    chains: Rules = {
        f"{CHAIN_PREFIX}PREROUTING": [f"-i {TUNNEL_DEVICE_PREFIX}+ -j {arrivals}"],
        arrivals: dispatch,
    }
    for delivery in table.deliveries:
        if delivery.key.address.version != version:
            continue
        rules = _group(chains, dispatch, delivery.key.address)
        anybody = not delivery.source_ranges or any(r.prefixlen == 0 for r in delivery.source_ranges)
        sources = [""] if anybody else [f"-s {r} " for r in delivery.source_ranges]
        if delivery.by_client and len(delivery.endpoints) > 1:
            own = _named(str(delivery.key))
            chains[own] = _by_client(delivery, version)
            rules += [f"{source}{_to(delivery.key)} -j {own}" for source in sources]
            continue
        for source in sources:
            for position, endpoint in enumerate(delivery.endpoints):
                chance = _one_in(len(delivery.endpoints) - position)
                rules.append(f"{source}{_to(delivery.key)}{chance} -j DNAT --to-destination {_place(endpoint)}")
    return chains


def _place(endpoint: tuple[IPAddress, int]) -> str:
    address, port = endpoint
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _by_client(delivery: Delivery, version: int) -> list[str]:
    """A rule for each value of the lowest bits of the client's address, in which clients of one network differ most: as good a hash as a rule can
    take without a further kernel module. Up to 16 endpoints have at least four values each, so that the largest share is at most a quarter above
    the smallest; more endpoints have at least one, which keeps the chain short.
    """
    count = len(delivery.endpoints)
    values = 1 << (min(4 * count, max(count, 64)) - 1).bit_length()
    lowest = IPv4Address if version == 4 else IPv6Address
    return [
        f"-s {lowest(value)}/{lowest(values - 1)} -p {delivery.key.protocol.value.lower()}"
        f" -j DNAT --to-destination {_place(delivery.endpoints[value % count])}"
        for value in range(values)
    ]


def _one_in(count: int) -> str:
    """A match that one packet in ``count`` passes, as ``iptables-save`` prints it: the kernel keeps 31 bits (``linux/netfilter/xt_statistic.h``)."""
    if count == 1:
        return ""
    return f" -m statistic --mode random --probability {round((1 << 31) / count) / (1 << 31):.11f}"


def _worker(table: WorkerFilter, version: int, pools: Sequence[IPNetwork]) -> tuple[Rules, Rules]:
    tunnels = f"-i {TUNNEL_DEVICE_PREFIX}+"
    probes = [a for a in table.probe_addresses if a.version == version]
    inner = _named("inner")
    raw = {
        f"{CHAIN_PREFIX}PREROUTING": [f"{tunnels} -j {inner}"],
        # Whoever forges an edge node's address reaches what the edge nodes may reach, and nothing else.
        inner: [
            *(f"-d {p} -j RETURN" for p in pools),
            *(f"-d {a}/{a.max_prefixlen} -j RETURN" for a in probes),
            "-j DROP",
        ],
    }
    segment = dict(table.max_segment_bytes)[version]
    mangle = {
        # kube-proxy has translated the destination of everything that it knows.
        f"{CHAIN_PREFIX}FORWARD": [f"-d {p} {tunnels} -j DROP" for p in pools],
        # By original destination: the source becomes the VIP only after this.
        f"{CHAIN_PREFIX}POSTROUTING": [
            f"-p tcp -m conntrack --ctorigdst {p} --ctdir REPLY -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {segment}"
            for p in pools
        ],
    }
    if table.return_mask is not None:
        bit = f"{table.return_mask:#x}"
        restore = f"-j CONNMARK --restore-mark --nfmask {bit} --ctmask {bit}"
        mangle[f"{CHAIN_PREFIX}PREROUTING"] = [
            f"{tunnels} -j CONNMARK --set-xmark {bit}/{bit}",
            # What a client offers bounds what is sent to it, which has to fit a tunnel as well now.
            f"{tunnels} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {segment}",
            f"! {tunnels} -m conntrack --ctdir REPLY {restore}",
        ]
        # Replies of the node's own: of backends in the host's network, and of its kernel to probes.
        mangle[f"{CHAIN_PREFIX}OUTPUT"] = [f"-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY {restore}"]
    return raw, mangle


@dataclass(frozen=True, slots=True)
class SavedTable:
    """Our share of a table as the kernel has it, and the jumps to it, each as printed."""

    text: TableText
    jumps: tuple[str, ...]
    #: Digest and hash that the jumps carry; ``None`` if they carry none or different ones.
    marks: tuple[str, str] | None
    #: Whether kube-proxy's rules stand before a jump of ours.
    overtaken: bool = False


def parse(saved: str) -> SavedTable:
    """Pick our chains and the jumps to them out of the text of ``iptables-save``."""
    chains: Rules = {}
    jumps: list[str] = []
    hooks: list[str] = []
    marks: set[tuple[str, str]] = set()
    kube_proxy: set[str] = set()
    overtaken = False
    for line in saved.splitlines():
        if line.startswith(f":{CHAIN_PREFIX}"):
            chains.setdefault(line[1:].split()[0], [])
        if not line.startswith("-A "):
            continue
        _, chain, rule = line.split(" ", 2)
        if chain.startswith(CHAIN_PREFIX):
            chains.setdefault(chain, []).append(rule)
        elif _KUBE_PROXY_JUMP.search(rule):
            kube_proxy.add(chain)
        elif f"-j {CHAIN_PREFIX}" in rule:
            jumps.append(line)
            overtaken = overtaken or chain in kube_proxy
            target = rule.rsplit(" ", 1)[1].removeprefix(CHAIN_PREFIX)
            # A jump with conditions, or from elsewhere, is not the one that was put there.
            found = _COMMENT.search(rule)
            plain = found is not None and _COMMENT.sub("", rule).split() == [
                "-m",
                "comment",
                "-j",
                CHAIN_PREFIX + target,
            ]
            hooks.append(chain if plain and target == chain else line)
            marks.add((found[1], found[2]) if found else ("", ""))
    (only,) = marks if len(marks) == 1 else (None,)
    return SavedTable(TableText({c: tuple(r) for c, r in chains.items()}, tuple(hooks)), tuple(jumps), only, overtaken)


def transaction(table: str, wanted: TableText | None, there: SavedTable, digest: str) -> str:
    """Input for ``iptables-restore --noflush`` that turns what is ``there`` into ``wanted`` (``None``: nothing)."""
    chains = dict(wanted.chains) if wanted is not None else {}
    stale = sorted(set(there.text.chains) - set(chains))
    # Naming a chain empties it.
    lines = [f"*{table}", *(f":{c} - [0:0]" for c in (*chains, *stale))]
    lines += [f"-D {jump.removeprefix('-A ')}" for jump in there.jumps]
    for chain, rules in chains.items():
        lines += [f"-A {chain} {rule}" for rule in rules]
    if wanted is not None:
        put = "-A {}" if wanted.behind else "-I {} 1"
        lines += [f"{put.format(hook)} {jump(hook, wanted, digest)}" for hook in wanted.hooks]
    lines += [f"-X {c}" for c in stale]
    return "\n".join([*lines, "COMMIT", ""])


def mark(text: TableText, digest: str) -> str:
    """The comment of each jump to our chains."""
    return f"samegate {digest}:{text.hash}"


def jump(hook: str, text: TableText, digest: str) -> str:
    """The rule of a built-in chain that leads to ours, as ``iptables-save`` prints it."""
    return f'-m comment --comment "{mark(text, digest)}" -j {CHAIN_PREFIX}{hook}'
