"""What an edge node outside the cluster is told: by the API server with a kubeconfig, on a machine that is no Node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from lbnode import kube
from lbnode.errors import ConfigError, Retry
from lbnode.outside_edge import OutsideEdge
from lbnode.roles.loop import WatchedFile
from lbnode.roles.outside import NAMESPACE, Task, Watching
from lbnode.settings import AgentSettings, parse_json

SETTINGS_MAP, SETTINGS_KEY = "samegate-settings", "settings.json"
#: The kubelet, too, brings a changed ConfigMap into a pod within a minute only.
COPY_SECONDS = 10.0

Read = Callable[[], Awaitable[str]]

log = structlog.get_logger()


class FromOutside(Watching):
    """:class:`lbnode.roles.outside.Outside` for a node that is one of ``outsideEdges`` in the settings.

    The settings are a file, or with ``settings_path`` ``None`` the cluster's ConfigMap, whose last text is kept in ``directory``, so that an agent
    starts while the API server is away.

    Raises:
        ConfigError: the kubeconfig cannot be used, or the settings are missing, wrong or without this node. Later such settings leave the last good
            ones in force.
    """

    def __init__(self, kubeconfig: Path, node_name: str, settings_path: Path | None, directory: Path) -> None:
        self.node_name = node_name
        self._kept = directory / SETTINGS_KEY if settings_path is None else None
        if self._kept is not None:
            # A client of its own: connections belong to the event loop that they were opened in.
            asyncio.run(_first_copy(partial(_text, kube.client(kubeconfig)), self._kept))

        def read(text: str, where: str) -> AgentSettings:
            settings = parse_json(text, where)
            _own(settings, node_name)
            return settings

        super().__init__(kube.client(kubeconfig), WatchedFile(settings_path or directory / SETTINGS_KEY, read))
        self.node_address = _own(self.settings, node_name).addresses[0]

    def tasks(self, woken: Callable[[], None], settings_changed: Callable[[], None]) -> list[Task]:
        following = super().tasks(woken, settings_changed)
        return following if self._kept is None else [*following, _keep_copying(partial(_text, self._api), self._kept)]

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
    return await kube.config_map_text(api, SETTINGS_MAP, NAMESPACE, SETTINGS_KEY)


async def _first_copy(read: Read, path: Path) -> None:
    try:
        await _copy(read, path)
    except Retry as error:
        if not path.exists():
            way_out = "Let the API server answer and this credential read that ConfigMap, or name a file by --settings"
            raise ConfigError("settings", str(error), way_out) from None
        log.warning("settings.kept", error=str(error), path=str(path))


async def _keep_copying(read: Read, path: Path) -> None:
    while True:
        await asyncio.sleep(COPY_SECONDS)
        with suppress(Retry):
            await _copy(read, path)


async def _copy(read: Read, path: Path) -> None:
    text = await read()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
