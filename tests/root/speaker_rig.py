"""Two network namespaces, BIRD in the one as on an edge node, FRR in the other as a top-of-rack router."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FRR = Path("/usr/lib/frr")
SUPERVISOR = Path(__file__).parents[2] / "image" / "bird-supervisor.sh"
ROUTER_NEIGHBOURS = """\
hostname router
router bgp 65001
 bgp router-id 198.18.0.2
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor EDGE peer-group
 neighbor EDGE remote-as 65010
 neighbor EDGE timers 60 180
 neighbor EDGE bfd 3 300 300
 neighbor EDGE ttl-security hops 1
{neighbour}
 bgp listen range 198.18.0.0/24 peer-group EDGE
 address-family ipv4 unicast
  neighbor EDGE activate
  neighbor EDGE send-community all
{family}
 exit-address-family
{six}
"""


def missing() -> str:
    """Why this machine cannot run the rig; empty when it can."""
    for program in ("bird", "birdc", "vtysh", str(FRR / "bgpd")):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return missing_namespaces()


def missing_namespaces() -> str:
    """Why this process can make no network namespace; empty when it can. Tries one, rather than asks for names."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"sgs-{os.getpid()}-try"
    added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if added.returncode == 0 else f"no network namespaces: {added.stderr.strip()}"


def wait_until(condition: Callable[[], object], deadline_seconds: float, what: str) -> float:
    """Seconds until ``condition`` held."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > deadline_seconds:
            raise AssertionError(f"{what}: not within {deadline_seconds:g} s")
        time.sleep(0.02)
    return time.monotonic() - started


class Rig:
    """Starts nothing by itself but the link; ``directory`` is what the agent and BIRD share."""

    def __init__(self, base: Path) -> None:
        self.speaker_namespace = f"sgs-{os.getpid()}-sp"
        self.router_namespace = f"sgs-{os.getpid()}-rt"
        self.directory = base / "run"
        self.key_directory = base / "bgp-keys"
        self.frr = base / "frr"
        self._bird: subprocess.Popen[bytes] | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for folder in (self.directory, self.key_directory, self.frr):
            folder.mkdir()
        shutil.chown(self.frr, "frr", "frr")
        # FRR gives up root and must reach its own folder.
        base.chmod(0o755)

    def link(self) -> None:
        for name in (self.speaker_namespace, self.router_namespace):
            _run("ip", "netns", "add", name)
        _run(
            "ip",
            "link",
            "add",
            "v0",
            "netns",
            self.speaker_namespace,
            "type",
            "veth",
            "peer",
            "name",
            "v0",
            "netns",
            self.router_namespace,
        )
        for name, address in ((self.speaker_namespace, "198.18.0.11/24"), (self.router_namespace, "198.18.0.2/24")):
            _run("ip", "-n", name, "address", "add", address, "dev", "v0")
            address6 = address.replace("198.18.0.", "2001:db8::").replace("/24", "/64")
            # FRR resets an IPv6 session on an interface without a link-local address ("nexthop_set failed").
            for held in (address6, address6.replace("2001:db8::", "fe80::")):
                _run("ip", "-n", name, "address", "add", held, "dev", "v0", "nodad")
            # Link-local addresses appear some time after the link and would look like learnt routes.
            _run("ip", "-n", name, "link", "set", "v0", "addrgenmode", "none")
            for device in ("lo", "v0"):
                _run("ip", "-n", name, "link", "set", device, "up")

    def start_router(self, neighbour: str = "", family: str = "", six: str = "") -> None:
        """Start zebra, bfdd and bgpd; ``neighbour``, ``family`` and ``six`` are further lines of the configuration: of the neighbour, of its IPv4
        address family, and after that.
        """
        config = ROUTER_NEIGHBOURS.format(neighbour=neighbour, family=family, six=six)
        for daemon, text in (("zebra", ""), ("bfdd", ""), ("bgpd", config)):
            (self.frr / f"{daemon}.conf").write_text(text)
            self.start_router_daemon(daemon)

    def start_router_daemon(self, daemon: str) -> None:
        own = ["--bfdctl", str(self.frr / "bfdd.sock")] if daemon == "bfdd" else []
        where = [
            "--vty_socket",
            str(self.frr),
            "-z",
            str(self.frr / "zserv.api"),
            "-i",
            str(self.frr / f"{daemon}.pid"),
            "-f",
            str(self.frr / f"{daemon}.conf"),
        ]
        with (self.frr / f"{daemon}.log").open("ab") as log:
            self._daemons[daemon] = subprocess.Popen(
                ["ip", "netns", "exec", self.router_namespace, str(FRR / daemon), *where, "--log", "stdout", *own],
                stdout=log,
                stderr=log,
            )
        wait_until((self.frr / f"{daemon}.vty").exists, 10, f"{daemon} starts")

    def stop_router_daemon(self, daemon: str) -> None:
        process = self._daemons.pop(daemon)
        process.terminate()
        process.wait(10)
        (self.frr / f"{daemon}.vty").unlink(missing_ok=True)

    def signal_router_daemon(self, daemon: str, number: signal.Signals) -> None:
        os.kill(int((self.frr / f"{daemon}.pid").read_text()), number)

    def start_bird(self, *before: str) -> None:
        """Run BIRD by the very script that its container runs; ``before`` goes before the shell."""
        with (self.directory / "bird.log").open("ab") as log:
            self._bird = subprocess.Popen(
                ["ip", "netns", "exec", self.speaker_namespace, *before, "sh", str(SUPERVISOR), str(self.directory)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_bird(self) -> None:
        if self._bird is not None:
            os.killpg(self._bird.pid, signal.SIGKILL)
            self._bird.wait()
            self._bird = None

    def signal_bird(self, number: signal.Signals) -> None:
        os.kill(int((self.directory / "bird.pid").read_text()), number)

    def birdc(self, *command: str) -> str:
        return _run("birdc", "-s", str(self.directory / "bird.ctl"), *command)

    def vtysh(self, *commands: str) -> str:
        return _run("vtysh", "--vty_socket", str(self.frr), *(word for c in commands for word in ("-c", c)))

    def vtysh_json(self, command: str) -> Any:
        return json.loads(self.vtysh(command) or "{}")

    def configure_router(self, *lines: str) -> None:
        self.vtysh("configure terminal", "router bgp 65001", *lines)

    def session_ports(self) -> tuple[int, int] | None:
        """The router's port and the speaker's of the one session, which another session would not have; ``None`` while it is down. The router knows a
        speaker by its session only, and forgets with it how many there were before.
        """
        found = self.vtysh_json("show bgp neighbors json").values()
        ports = [(n["portLocal"], n["portForeign"]) for n in found if n["bgpState"] == "Established"]
        return ports[0] if len(ports) == 1 else None

    def router_fib(self, version: int = 4) -> frozenset[str]:
        """What the router's kernel would forward by BGP."""
        return frozenset(self.router_next_hops(version))

    def router_next_hops(self, version: int = 4) -> dict[str, str]:
        """The same with the next hop of each."""
        shown = _run("ip", f"-{version}", "-j", "-n", self.router_namespace, "route", "show", "proto", "bgp")
        return {r["dst"]: r.get("gateway", "") for r in json.loads(shown or "[]")}

    def speaker_routes(self) -> str:
        """All routes of the speaker's kernel, of all tables and families."""
        return "".join(
            _run("ip", family, "-n", self.speaker_namespace, "route", "show", "table", "all") for family in ("-4", "-6")
        )

    def close(self) -> None:
        self.stop_bird()
        for daemon in list(self._daemons):
            self._daemons[daemon].kill()
            self._daemons.pop(daemon).wait()
        for name in (self.speaker_namespace, self.router_namespace):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    # A UNIX socket's path has at most 107 bytes, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory(prefix="sgs-") as base:
        made = Rig(Path(base))
        try:
            made.link()
            yield made
        finally:
            made.close()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout
