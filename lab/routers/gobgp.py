"""GoBGP as a ToR: gobgpd for BGP and BFD, FRR's zebra to write the kernel's routes (GoBGP has no way of its own).

The configuration is a pure function of the topology.

components.routers has no GoBGP, so its language is the lab's own; how much and which routes are taken comes from the same value as for the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tools
from lab import netns, processes, topology
from lab.processes import Daemon
from lab.routers import frr
from lab.routers.base import (
    BFD_INTERVAL_MS,
    BFD_MULTIPLIER,
    HOLD_SECONDS,
    KEEPALIVE_SECONDS,
    NICE,
    BfdDown,
    Session,
    directory,
    uplink,
    wait,
)
from lab.routers.edge_side import edge_side
from lab.topology import Router

CONFIGURATION = "gobgpd.toml"
#: What zebra of Debian 12 (FRR 8.4) speaks: ZAPI 6, with the numbers of FRR 8.2 (GoBGP, docs/sources/zebra.md, and pkg/zebra/zapi.go).
ZAPI_VERSION, ZAPI_SOFTWARE = 6, "frr8.2"


def missing() -> str | None:
    """The pinned programs, or FRR, when they are not there."""
    for program in ("gobgpd", "gobgp"):
        try:
            tools.locate(program)
        except tools.ToolMissing as error:
            return str(error)
    return frr.missing()


def render(router: Router, *, bgp_password: str | None = None) -> dict[str, str]:
    """The router's configuration; `bgp_password` is the TCP-MD5 key (RFC 2385) of its sessions with the edge nodes."""
    cable, side = uplink(router), edge_side(router)
    lines = [
        "[global.config]",
        f"as = {router.asn}",
        f'router-id = "{router.router_id}"',
        "[global.use-multiple-paths.config]",
        "enabled = true",
        "[global.apply-policy.config]",
        'import-policy-list = ["import"]',
        'default-import-policy = "reject-route"',
        'export-policy-list = ["export"]',
        'default-export-policy = "reject-route"',
        "[zebra.config]",
        "enabled = true",
        f'url = "unix:{frr.zebra_socket(router)}"',
        'redistribute-route-type-list = ["connect"]',
        f"version = {ZAPI_VERSION}",
        f'software-name = "{ZAPI_SOFTWARE}"',
    ]
    edges = str(topology.RACK_NETWORK)
    lines += [
        *(
            line
            for rule in side.accepted
            for line in _prefixes(f"pool{rule.network.version}", rule.network, f"{rule.length}..{rule.length}")
        ),
        *_prefixes("clients4", topology.CLIENT_NETWORK),
        *_prefixes("clients6", topology.CLIENT_NETWORK6),
        *_prefixes("rack4", topology.RACK_NETWORK),
        *_prefixes("rack6", topology.RACK_NETWORK6),
        *_neighbours("core", f"{cable.core.ip}/32"),
        *_neighbours("edges", edges),
        "[[policy-definitions]]",
        'name = "import"',
        # Least trust: host routes of the pool from the edge nodes, the clients' networks from the core, our own rack.
        *(line for v in (4, 6) for line in _statement(f"pool{v}", "edges")),
        *(line for v in (4, 6) for line in _statement(f"clients{v}", "core")),
        *(line for v in (4, 6) for line in _statement(f"rack{v}", None, ('route-type = "local"',))),
        "[[policy-definitions]]",
        'name = "export"',
        *(line for what in ("pool4", "rack4") for line in _statement(what, "core")),
        # The session is over IPv4: its own address is no next hop for IPv6.
        *(line for what in ("pool6", "rack6") for line in _statement(what, "core", next_hop=str(cable.own6.ip))),
        "[[neighbors]]",
        "[neighbors.config]",
        f'neighbor-address = "{cable.core.ip}"',
        f"peer-as = {topology.CORE_ROUTER.asn}",
        *_session("neighbors"),
        *_families("neighbors"),
        "[[peer-groups]]",
        "[peer-groups.config]",
        'peer-group-name = "edges"',
        f"peer-as = {topology.EDGE_ASN}",
        # A JSON string is a TOML string.
        *([f"auth-password = {json.dumps(bgp_password)}"] if bgp_password else []),
        *_session("peer-groups"),
        *_families("peer-groups", side.maximum_prefixes),
        "[[dynamic-neighbors]]",
        "[dynamic-neighbors.config]",
        f'prefix = "{edges}"',
        'peer-group = "edges"',
    ]
    return {CONFIGURATION: "\n".join(lines) + "\n", "zebra.conf": frr.render(router)["zebra.conf"]}


def _prefixes(name: str, network: object, lengths: str | None = None) -> list[str]:
    return [
        "[[defined-sets.prefix-sets]]",
        f'prefix-set-name = "{name}"',
        "[[defined-sets.prefix-sets.prefix-list]]",
        f'ip-prefix = "{network}"',
        *([f'masklength-range = "{lengths}"'] if lengths else []),
    ]


def _neighbours(name: str, prefix: str) -> list[str]:
    return ["[[defined-sets.neighbor-sets]]", f'neighbor-set-name = "{name}"', f'neighbor-info-list = ["{prefix}"]']


def _statement(
    prefixes: str, neighbours: str | None, bgp_conditions: Iterable[str] = (), next_hop: str | None = None
) -> list[str]:
    """A statement that accepts these prefixes, from or to these neighbours (None: whoever)."""
    wanted = list(bgp_conditions)
    return [
        "[[policy-definitions.statements]]",
        "[policy-definitions.statements.conditions.match-prefix-set]",
        f'prefix-set = "{prefixes}"',
        *(
            ["[policy-definitions.statements.conditions.match-neighbor-set]", f'neighbor-set = "{neighbours}"']
            if neighbours
            else []
        ),
        *(["[policy-definitions.statements.conditions.bgp-conditions]", *wanted] if wanted else []),
        "[policy-definitions.statements.actions]",
        'route-disposition = "accept-route"',
        *(["[policy-definitions.statements.actions.bgp-actions]", f'set-next-hop = "{next_hop}"'] if next_hop else []),
    ]


def _session(table: str) -> list[str]:
    microseconds = BFD_INTERVAL_MS * 1000
    return [
        f"[{table}.timers.config]",
        f"hold-time = {HOLD_SECONDS}",
        f"keepalive-interval = {KEEPALIVE_SECONDS}",
        # GoBGP's defaults are 120 s, and 30 s after a session was reset, as BFD does.
        "connect-retry = 2",
        "idle-hold-time-after-reset = 1",
        f"[{table}.bfd.config]",
        "enabled = true",
        f"desired-minimum-tx-interval = {microseconds}",
        f"required-minimum-receive = {microseconds}",
        f"detection-multiplier = {BFD_MULTIPLIER}",
    ]


def _families(table: str, maximum_prefixes: Mapping[int, int] | None = None) -> list[str]:
    lines = []
    for version in (4, 6):
        lines += [
            f"[[{table}.afi-safis]]",
            f"[{table}.afi-safis.config]",
            f'afi-safi-name = "ipv{version}-unicast"',
        ]
        if maximum_prefixes is not None:
            lines += [f"[{table}.afi-safis.prefix-limit.config]", f"max-prefixes = {maximum_prefixes[version]}"]
    return lines


def _program(name: str) -> Path:
    try:
        return tools.locate(name)
    except tools.ToolMissing:  # `missing` says so; a lab that has it runs without ever coming here
        return Path(name)


def _api(router: Router) -> str:
    return f"unix://{directory(router) / 'gobgp.sock'}"


def daemons(router: Router) -> tuple[Daemon, ...]:
    """zebra and gobgpd, in the order they start."""
    configuration = directory(router) / CONFIGURATION
    argv = (
        str(_program("gobgpd")),
        *("-f", str(configuration)),
        *("--api-hosts", _api(router)),
        *("--pprof-disable", "--metrics-path", ""),
        "--log-plain",
    )
    gobgpd = Daemon(f"{router.name}-gobgpd", router.namespace, argv, reads=(configuration,), nice=NICE)
    return (frr.zebra(router), gobgpd)


def check(router: Router) -> None:
    """Let zebra's and GoBGP's own parsers read what is written. Raises ValueError with what they reject."""
    frr.check_configuration("zebra", directory(router) / "zebra.conf")
    configuration = directory(router) / CONFIGURATION
    argv = [str(_program("gobgpd")), "--dry-run", "-f", str(configuration), "--pprof-disable", "--metrics-path", ""]
    completed = netns.run(None, argv, check=False)
    if completed.returncode != 0:
        raise ValueError(f"gobgpd rejects {configuration}: {(completed.stdout + completed.stderr).strip()}")


def start(router: Router) -> None:
    """Start zebra and then gobgpd, which is zebra's client from its beginning."""
    _, gobgpd = daemons(router)
    frr.start_zebra(router)
    (directory(router) / "gobgp.sock").unlink(missing_ok=True)
    processes.start(gobgpd)
    wait(f"{router.name}: gobgpd opens its socket", (directory(router) / "gobgp.sock").exists)


def gobgp(router: Router, *words: str) -> str:
    """What GoBGP answers to a command (`neighbor`), as JSON.

    Raises CommandError when it does not answer.
    """
    return netns.run(router.namespace, [str(_program("gobgp")), "--target", _api(router), "-j", *words]).stdout


def sessions(router: Router) -> list[Session]:
    """The router's sessions; prefixes are those of both families."""
    return sessions_in(router.name, gobgp(router, "neighbor"))


# The API's enumerations, as its JSON has them (api/gobgp.proto: PeerState.SessionState, BfdSessionState); 0 is left out.
_BGP_STATES = ("Unknown", "Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established")
_BFD_STATES = ("-", "up", "down", "admin-down", "init")


def sessions_in(router: str, neighbours: str) -> list[Session]:
    """The sessions in what `gobgp -j neighbor` printed."""
    answer: list[dict[str, Any]] = json.loads(neighbours)
    found = []
    for neighbour in answer:
        state = neighbour["state"]
        families = [family.get("state", {}) for family in neighbour.get("afi_safis", ())]
        found.append(
            Session(
                router=router,
                peer=str(state["neighbor_address"]),
                asn=int(state.get("peer_asn", 0)),
                bgp=_word(_BGP_STATES, state.get("session_state", 0)),
                bfd=_word(_BFD_STATES, state.get("bfd_state", {}).get("session_state", 0)),
                prefixes=sum(int(family.get("accepted", 0)) for family in families),
            )
        )
    return sorted(found, key=lambda session: session.peer)


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if number < len(words) else f"state {number}"


def bfd_log(router: Router) -> Path:
    """gobgpd's."""
    return daemons(router)[1].log


_BFD_DOWN = re.compile(
    r'^time=(\S+) level=WARN msg=(?:"(Remote peer signaled BFD down)"|Expired) Topic=bfd Peer=(\S+)$', re.MULTILINE
)


def bfd_downs_in(router: str, log: str) -> tuple[BfdDown, ...]:
    """The sessions that went down, in gobgpd's log.

    One that expires while it comes up counts too: GoBGP says the same of both, and resets the BGP session for either.
    """
    return tuple(
        BfdDown(router, when, peer, "neighbor-down" if remote else "control-expired")
        for when, remote, peer in _BFD_DOWN.findall(log)
    )
