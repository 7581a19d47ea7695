"""The routers: FRR's zebra, bfdd and bgpd in a namespace each. The configuration is a pure function of the topology.

What they are told of edge nodes comes from components.routers, as a stack's users get it; the core and the links to it are the lab's own.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from components.routers import frr, ios_words, model
from lab import netns, processes, topology
from lab.processes import Daemon, write_text
from lab.topology import Router
from lbnode.settings import Bfd

DIRECTORY = topology.STATE / "routers"
PROGRAMS = Path("/usr/lib/frr")
"""Where Debian's frr keeps its daemons."""

BFD_INTERVAL_MS = 300
BFD_MULTIPLIER = 3
"""3 x 300 ms: 3 x 100 gave false downs on busy virtual machines, 3 x 300 none."""
KEEPALIVE_SECONDS = 3
HOLD_SECONDS = 9
MAXIMUM_PATHS = 8
_KEY = "edges"
"""The name of the TCP-MD5 key (RFC 2385) of the sessions with edge nodes."""

# root, because the state directory is root's; the group because FRR refuses users outside of its shell's.
_USER = ("--user", "root", "--group", "frrvty")


def render(router: Router, *, bgp_password: str | None = None) -> dict[str, str]:
    """The router's configuration, one text per daemon: each refuses what is not its own.

    `bgp_password` is the TCP-MD5 key (RFC 2385) of its sessions with the edge nodes.
    """
    side = edge_side(router, has_key=bgp_password is not None)
    keys = {} if bgp_password is None else {_KEY: bgp_password}
    bgp = _render_core(side) if router == topology.CORE_ROUTER else _render_tor(router, side, keys)
    # The logs are the record of what went down and why: a counter goes with its session, a line stays.
    texts = {
        "zebra": ["log stdout warnings"],
        "bfdd": ["log stdout debugging", "debug bfd peer", *frr.bfd_profile(_BFD)],
        "bgpd": ["log stdout informational", *ios_words.prefix_lists(side), *_LISTS, *bgp],
    }
    return {program: "\n".join([f"hostname {router.name}", *lines]) + "\n" for program, lines in texts.items()}


def edge_side(router: Router, *, has_key: bool = False) -> model.Router:
    """What the router is told of the edge nodes, as the generator takes it; equal to what follows from stacks/Pulumi.lab.yaml."""
    rules = tuple(model.Accepted(pool, pool.max_prefixlen) for pool in topology.VIP_POOLS.values())
    # One session, over IPv4, carries both families.
    session = model.Session((topology.RACK_NETWORK,), (4, 6), password_key=_KEY if has_key else None, bfd=_BFD)
    return model.Router(
        name=router.name,
        asn=router.asn,
        edge_asn=topology.EDGE_ASN,
        accepted=rules,
        sessions=(session,),
        maximum_prefixes={version: model.most_routes(rules, version) for version in topology.VIP_POOLS},
        maximum_paths=MAXIMUM_PATHS,
        maximum_edge_nodes=len(topology.EDGES),
    )


_BFD = Bfd(interval_ms=BFD_INTERVAL_MS, multiplier=BFD_MULTIPLIER)
_LISTS = [
    f"ip prefix-list CLIENTS seq 5 permit {topology.CLIENT_NETWORK}",
    f"ip prefix-list RACK seq 5 permit {topology.RACK_NETWORK}",
    f"ipv6 prefix-list CLIENTS6 seq 5 permit {topology.CLIENT_NETWORK6}",
    f"ipv6 prefix-list RACK6 seq 5 permit {topology.RACK_NETWORK6}",
]


def _route_map(name: str, *prefix_lists: str, learning: bool = False) -> list[str]:
    """A route map NAME for IPv4 and one NAME6 for IPv6 that let these prefix lists pass and nothing else."""
    # Else the kernel's next hop is the link-local address, which no reader of a routing table knows by name.
    chosen = [" set ipv6 next-hop prefer-global"] if learning else []
    lines: list[str] = []
    for number, prefix_list in enumerate(prefix_lists, 1):
        lines += [f"route-map {name} permit {number * 10}", f" match ip address prefix-list {prefix_list}", "exit"]
    for number, prefix_list in enumerate(prefix_lists, 1):
        lines += [
            f"route-map {name}6 permit {number * 10}",
            f" match ipv6 address prefix-list {prefix_list}6",
            *chosen,
            "exit",
        ]
    return lines


def _bgp(router: Router) -> list[str]:
    return [
        f"router bgp {router.asn}",
        f" bgp router-id {router.router_id}",
        " bgp log-neighbor-changes",
        " no bgp default ipv4-unicast",
        # Paths through different ToRs differ in their AS path, not in its length.
        " bgp bestpath as-path multipath-relax",
        f" timers bgp {KEEPALIVE_SECONDS} {HOLD_SECONDS}",
    ]


def _link(address: IPv4Address, asn: int) -> list[str]:
    return [f" neighbor {address} remote-as {asn}", f" neighbor {address} bfd profile {model.BFD_PROFILE}"]


def _render_core(side: model.Router) -> list[str]:
    core = topology.CORE_ROUTER
    tors = [
        (link.right.address.ip, tor.asn)
        for link, tor in zip(topology.LINKS[:2], topology.TORS, strict=True)
        if link.right.address is not None
    ]
    lines = [*_route_map("FROM-TOR", model.VIPS, "RACK", learning=True), *_route_map("TO-TOR", "CLIENTS"), *_bgp(core)]
    for address, asn in tors:
        lines += _link(address, asn)
    for version, suffix in model.FAMILIES.items():
        lines += [f" address-family ipv{version} unicast", f"  network {topology.CLIENT_NETWORKS[version]}"]
        for address, _ in tors:
            lines += [
                f"  neighbor {address} activate",
                f"  neighbor {address} route-map FROM-TOR{suffix} in",
                f"  neighbor {address} route-map TO-TOR{suffix} out",
            ]
        lines += [f"  maximum-paths {side.maximum_paths}", " exit-address-family"]
    return [*lines, "exit"]


def _render_tor(router: Router, side: model.Router, keys: Mapping[str, str]) -> list[str]:
    core = topology.CORE_ROUTER
    uplink = next(link.left.address for link in topology.LINKS if link.right.namespace == router.namespace)
    assert uplink is not None  # noqa: S101 - the topology's cables between routers have addresses at both ends
    lines = [
        *frr.route_maps(side),
        *_route_map("FROM-CORE", "CLIENTS", learning=True),
        *_route_map("TO-CORE", model.VIPS, "RACK"),
        *_bgp(router),
        *frr.neighbours(side, keys),
        *_link(uplink.ip, core.asn),
    ]
    for version, suffix in model.FAMILIES.items():
        lines += [
            f" address-family ipv{version} unicast",
            f"  network {topology.RACK_NETWORK if version == 4 else topology.RACK_NETWORK6}",
            f"  neighbor {uplink.ip} activate",
            f"  neighbor {uplink.ip} route-map FROM-CORE{suffix} in",
            f"  neighbor {uplink.ip} route-map TO-CORE{suffix} out",
            *frr.family(side, version),
            " exit-address-family",
        ]
    return [*lines, "exit"]


def _directory(router: Router) -> Path:
    return DIRECTORY / router.name


def _configuration(router: Router, program: str) -> Path:
    return _directory(router) / f"{program}.conf"


# FRR leaves a directory per process there; a private one goes with the process. The pid stays the daemon's.
_PRIVATE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /var/tmp && exec "$@"', "--")


def daemons(router: Router) -> tuple[Daemon, ...]:
    """zebra, bfdd, bgpd, in the order they start."""
    directory = _directory(router)

    def one(program: str, *own: str) -> Daemon:
        configuration = _configuration(router, program)
        argv = (
            *_PRIVATE,
            str(PROGRAMS / program),
            *_USER,
            *("--config_file", str(configuration)),
            *("--vty_socket", str(directory), "--vty_port", "0"),
            *("--socket", str(directory / "zserv.api")),
            *("--pid_file", str(directory / f"{program}.pid")),
            *own,
        )
        return Daemon(f"{router.name}-{program}", router.namespace, argv, reads=(configuration,), nice=-15)

    return (
        one("zebra", "--nl-bufsize", "4194304"),
        one("bfdd", "--bfdctl", str(directory / "bfdd.sock")),
        one("bgpd"),
    )


def _outdated(router: Router, bgp_password: str | None) -> dict[Path, str]:
    wanted = {
        _configuration(router, program): text for program, text in render(router, bgp_password=bgp_password).items()
    }
    return {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}


def trouble(*, bgp_password: str | None = None) -> str | None:
    """The first router daemon that is not running as configured, or None."""
    for router in topology.ROUTERS:
        if _outdated(router, bgp_password):
            return f"{router.name} is not configured"
        for daemon in daemons(router):
            if reason := processes.trouble(daemon):
                return f"{daemon.name}: {reason}"
    return None


def start(*, bgp_password: str | None = None) -> None:
    """Configure and start all routers. A router of which any daemon is wrong is started whole: bgpd and bfdd
    register with zebra at start.

    Raises CommandError when FRR's own parser rejects a configuration.
    """
    for router in topology.ROUTERS:
        for path, text in _outdated(router, bgp_password).items():
            write_text(path, text, mode=0o600)
        if all(processes.trouble(daemon) is None for daemon in daemons(router)):
            continue
        for program in render(router):
            check_configuration(program, _configuration(router, program))
        _stop(router)
        _start(router)


def check_configuration(program: str, path: Path) -> None:
    """Let the daemon's own parser read the file.

    Raises ValueError with the lines it rejects.
    """
    argv = [*_PRIVATE, str(PROGRAMS / program), *_USER, "--dryrun", "--config_file", str(path), "--log", "stdout"]
    completed = netns.run(None, argv, check=False)
    said = completed.stdout + completed.stderr
    rejected = [line for line in said.splitlines() if "on config line" in line]
    if completed.returncode != 0 or rejected:
        raise ValueError(f"{program} rejects {path}: {'; '.join(rejected) or said.strip()}")


def _start(router: Router) -> None:
    zebra, bfdd, bgpd = daemons(router)
    socket = _directory(router) / "zserv.api"
    socket.unlink(missing_ok=True)
    processes.start(zebra)
    _wait(f"{router.name}: zebra opens its socket", socket.exists)
    processes.start(bfdd)
    # bgpd asks bfdd for sessions through zebra, once: what it asks before bfdd is there is lost.
    _wait(f"{router.name}: bfdd registers with zebra", lambda: "bfd" in _zebra_clients(router))
    processes.start(bgpd)


def _zebra_clients(router: Router) -> list[str]:
    argv = ["vtysh", "--vty_socket", str(_directory(router)), "-d", "zebra", "-c", "show zebra client summary"]
    shown = netns.run(router.namespace, argv, check=False)
    return [line.split()[0] for line in shown.stdout.splitlines() if line.strip()]


def _wait(what: str, holds: Callable[[], bool], *, timeout_seconds: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s; its log is in {processes.LOGS}")
        time.sleep(0.02)


def _stop(router: Router) -> None:
    for daemon in reversed(daemons(router)):
        processes.stop(daemon.name, grace_seconds=3)


def remove() -> None:
    """Stop all routers and forget their configuration."""
    for router in topology.ROUTERS:
        _stop(router)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def vtysh(router: str, *commands: str) -> str:
    """What the router's shell answers to the commands (`tor1`, "show bgp summary").

    Raises CommandError when it refuses one.
    """
    found = topology.router(router)
    argv = ["vtysh", "--vty_socket", str(_directory(found))]
    for command in commands:
        argv += ["-c", command]
    return netns.run(found.namespace, argv).stdout


def routes(router: str, prefix: str) -> tuple[str, ...]:
    """The next hops of a prefix in the router's kernel, sorted; empty when it has no such route."""
    namespace, version = topology.router(router).namespace, topology.version_of(prefix)
    shown = netns.run(namespace, ["ip", f"-{version}", "-json", "route", "show", "exact", prefix]).stdout
    return tuple(sorted(next_hops(json.loads(shown) if shown.strip() else [])))


def next_hops(entries: Iterable[dict[str, Any]]) -> list[str]:
    """The gateways in what `ip -json route show` printed, of single and multipath routes."""
    hops = [hop for entry in entries for hop in entry.get("nexthops", [entry])]
    return [str(hop["gateway"]) for hop in hops if "gateway" in hop]


def pool_routes(router: str) -> dict[str, tuple[str, ...]]:
    """Every host route of the VIP pools in the router's kernel, with its next hops."""
    namespace = topology.router(router).namespace
    found: dict[str, tuple[str, ...]] = {}
    for version, pool in topology.VIP_POOLS.items():
        shown = netns.run(namespace, ["ip", f"-{version}", "-json", "route", "show", "root", str(pool)]).stdout
        entries = json.loads(shown) if shown.strip() else []
        found |= {entry["dst"]: tuple(sorted(next_hops([entry]))) for entry in entries}
    return found


def bgp_peers(router: str) -> dict[str, dict[str, Any]]:
    """The router's BGP peers by address, as `show bgp summary json` gives them (key `state`)."""
    answer = json.loads(vtysh(router, "show bgp ipv4 unicast summary json"))
    peers: dict[str, dict[str, Any]] = answer.get("peers", answer.get("ipv4Unicast", {}).get("peers", {}))
    return peers


def bfd_peers(router: str) -> list[dict[str, Any]]:
    """The router's BFD peers as `show bfd peers json` gives them."""
    answer: list[dict[str, Any]] = json.loads(vtysh(router, "show bfd peers json"))
    return answer


@dataclass(frozen=True)
class BfdDown:
    """A BFD session that went from up to down. `reason` is FRR's word: `control-expired` when nothing was heard."""

    router: str
    when: str
    peer: str
    reason: str


_BFD_DOWN = re.compile(
    r"^(\S+ \S+) BFD: .*state-change: \[.*?peer:(\S+) .*\] up -> down(?: reason:(\S+))?", re.MULTILINE
)


def bfd_downs_in(router: str, log: str) -> tuple[BfdDown, ...]:
    """The sessions that went down, in the log of a router's bfdd; a session that never came up is not among them."""
    return tuple(BfdDown(router, when, peer, reason) for when, peer, reason in _BFD_DOWN.findall(log))


def bfd_downs() -> tuple[BfdDown, ...]:
    """Every BFD session of any router that went down since the lab was made, whether it still exists or not."""
    events: list[BfdDown] = []
    for router in topology.ROUTERS:
        log = daemons(router)[1].log
        if log.is_file():
            events += bfd_downs_in(router.name, log.read_text(errors="replace"))
    return tuple(events)


def bfd_down_count() -> int:
    """How often a BFD session of any router went down since the lab was made."""
    return len(bfd_downs())


def sessions_trouble() -> str | None:
    """The first session between core and ToR that is not established, on either side, or has no BFD; or None."""
    for router in topology.ROUTERS:
        links = [link for link in topology.LINKS[:2] if router.namespace in (link.left.namespace, link.right.namespace)]
        try:
            bgp = bgp_peers(router.name)
            bfd = {peer.get("peer"): peer.get("status") for peer in bfd_peers(router.name)}
        except (netns.CommandError, ValueError) as error:
            return f"{router.name} does not answer: {error}"
        for link in links:
            far = link.right if link.left.namespace == router.namespace else link.left
            address = str(far.address.ip) if far.address else ""
            states = bgp.get(address, {}).get("state"), bfd.get(address)
            if states != ("Established", "up"):
                return f"{router.name} to {address}: BGP {states[0]}, BFD {states[1]}"
    return None
