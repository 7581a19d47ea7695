"""FRR: zebra, bfdd and bgpd. The configuration is a pure function of the topology.

What they are told of edge nodes comes from components.routers, as a stack's users get it; the core and the links to it are the lab's own.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from components.routers import frr, ios_words, model
from lab import netns, processes, topology
from lab.processes import Daemon
from lab.routers.base import (
    HOLD_SECONDS,
    KEEPALIVE_SECONDS,
    NICE,
    BfdDown,
    Session,
    directory,
    uplink,
    wait,
)
from lab.routers.edge_side import BFD, KEY, edge_side
from lab.topology import Router

PROGRAMS = Path("/usr/lib/frr")
"""Where Debian's frr keeps its daemons."""

# root, because the state directory is root's; the group because FRR refuses users outside of its shell's.
_USER = ("--user", "root", "--group", "frrvty")


def missing() -> str | None:
    """The Debian package, when it is not there."""
    if shutil.which("vtysh") and (PROGRAMS / "bgpd").exists():
        return None
    return "FRR is missing: run `python -m tools ensure`, or apt-get install frr"


def render(router: Router, *, bgp_password: str | None = None) -> dict[str, str]:
    """The router's configuration, one text per daemon's file: each refuses what is not its own.

    `bgp_password` is the TCP-MD5 key (RFC 2385) of its sessions with the edge nodes.
    """
    side = edge_side(router, has_key=bgp_password is not None)
    keys = {} if bgp_password is None else {KEY: bgp_password}
    bgp = _render_core(side) if router == topology.CORE_ROUTER else _render_tor(router, side, keys)
    # The logs are the record of what went down and why: a counter goes with its session, a line stays.
    texts = {
        "zebra": ["log stdout warnings"],
        "bfdd": ["log stdout debugging", "debug bfd peer", *frr.bfd_profile(BFD)],
        "bgpd": ["log stdout informational", *ios_words.prefix_lists(side), *_LISTS, *bgp],
    }
    return {
        f"{program}.conf": "\n".join([f"hostname {router.name}", *lines]) + "\n" for program, lines in texts.items()
    }


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
    far = uplink(router).core.ip
    lines = [
        *frr.route_maps(side),
        *_route_map("FROM-CORE", "CLIENTS", learning=True),
        *_route_map("TO-CORE", model.VIPS, "RACK"),
        *_bgp(router),
        *frr.neighbours(side, keys),
        *_link(far, core.asn),
    ]
    for version, suffix in model.FAMILIES.items():
        lines += [
            f" address-family ipv{version} unicast",
            f"  network {topology.RACK_NETWORK if version == 4 else topology.RACK_NETWORK6}",
            f"  neighbor {far} activate",
            f"  neighbor {far} route-map FROM-CORE{suffix} in",
            f"  neighbor {far} route-map TO-CORE{suffix} out",
            *frr.family(side, version),
            " exit-address-family",
        ]
    return [*lines, "exit"]


def _configuration(router: Router, program: str) -> Path:
    return directory(router) / f"{program}.conf"


# FRR leaves a directory per process there; a private one goes with the process. The pid stays the daemon's.
_PRIVATE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /var/tmp && exec "$@"', "--")


def daemon(router: Router, program: str, *own: str) -> Daemon:
    """One of FRR's programs on a router, with its own options."""
    configuration, place = _configuration(router, program), directory(router)
    argv = (
        *_PRIVATE,
        str(PROGRAMS / program),
        *_USER,
        *("--config_file", str(configuration)),
        *("--vty_socket", str(place), "--vty_port", "0"),
        *("--socket", str(zebra_socket(router))),
        *("--pid_file", str(place / f"{program}.pid")),
        *own,
    )
    return Daemon(f"{router.name}-{program}", router.namespace, argv, reads=(configuration,), nice=NICE)


def zebra(router: Router) -> Daemon:
    """The program that writes the kernel's routes, for bgpd or for another's BGP."""
    return daemon(router, "zebra", "--nl-bufsize", "4194304")


def zebra_socket(router: Router) -> Path:
    """Where zebra's clients reach it."""
    return directory(router) / "zserv.api"


def daemons(router: Router) -> tuple[Daemon, ...]:
    """zebra, bfdd, bgpd, in the order they start."""
    return (
        zebra(router),
        daemon(router, "bfdd", "--bfdctl", str(directory(router) / "bfdd.sock")),
        daemon(router, "bgpd"),
    )


def check(router: Router) -> None:
    """Let the daemons' own parsers read what is written. Raises ValueError with the lines they reject."""
    for program in ("zebra", "bfdd", "bgpd"):
        check_configuration(program, _configuration(router, program))


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


def start(router: Router) -> None:
    """Start zebra, bfdd and bgpd, each when what it needs of the others is there."""
    _, bfdd, bgpd = daemons(router)
    start_zebra(router)
    processes.start(bfdd)
    # bgpd asks bfdd for sessions through zebra, once: what it asks before bfdd is there is lost.
    wait(f"{router.name}: bfdd registers with zebra", lambda: "bfd" in _zebra_clients(router))
    processes.start(bgpd)


def start_zebra(router: Router) -> None:
    """Start zebra, until its clients reach it."""
    socket = zebra_socket(router)
    socket.unlink(missing_ok=True)
    processes.start(zebra(router))
    wait(f"{router.name}: zebra opens its socket", socket.exists)


def _zebra_clients(router: Router) -> list[str]:
    argv = ["vtysh", "--vty_socket", str(directory(router)), "-d", "zebra", "-c", "show zebra client summary"]
    shown = netns.run(router.namespace, argv, check=False)
    return [line.split()[0] for line in shown.stdout.splitlines() if line.strip()]


def vtysh(router: Router, *commands: str) -> str:
    """What the router's shell answers to the commands ("show bgp summary").

    Raises CommandError when it refuses one.
    """
    argv = ["vtysh", "--vty_socket", str(directory(router))]
    for command in commands:
        argv += ["-c", command]
    return netns.run(router.namespace, argv).stdout


def bgp_peers(router: Router) -> dict[str, dict[str, Any]]:
    """The router's BGP peers by address, as `show bgp summary json` gives them (key `state`)."""
    return _peers(vtysh(router, "show bgp ipv4 unicast summary json"))


def _peers(summary: str) -> dict[str, dict[str, Any]]:
    answer = json.loads(summary)
    peers: dict[str, dict[str, Any]] = answer.get("peers", answer.get("ipv4Unicast", {}).get("peers", {}))
    return peers


def sessions(router: Router) -> list[Session]:
    """The router's sessions; prefixes are those of IPv4."""
    summary = vtysh(router, "show bgp ipv4 unicast summary json")
    return sessions_in(router.name, summary, vtysh(router, "show bfd peers json"))


def sessions_in(router: str, summary: str, bfd_peers: str) -> list[Session]:
    """The sessions in what `show bgp ipv4 unicast summary json` and `show bfd peers json` printed."""
    bfd = {peer.get("peer"): str(peer.get("status", "?")) for peer in json.loads(bfd_peers)}
    return [
        Session(
            router=router,
            peer=address,
            asn=int(peer.get("remoteAs", 0)),
            bgp=str(peer.get("state", "?")),
            bfd=bfd.get(address, "-"),
            prefixes=int(peer.get("pfxRcd", 0)),
        )
        for address, peer in sorted(_peers(summary).items())
    ]


def bfd_log(router: Router) -> Path:
    """bfdd's."""
    return daemons(router)[1].log


_BFD_DOWN = re.compile(
    r"^(\S+ \S+) BFD: .*state-change: \[.*?peer:(\S+) .*\] up -> down(?: reason:(\S+))?", re.MULTILINE
)


def bfd_downs_in(router: str, log: str) -> tuple[BfdDown, ...]:
    """The sessions that went down, in the log of a router's bfdd; a session that never came up is not among them."""
    return tuple(BfdDown(router, when, peer, reason) for when, peer, reason in _BFD_DOWN.findall(log))
