"""What an edge node tells people beyond its status: its services as planned, what of them the kernel lacks, each worker's last probe. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbnode.announce import Differences
from lbnode.facts import WorkerHealth
from lbnode.model import EdgeState, IPAddress, VirtualService, address_order
from lbnode.probe import ProbeResult
from lbnode.settings import DataPlane
from lbnode.translate.edge import EdgePlan


def node_page(
    plan: EdgePlan | None, observed: EdgeState | None, health: WorkerHealth, probes: Mapping[IPAddress, ProbeResult]
) -> dict[str, Any]:
    """Plain JSON values. Destinations are in the order of the kernel's list; ``differences`` are VIPs that it does not hold as planned."""
    if plan is None:
        return {"services": [], "differences": {}, "workers": []}
    differences = _differences(plan.state, observed or EdgeState())
    return {
        "services": [_service(s) for s in plan.state.services],
        "differences": {str(a): found for a, found in differences.items() if found is not None},
        "workers": [
            {
                "name": w.name,
                "address": str(w.address),
                "healthy": True if w.address in health.healthy else False if w.address in health.unhealthy else None,
                "probe": probes[w.address].reason if w.address in probes else None,
            }
            for w in plan.workers
        ],
    }


def _differences(desired: EdgeState, observed: EdgeState) -> dict[IPAddress, str | None]:
    differences = Differences(desired, observed)
    return {vip: differences.of(vip) for vip in sorted(desired.vips, key=address_order)}


def _service(service: VirtualService) -> dict[str, Any]:
    return {
        "vip": str(service.key.address),
        "protocol": service.key.protocol.value,
        "port": service.key.port,
        "hash_source_port": service.hash_source_port,
        "one_packet": service.one_packet,
        "destinations": [
            {"address": str(d.address), "nat_port": d.nat_port, "weight": d.weight, "drained": d.drained}
            for d in service.destinations
        ],
    }


def modules_at_work(plan: EdgePlan | None, observed: EdgeState | None, dataplane: DataPlane) -> dict[str, bool]:
    """The kernel modules that an edge node needs now, and whether their work is seen in the kernel: one that is built in shows by nothing else. XDP is
    no module.
    """
    seen = observed or EdgeState()
    needed = {"ipip": bool(seen.probe_devices)}
    if dataplane == "ipvs":
        needed["ip_vs"] = bool(seen.services) or any(name.startswith("net.ipv4.vs.") for name in seen.sysctls)
        if plan is not None and plan.state.services:
            # The first service loads it.
            needed["ip_vs_mh"] = any(s.intact for s in seen.services)
    if plan is not None and plan.state.links:
        needed["ip_gre"] = bool(seen.links)
    return needed
