"""What a data plane can be told to do. A diff is an ordered tuple of these; the order is decided in :mod:`lbnode.diff` and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from lbnode.model import (
    IPAddress,
    IpvsTimeouts,
    ProbeRoute,
    Remains,
    ReturnPath,
    ReturnTunnel,
    RouterLink,
    Tunnel,
    VirtualKey,
    VirtualService,
)
from lbnode.packet_tables import DeliveryTable, FilterTable, TranslationTable


@dataclass(frozen=True, slots=True)
class SetSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class SetTimeouts:
    timeouts: IpvsTimeouts


@dataclass(frozen=True, slots=True)
class ReplaceFilter:
    """Put this table in place of ours, in one transaction."""

    table: FilterTable


@dataclass(frozen=True, slots=True)
class RemoveFilter:
    pass


@dataclass(frozen=True, slots=True)
class ReplaceTranslation:
    """Put this table in place of ours, in one transaction."""

    table: TranslationTable


@dataclass(frozen=True, slots=True)
class RemoveTranslation:
    pass


@dataclass(frozen=True, slots=True)
class ReplaceDelivery:
    """Put this table in place of ours, in one transaction."""

    table: DeliveryTable


@dataclass(frozen=True, slots=True)
class RemoveDelivery:
    pass


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Hold ``address`` as a host address on the loopback device."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: IPAddress


@dataclass(frozen=True, slots=True)
class AddService:
    """Create the IPVS service without destinations."""

    service: VirtualService


@dataclass(frozen=True, slots=True)
class UpdateService:
    """Change flags of an existing IPVS service; destinations stay."""

    service: VirtualService


@dataclass(frozen=True, slots=True)
class RemoveService:
    key: VirtualKey


@dataclass(frozen=True, slots=True)
class AddDestination:
    """Add at the head of the kernel's list with ``weight``; drained ones get weight 0 by a later ``SetWeight``."""

    key: VirtualKey
    address: IPAddress
    weight: int
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class SetWeight:
    key: VirtualKey
    address: IPAddress
    weight: int
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class RemoveDestination:
    key: VirtualKey
    address: IPAddress
    nat_port: int | None = None


@dataclass(frozen=True, slots=True)
class AddProbeDevice:
    version: int


@dataclass(frozen=True, slots=True)
class RemoveProbeDevice:
    """Remove the device with its routes."""

    version: int


@dataclass(frozen=True, slots=True)
class AddProbeRoute:
    route: ProbeRoute


@dataclass(frozen=True, slots=True)
class RemoveProbeRoute:
    route: ProbeRoute


@dataclass(frozen=True, slots=True)
class EnsureLink:
    """Create the link's device or mend what is wrong with it."""

    link: RouterLink


@dataclass(frozen=True, slots=True)
class RemoveLink:
    device: str


@dataclass(frozen=True, slots=True)
class EnsureTunnel:
    """Create the tunnel device or mend what is wrong with it."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class RemoveTunnel:
    device: str


@dataclass(frozen=True, slots=True)
class EnsureReturnTunnel:
    """Create the tunnel device or mend what is wrong with it."""

    tunnel: ReturnTunnel


@dataclass(frozen=True, slots=True)
class RemoveReturnTunnel:
    device: str


@dataclass(frozen=True, slots=True)
class AttachPrograms:
    """Have the XDP program at these devices again."""

    devices: frozenset[str]


@dataclass(frozen=True, slots=True)
class RemoveRemains:
    """Take away what an agent with the other data plane left at work."""

    remains: frozenset[Remains]


@dataclass(frozen=True, slots=True)
class SetReturnPath:
    """Put this path in place of the one of its family. Who stays in the group loses no packet."""

    path: ReturnPath


@dataclass(frozen=True, slots=True)
class RemoveReturnPath:
    version: int


Operation = (
    SetSysctl
    | SetTimeouts
    | ReplaceFilter
    | RemoveFilter
    | ReplaceTranslation
    | RemoveTranslation
    | ReplaceDelivery
    | RemoveDelivery
    | AddAddress
    | RemoveAddress
    | AddService
    | UpdateService
    | RemoveService
    | AddDestination
    | SetWeight
    | RemoveDestination
    | AddProbeDevice
    | RemoveProbeDevice
    | AddProbeRoute
    | RemoveProbeRoute
    | EnsureLink
    | RemoveLink
    | EnsureTunnel
    | RemoveTunnel
    | EnsureReturnTunnel
    | RemoveReturnTunnel
    | AttachPrograms
    | RemoveRemains
    | SetReturnPath
    | RemoveReturnPath
)
