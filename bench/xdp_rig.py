"""What the XDP benchmark measures on: a network namespace with a route, and the harness's object with VIPs, rings and flow tables in it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from lbnode.dataplane.bpf_descriptors import Map
from lbnode.dataplane.libbpf import Object, load
from lbnode.dataplane.xdp_program import kernel_hertz
from lbnode.dataplane.xdp_records import RING_SLOTS, VIP_ADDRESS, VIP_STATELESS, Traffic, Vip, limits, timeouts
from lbnode.dataplane.xdp_table import destination_record, vip_table, wire_service
from lbnode.model import Destination, IPAddress, Protocol, VirtualKey
from lbnode.ring import halves, ring, seed

DEVICE = "sgx-bench"
VIP_PLACES = 4096
#: 4,194,304 flows, as many as the balancers that the targets come from held.
FLOW_SETS = 1 << 20
SET_BYTES = 64
WORKERS = 100
UDP_SECONDS = 30
EDGE = {4: ip_address("198.18.0.1"), 6: ip_address("2001:db8::1")}
FIRST_WORKER = {4: ip_address("198.19.0.1"), 6: ip_address("2001:db8:1::1")}
WEB = VirtualKey(ip_address("203.0.113.1"), Protocol.TCP, 80)
DNS = VirtualKey(ip_address("203.0.113.1"), Protocol.UDP, 53)
BY_HASH = VirtualKey(ip_address("203.0.113.2"), Protocol.TCP, 80)
WEB6 = VirtualKey(ip_address("2001:db8:113::1"), Protocol.TCP, 80)

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of linux/sched.h
_OURS, _ROUTER = "02:00:00:00:00:01", "02:00:00:00:00:fe"


@contextmanager
def network() -> Iterator[int]:
    """This process in a network namespace of its own, whose one device leads to a router; the device's index."""
    library = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if library.unshare(_NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace cannot be made: run as root")
    try:
        for command in (
            "ip link set lo up",
            f"ip link add {DEVICE} address {_OURS} type veth peer name {DEVICE}-r",
            f"ip addr add {EDGE[4]}/24 dev {DEVICE}",
            f"ip addr add {EDGE[6]}/64 dev {DEVICE} nodad",
            f"ip link set {DEVICE} up",
            f"ip link set {DEVICE}-r up",
            "ip route add default via 198.18.0.254",
            "ip -6 route add default via 2001:db8::fe",
            f"ip neigh add 198.18.0.254 lladdr {_ROUTER} dev {DEVICE} nud permanent",
            f"ip neigh add 2001:db8::fe lladdr {_ROUTER} dev {DEVICE} nud permanent",
            # The kernel answers a look-up only where it forwards itself.
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        ):
            subprocess.run(command.split(), check=True)
        yield socket.if_nametoindex(DEVICE)
    finally:
        library.setns(home, _NEW_NETWORK)
        os.close(home)


class Bench:
    """The harness's object, loaded, with four VIPs of :data:`WORKERS` workers each."""

    def __init__(self, loaded: Object) -> None:
        self.object = loaded
        self.tables: list[Map] = []
        self.workers = {v: [FIRST_WORKER[v] + n for n in range(WORKERS)] for v in (4, 6)}
        self._vips: list[Vip] = []
        loaded.map("timeouts")[0] = timeouts(900, 120, UDP_SECONDS, kernel_hertz())
        for number in range(os.cpu_count() or 1):
            table = loaded.new_array("flows", SET_BYTES, FLOW_SETS)
            loaded.map("flows").point(number, table)
            self.tables.append(table)
        for number, key in enumerate((WEB, DNS, BY_HASH, WEB6), 1):
            self._serve(number, key, VIP_STATELESS if key is BY_HASH else 0)
        table = loaded.new_array("vips", ctypes.sizeof(Vip), VIP_PLACES)
        for place, vip in enumerate(vip_table(self._vips, VIP_PLACES)):
            if vip is not None:
                table[place] = vip
        loaded.map("vips").point(0, table)

    def _serve(self, number: int, key: VirtualKey, flags: int) -> None:
        version = key.address.version
        places: dict[IPAddress, int] = {}
        for offset, worker in enumerate(self.workers[version]):
            places[worker] = (number - 1) * WORKERS + offset + 1
            self.object.map("destinations")[places[worker]] = destination_record(1, worker, EDGE[version])
        slots = [places[d.address] for d in ring(Destination(w) for w in self.workers[version])]
        table = self.object.new_array("rings", 4 * RING_SLOTS, 1)
        table[0] = struct.pack(f"{RING_SLOTS}I", *slots)
        self.object.map("rings").point(number, table)
        high, low = halves(key.address)
        service = wire_service(version, key.protocol.number, key.port)
        self._vips.append(Vip(high, low, service, number, seed(key), number, flags))
        if all((v.address_low, v.service) != (low, wire_service(version)) for v in self._vips):
            self._vips.append(Vip(high, low, wire_service(version), flags=VIP_ADDRESS))

    def table_hits(self) -> int:
        """How many packets found their flow in a table, since the object was loaded."""
        traffic = self.object.map("traffic")
        values = (v for n in range(4 * WORKERS + 1) for v in traffic.each_processor(n))
        return sum(Traffic.from_buffer_copy(value).table_hits for value in values)

    def forget_flows(self) -> None:
        """Empty the flow tables."""
        for table in self.tables:
            with table.mapped(FLOW_SETS * SET_BYTES) as memory:
                memory[:] = bytes(FLOW_SETS * SET_BYTES)


@contextmanager
def bench(path: Path) -> Iterator[Bench]:
    """Load the harness's object file ``path``. Raises ConfigError as :func:`lbnode.dataplane.libbpf.load`."""
    processors = os.cpu_count() or 1
    with load(
        path,
        entries={"flows": processors},
        inner={"flows": (SET_BYTES, FLOW_SETS)},
        constants=limits(VIP_PLACES, FLOW_SETS, 1500, kernel_hertz()),
    ) as loaded:
        yield Bench(loaded)


def frame(
    key: VirtualKey,
    *,
    flags: int = 0x10,
    client: IPAddress | None = None,
    client_port: int = 1024,
    to: Sequence[int] = b"\x02" * 6,
) -> bytes:
    """A frame of a client, as short as the link allows: TCP with these flags, or UDP with 12 bytes."""
    version = key.address.version
    source = client or ip_address("10.0.0.0" if version == 4 else "::")
    if key.protocol is Protocol.TCP:
        rest = struct.pack(">HHIIBBHHH", client_port, key.port, 1, 1, 0x50, flags, 1000, 0, 0)
    else:
        rest = struct.pack(">HHHH", client_port, key.port, 20, 0) + bytes(12)
    if version == 4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(rest), 1, 0x4000, 64, key.protocol.number, 0)
    else:
        header = struct.pack(">IHBB", 6 << 28, len(rest), key.protocol.number, 64)
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    # The harness reads and writes the first 62 bytes.
    return (bytes(to) + b"\x02" * 6 + kind + header + source.packed + key.address.packed + rest).ljust(62, b"\0")
