"""The worker's data plane in the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lbnode.dataplane.filter import DELIVERY_TABLES, PacketFilter
from lbnode.dataplane.links import Device, Links, failure
from lbnode.dataplane.sysctl import Record, Sysctls
from lbnode.errors import Bug
from lbnode.model import (
    AddAddress,
    EnsureTunnel,
    IPNetwork,
    Operation,
    RemoveAddress,
    RemoveDelivery,
    RemoveFilter,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    SetSysctl,
    Tunnel,
    WorkerState,
)

#: ``ip-sysctl``: 2 is loose. 0 would lose to ``all``, of which the kernel takes the larger.
_LOOSE = "2"
_ANY_IPIP_DEVICE = "tunl0"


class KernelWorker:
    """:class:`lbnode.dataplane.base.WorkerDataPlane` over netlink, iptables and ``/proc/sys``.

    ``pools`` are what the filter and the delivery are for; addresses on the loopback device are ours when they lie in ``probe_networks``.
    The rest as :class:`lbnode.dataplane.edge.KernelEdge`.
    """

    def __init__(
        self,
        pools: Iterable[IPNetwork],
        probe_networks: Iterable[IPNetwork],
        *,
        sysctls: Iterable[str] = (),
        sysctl_base: Path = Path("/proc/sys/net"),
        record_directory: Path | None = None,
    ) -> None:
        self._probe_networks = tuple(probe_networks)
        self._names = tuple(sysctls)
        self._sysctls = Sysctls(sysctl_base)
        self._record = Record(record_directory, "worker")
        self._links = Links()
        networks = tuple(pools)
        self._filter = PacketFilter(networks)
        self._delivery = PacketFilter(networks, tables=DELIVERY_TABLES)

    def close(self) -> None:
        """Close the sockets. The kernel's state stays."""
        self._links.close()

    def read(self) -> WorkerState:
        """As :meth:`lbnode.dataplane.base.WorkerDataPlane.read`. A tunnel that lacks anything is there with ``ready=False``."""
        try:
            tunnels = [t for d in self._links.tunnel_devices() if (t := self._tunnel(d)) is not None]
            return WorkerState(
                sysctls=self._sysctls.read(self._names),
                filter_digest=self._filter.digest(),
                tunnels=frozenset(tunnels),
                probe_addresses=self._links.addresses(self._probe_networks),
                delivery_digest=self._delivery.digest(),
            )
        except OSError as error:
            raise failure("to be read", error) from None

    def _tunnel(self, device: Device) -> Tunnel | None:
        if device.local is None or device.remote is None:
            return None
        tunnel = Tunnel(device.remote, device.local)
        loose = _rp_filter(device.name)
        ready = (
            device.up
            and device.name == tunnel.device
            and self._links.holds(device, device.local)
            and self._sysctls.read([loose]).get(loose) == _LOOSE
        )
        return replace(tunnel, ready=ready)

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know but need not stop for."""
        try:
            device = self._links.device(_ANY_IPIP_DEVICE)
        except OSError as error:
            raise failure(f"to tell of {_ANY_IPIP_DEVICE}", error) from None
        if device is not None and device.up:
            return (
                f"device {_ANY_IPIP_DEVICE} is up: it unwraps IPIP from anybody, past the packet filter. Run `ip link set {_ANY_IPIP_DEVICE} down`",
            )
        return ()

    def apply(self, operations: Sequence[Operation]) -> None:
        """As :meth:`lbnode.dataplane.base.WorkerDataPlane.apply`."""
        for operation in operations:
            try:
                self._apply(operation)
            except OSError as error:
                raise failure(operation, error) from None

    def _apply(self, operation: Operation) -> None:
        match operation:
            case SetSysctl(name, value):
                for former in self._sysctls.read([name]).values():
                    self._record.keep(name, former)
                self._sysctls.write(name, value)
            case ReplaceFilter(table):
                self._filter.replace(table)
            case RemoveFilter():
                self._filter.remove()
            case ReplaceDelivery(table):
                self._delivery.replace(table)
            case RemoveDelivery():
                self._delivery.remove()
            case AddAddress(address):
                self._links.add_address(address)
            case RemoveAddress(address):
                self._links.remove_address(address)
            case EnsureTunnel(tunnel):
                self._links.ensure_tunnel(tunnel)
                self._sysctls.write(_rp_filter(tunnel.device), _LOOSE)
            case RemoveTunnel(device):
                self._links.remove_tunnel(device)
            case _:
                raise Bug(f"{operation} is not for a worker")

    def clean(self) -> None:
        """Take away all state of ours and put back the sysctls that were there before. Raises as :meth:`apply`."""
        try:
            # The edge nodes learn of the end by their probes, so this comes first.
            for address in self._links.addresses(self._probe_networks):
                self._links.remove_address(address)
            for device in self._links.tunnel_devices():
                self._links.remove_device(device)
            self._delivery.remove()
            self._filter.remove()
        except OSError as error:
            raise failure("to be cleaned", error) from None
        for name, value in self._record.values.items():
            if self._sysctls.read([name]):
                self._sysctls.write(name, value)
        self._record.forget()


def _rp_filter(device: str) -> str:
    return f"net.ipv4.conf.{device}.rp_filter"
