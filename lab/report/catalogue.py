"""What is measured, under which key, and what must hold. Pure: a rule is a function of the measured value alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lab import topology

Value = Any
"""What JSON can hold: numbers, truth values, text, lists and mappings of them."""

FLOWS = 400
UDP_FLOWS = 300
CONNECTIONS = 1000
TRANSFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the report. `met` decides from the measured value whether `must` holds."""

    key: str
    what: str
    must: str
    met: Callable[[Value], bool]


def both_edges_on_both_tors(value: Mapping[str, Mapping[str, list[str]]]) -> bool:
    """Every VIP has both edge nodes as next hops on both ToRs, and both ToRs on the core router."""

    def wanted(version: int) -> dict[str, list[str]]:
        edges = sorted(str(edge.address_of(version)) for edge in topology.EDGES)
        ends = [address.ip for link in topology.LINKS[:2] for address in link.right.addresses]
        tors = sorted(str(end) for end in ends if end.version == version)
        return {"core": tors, "tor1": edges, "tor2": edges}

    return bool(value) and all(
        {router: sorted(hops) for router, hops in routers.items()} == wanted(topology.version_of(vip))
        for vip, routers in value.items()
    )


def none_starved(value: Mapping[str, Any]) -> bool:
    """No edge node and no worker got less than 0.7 of its fair share."""
    groups = (value["edges"], value["workers"])
    names = ({edge.name for edge in topology.EDGES}, {worker.name for worker in topology.WORKERS})
    return all(
        set(group) == wanted and min(group.values()) >= 0.7 * sum(group.values()) / len(wanted)
        for group, wanted in zip(groups, names, strict=True)
    )


def _all_zero(*names: str) -> Callable[[Value], bool]:
    return lambda value: all(value[name] == 0 for name in names)


def _zero(value: Value) -> bool:
    return bool(value == 0)


def _under(limit: float) -> Callable[[Value], bool]:
    return lambda value: value is not None and value < limit


IPV6 = "ipv6."
"""What the keys of the same promises over IPv6 begin with."""

_OVER_IPV4: tuple[Entry, ...] = (
    Entry("routes", "next hops per VIP on each router", "both edge nodes, on both", both_edges_on_both_tors),
    Entry("client_ip_preserved", "the app saw the client's address", "true", lambda value: value is True),
    Entry(
        "spread",
        f"connections per edge node and per worker, of {CONNECTIONS:,}",
        "none under 0.7 of its fair share",
        none_starved,
    ),
    Entry("flows.leave", f"of {FLOWS} live flows, broken when an edge node leaves (drain)", "0", _zero),
    Entry("flows.join", f"of {FLOWS} live flows, broken when an edge node joins", "0", _zero),
    Entry("flows.join_after_change", "the same join after 20 random changes of workers and weights", "0", _zero),
    Entry(
        "rollout",
        "new connections failed, flows broken: image rolled forward and back",
        "0 and 0",
        _all_zero("new_failed", "flows_broken"),
    ),
    Entry("edge_killed.route_gone_s", "SIGKILL of a whole edge node to route gone", "under 1.5", _under(1.5)),
    Entry("edge_killed.new_failed_after_s", "last failed new connection after that kill", "under 2", _under(2.0)),
    Entry("edge_killed.flows_broken", f"of {FLOWS} live flows, broken by that kill", "0", _zero),
    Entry(
        "worker_killed",
        "SIGKILL of a worker: new connections fail for; flows of other workers broken",
        "under 3 s; 0",
        lambda value: value["new_failed_for_s"] < 3 and value["other_flows_broken"] == 0,
    ),
    Entry(
        "backend_drained",
        "flows broken, new connections failed when a pod terminates",
        "0 and 0",
        _all_zero("flows_broken", "new_failed"),
    ),
    Entry(
        "dataplane_broken.withdrawn_s",
        "an edge node's table cleared; tunnel deleted on one worker, on both: until repaired or withdrawn",
        "under 3",
        _under(3.0),
    ),
    Entry(
        "api_down",
        "API stopped 60 s under load, then until nodes are Unknown",
        "0 withdrawals, 0 failed, reconciled in 5 s",
        lambda value: value["withdrawals"] == 0 and value["failed_connections"] == 0 and value["reconciled_s"] <= 5,
    ),
    Entry(
        "agent_killed",
        f"SIGKILL of the agent: of {CONNECTIONS:,} new connections failed, kernel writes on restart; of BIRD: flows broken",
        "0, 0 and 0",
        _all_zero("new_failed", "kernel_writes", "bird_flows_broken"),
    ),
    Entry(
        "no_endpoints",
        "all pods gone, then back: until withdrawn, until announced again",
        "each under 3 s",
        lambda value: value["withdrawn_s"] < 3 and value["announced_s"] < 3,
    ),
    Entry("upload_no_icmp", "seconds for 1 MiB up, ICMP filtered, MTU 1500", "under 2 s", _under(2.0)),
    Entry("download_no_icmp", "seconds for 1 MiB down, ICMP filtered, MTU 1500", "under 2 s", _under(2.0)),
    Entry(
        "icmp_errors",
        "download through a 1,300-byte path, its ICMP error at the other edge node",
        "completes",
        lambda value: value["complete"] is True,
    ),
    Entry("exposed_ports", "ports that answer on a VIP beside the announced ones", "none", lambda value: value == []),
    Entry(
        "loops", "times one packet crosses the router for a VIP that only one side knows", "1", lambda value: value == 1
    ),
    Entry(
        "spoofed", "IPIP from a stranger or in an edge node's name that reached a pod or node", "never delivered", _zero
    ),
    Entry(
        "udp",
        f"{UDP_FLOWS} UDP flows: same pod on leave and join",
        "all",
        lambda value: value["flows"] == value["same_pod_on_leave"] == value["same_pod_on_join"] == UDP_FLOWS,
    ),
    Entry("affinity", "pods that one client meets over all edge nodes", "1", lambda value: value == 1),
    Entry(
        "source_ranges",
        "a client outside the range",
        "refused, and the VIP stays announced",
        lambda value: value["refused"] is True and value["announced"] is True and value["inside_served"] is True,
    ),
    Entry("bfd_false_downs", "BFD sessions that went down without a cause, over the whole run", "0", _zero),
    Entry("second_up_changes", "resources changed by a second `pulumi up`", "0", _zero),
    Entry(
        "leftovers",
        "left behind on the machines by destroy and on the host by down",
        "none",
        lambda value: value["machines"] == [] and value["host"] in ([], None),
    ),
)

ALIKE = (
    "routes", "client_ip_preserved", "spread", "flows.leave", "flows.join", "edge_killed.route_gone_s", "edge_killed.new_failed_after_s",
    "edge_killed.flows_broken", "upload_no_icmp", "download_no_icmp", "icmp_errors", "exposed_ports", "loops", "udp",
)  # fmt: skip
"""Measured over both families, in the same faults, with the same limits."""

CATALOGUE: tuple[Entry, ...] = (
    *_OVER_IPV4,
    *(replace(e, key=f"{IPV6}{e.key}", what=f"IPv6: {e.what}") for e in _OVER_IPV4 if e.key in ALIKE),
)

BY_KEY: Mapping[str, Entry] = {entry.key: entry for entry in CATALOGUE}


def over(version: int, key: str) -> str:
    """The key of a promise that is measured over both families."""
    return key if version == 4 else f"{IPV6}{key}"


def both(*keys: str) -> tuple[str, ...]:
    """The keys over IPv4 and those over IPv6."""
    return (*keys, *(over(6, key) for key in keys))


def nested(values: Mapping[str, Value]) -> dict[str, Value]:
    """Dotted keys as nested mappings: `{"flows.leave": 0}` becomes `{"flows": {"leave": 0}}`."""
    tree: dict[str, Value] = {}
    for key, value in values.items():
        *path, leaf = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[leaf] = value
    return tree


def select(wanted: list[str]) -> tuple[str, ...]:
    """The catalogue's keys that are named, or begin with a named group (`flows`), in the catalogue's order; all if none is named.

    Raises ValueError for a name that fits nothing; it lists the keys.
    """
    for name in wanted:
        if not any(key == name or key.startswith(name + ".") for key in BY_KEY):
            raise ValueError(f"{name!r} is not measured; the keys are {', '.join(BY_KEY)}")
    return tuple(
        key for key in BY_KEY if not wanted or any(key == name or key.startswith(name + ".") for name in wanted)
    )
