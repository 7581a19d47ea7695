"""The kernel settings that plans ask for, with where each is described."""

from __future__ import annotations

from collections.abc import Mapping, Set

from lbnode.settings import DataPlane

#: Answers to probes come back by the uplink though their source is routed into a tunnel, which a strict reverse path filter drops; the kernel
#: takes the larger of this and the device's own value (ip-sysctl), and 2 is loose.
XDP_SYSCTLS = {"net.ipv4.conf.all.rp_filter": "2"}
#: Kernel: Documentation/networking/ipvs-sysctl.rst. Mid-stream packets of flows that another edge node saw open are scheduled; connections to
#: a removed destination end at once; a reused source port is scheduled anew; ICMP errors follow the packet that they quote.
EDGE_SYSCTLS = {
    **XDP_SYSCTLS,
    "net.ipv4.vs.conn_reuse_mode": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    "net.ipv4.vs.schedule_icmp": "1",
    "net.ipv4.vs.sloppy_tcp": "1",
}
#: What an edge node always has, by its data plane.
SYSCTLS_OF: Mapping[DataPlane, Mapping[str, str]] = {"ipvs": EDGE_SYSCTLS, "xdp": XDP_SYSCTLS}
#: With translation, in addition: IPVS shows connection tracking what it does, so that the source can be translated too; and replies are
#: forwarded, for which the kernel has a switch of its own in each family.
NAT_SYSCTLS = {"net.ipv4.vs.conntrack": "1"}
FORWARDING_SYSCTLS = {4: {"net.ipv4.ip_forward": "1"}, 6: {"net.ipv6.conf.all.forwarding": "1"}}
#: With SCTP, in addition: as ``sloppy_tcp``.
SCTP_SYSCTLS = {"net.ipv4.vs.sloppy_sctp": "1"}
_FORWARDING_NAMES = tuple(name for names in FORWARDING_SYSCTLS.values() for name in names)
#: Every sysctl that a plan may ask for, with IPVS and by the data plane.
ALL_EDGE_SYSCTLS = (*EDGE_SYSCTLS, *NAT_SYSCTLS, *SCTP_SYSCTLS, *_FORWARDING_NAMES)
EVERY_SYSCTL_OF: Mapping[DataPlane, tuple[str, ...]] = {
    "ipvs": ALL_EDGE_SYSCTLS,
    "xdp": (*XDP_SYSCTLS, *_FORWARDING_NAMES),
}

#: Of a worker whose replies go through edge nodes: all flows of one client shall not go through one of them (ip-sysctl: 1 is by the ports too).
RETURN_SYSCTLS = {
    4: {"net.ipv4.fib_multipath_hash_policy": "1"},
    6: {"net.ipv6.fib_multipath_hash_policy": "1"},
}
#: Every sysctl that a worker's plan may ask for.
ALL_WORKER_SYSCTLS = tuple(name for names in RETURN_SYSCTLS.values() for name in names)

#: Not set by the agent, because kube-proxy and the pod network own it; without it no packet reaches a pod (ip-sysctl).
WORKER_NEEDS = {"net.ipv4.ip_forward": "1"}


def edge_sysctls(dataplane: DataPlane, translated: Set[int], sctp: bool, returning: Set[int]) -> dict[str, str]:
    """``translated`` and ``returning`` are IP versions: with VIPs that are served by translation, and with replies that come back this way."""
    wanted = {**SYSCTLS_OF[dataplane], **(SCTP_SYSCTLS if sctp else {}), **(NAT_SYSCTLS if translated else {})}
    return wanted | {n: v for f in sorted(translated | returning) for n, v in FORWARDING_SYSCTLS[f].items()}
