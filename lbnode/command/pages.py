"""The agents' pages as values. Older and newer agents are read too: unknown fields are ignored, missing ones have a default and are told.

What is sent is not trusted: a page that does not fit is an :class:`Unreadable` that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lbnode import __version__
from lbnode.model import Destination, IPAddress
from lbnode.settings import DataPlane

Role = Literal["edge", "worker", "controller"]
Address = IPv4Address | IPv6Address


class Unreadable(Exception):
    """A page breaks its rules; the text names the field."""


class _Page(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class VipLine(_Page):
    """A VIP on an edge node: what it has decided, and whether BIRD holds the route."""

    announce: bool
    announced: bool = False
    reason: str = "Unknown"
    detail: str = ""
    service: str | None = None

    @property
    def on_air(self) -> bool:
        return self.announce and self.announced


class SessionLine(_Page):
    state: str
    bfd: str = ""
    exported: int = 0
    last_error: str = ""

    @property
    def established(self) -> bool:
        return self.state == "Established"


class RejectionLine(_Page):
    service: str
    reason: str
    message: str = ""


class StatusPage(_Page):
    """``/v1/status`` of any role. :attr:`MUST_TELL` are the fields that each role of this version fills."""

    node: str = ""
    role: str = ""
    version: str | None = None
    last_error: str = ""
    settings_error: str = ""
    warnings: tuple[str, ...] = ()
    rejections: tuple[RejectionLine, ...] = ()
    # edge
    settings_pending: str = ""
    draining: bool = False
    blocked: tuple[str, ...] | None = None
    vips: dict[Address, VipLine] = Field(default_factory=dict)
    sessions: dict[str, SessionLine] = Field(default_factory=dict)
    healthy_workers: tuple[Address, ...] = ()
    # worker
    not_ready: tuple[str, ...] = ()
    without_endpoints: tuple[str, ...] = ()
    # controller
    leads: bool = False


MUST_TELL: Mapping[Role, frozenset[str]] = {
    "edge": frozenset({"version", "settings_error", "last_error", "warnings", "vips", "sessions", "draining"}),
    "worker": frozenset({"version", "settings_error", "last_error", "warnings", "not_ready", "without_endpoints"}),
    "controller": frozenset({"version", "settings_error", "last_error", "leads", "rejections"}),
}


class DestinationLine(_Page):
    """A worker, or with ``nat_port`` a pod that is reached by translation."""

    address: Address
    weight: int = Field(ge=0)
    drained: bool = False
    nat_port: int | None = None

    @property
    def value(self) -> Destination:
        return Destination(self.address, self.weight, self.drained, self.nat_port)


class ServiceLine(_Page):
    """An IPVS service; destinations are in the order of the kernel's list."""

    vip: Address
    protocol: str
    port: int
    hash_source_port: bool = True
    one_packet: bool = False
    destinations: tuple[DestinationLine, ...] = ()


class WorkerLine(_Page):
    """A worker as an edge node's probes see it. ``healthy`` is ``None`` while undecided."""

    name: str
    address: Address
    healthy: bool | None = None
    probe: str | None = None


class Conntrack(_Page):
    count: int
    max: int


class MachineFacts(_Page):
    """What a node is; absent fields were not told. Agents that knew one data plane did not name it."""

    dataplane: DataPlane = "ipvs"
    kernel_release: str = ""
    kernel_build: str = ""
    mh_table_index: int | None = None
    modules: dict[str, str] = Field(default_factory=dict)
    sysctls: dict[str, str] = Field(default_factory=dict)
    path_mtu_bytes: dict[Address, int] = Field(default_factory=dict)
    conntrack: Conntrack | None = None
    proxy_mode: str | None = None
    proxy_devices: tuple[str, ...] = ()
    other_speaker: bool = False


class NodePage(_Page):
    """``/v1/node``: what only people ask for."""

    time_unix_seconds: float | None = None
    services: tuple[ServiceLine, ...] = ()
    differences: dict[Address, str] = Field(default_factory=dict)
    workers: tuple[WorkerLine, ...] = ()
    machine: MachineFacts | None = None


PageKind = TypeVar("PageKind", bound=_Page)


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent and what it said.

    ``silence`` says why ``status`` is missing. ``node_page`` is ``None`` for an agent that is too old to have the page. ``clock_seconds`` is
    how far its clock is ahead of ours, within ``clock_error_seconds``. ``through`` is ``node`` or ``API server``.
    """

    role: Role
    node: str
    address: IPAddress | None = None
    pod: str = ""
    status: StatusPage | None = None
    node_page: NodePage | None = None
    silence: str = ""
    through: str = ""
    clock_seconds: float | None = None
    clock_error_seconds: float = 0.0

    @property
    def called(self) -> str:
        return self.pod or self.node if self.role == "controller" else self.node

    @property
    def machine(self) -> MachineFacts | None:
        return self.node_page.machine if self.node_page is not None else None


def read_status(raw: Any) -> StatusPage:
    """``/v1/status`` from JSON values. Raises :class:`Unreadable`."""
    return _read(StatusPage, raw)


def read_node_page(raw: Any) -> NodePage:
    """``/v1/node`` from JSON values. Raises :class:`Unreadable`."""
    return _read(NodePage, raw)


def _read(kind: type[PageKind], raw: Any) -> PageKind:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        where = ".".join(map(str, finding["loc"])) or "the page"
        raise Unreadable(f"{where}: {finding['msg']}") from None


def age_notes(agents: Iterable[Agent]) -> list[str]:
    """What to tell of agents of another version than this command."""
    notes: list[str] = []
    for agent in agents:
        if agent.status is None:
            continue
        missing = sorted(MUST_TELL[agent.role] - agent.status.model_fields_set)
        if agent.role != "controller" and agent.node_page is None:
            missing.append("the page /v1/node")
        version = agent.status.version
        if missing:
            notes.append(
                f"the {agent.role} agent on {agent.called} ({version or 'version unknown'}) is older than this command ({__version__}) and does "
                f"not tell: {', '.join(missing)}. What rests on it is left out; roll the agents' image forward"
            )
        elif version != __version__:
            notes.append(
                f"the {agent.role} agent on {agent.called} has version {version}, this command {__version__}: what only one of them knows is left out"
            )
    return notes


def of_role(agents: Sequence[Agent], role: Role) -> list[Agent]:
    """The agents of a role, by name."""
    return sorted((a for a in agents if a.role == role), key=lambda a: a.called)
