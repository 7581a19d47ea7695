"""The edge node's data plane in the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from lbnode.dataplane.base import Balancer, BalancerOperation
from lbnode.dataplane.bpf_pins import BPF_DIRECTORY, remove_pins
from lbnode.dataplane.devices import Device
from lbnode.dataplane.filter import PacketFilter
from lbnode.dataplane.ipvs import ipvs_knows_sctp
from lbnode.dataplane.ipvs_traffic import IpvsBalancer
from lbnode.dataplane.links import Links
from lbnode.dataplane.refusals import failure
from lbnode.dataplane.rules import TRANSLATION_TABLES, more_syn_than
from lbnode.dataplane.sysctl import Record, Sysctls
from lbnode.dataplane.tunnels import Tunnels
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import (
    TUNNEL_OVERHEAD_BYTES,
    DestinationTraffic,
    Drops,
    EdgeState,
    IPAddress,
    IPNetwork,
    IpvsTimeouts,
    Protocol,
    Remains,
    ReturnTunnel,
    RouterLink,
    VirtualKey,
)
from lbnode.operations import (
    AddAddress,
    AddProbeDevice,
    AddProbeRoute,
    AttachPrograms,
    EnsureLink,
    EnsureReturnTunnel,
    Operation,
    RemoveAddress,
    RemoveFilter,
    RemoveLink,
    RemoveProbeDevice,
    RemoveProbeRoute,
    RemoveRemains,
    RemoveReturnTunnel,
    RemoveService,
    RemoveTranslation,
    ReplaceFilter,
    ReplaceTranslation,
    SetSysctl,
    SetTimeouts,
)
from lbnode.packet_tables import EdgeFilter

# Names in the record beside those of sysctls. The idle times are those of IPVS: the ones of XDP stand in its maps and go with them.
_TIMEOUTS = "ipvs-timeouts"
_POOLS = "pools"
_PROGRAMS = "xdp-programs"
_ANY_PORT = 9
_ANY_RATE = 1000


class KernelEdge:
    """:class:`lbnode.dataplane.base.EdgeDataPlane` over netlink, iptables and ``/proc/sys``.

    ``pools`` bound what is seen and touched, together with the pools of former agents on this node. ``sysctls`` names those that :meth:`read` reports. ``sysctl_base`` is where
    ``/proc/sys/net`` is mounted. ``record_directory`` keeps former values for :meth:`clean`; without it they are not restored.
    ``balancer`` is IPVS unless another one is given, whose pools are set to these. ``pins`` is where an agent with XDP would have pinned its program.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        pools: Iterable[IPNetwork],
        *,
        sysctls: Iterable[str] = (),
        fabric_mtu_bytes: int = 1500,
        sysctl_base: Path = Path("/proc/sys/net"),
        record_directory: Path | None = None,
        balancer: Balancer | None = None,
        pins: Path = BPF_DIRECTORY,
    ) -> None:
        self._given = tuple(pools)
        self._record = Record(record_directory, "edge")
        # What an agent with other settings put there must go: seen in former pools, it is wanted by nobody.
        former = tuple(ip_network(text) for text in self._record.values.get(_POOLS, "").split())
        self._pools = tuple(dict.fromkeys((*self._given, *former)))
        self._record.note(_POOLS, " ".join(map(str, self._pools)))
        self._names = tuple(sysctls)
        self._mtu_bytes = {version: fabric_mtu_bytes - taken for version, taken in TUNNEL_OVERHEAD_BYTES.items()}
        self._sysctls = Sysctls(sysctl_base)
        self.balancer: Balancer = balancer or IpvsBalancer(self._pools)
        self.balancer.pools = self._pools
        self._pins = pins
        if self.balancer.programs:
            self._record.note(_PROGRAMS, written_programs(self.balancer.programs))
        self._links = Links()
        self._return_tunnels = Tunnels(self._links, self._sysctls, ReturnTunnel)
        self._missing: frozenset[Protocol] | None = None
        self._limits_syn: bool | None = None
        self._filter = PacketFilter(self._given, former=former)
        self._translation = PacketFilter(self._given, tables=TRANSLATION_TABLES, former=former)

    def close(self) -> None:
        """Close the sockets. The kernel's state stays."""
        self.balancer.close()
        self._links.close()

    def read(self) -> EdgeState:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.read`."""
        # The balancer first: asking IPVS for it loads its module, without which its sysctls do not exist.
        services = self.balancer.services()
        try:
            vips = self._links.addresses(self._pools)
            if self._pools != self._given:
                self._forget_former_pools({*vips, *(s.key.address for s in services)})
            probing = {version: self._links.probe_paths(version, mtu) for version, mtu in self._mtu_bytes.items()}
            return EdgeState(
                sysctls=self._sysctls.read(self._names),
                timeouts=self.balancer.timeouts(),
                filter_digest=self._filter.digest() if self.balancer.limits_known() else None,
                vips=vips,
                services=services,
                probe_devices=frozenset(version for version, (ready, _) in probing.items() if ready),
                probe_routes=frozenset(route for _, routes in probing.values() for route in routes),
                translation_digest=self._translation.digest(),
                links=frozenset(self._router_link(*found) for found in self._links.router_links()),
                return_tunnels=self._return_tunnels.read(self._return_tunnels.devices()),
                remains=self._remains(),
                lost_programs=frozenset(
                    d for d, number in self.balancer.programs.items() if self._links.xdp_program(d) != number
                ),
            )
        except OSError as error:
            raise failure("to be read", error) from None

    def _remains(self) -> frozenset[Remains]:
        services = {Remains("ipvs")} if self.balancer.has_remains() else set()
        return frozenset(services | {Remains("xdp", device) for device in self._programs_left()})

    def _programs_left(self) -> list[str]:
        """The devices whose program is the one that an agent with XDP noted. As long as the record is valid no other one gets its number: the kernel
        counts them on (``bpf_prog_alloc_id``), and a start of the machine voids the record.
        """
        noted = read_programs(self._record.values.get(_PROGRAMS, ""))
        if self.balancer.programs or not noted:
            return []
        left = [device for device, number in noted.items() if self._links.xdp_program(device) == number]
        if not left:
            self._record.drop(_PROGRAMS)
        return sorted(left)

    def _take_away_programs(self, devices: Sequence[str]) -> None:
        if not self._pins.is_dir():
            raise ConfigError(
                f"network device {devices[0]}",
                "the XDP program that an agent with dataplane xdp left there takes packets before IPVS sees them, and this agent has not the BPF file "
                "system in which it is pinned",
                f"On the node: rm -r {BPF_DIRECTORY}",
            )
        remove_pins(self._pins)

    def _put_back_timeouts(self) -> None:
        if (text := self._record.values.get(_TIMEOUTS)) is None:
            return
        tcp, fin, udp = map(int, text.split())
        ipvs = IpvsBalancer(self._pools)
        try:
            ipvs.apply([SetTimeouts(IpvsTimeouts(tcp, fin, udp))])
        finally:
            ipvs.close()
        self._record.drop(_TIMEOUTS)

    def _router_link(self, device: Device, link: RouterLink) -> RouterLink:
        ipv6 = self._sysctls.read([_ipv6_switch(device.name)]).get(_ipv6_switch(device.name)) == "0"
        return replace(link, ipv6=ipv6, ready=device.up)

    def traffic(self, keys: Iterable[VirtualKey]) -> tuple[DestinationTraffic, ...]:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.traffic`."""
        try:
            return self.balancer.traffic(keys)
        except OSError as error:
            raise failure("to be counted", error) from None

    def drops(self) -> Drops:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.drops`."""
        try:
            return self.balancer.drops()
        except OSError as error:
            raise failure("to be counted", error) from None

    def _forget_former_pools(self, seen: set[IPAddress]) -> None:
        # Once nothing of ours is left in them they are other people's.
        if all(any(address in pool for pool in self._given) for address in seen):
            self._filter.remove_stale()
            self._translation.remove_stale()
            self._pools = self.balancer.pools = self._given
            self._record.note(_POOLS, " ".join(map(str, self._given)))

    def remember_sysctl(self, name: str, former: str) -> None:
        """Have :meth:`clean` put ``former`` back: for a sysctl that somebody else in the agent changed."""
        self._record.keep(name, former)

    def missing_protocols(self) -> frozenset[Protocol]:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.missing_protocols`."""
        if self._missing is None:
            self.balancer.services()  # loads the module, whose parts are then to be seen
            able = ipvs_knows_sctp() and self._filter.accepts(f"-p sctp -m sctp --dport {_ANY_PORT} -j RETURN")
            self._missing = frozenset() if able else frozenset({Protocol.SCTP})
        return self._missing

    def limits_syn(self) -> bool:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.limits_syn`."""
        if self._limits_syn is None:
            self._limits_syn = self._filter.accepts(f"-p tcp -m tcp {more_syn_than(_ANY_RATE)} -j DROP")
        return self._limits_syn

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know but need not stop for."""
        return ()

    def apply(self, operations: Sequence[Operation]) -> None:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.apply`. Runs of IPVS operations go to the kernel in batches."""
        batch: list[BalancerOperation] = []
        for operation in operations:
            if isinstance(operation, BalancerOperation) and not isinstance(operation, SetTimeouts):
                batch.append(operation)
                continue
            self._flush(batch)
            try:
                self._apply(operation)
            except OSError as error:
                raise failure(operation, error) from None
        self._flush(batch)

    def _flush(self, batch: list[BalancerOperation]) -> None:
        if batch:
            self.balancer.apply(batch)
            batch.clear()

    def _apply(self, operation: Operation) -> None:
        match operation:
            case SetSysctl(name, value):
                for former in self._sysctls.read([name]).values():
                    self._record.keep(name, former)
                self._sysctls.write(name, value)
            case SetTimeouts(timeouts):
                if self.balancer.dataplane == "ipvs":
                    former_timeouts = self.balancer.timeouts()
                    self._record.keep(
                        _TIMEOUTS,
                        f"{former_timeouts.tcp_seconds} {former_timeouts.tcp_fin_seconds} {former_timeouts.udp_seconds}",
                    )
                self.balancer.apply([SetTimeouts(timeouts)])
            case ReplaceFilter(table):
                if isinstance(table, EdgeFilter):
                    self.balancer.limit(table.limited)
                self._filter.replace(table)
            case RemoveFilter():
                self._filter.remove()
            case ReplaceTranslation(table):
                self._translation.replace(table)
            case RemoveTranslation():
                self._translation.remove()
            case AddAddress(address):
                self._links.add_address(address)
            case RemoveAddress(address):
                self._links.remove_address(address)
            case AddProbeDevice(version):
                self._links.ensure_probe_device(version, self._mtu_bytes[version])
            case RemoveProbeDevice(version):
                self._links.remove_probe_device(version)
            case AddProbeRoute(route):
                self._links.add_probe_route(route)
            case RemoveProbeRoute(route):
                self._links.remove_probe_route(route)
            case EnsureLink(link):
                device = self._links.ensure_router_link(link)
                if self._sysctls.read([_ipv6_switch(link.device)]):
                    # Before the addresses, which a device without IPv6 does not take.
                    self._sysctls.write(_ipv6_switch(link.device), "0" if link.ipv6 else "1")
                self._links.set_interfaces(device, link.addresses)
                if not device.up:
                    self._links.set_up(device)
            case RemoveLink(name):
                self._links.remove_router_link(name)
            case EnsureReturnTunnel(tunnel):
                self._return_tunnels.ensure(tunnel)
            case RemoveReturnTunnel(name):
                self._return_tunnels.remove(name)
            case AttachPrograms(devices):
                self.balancer.attach_again(sorted(devices))
            case RemoveRemains(remains):
                if Remains("ipvs") in remains:
                    self.balancer.remove_remains()
                    self._put_back_timeouts()
                if left := sorted(r.device for r in remains if r.dataplane == "xdp"):
                    self._take_away_programs(left)
            case _:
                raise Bug(f"{operation} is not for an edge node")

    def clear(self) -> None:
        """As :meth:`lbnode.dataplane.base.EdgeDataPlane.clear`, with the idle times of IPVS as they were before us. VIPs go first: the filter lets in
        what nothing balances any more.
        """
        try:
            self._clear()
        except OSError as error:
            raise failure("to be cleared", error) from None

    def _clear(self) -> None:
        for address in self._links.addresses(self._pools):
            self._links.remove_address(address)
        with suppress(ConfigError):  # a kernel without IPVS has no services of ours
            self.balancer.apply([RemoveService(s.key) for s in self.balancer.services()])
            self.balancer.remove_remains()
            self.balancer.remove()
        self._put_back_timeouts()
        if self.balancer.programs:
            self._record.drop(_PROGRAMS)

    def clean(self) -> None:
        """Take away all state of ours and put back the sysctls and timeouts that were there before.

        VIPs go first, so that nothing answers on them with the filter gone. Raises as :meth:`apply`.
        """
        try:
            self._clear()
            for version in self._mtu_bytes:
                self._links.remove_probe_device(version)
            self._return_tunnels.remove_all()
            for device, _ in self._links.router_links():
                self._links.remove_device(device)
            self._filter.remove()
            self._translation.remove()
            for name, value in self._record.values.items():
                if name not in (_POOLS, _PROGRAMS) and self._sysctls.read([name]):
                    self._sysctls.write(name, value)
            if devices := self._programs_left():
                self._take_away_programs(devices)
        except OSError as error:
            raise failure("to be cleaned", error) from None
        self._record.forget()
        left = self._links.addresses(self._pools)
        if left:
            raise Retry(f"addresses came back while cleaning: {sorted(map(str, left))}")


def written_programs(programs: Mapping[str, int]) -> str:
    """Devices with the numbers of their programs, as the record has them. The kernel lets no blank into a device's name (``dev_valid_name``)."""
    return " ".join(f"{device}={number}" for device, number in sorted(programs.items()))


def read_programs(text: str) -> dict[str, int]:
    """What :func:`written_programs` wrote; what cannot be read is left out."""
    words = (word.rpartition("=") for word in text.split())
    return {device: int(number) for device, _, number in words if number.isdecimal()}


def _ipv6_switch(device: str) -> str:
    """``ip-sysctl``. A kernel that was booted without IPv6 has none."""
    return f"net.ipv6.conf.{device}.disable_ipv6"
