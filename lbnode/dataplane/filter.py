"""The packet filter, the worker's own delivery and the edge node's translation as text, and what carries them out.

The filter lives in the ``raw`` and ``mangle`` tables, which kube-proxy does not use: nothing of it comes after a rule that kube-proxy may
accept with, and the two never rewrite the same table. The delivery lives in ``nat``, at the end of PREROUTING, where only what
kube-proxy's rules left alone arrives; the two take turns by the lock of the tools (legacy) or by the kernel's transactions (nf_tables). The translation lives in ``nat`` and ``filter`` of an edge node, before kube-proxy's rules, and only while some
VIP is served by it. Our chains are replaced in one transaction per table; each jump to them carries
a comment with the digest of the table asked for and a hash of the rules as the kernel prints them, so that a rule that somebody
deletes or adds is noticed on the next read.

The same text serves both backends of the ``iptables`` package: nf_tables where the kernel has it, else the legacy tables, which
need CAP_NET_RAW besides CAP_NET_ADMIN. See docs/adr/0004.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

from lbnode.dataplane.xtables import fingerprint, outline
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import (
    LINK_DEVICE_PREFIX,
    PROBE_DEVICES,
    RETURN_DEVICE_PREFIX,
    TUNNEL_DEVICE_PREFIX,
    Delivery,
    DeliveryTable,
    EdgeFilter,
    IPAddress,
    IPNetwork,
    PacketTable,
    TranslationTable,
    VirtualKey,
    WorkerFilter,
    address_order,
)

TABLES = ("raw", "mangle")
DELIVERY_TABLES = ("nat",)
TRANSLATION_TABLES = ("nat", "filter")
#: kube-proxy's own way in; it puts itself at the head when it first starts.
_KUBE_PROXY_JUMP = re.compile(r"-j KUBE-\S+$")
_CHAIN_PREFIX = "SAMEGATE-"
_COMMENT = re.compile(r'--comment "?samegate ([0-9a-f]+):([0-9a-f]+)"?')
_PROBE_CHAIN = "SAMEGATE-TRIAL"
#: Single hop and multihop BFD (RFC 5881, RFC 5883).
_BFD_PORTS = (3784, 4784)
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
#: Destination unreachable, which says too that a packet is too big (RFC 792), and packet too big (RFC 4443).
_TOO_BIG = {4: "icmp -m icmp --icmp-type 3", 6: "ipv6-icmp -m icmp6 --icmpv6-type 2"}
#: Addresses whose rules share a chain, as host bits: 16 addresses keep both the dispatching chain and each group short.
_GROUP_HOST_BITS = 4
_TIMEOUT_SECONDS = 20
_LOCK_WAIT_SECONDS = 5
#: Exit code of the legacy tools when another program held the lock or changed the table meanwhile.
_RESOURCE_PROBLEM = 4

Rules = dict[str, list[str]]
"""Chain to its rules, each without ``-A CHAIN``."""
Runner = Callable[[Sequence[str], str], "subprocess.CompletedProcess[str]"]


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
            hooks = tuple(c.removeprefix(_CHAIN_PREFIX) for c in chains if c.removeprefix(_CHAIN_PREFIX).isupper())
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
        f"{_CHAIN_PREFIX}PREROUTING": [f"-i {PROBE_DEVICES[version]} -j DROP", *untracked],
        f"{_CHAIN_PREFIX}OUTPUT": untracked,
    }
    returning = f"-i {RETURN_DEVICE_PREFIX}+"
    if table.returning:
        inner = _named("returning")
        raw[f"{_CHAIN_PREFIX}PREROUTING"].insert(0, f"{returning} -j {inner}")
        raw[inner] = _returning(table, version, pools)
    # Dropped, not rejected: a reset for a port that this node does not serve yet would end a flow that it is about to inherit.
    let_in: list[str] = [
        # A VIP has nothing to say to the node itself.
        *(f"-s {pool} {returning} -j DROP" for pool in pools if table.returning),
        *(f"-d {pool} -p {_ICMP[version]} -j ACCEPT" for pool in pools),
    ]
    mangle: Rules = {
        f"{_CHAIN_PREFIX}INPUT": let_in,
        # A VIP that is not here would go back to the router that sent it here.
        f"{_CHAIN_PREFIX}FORWARD": [
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
        rules += [f"{source}{_to(key)} -j ACCEPT" for source in sources.get(key, [""])]
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
        f"{_CHAIN_PREFIX}PREROUTING": [f"-d {a}/{a.max_prefixlen} -j ACCEPT" for a in vips],
        # Replies have to come back here, since only this node can undo what IPVS did.
        f"{_CHAIN_PREFIX}POSTROUTING": [f"{match} --ctdir ORIGINAL -j MASQUERADE" for match in own],
    }
    packet_filter = {
        # kube-proxy drops what has no endpoint on this node, or comes from outside the ranges; ranges are in our own filter here.
        f"{_CHAIN_PREFIX}INPUT": [f"-d {a}/{a.max_prefixlen} -j ACCEPT" for a in vips],
        f"{_CHAIN_PREFIX}FORWARD": [f"{match} --ctdir REPLY -j ACCEPT" for match in own],
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


def _named(what: str) -> str:
    return _CHAIN_PREFIX + hashlib.sha256(what.encode()).hexdigest()[:12]


def _delivery(table: DeliveryTable, version: int) -> Rules:
    dispatch: list[str] = []
    arrivals = _named("delivery")
    chains: Rules = {
        f"{_CHAIN_PREFIX}PREROUTING": [f"-i {TUNNEL_DEVICE_PREFIX}+ -j {arrivals}"],
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
        f"{_CHAIN_PREFIX}PREROUTING": [f"{tunnels} -j {inner}"],
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
        f"{_CHAIN_PREFIX}FORWARD": [f"-d {p} {tunnels} -j DROP" for p in pools],
        # By original destination: the source becomes the VIP only after this.
        f"{_CHAIN_PREFIX}POSTROUTING": [
            f"-p tcp -m conntrack --ctorigdst {p} --ctdir REPLY -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {segment}"
            for p in pools
        ],
    }
    if table.return_mask is not None:
        bit = f"{table.return_mask:#x}"
        restore = f"-j CONNMARK --restore-mark --nfmask {bit} --ctmask {bit}"
        mangle[f"{_CHAIN_PREFIX}PREROUTING"] = [
            f"{tunnels} -j CONNMARK --set-xmark {bit}/{bit}",
            # What a client offers bounds what is sent to it, which has to fit a tunnel as well now.
            f"{tunnels} -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {segment}",
            f"! {tunnels} -m conntrack --ctdir REPLY {restore}",
        ]
        # Replies of the node's own: of backends in the host's network, and of its kernel to probes.
        mangle[f"{_CHAIN_PREFIX}OUTPUT"] = [f"-m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY {restore}"]
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
        if line.startswith(f":{_CHAIN_PREFIX}"):
            chains.setdefault(line[1:].split()[0], [])
        if not line.startswith("-A "):
            continue
        _, chain, rule = line.split(" ", 2)
        if chain.startswith(_CHAIN_PREFIX):
            chains.setdefault(chain, []).append(rule)
        elif _KUBE_PROXY_JUMP.search(rule):
            kube_proxy.add(chain)
        elif f"-j {_CHAIN_PREFIX}" in rule:
            jumps.append(line)
            overtaken = overtaken or chain in kube_proxy
            target = rule.rsplit(" ", 1)[1].removeprefix(_CHAIN_PREFIX)
            # A jump with conditions, or from elsewhere, is not the one that was put there.
            found = _COMMENT.search(rule)
            plain = found is not None and _COMMENT.sub("", rule).split() == [
                "-m",
                "comment",
                "-j",
                _CHAIN_PREFIX + target,
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
        lines += [f"{put.format(hook)} {_jump(hook, wanted, digest)}" for hook in wanted.hooks]
    lines += [f"-X {c}" for c in stale]
    return "\n".join([*lines, "COMMIT", ""])


def _mark(text: TableText, digest: str) -> str:
    return f"samegate {digest}:{text.hash}"


def _jump(hook: str, text: TableText, digest: str) -> str:
    return f'-m comment --comment "{_mark(text, digest)}" -j {_CHAIN_PREFIX}{hook}'


def _run(command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)


class PacketFilter:
    """Our packet filter in the kernel, or our share of other ``tables``, for the families of ``pools``. ``former`` are pools of agents before
    this one.
    """

    def __init__(
        self,
        pools: Iterable[IPNetwork],
        run: Runner = _run,
        tables: tuple[str, ...] = TABLES,
        former: Iterable[IPNetwork] = (),
    ) -> None:
        self._families = families(pools)
        self._stale_families = tuple(v for v in families(former) if v not in self._families)
        self._tables = tables
        self._run = run
        self._backend: str | None = None
        # What the tables looked like when they were last read as text, what was read, and the digest that it came to.
        self._known: tuple[tuple[str | None, ...], Mapping[tuple[int, str], SavedTable], str | None] | None = None
        # Whether that was told by outlines only.
        self._is_outline = False

    def digest(self) -> str | None:
        """The digest of the table in force; ``None`` if there is none, or if it is not what was put there.

        Right after :meth:`replace` that is told by the tables' outlines, from the next time on by every word of every rule.

        Raises:
            Retry: the tool cannot tell now.
            ConfigError: the kernel or the privileges do not allow a packet filter.
        """
        before = self._fingerprints()
        if self._known is not None and self._known[0] == before:
            digest = self._known[2]
            if self._is_outline:
                self._known, self._is_outline = None, False
            return digest
        seen = {(v, t): self._saved(v, t) for v in self._families for t in self._tables}
        digests = {self._digest_of(saved) for saved in seen.values()}
        digest = digests.pop() if len(digests) == 1 else None
        # Only what stood still while it was read may be believed later: tables that change meanwhile may well change back.
        still = None not in before and before == self._fingerprints()
        self._known, self._is_outline = (before, seen, digest) if still else None, False
        return digest

    def _outlined(self, wanted: Mapping[tuple[int, str], TableText], digest: str) -> bool:
        """Whether chains, numbers of rules and marks in the kernel are those of ``wanted``, told without starting a program: new endpoints wait
        for this, on nodes that are busy with starting them.
        """
        before = self._fingerprints()
        # Of translation the order to kube-proxy's rules matters too.
        if None in before or self._tables == TRANSLATION_TABLES or len(before) != len(wanted):
            return False
        seen = {}
        for (version, name), text in wanted.items():
            found = outline(version, name, _CHAIN_PREFIX)
            marks = (_mark(text, digest),) * len(text.hooks)
            if found is None or found.comments != marks or found.rules != {c: len(r) for c, r in text.chains.items()}:
                return False
            jumps = tuple(f"-A {hook} {_jump(hook, text, digest)}" for hook in text.hooks)
            seen[version, name] = SavedTable(text, jumps, (digest, text.hash))
        if before != self._fingerprints():
            return False
        self._known, self._is_outline = (before, seen, digest), True
        return True

    def _fingerprints(self) -> tuple[str | None, ...]:
        if self._backend != "legacy" or not all(self._is_there(v, t) for v in self._families for t in self._tables):
            return (None,)
        return tuple(fingerprint(v, t, _CHAIN_PREFIX) for v in self._families for t in self._tables)

    def _digest_of(self, saved: SavedTable) -> str | None:
        if saved.marks is None or saved.marks[1] != saved.text.hash:
            return None
        return None if saved.overtaken and self._tables == TRANSLATION_TABLES else saved.marks[0]

    def accepts(self, rule: str) -> bool:
        """Whether the kernel takes a rule of this form, tried in a chain of our own that nothing jumps to. Raises as :meth:`digest`."""
        command = [
            self._command(self._families[0] if self._families else 4, "restore"),
            "--noflush",
            "--wait",
            str(_LOCK_WAIT_SECONDS),
        ]
        chain = f"*{TABLES[0]}\n:{_PROBE_CHAIN} - [0:0]\n"
        # Two transactions, because the legacy kernel sees only what is left at the end of one. A chain that stays behind is stale by its name.
        taken = self._call(command, f"{chain}-A {_PROBE_CHAIN} {rule}\nCOMMIT\n").returncode == 0
        self._call(command, f"{chain}-X {_PROBE_CHAIN}\nCOMMIT\n")
        return taken

    def replace(self, table: PacketTable) -> None:
        """Put what ``table`` says of our families in place of whatever we have. Raises as :meth:`digest`, and :class:`Bug` when it did not come out as written."""
        wanted = render(table)
        # The tools take a tenth of a second each: what stands as it was last read is not listed again, and a family is written in one go.
        seen = self._known[1] if self._known is not None and self._known[0] == self._fingerprints() else {}
        for version in self._families:
            changes = [
                transaction(name, text, seen.get((v, name)) or self._saved(v, name), table.digest)
                for (v, name), text in wanted.items()
                if v == version
            ]
            self._restore(version, "".join(changes))
        if not self._outlined(wanted, table.digest) and self.digest() != table.digest:
            raise Bug(
                "the packet filter reads back otherwise than it was written: compare `iptables-save` with lbnode.dataplane.filter.render"
            )

    def remove(self) -> None:
        """Take away our chains and the jumps to them. Raises as :meth:`digest`."""
        self._take_away(self._families)
        self.remove_stale()

    def remove_stale(self) -> None:
        """Take away what is there of families that only former pools had. Raises as :meth:`digest`."""
        self._take_away(self._stale_families)
        self._stale_families = ()

    def _take_away(self, versions: Iterable[int]) -> None:
        for version in versions:
            for name in self._tables:
                saved = self._saved(version, name)
                if saved.text.chains or saved.jumps:
                    self._restore(version, transaction(name, None, saved, ""))

    def _saved(self, version: int, table: str) -> SavedTable:
        command = self._command(version, "save")
        if self._backend == "legacy" and not self._is_there(version, table):
            return parse("")
        done = self._call([command, "-t", table])
        if done.returncode != 0:
            raise Retry(f"{command} -t {table}: {_last_line(done)}")
        return parse(done.stdout)

    @staticmethod
    def _is_there(version: int, table: str) -> bool:
        """Looking at a legacy table makes it, and connection tracking with ``nat``."""
        return table in _legacy_tables(_tool(version))

    def _restore(self, version: int, text: str) -> None:
        command = self._command(version, "restore")
        done = self._call([command, "--noflush", "--wait", str(_LOCK_WAIT_SECONDS)], text)
        if done.returncode == _RESOURCE_PROBLEM:
            raise Retry(f"{command}: {_last_line(done)}")
        if done.returncode != 0:
            raise ConfigError(
                command,
                f"the kernel refuses the packet filter: {_last_line(done)}",
                "Run `modprobe -a xt_CT xt_TCPMSS xt_conntrack xt_connmark xt_comment xt_tcpudp xt_nat xt_statistic xt_MASQUERADE` on the node, and name them in /etc/modules-load.d/samegate.conf",
            )

    def _command(self, version: int, verb: str) -> str:
        if self._backend is None:
            self._backend = self._choose()
        return f"{_tool(version)}-{self._backend}-{verb}"

    def _choose(self) -> str:
        """``nft`` or ``legacy``: the one that holds our chains already, else the first that works when tried."""
        tool = _tool(self._families[0] if self._families else 4)
        backends = [b for b in ("nft", "legacy") if shutil.which(f"{tool}-{b}-restore")]
        for backend in backends:
            # Looking at a legacy table makes it, so look only at one that is there.
            if backend == "legacy" and TABLES[0] not in _legacy_tables(tool):
                continue
            saved = self._call([f"{tool}-{backend}-save", "-t", TABLES[0]])
            if saved.returncode == 0 and parse(saved.stdout).text.chains:
                return backend
        said = []
        for backend in backends:
            trial = "\n".join(
                [
                    f"*{TABLES[0]}",
                    f":{_PROBE_CHAIN} - [0:0]",
                    f"-A {_PROBE_CHAIN} -j CT --notrack",
                    f"-F {_PROBE_CHAIN}",
                    f"-X {_PROBE_CHAIN}",
                    "COMMIT",
                    "",
                ]
            )
            done = self._call([f"{tool}-{backend}-restore", "--noflush", "--wait", str(_LOCK_WAIT_SECONDS)], trial)
            if done.returncode == 0:
                return backend
            said.append(f"{backend}: {_last_line(done)}")
        raise ConfigError(
            "the packet filter",
            "neither backend of iptables works here (" + "; ".join(said or ["the tools are not installed"]) + ")",
            "For nft the kernel needs nf_tables and nft_compat; for legacy ip_tables, iptable_raw and iptable_mangle (`modprobe` them on the node) "
            "and the container the capability NET_RAW and a writable /run/xtables.lock",
        )

    def _call(self, command: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return self._run(command, text)
        except FileNotFoundError:
            raise ConfigError(
                command[0], "the tool is not installed", "Install the package iptables in the image"
            ) from None
        except subprocess.TimeoutExpired:
            raise Retry(f"{command[0]} did not end within {_TIMEOUT_SECONDS} s") from None


def _legacy_tables(tool: str) -> list[str]:
    try:
        return Path(f"/proc/net/{tool.removesuffix('tables')}_tables_names").read_text().split()
    except OSError:
        return []


def _tool(version: int) -> str:
    return "iptables" if version == 4 else "ip6tables"


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}"
