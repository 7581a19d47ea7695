"""What a node's role is told from outside: by Kubernetes, or by a standalone file. The roles themselves know no difference."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Protocol

from lbnode.errors import ConfigError
from lbnode.kube.client import client
from lbnode.kube.lookups import daemonset_environment, daemonset_is_going
from lbnode.kube.watcher import Copy, Watcher
from lbnode.model import IPAddress
from lbnode.objects import Snapshot
from lbnode.roles.cluster_view import Source
from lbnode.roles.loop import SettingsFile, WatchedFile
from lbnode.settings import DATA_PLANE_VARIABLE, AgentSettings, DataPlane, other_dataplane
from lbnode.standalone import Standalone, parse

NAMESPACE = "samegate-system"
AGENT_CONTAINER = "agent"
_RESTARTED = "It is taken when the agent is started anew, on one edge node after the other: systemctl restart samegate-edge (docs/standalone.md)"
#: Where the BGP Secret is mounted in a pod, and where keys lie on a machine that somebody else brings them to.
BGP_KEYS = Path("/etc/samegate/bgp-keys")

Task = Coroutine[Any, Any, None]
NodeRole = Literal["edge", "worker"]


class Outside(Protocol):
    """``settings`` and ``copy`` are what is in force now; ``settings_error`` says why a newer file is refused, ``settings_pending``
    why it waits for the next agent; both may be empty. ``key_directory`` has a file for each BGP key.
    """

    node_name: str
    node_address: IPAddress
    key_directory: Path

    @property
    def settings(self) -> AgentSettings: ...

    @property
    def settings_error(self) -> str: ...

    @property
    def settings_pending(self) -> str: ...

    def copy(self) -> Source: ...

    def tasks(self, woken: Callable[[], None], settings_changed: Callable[[], None]) -> list[Task]:
        """What keeps all of it current until cancelled."""

    async def is_removed(self) -> bool:
        """Whether this role is being taken off the node for good, and not merely stopped."""

    async def changes_dataplane(self) -> bool:
        """Whether an agent with another data plane comes in place of this one."""


class Watching:
    """Objects by watches of an API server, settings by a file that is followed."""

    key_directory: Path = BGP_KEYS

    def __init__(self, api: Any, settings: WatchedFile[AgentSettings]) -> None:
        self._settings = settings
        self._api = api
        self._watcher = Watcher(api, self._changed)
        self._woken: Callable[[], None] | None = None

    def _changed(self) -> None:
        if self._woken is not None:
            self._woken()

    @property
    def settings(self) -> AgentSettings:
        return self._settings.current

    @property
    def settings_error(self) -> str:
        return self._settings.error

    @property
    def settings_pending(self) -> str:
        return self._settings.pending

    def copy(self) -> Copy:
        return self._watcher.copy

    def tasks(self, woken: Callable[[], None], settings_changed: Callable[[], None]) -> list[Task]:
        self._woken = woken
        return [self._watcher.run(), self._settings.follow(settings_changed)]


class Cluster(Watching):
    """Kubernetes: settings from the mounted ConfigMap, objects from the API server, the node from the downward API."""

    def __init__(self, settings: SettingsFile) -> None:
        self.node_name = required("NODE_NAME")
        self.node_address = ip_address(required("NODE_ADDRESS"))
        super().__init__(client(), settings)

    async def is_removed(self) -> bool:
        """Whether this agent's DaemonSet is going. A silent API server means no."""
        name, namespace = _daemon_set()
        return bool(name) and await daemonset_is_going(self._api, name, namespace) is True

    async def changes_dataplane(self) -> bool:
        """Whether the DaemonSet makes pods with another data plane now. A silent API server means no."""
        name, namespace = _daemon_set()
        coming = await daemonset_environment(self._api, name, namespace, AGENT_CONTAINER) if name else None
        # As text: a later image may know a data plane that this one does not.
        return coming is not None and (coming.get(DATA_PLANE_VARIABLE) or "ipvs") != dataplane_of(os.environ)


def _daemon_set() -> tuple[str, str]:
    return os.environ.get("DAEMONSET_NAME", ""), os.environ.get("POD_NAMESPACE", NAMESPACE)


def dataplane_of(environment: Mapping[str, str]) -> DataPlane:
    """The data plane that the pod with this environment was made for.

    Raises:
        ConfigError: it is none that this agent knows.
    """
    value = environment.get(DATA_PLANE_VARIABLE) or "ipvs"
    if value == "ipvs":
        return "ipvs"
    if value == "xdp":
        return "xdp"
    raise ConfigError(
        f"{DATA_PLANE_VARIABLE}={value}", "is neither ipvs nor xdp", "Set it as the manifest does, beside the mount"
    )


@dataclass(frozen=True, slots=True)
class FileObjects:
    """A standalone file as :class:`lbnode.roles.cluster_view.Source`."""

    file: Standalone
    version: int
    synced: bool = True

    @property
    def answered(self) -> Mapping[str, float]:
        """Nobody has to answer."""
        return {}

    def away_seconds(self, now_seconds: float) -> float | None:
        """Nobody is away."""
        return None

    def snapshot(self) -> Snapshot:
        return self.file.snapshot()


class StandaloneNode:
    """A standalone file, followed. A text that is refused leaves the last good one in force, settings and services alike; so does one in
    which this node is missing. For an edge node one with another data plane than it was started with is pending.

    Raises:
        ConfigError: the file is missing or wrong at the start, or this node is not in it.
    """

    key_directory: Path = BGP_KEYS

    def __init__(self, path: Path, role: NodeRole, node_name: str) -> None:
        self._own: DataPlane | None = None
        self._asked: DataPlane | None = None

        def read(text: str, where: str) -> Standalone:
            file = parse(text, where)
            file.node(node_name, role)
            if role == "edge":
                self._asked = file.settings.dataplane
                if self._own is not None and self._asked != self._own:
                    raise other_dataplane(self._asked, self._own, _RESTARTED)
            return file

        self._file = WatchedFile(path, read)
        self._own = self._asked
        self.node_name = node_name
        self.node_address = self._file.current.node(node_name, role).addresses[0]

    @property
    def settings(self) -> AgentSettings:
        return self._file.current.agent_settings()

    @property
    def settings_error(self) -> str:
        return self._file.error

    @property
    def settings_pending(self) -> str:
        return self._file.pending

    def copy(self) -> FileObjects:
        return FileObjects(self._file.current, self._file.version)

    def poll(self) -> bool:
        """Look at the file once; whether what is in force, the refusal, or what is pending changed."""
        return self._file.poll()

    def tasks(self, woken: Callable[[], None], settings_changed: Callable[[], None]) -> list[Task]:
        return [self._file.follow(settings_changed)]

    async def is_removed(self) -> bool:
        """Never: `lbnode clean` takes the state away, on request."""
        return False

    async def changes_dataplane(self) -> bool:
        """Whether the file asks for another one now."""
        self._file.poll()
        return self._asked != self._own


def standalone_name(given: str | None) -> str:
    """The name of this node in the standalone file: as given, or ``NODE_NAME``, or the host name."""
    return given or os.environ.get("NODE_NAME", "") or os.uname().nodename


def required(name: str) -> str:
    """A variable of the environment.

    Raises:
        ConfigError: it is not there.
    """
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(
            name, "is not in the environment", "Set it from the downward API: spec.nodeName and status.hostIP"
        )
    return value
