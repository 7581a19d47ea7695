"""The records that the XDP program and the agent share, as ``lbnode/bpf/record.h`` lays them out. A test compares both."""

from __future__ import annotations

import ctypes
from enum import IntEnum

RING_SLOTS = 65537
FLOWS_PER_SET = 4

#: ``sg_vip.flags``.
VIP_ADDRESS = 1 << 0
VIP_AFFINITY = 1 << 1
VIP_STATELESS = 1 << 2
VIP_LIMITED = 1 << 3
VIP_CAPTURED = 1 << 4

#: ``SG_CAPTURE_BYTES``: what is copied of a frame.
CAPTURE_BYTES = 256
#: ``SG_CAME``: in place of the verdict of a frame as it came.
CAME = 0xFFFFFFFF
#: ``max_entries`` of the map ``captured``.
CAPTURE_RING_BYTES = 1 << 18


class Vip(ctypes.Structure):
    """``struct sg_vip``: what is served. Addresses and ports are in the byte order of the wire."""

    _fields_ = (
        ("address_high", ctypes.c_uint64),
        ("address_low", ctypes.c_uint64),
        ("service", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("ring", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("made_of", ctypes.c_uint64),
        ("unused", ctypes.c_uint64),
    )


class DestinationRecord(ctypes.Structure):
    """``struct sg_destination``: where packets of one VIP go."""

    _fields_ = (
        ("generation", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("worker", ctypes.c_uint32 * 4),
        ("edge", ctypes.c_uint32 * 4),
        ("header_sum", ctypes.c_uint32),
        ("vip", ctypes.c_uint32),
        ("weight", ctypes.c_uint32),
        ("drained", ctypes.c_uint32),
        ("rank", ctypes.c_uint32),
        ("retired", ctypes.c_uint32),
    )


class Tag(ctypes.Structure):
    """``struct sg_tag``: the tag of a frame in a VLAN, both in the byte order of the wire."""

    _fields_ = (("protocol", ctypes.c_uint16), ("control", ctypes.c_uint16))


class LinkRecord(ctypes.Structure):
    """``struct sg_link``: the device under that of a VLAN, and the tag that frames get there."""

    _fields_ = (("device", ctypes.c_uint32), ("tag", Tag))


class Source(ctypes.Structure):
    """``struct sg_source``: key of a network whose clients may use a VIP."""

    _fields_ = (("bits", ctypes.c_uint32), ("vip", ctypes.c_uint32), ("address", ctypes.c_uint8 * 16))


class Timeouts(ctypes.Structure):
    """``struct sg_timeouts``: idle times."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("tcp_seconds", "tcp_fin_seconds", "udp_seconds", "udp_ticks"))


class Flow(ctypes.Structure):
    """``struct sg_flow``: one flow of one CPU's table."""

    _fields_ = (
        ("key", ctypes.c_uint64),
        ("destination", ctypes.c_uint32),
        ("generation", ctypes.c_uint16),
        ("stamp", ctypes.c_uint16),
    )


class Traffic(ctypes.Structure):
    """``struct sg_traffic``: what one CPU counted for one destination, and its way there."""

    _fields_ = (
        ("packets", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("new_flows", ctypes.c_uint64),
        ("table_hits", ctypes.c_uint64),
        ("looked_up", ctypes.c_uint64),
        ("device", ctypes.c_uint32),
        ("to", ctypes.c_uint8 * 6),
        ("from", ctypes.c_uint8 * 6),
        ("tag", Tag),
        ("unused", ctypes.c_uint32),
    )


class Capture(ctypes.Structure):
    """``struct sg_capture``: what is to be seen of VIPs with :data:`VIP_CAPTURED`, and how much of it was taken and lost."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("until", "most", "taken", "lost", "one_in"))


class Captured(ctypes.Structure):
    """``struct sg_captured``: a frame in the ring."""

    _fields_ = (
        ("nanoseconds", ctypes.c_uint64),
        ("verdict", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("bytes", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("frame", ctypes.c_uint8 * CAPTURE_BYTES),
    )


class Limits(ctypes.Structure):
    """``struct sg_limits``: fixed when the program is loaded."""

    _fields_ = (
        ("vip_mask", ctypes.c_uint32),
        ("flow_set_mask", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
        ("way_jiffies", ctypes.c_uint32),
        ("messages", ctypes.c_uint32),
        ("echo", ctypes.c_uint32),
        ("openings", ctypes.c_uint32),
    )


class Drop(IntEnum):
    """``enum sg_drop``: why a packet for a VIP went nowhere."""

    FRAGMENT = 0
    OPTIONS = 1
    NO_DESTINATION = 2
    TOO_BIG = 3
    NO_ROUTE = 4
    NO_ROOM = 5
    SOURCE = 6

    @property
    def reason(self) -> str:
        """The word that metrics and the runbook have for it: ``NoRoute``."""
        return self.name.title().replace("_", "")


class Drops(ctypes.Structure):
    """``struct sg_drops``: what one CPU dropped of one VIP."""

    _fields_ = (("packets", ctypes.c_uint64 * len(Drop)),)


#: Jiffies in a tick, ``1 << SG_TICK_SHIFT``.
TICK_JIFFIES = 1 << 8
#: A route or neighbour that changes is followed within this time.
WAY_SECONDS = 0.1
#: Katran's flood rule has the same figure for one CPU (katran/lib/bpf/balancer_consts.h, MAX_CONN_RATE).
OPENINGS_PER_SECOND = 125_000


#: As the kernel's own ICMP: net.ipv4.icmp_msgs_per_sec (ip-sysctl), but for each processor.
MESSAGES_PER_SECOND = 1000


def limits(vip_places: int, flow_sets: int, mtu_bytes: int, hertz: int, *, echo: bool = True) -> Limits:
    """What is fixed when the program is loaded. Both sizes are powers of two; ``hertz`` is the kernel's ``CONFIG_HZ``."""
    return Limits(
        vip_mask=vip_places - 1,
        flow_set_mask=flow_sets - 1,
        mtu=mtu_bytes,
        way_jiffies=max(1, int(WAY_SECONDS * hertz)),
        messages=max(1, MESSAGES_PER_SECOND // hertz),
        echo=echo,
        openings=OPENINGS_PER_SECOND // hertz,
    )


def timeouts(tcp_seconds: int, tcp_fin_seconds: int, udp_seconds: int, hertz: int) -> Timeouts:
    """The record of these idle times."""
    return Timeouts(tcp_seconds, tcp_fin_seconds, udp_seconds, max(1, udp_seconds * hertz // TICK_JIFFIES))
