"""The worker's data plane in the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path

from lbnode.dataplane.filter import PacketFilter
from lbnode.dataplane.links import Links
from lbnode.dataplane.refusals import failure
from lbnode.dataplane.return_paths import ReturnPaths
from lbnode.dataplane.rules import DELIVERY_TABLES
from lbnode.dataplane.sysctl import Record, Sysctls
from lbnode.dataplane.tunnels import Tunnels
from lbnode.errors import Bug
from lbnode.model import IPNetwork, Tunnel, WorkerState
from lbnode.operations import (
    AddAddress,
    EnsureTunnel,
    Operation,
    RemoveAddress,
    RemoveDelivery,
    RemoveFilter,
    RemoveReturnPath,
    RemoveTunnel,
    ReplaceDelivery,
    ReplaceFilter,
    SetReturnPath,
    SetSysctl,
)

# A name in the record beside those of sysctls.
_POOLS = "pools"
#: The devices that come with the modules and, when up, take packets out of tunnels from anybody.
_CATCH_ALL_DEVICES = {"tunl0": "IPIP", "ip6tnl0": "IPv6 tunnels"}


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
        self._given = tuple(pools)
        self._probe_networks = tuple(probe_networks)
        self._names = tuple(sysctls)
        self._sysctls = Sysctls(sysctl_base)
        self._record = Record(record_directory, "worker")
        former = tuple(ip_network(text) for text in self._record.values.get(_POOLS, "").split())
        self._record.note(_POOLS, " ".join(map(str, dict.fromkeys((*self._given, *former)))))
        self._links = Links()
        self._tunnels = Tunnels(self._links, self._sysctls, Tunnel)
        self._return_paths = ReturnPaths()
        self._filter = PacketFilter(self._given, former=former)
        self._delivery = PacketFilter(self._given, tables=DELIVERY_TABLES, former=former)

    def close(self) -> None:
        """Close the sockets. The kernel's state stays."""
        self._links.close()
        self._return_paths.close()

    def read(self) -> WorkerState:
        """As :meth:`lbnode.dataplane.base.WorkerDataPlane.read`. A tunnel that lacks anything is there with ``ready=False``."""
        try:
            # Nothing is left of a family without pools but its rules; the tunnels that they are about go by the diff.
            self._filter.remove_stale()
            self._delivery.remove_stale()
            self._record.note(_POOLS, " ".join(map(str, self._given)))
            devices = self._tunnels.devices()
            return WorkerState(
                sysctls=self._sysctls.read(self._names),
                filter_digest=self._filter.digest(),
                tunnels=self._tunnels.read(devices),
                probe_addresses=self._links.addresses(self._probe_networks),
                delivery_digest=self._delivery.digest(),
                return_paths=self._return_paths.read(devices),
            )
        except OSError as error:
            raise failure("to be read", error) from None

    def remember_sysctl(self, name: str, former: str) -> None:
        """Have :meth:`clean` put ``former`` back: for a sysctl that somebody else in the agent changed."""
        self._record.keep(name, former)

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know but need not stop for."""
        try:
            found = {name: self._links.device(name) for name in _CATCH_ALL_DEVICES}
        except OSError as error:
            raise failure(f"to tell of {', '.join(_CATCH_ALL_DEVICES)}", error) from None
        return tuple(
            f"device {name} is up: it unwraps {_CATCH_ALL_DEVICES[name]} from anybody, past the packet filter. Run `ip link set {name} down`"
            for name, device in found.items()
            if device is not None and device.up
        )

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
                self._tunnels.ensure(tunnel)
            case RemoveTunnel(device):
                self._tunnels.remove(device)
            case SetReturnPath(path):
                self._return_paths.set(path, self._tunnels.devices())
            case RemoveReturnPath(version):
                self._return_paths.remove(version)
            case _:
                raise Bug(f"{operation} is not for a worker")

    def clean(self) -> None:
        """Take away all state of ours and put back the sysctls that were there before. Raises as :meth:`apply`."""
        try:
            # The edge nodes learn of the end by their probes, so this comes first.
            for address in self._links.addresses(self._probe_networks):
                self._links.remove_address(address)
            for version in (4, 6):
                self._return_paths.remove(version)
            self._tunnels.remove_all()
            self._delivery.remove()
            self._filter.remove()
        except OSError as error:
            raise failure("to be cleaned", error) from None
        for name, value in self._record.values.items():
            if name != _POOLS and self._sysctls.read([name]):
                self._sysctls.write(name, value)
        self._record.forget()
