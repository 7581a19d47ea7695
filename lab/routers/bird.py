"""BIRD 2 as a ToR: one program for BGP, BFD and the kernel's routes. The configuration is a pure function of the topology.

What it is told of edge nodes comes from components.routers, as a stack's users get it; the link to the core is the lab's own.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from components.routers import bird
from lab import netns, processes, topology
from lab.processes import Daemon
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
from lab.routers.edge_side import KEY, edge_side
from lab.topology import Router

CONFIGURATION = "bird.conf"


def missing() -> str | None:
    """The Debian package, when it is not there."""
    if shutil.which("bird") and shutil.which("birdc"):
        return None
    return "BIRD is missing: run `python -m tools ensure`, or apt-get install bird2"


def render(router: Router, *, bgp_password: str | None = None) -> dict[str, str]:
    """The router's configuration; `bgp_password` is the TCP-MD5 key (RFC 2385) of its sessions with the edge nodes.

    Raises ValueError for a key that BIRD's strings cannot hold.
    """
    if bgp_password is not None and not re.fullmatch(r'[^"\x00-\x1f\x7f]+', bgp_password):
        raise ValueError(
            "the BGP password is empty, or has a double quote or a control character: BIRD's strings hold neither. Choose another on both sides"
        )
    side = edge_side(router, has_key=bgp_password is not None)
    keys = {} if bgp_password is None else {KEY: bgp_password}
    rack = {4: topology.RACK_NETWORK, 6: topology.RACK_NETWORK6}
    blocks = [
        # What went down and why stays in the log: a counter goes with its session.
        "log stderr { info, remote, warning, error, auth, fatal, bug, trace };",
        "timeformat log iso long;",
        f"router id {router.router_id};",
        "protocol device { scan time 10; }",
        'protocol direct rack { ipv4; ipv6; interface "rack"; }',
        "protocol bfd bfd1 { debug { events, states }; }",
    ]
    for version in side.families:
        blocks += [
            bird.kernel(side, version),
            bird.import_filter(side, version),
            _filter(f"from_core{version}", str(topology.CLIENT_NETWORKS[version])),
            _filter(f"to_core{version}", bird.accepted_prefixes(side, version), str(rack[version])),
        ]
    return {CONFIGURATION: "\n".join([*blocks, _core(router), *bird.neighbours(side, keys)]) + "\n"}


def _core(router: Router) -> str:
    cable, core = uplink(router), topology.CORE_ROUTER
    return "\n".join(
        [
            "protocol bgp core {",
            f"  local {cable.own.ip} as {router.asn};",
            f"  neighbor {cable.core.ip} as {core.asn};",
            f"  hold time {HOLD_SECONDS};",
            f"  keepalive time {KEEPALIVE_SECONDS};",
            # BIRD's defaults are 120 s between connects, 60-300 s after an error, 5 s before the first connect (BIRD 2 user guide, section BGP).
            "  connect retry time 2;",
            "  connect delay time 1;",
            "  error wait time 1, 4;",
            f"  bfd {{ min rx interval {BFD_INTERVAL_MS} ms; min tx interval {BFD_INTERVAL_MS} ms; multiplier {BFD_MULTIPLIER}; }};",
            "  ipv4 { import filter from_core4; export filter to_core4; };",
            # The session is over IPv4: its own address is no next hop for IPv6.
            f"  ipv6 {{ import filter from_core6; export filter to_core6; next hop address {cable.own6.ip}; }};",
            "}",
        ]
    )


def _filter(name: str, *prefixes: str) -> str:
    """A filter that lets these prefixes pass and nothing else."""
    return "\n".join([f"filter {name} {{", f"  if net ~ [ {', '.join(prefixes)} ] then accept;", "  reject;", "}"])


def _socket(router: Router) -> Path:
    return directory(router) / "bird.ctl"


def daemons(router: Router) -> tuple[Daemon, ...]:
    """BIRD alone."""
    configuration = directory(router) / CONFIGURATION
    argv = ("bird", "-f", "-c", str(configuration), "-s", str(_socket(router)))
    return (Daemon(f"{router.name}-bird", router.namespace, argv, reads=(configuration,), nice=NICE),)


def check(router: Router) -> None:
    """Let BIRD's own parser read what is written. Raises ValueError with what it rejects."""
    configuration = directory(router) / CONFIGURATION
    completed = netns.run(None, ["bird", "-p", "-c", str(configuration)], check=False)
    if completed.returncode != 0:
        raise ValueError(f"bird rejects {configuration}: {(completed.stdout + completed.stderr).strip()}")


def start(router: Router) -> None:
    """Start BIRD, until its client reaches it."""
    _socket(router).unlink(missing_ok=True)
    (daemon,) = daemons(router)
    processes.start(daemon)
    # The socket is there before the configuration is read (BIRD 2, main()): only an answer says that it was.
    wait(f"{router.name}: BIRD answers", lambda: _answers(router))


def _answers(router: Router) -> bool:
    argv = ["birdc", "-s", str(_socket(router)), "show", "status"]
    return netns.run(router.namespace, argv, check=False).returncode == 0


def birdc(router: Router, *words: str) -> str:
    """What BIRD answers to a command (`show`, `protocols`).

    Raises CommandError when it does not answer.
    """
    return netns.run(router.namespace, ["birdc", "-s", str(_socket(router)), *words]).stdout


def sessions(router: Router) -> list[Session]:
    """The router's sessions; prefixes are those of both families."""
    return sessions_in(router.name, birdc(router, "show", "protocols", "all"), birdc(router, "show", "bfd", "sessions"))


_FIELD = re.compile(r"^ {2,}(BGP state|Neighbor address|Neighbor AS|Routes): +(.*)$", re.MULTILINE)
_BFD_SESSION = re.compile(r"^([0-9a-fA-F.:]+(?:%\S+)?) +\S+ +(Up|Down|Init|AdminDown) ", re.MULTILINE)


def sessions_in(router: str, protocols: str, bfd_sessions: str) -> list[Session]:
    """The sessions in what `show protocols all` and `show bfd sessions` printed. A range that waits for neighbours is none."""
    bfd = {peer: state.lower() for peer, state in _BFD_SESSION.findall(bfd_sessions)}
    found = []
    for block in re.split(r"^(?=\S)", protocols, flags=re.MULTILINE):
        fields = _FIELD.findall(block)
        said = dict(fields)
        peer = said.get("Neighbor address", "").partition("%")[0]
        if peer:
            imported = [int(text.split()[0]) for name, text in fields if name == "Routes"]
            asn = int(said.get("Neighbor AS", "0"))
            found.append(
                Session(router, peer, asn, said.get("BGP state", "?").strip(), bfd.get(peer, "-"), sum(imported))
            )
    return sorted(found, key=lambda session: session.peer)


def bfd_log(router: Router) -> Path:
    """BIRD's only one."""
    return daemons(router)[0].log


_BFD_EVENT = re.compile(
    r"^(\S+ \S+) <TRACE> bfd1: Session to (\S+?)(?:%\S+)? (expired|changed state from (\w+) to Down)", re.MULTILINE
)


def bfd_downs_in(router: str, log: str) -> tuple[BfdDown, ...]:
    """The sessions that went down, in BIRD's log; a session that never came up is not among them."""
    downs = []
    expired: set[str] = set()
    for when, peer, event, former in _BFD_EVENT.findall(log):
        if event == "expired":
            expired.add(peer)
            continue
        if former == "Up":
            downs.append(BfdDown(router, when, peer, "control-expired" if peer in expired else "neighbor-down"))
        expired.discard(peer)
    return tuple(downs)
