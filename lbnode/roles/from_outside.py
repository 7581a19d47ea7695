"""What an edge node outside the cluster is told: by the API server with a kubeconfig, on a machine that is no Node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from lbnode.errors import ConfigError, Retry
from lbnode.kube.client import client
from lbnode.kube.lookups import config_map_text, secret_values
from lbnode.outside_edge import OutsideEdge
from lbnode.roles.loop import WatchedFile
from lbnode.roles.outside import BGP_KEYS, NAMESPACE, Task, Watching
from lbnode.settings import AgentSettings, parse_json

SETTINGS_MAP, SETTINGS_KEY = "samegate-settings", "settings.json"
KEYS_SECRET = "samegate-bgp-keys"  # noqa: S105 - its name
#: The kubelet, too, brings a changed ConfigMap into a pod within a minute only.
COPY_SECONDS = 10.0

Read = Callable[[], Awaitable[str]]
Copy = Callable[[], Awaitable[None]]

log = structlog.get_logger()


class FromOutside(Watching):
    """:class:`lbnode.roles.outside.Outside` for a node that is one of ``outsideEdges`` in the settings.

    The settings are a file, or with ``settings_path`` ``None`` the cluster's ConfigMap, whose last text is kept in ``directory``, so that an agent
    starts while the API server is away. BGP keys come and are kept likewise, out of the cluster's Secret, unless the settings are a file or somebody
    brings keys to ``keys_by_hand``.

    Raises:
        ConfigError: the kubeconfig cannot be used, or the settings are missing, wrong or without this node. Later such settings leave the last good
            ones in force.
    """

    def __init__(
        self,
        kubeconfig: Path,
        node_name: str,
        settings_path: Path | None,
        directory: Path,
        keys_by_hand: Path = BGP_KEYS,
    ) -> None:
        self.node_name = node_name
        self._kept = directory / SETTINGS_KEY if settings_path is None else None
        if self._kept is not None:
            # A client of its own: connections belong to the event loop that they were opened in.
            asyncio.run(_first_copy(partial(_text, client(kubeconfig)), self._kept))

        def read(text: str, where: str) -> AgentSettings:
            settings = parse_json(text, where)
            _own(settings, node_name)
            return settings

        super().__init__(client(kubeconfig), WatchedFile(settings_path or directory / SETTINGS_KEY, read))
        self.node_address = _own(self.settings, node_name).addresses[0]
        self._fetches_keys = self._kept is not None and not keys_by_hand.is_dir()
        self.key_directory = directory / "bgp-keys" if self._fetches_keys else keys_by_hand
        if self._fetches_keys:
            asyncio.run(_first_keys(partial(self._copy_keys, client(kubeconfig))))

    def tasks(self, woken: Callable[[], None], settings_changed: Callable[[], None]) -> list[Task]:
        following = super().tasks(woken, settings_changed)
        if self._kept is not None:
            following.append(_keep_copying(partial(_copy, partial(_text, self._api), self._kept)))
        if self._fetches_keys:
            following.append(_keep_copying(partial(self._copy_keys, self._api)))
        return following

    async def _copy_keys(self, api: Any) -> None:
        """Keep the keys that the settings name, and no other. One that has gone from the Secret stays, as a session does whose key is gone."""
        wanted = {peer.password_key for peer in self.settings.bgp.peers if peer.password_key is not None}
        for kept in self.key_directory.glob("*"):
            if kept.name not in wanted:
                kept.unlink()
        if wanted:
            values = await secret_values(api, KEYS_SECRET, NAMESPACE)
            for name in sorted(wanted & values.keys()):
                _keep(self.key_directory / name, values[name])

    async def is_removed(self) -> bool:
        """Never: `lbnode clean` takes the state away, on request."""
        return False

    async def changes_dataplane(self) -> bool:
        """Never: outside the cluster there is IPVS alone (:class:`lbnode.settings.AgentSettings`)."""
        return False


def _own(settings: AgentSettings, node_name: str) -> OutsideEdge:
    for edge in settings.outside_edges:
        if edge.name == node_name:
            return edge
    known = ", ".join(edge.name for edge in settings.outside_edges) or "none"
    raise ConfigError(
        f"node {node_name}",
        f"is not among outsideEdges ({known})",
        "Add it there, or say which of them this machine is by --node or NODE_NAME",
    )


async def _text(api: Any) -> str:
    return await config_map_text(api, SETTINGS_MAP, NAMESPACE, SETTINGS_KEY)


async def _first_copy(read: Read, path: Path) -> None:
    try:
        await _copy(read, path)
    except Retry as error:
        if not path.exists():
            way_out = "Let the API server answer and this credential read that ConfigMap, or name a file by --settings"
            raise ConfigError("settings", str(error), way_out) from None
        log.warning("settings.kept", error=str(error), path=str(path))


async def _first_keys(copy: Copy) -> None:
    try:
        await copy()
    except Retry as error:
        # Sessions that have no key go on, and BIRD's side says of the others what they miss.
        log.warning("bgp_keys.kept", error=str(error))


async def _keep_copying(copy: Copy) -> None:
    while True:
        await asyncio.sleep(COPY_SECONDS)
        with suppress(Retry):
            await copy()


async def _copy(read: Read, path: Path) -> None:
    _keep(path, (await read()).encode())


def _keep(path: Path, data: bytes) -> None:
    """The whole file or the former one, for its owner's eyes."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_bytes(data)
    temporary.replace(path)
