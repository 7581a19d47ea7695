"""BIRD 2 as the speaker: the agent writes its whole configuration and reads back what came of it.

BIRD runs in a process (a container) of its own, waits for the file and starts with it, so it also comes back with the last full set
when it was killed. A new set goes: text beside the old file, ``bird -p`` on it, rename, ``configure``. Each step leaves either the
former or the new configuration complete.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from lbnode.bgp_settings import Bgp, Peer
from lbnode.errors import ConfigError, Retry
from lbnode.facts import RouteAttributes
from lbnode.model import IPAddress, IPNetwork
from lbnode.pools import Pool
from lbnode.speaker.base import Session, SpeakerState
from lbnode.speaker.bird_config import (
    COVERED_PROTOCOLS,
    KEY_DIRECTORY,
    STATIC_PROTOCOLS,
    Renderer,
    protocol_name,
    render_key,
    spoken_peers,
)
from lbnode.speaker.bird_control import ProtocolStatus, ask, parse_bfd, parse_protocols, parse_routes

CONFIG_NAME = "bird.conf"
SOCKET_NAME = "bird.ctl"
#: BIRD's reply codes to ``configure`` (doc/reply_codes): reconfigured, in progress, queued behind one in progress.
ACCEPTED_CODES = frozenset({3, 4, 5})
#: BIRD gives a session up for good when it cannot listen (port taken, node address not there yet); being configured makes it try again.
STUCK = "No listening socket"
UNSTICK_SECONDS = 5.0
#: BIRD is waiting for its own end and ignores the new configuration.
SHUTTING_DOWN_CODE = 6


class Bird:
    """The :class:`lbnode.speaker.base.Speaker` over BIRD 2.

    Args:
        directory: shared with BIRD's container; holds ``bird.conf``, the control socket and the keys' includes.
        key_directory: the mounted BGP Secret, a file for each ``passwordKey``.
        program: BIRD's binary, used for checking only.
        timeout_seconds: for each conversation with BIRD and for the check.
    """

    def __init__(
        self,
        bgp: Bgp,
        pools: Sequence[Pool],
        node_name: str,
        node_addresses: Sequence[IPAddress],
        directory: Path = Path("/run/samegate"),
        key_directory: Path = Path("/etc/samegate/bgp-keys"),
        program: str = "bird",
        timeout_seconds: float = 5.0,
    ) -> None:
        self._bgp = bgp
        self._node_name = node_name
        self._node_addresses = tuple(node_addresses)
        self._directory = directory
        self._key_directory = key_directory
        self._program = program
        self._timeout_seconds = timeout_seconds
        self._renderer = Renderer(bgp, pools, node_name, node_addresses)
        self._peers = spoken_peers(bgp, node_name, node_addresses)
        self._in_force: tuple[str, dict[str, str]] | None = None
        self._stuck = False
        self._configured_at = 0.0
        self._lock = asyncio.Lock()

    async def set(self, routes: Mapping[IPNetwork, RouteAttributes]) -> None:
        """Hold exactly these routes; nothing is written and BIRD is not asked when that is so already.

        The exception is a session that :meth:`read` found given up: BIRD is told the same again, every 5 s at most.
        A BGP key that cannot be read does not hold up the routes: the session keeps the key it had, the set goes into force, and
        the error follows.

        Raises:
            ConfigError: BIRD refuses the configuration (the former one stays in force), or a BGP key is missing or unusable.
            Retry: BIRD does not answer yet; the file is written, and BIRD will start with it.
        """
        async with self._lock:
            text = self._renderer.text(routes)
            keys, findings = self._keys()
            wanted = (text, keys)
            path = self._directory / CONFIG_NAME
            now = asyncio.get_running_loop().time()
            unstick = self._stuck and now - self._configured_at >= UNSTICK_SECONDS
            if wanted != self._in_force or _text_of(path) != text or unstick:
                # Until BIRD has said yes nothing is known to be in force.
                self._in_force = None
                former = _text_of(path)
                for name, key_text in keys.items():
                    _write(self._directory / KEY_DIRECTORY / name, key_text)
                if former != text:
                    await self._check_and_write(path, text)
                await self._configure(path, former)
                self._in_force, self._configured_at = wanted, now
            if findings:
                raise findings[0]

    async def read(self) -> SpeakerState:
        """What BIRD holds to announce to every session, and its sessions; how much each peer was sent is ``Session.exported``.

        A set of routes is known before a session is up, so that an agent that starts again finds what it announced. Ask often:
        after a new session BIRD 2.0.12 was seen to sit on its UPDATE for up to 2.9 s (until a timer woke it), and being asked wakes it.

        Raises:
            Retry: BIRD does not answer.
        """
        protocols = [*STATIC_PROTOCOLS.values(), *COVERED_PROTOCOLS.values()]
        sessions, bfd, *replies = await ask(
            self._directory / SOCKET_NAME,
            ["show protocols all", "show bfd sessions", *(f"show route protocol {p} all" for p in protocols)],
            self._timeout_seconds,
        )
        routes: dict[IPNetwork, RouteAttributes] = {}
        for protocol, reply in zip(protocols, replies, strict=True):
            # A family without pools, or without aggregates, has no such protocol, and asking for it is an error that means "none".
            if not reply.failed:
                routes |= parse_routes(reply, covered=protocol in COVERED_PROTOCOLS.values())
        statuses, bfd_states = parse_protocols(sessions), parse_bfd(bfd)
        self._stuck = any(STUCK in status.last_error for status in statuses.values())
        found = {
            p.name: self._session(p, statuses.get(protocol_name(p.name)), bfd_states.get(p.address))
            for p in self._peers
        }
        return SpeakerState(routes, found)

    def _keys(self) -> tuple[dict[str, str], list[ConfigError]]:
        keys: dict[str, str] = {}
        findings: list[ConfigError] = []
        for peer in self._peers:
            if peer.password_key is None:
                continue
            name = f"{peer.name}.conf"
            try:
                try:
                    keys[name] = render_key(peer, (self._key_directory / peer.password_key).read_bytes())
                except OSError as error:
                    raise ConfigError(
                        f"BGP key {peer.password_key} of peer {peer.name}",
                        f"it cannot be read: {error.strerror}",
                        f"Put it into the BGP Secret under the name {peer.password_key}; both sides need the same",
                    ) from None
            except ConfigError as finding:
                former = _text_of(self._directory / KEY_DIRECTORY / name)
                if former is None:
                    raise
                keys[name] = former
                findings.append(finding)
        return keys, findings

    async def _check_and_write(self, path: Path, text: str) -> None:
        candidate = path.with_name(path.name + ".new")
        _write(candidate, text)
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                "-p",
                "-c",
                str(candidate),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    output, _ = await process.communicate()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise Retry(f"`{self._program} -p` did not end within {self._timeout_seconds:g} s") from None
            if process.returncode != 0:
                raise _refused(output.decode("utf-8", "replace").replace(candidate.name, path.name))
            candidate.replace(path)
        except FileNotFoundError:
            raise ConfigError(
                f"program {self._program}",
                "BIRD is not installed where the agent runs",
                "Use samegate's image, or install bird2",
            ) from None
        finally:
            candidate.unlink(missing_ok=True)

    async def _configure(self, path: Path, former: str | None) -> None:
        (reply,) = await ask(self._directory / SOCKET_NAME, ["configure"], self._timeout_seconds)
        if reply.code in ACCEPTED_CODES:
            return
        if reply.failed:
            # BIRD goes on with the former one, so must its next start.
            if former is not None:
                _write(path, former)
            raise _refused(reply.text)
        what = (
            "is shutting down"
            if reply.code == SHUTTING_DOWN_CODE
            else f"answered {reply.code} to `configure`: {reply.text}"
        )
        raise Retry(f"BIRD {what}")

    def _session(self, peer: Peer, status: ProtocolStatus | None, bfd: str | None) -> Session:
        if status is None:
            return Session(
                peer.name,
                "Down",
                bfd or "",
                last_error="BIRD does not know this session: its configuration is not ours",
            )
        error = status.last_error
        if not error and status.state in {"Connect", "Active"}:
            # A kernel drops segments with a missing or wrong MD5 signature silently, so BIRD cannot tell that from a dead router.
            error = f"no answer from {peer.address} port {peer.port}: the router is down, does not expect this node, or its BGP key (TCP MD5) is not ours"
        if STUCK in error:
            where = ", ".join(str(a) for a in self._node_addresses if a.version == peer.address.version)
            error += f": port {self._bgp.listen_port} on {where} is taken, or the node does not have the address. Free it, or set bgp.listenPort"
        return Session(peer.name, status.state, (bfd or "Down") if peer.bfd is not None else "", status.exported, error)


def _refused(message: str) -> ConfigError:
    return ConfigError(
        "BIRD's configuration",
        f"BIRD refuses it: {message.strip()}",
        "The former one stays in force. Mend settings.bgp",
    )


def _text_of(path: Path) -> str | None:
    try:
        # Whatever somebody wrote there is not what we would write, and is replaced.
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return None


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
