"""What one router must be told, as values that name no vendor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from components.settings import PREFIX, StackSettings
from components.settings import Router as RouterSettings
from lbnode.bgp_settings import Bfd, Peer
from lbnode.errors import ConfigError
from lbnode.settings import AgentSettings

IPNetwork = IPv4Network | IPv6Network

#: More host routes than this fit few routers' tables (and an IPv6 pool has more addresses than any): the limit's own limit.
MOST_PREFIXES = 65536
RESTART_MINUTES = 1
"""After how long a router takes a session again that went beyond its limit."""

#: IP version to the end of the names of everything that is of one family.
FAMILIES: Mapping[int, str] = {4: "", 6: "6"}
VIPS = "SAMEGATE-VIPS"
IMPORT = "SAMEGATE-IN"
NOTHING = "SAMEGATE-NOTHING"
EDGES = "SAMEGATE-EDGES"
"""Names of prefix list, import policy, export policy and neighbour group. With a prefix of ours: a list of the same name that a router
already has would be added to, silently."""
BFD_PROFILE = "samegate"

#: TCP_MD5SIG_MAXKEYLEN of linux/tcp.h, which edge nodes are bound to.
LONGEST_KEY_CHARACTERS = 80
KEY_SIGNS = "+ / = . _ : @ ~ , % -"
"""Signs that no platform's language has a meaning for: no quotes, blanks or `?` (the help of a command line), no `$`, `!`, `#`, `;` or braces."""
KEY = re.compile(rf"[A-Za-z0-9{re.escape(KEY_SIGNS.replace(' ', ''))}]{{1,{LONGEST_KEY_CHARACTERS}}}")


@dataclass(frozen=True)
class Accepted:
    """Routes within ``network`` of exactly this prefix length."""

    network: IPNetwork
    length: int

    @property
    def span(self) -> str:
        """The lengths as prefix lists of FRR, IOS-XE, NX-OS and EOS have them behind the network; empty for the network itself."""
        if self.length == self.network.prefixlen:
            return ""
        longest = self.network.max_prefixlen
        return f" ge {self.length}" if self.length == longest else f" ge {self.length} le {self.length}"


@dataclass(frozen=True)
class Session:
    """Dynamic neighbours: whoever of the edge nodes' AS connects from ``networks``, all of one IP version.

    ``families`` are the IP versions that go over the session (RFC 4760). ``address`` is the router's own, for sessions
    over more than one hop, where no interface tells it. ``password_key`` names the TCP MD5 key (RFC 2385), the key itself
    is no part of it. Hold time and keepalive are not here: the edge nodes' smaller hold time is the session's (RFC 4271 section 4.2).
    """

    networks: tuple[IPNetwork, ...]
    families: tuple[int, ...]
    password_key: str | None = None
    multihop: int | None = None
    ttl_security: bool = False
    bfd: Bfd | None = None
    graceful_restart: bool = False
    address: IPv4Address | IPv6Address | None = None

    @property
    def group(self) -> str:
        """The name of its neighbours' group."""
        return EDGES + FAMILIES[self.networks[0].version]


@dataclass(frozen=True)
class Router:
    """One router. ``maximum_prefixes`` is for each session and each IP version; ``maximum_paths`` is the width of ECMP."""

    name: str
    asn: int
    edge_asn: int
    accepted: tuple[Accepted, ...]
    sessions: tuple[Session, ...]
    maximum_prefixes: Mapping[int, int]
    maximum_paths: int
    maximum_edge_nodes: int

    @property
    def families(self) -> tuple[int, ...]:
        """The IP versions that any session carries, in order."""
        return tuple(sorted({version for session in self.sessions for version in session.families}))

    @property
    def maximum_neighbours(self) -> int:
        """How many dynamic neighbours there may be, for platforms that count those of all sessions together: an edge node is one in each."""
        return self.maximum_edge_nodes * len(self.sessions)

    def accepted_of(self, version: int) -> tuple[Accepted, ...]:
        """What is accepted in one IP version."""
        return tuple(a for a in self.accepted if a.network.version == version)

    @property
    def bfd(self) -> Bfd | None:
        """The timers for platforms that have one set for all sessions: the slowest of the sessions'."""
        return max((s.bfd for s in self.sessions if s.bfd is not None), key=lambda b: b.interval_ms, default=None)


def reference(key: str) -> str:
    """What stands for the TCP MD5 key of that name wherever the key itself must not be: the path that `pulumi config` has it at."""
    return f"${{bgpKeys.{key}}}"


def md5_key(session: Session, keys: Mapping[str, str]) -> str | None:
    """What to write for the session's TCP MD5 key: the key if it is given, else a reference to it; None for a session without one."""
    name = session.password_key
    return None if name is None else keys.get(name, reference(name))


def check_keys(keys: Mapping[str, str]) -> None:
    """Raises ConfigError for a TCP MD5 key that would be read as something else in a router's configuration. The key is not shown."""
    for name, key in keys.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ConfigError(
                f"key {name!r}",
                f"in every platform's language a key is safe only with 1 to {LONGEST_KEY_CHARACTERS} letters, digits and any of {KEY_SIGNS}",
                "Choose another on both sides, e.g. `openssl rand -hex 20`",
            )


def accepted(agent: AgentSettings) -> tuple[Accepted, ...]:
    """Exactly what edge nodes may announce: host routes of the pools, and the aggregates that a pool asks for."""
    found: dict[Accepted, None] = {}
    for pool in agent.pools:
        for network in pool.cidrs:
            if pool.announces_host_route(network.network_address):
                found[Accepted(network, network.max_prefixlen)] = None
            if (aggregate := pool.aggregate_of(network.network_address)) is not None:
                found[Accepted(network, aggregate.prefixlen)] = None
    return tuple(found)


def most_routes(rules: Sequence[Accepted], version: int) -> int:
    """How many different routes the rules let pass in one IP version, at most :data:`MOST_PREFIXES`."""
    total = sum(1 << (a.length - a.network.prefixlen) for a in rules if a.network.version == version)
    return min(total, MOST_PREFIXES)


def routers(settings: StackSettings) -> tuple[Router, ...]:
    """The routers of a stack, in the order of its settings; none on a platform whose fabric is no router of yours.

    Raises:
        ConfigError: a router names a peer that there is not, or its peers cannot be one router's.
    """
    return tuple(_router(router, settings.agent) for router in named(settings))


def named(settings: StackSettings) -> tuple[RouterSettings, ...]:
    """The routers of yours that the settings name; a fabric of a cloud has none."""
    routers: tuple[RouterSettings, ...] = getattr(settings.platform, "routers", ())
    return routers


def _router(router: RouterSettings, agent: AgentSettings) -> Router:
    where = f"{PREFIX}.platform.routers, {router.name}"
    known = {peer.name: peer for peer in agent.bgp.peers}
    for name in router.peers:
        if name not in known:
            raise ConfigError(
                f"{where}: peer {name!r}",
                f"bgp.peers has no such peer ({', '.join(known)})",
                "Correct the one or the other",
            )
    peers = [known[name] for name in router.peers]
    if len({peer.asn for peer in peers}) > 1:
        raise ConfigError(
            f"{where}: {', '.join(f'{p.name} AS{p.asn}' for p in peers)}",
            "peers of one router have one AS number",
            "Give each router an entry of its own",
        )
    if peers[0].asn == agent.bgp.local_asn:
        raise ConfigError(
            f"{where}: AS{peers[0].asn}",
            "router configurations are generated for eBGP, and this is the edge nodes' own AS",
            "Give router and edge nodes different AS numbers, or write this router's configuration yourself",
        )
    if router.platform == "junos" and any(peer.ttl_security for peer in peers):
        raise ConfigError(
            f"{where}: ttlSecurity",
            "Junos checks TTLs by a firewall filter on lo0, which is not generated, and edge nodes would refuse what it sends without",
            "Leave ttlSecurity out for this peer, or write this router's configuration yourself",
        )
    versions = [peer.address.version for peer in peers]
    if len(set(versions)) != len(versions):
        raise ConfigError(
            f"{where}: {', '.join(f'{p.name} {p.address}' for p in peers)}",
            "two sessions of one IP version would come from the same networks, and a network belongs to one group of neighbours",
            "Keep one peer for each IP version; both address families go over one session",
        )
    rules = accepted(agent)
    limits = {version: most_routes(rules, version) for version in FAMILIES}
    return Router(
        name=router.name,
        asn=peers[0].asn,
        edge_asn=agent.bgp.local_asn,
        accepted=rules,
        sessions=tuple(_session(peer, router, agent, where) for peer in peers),
        maximum_prefixes={v: min(limit, router.maximum_prefixes or limit) for v, limit in limits.items()},
        maximum_paths=router.maximum_paths,
        maximum_edge_nodes=router.maximum_edge_nodes,
    )


def _session(peer: Peer, router: RouterSettings, agent: AgentSettings, where: str) -> Session:
    version = peer.address.version
    asked = [n for n in router.edge_cidrs if n.version == version]
    networks = asked or [n for n in agent.network.node_cidrs if peer.address in n]
    if not networks:
        raise ConfigError(
            f"{where}: peer {peer.name} {peer.address}",
            "no network in network.nodeCidrs holds the router's address, so that it is not known where edge nodes connect from",
            "Name the networks of the edge nodes in edgeCidrs of the router",
        )
    pools = {n.version for n in agent.pool_networks}
    return Session(
        networks=tuple(networks),
        families=tuple(v for v in FAMILIES if v in pools and f"IPv{v}" in peer.address_families),
        password_key=peer.password_key,
        multihop=peer.multihop,
        ttl_security=peer.ttl_security,
        bfd=peer.bfd,
        graceful_restart=peer.graceful_restart is not None,
        address=None if peer.multihop is None else peer.address,
    )
