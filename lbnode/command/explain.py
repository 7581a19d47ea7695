"""``samegate explain SRC:PORT VIP:PORT``: which worker a new connection gets, why, and which pods wait there. Pure.

The worker is what the edge node's data plane takes over the destinations that it tells: the kernel's ``mh`` scheduler (:mod:`lbnode.maglev`), in
their order, or the ring of XDP (:mod:`lbnode.ring`). A connection that the data plane or kube-proxy knows already stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Cell, Table, Tone, listed, row, toned
from lbnode.command.overview import announcing, vips_of
from lbnode.command.pages import Agent, ServiceLine, of_role
from lbnode.command.view import View
from lbnode.destinations import counting_as_ready, endpoints_of
from lbnode.errors import ConfigError
from lbnode.maglev import DEFAULT_TABLE_INDEX, TABLE_SIZES, choose, table
from lbnode.model import Destination, IPAddress, Protocol, VirtualKey, address_order
from lbnode.objects import ServiceObject, forwarding_of
from lbnode.ring import ring, slot
from lbnode.settings import DataPlane

FIRST_TABLE_INDEX = 8
_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%]+)\]|(?P<four>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection from a client's address and port to a VIP and port."""

    client: IPAddress
    client_port: int
    vip: IPAddress
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.protocol.lower()} {_joined(self.client, self.client_port)} -> {_joined(self.vip, self.port)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What one edge node does with a flow. ``worker`` is ``None`` when nobody takes it; ``doubt`` says why the choice may not hold."""

    edge: str
    announces: bool
    worker: IPAddress | None
    because: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class PodLine:
    """A pod that kube-proxy may deliver to."""

    name: str
    address: IPAddress
    port: int
    node: str


def endpoint(text: str) -> tuple[IPAddress, int]:
    """``ADDRESS:PORT``, an IPv6 address in brackets.

    Raises:
        ConfigError: the text is something else.
    """
    match = _ENDPOINT.fullmatch(text.strip())
    try:
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError
        return ip_address(match["six"] or match["four"]), int(match["port"])
    except ValueError:
        raise ConfigError(
            text, "not ADDRESS:PORT with a port from 1 to 65535", "Write it like 192.0.2.7:40000 or [2001:db8::7]:40000"
        ) from None


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments: a client, a VIP, and the protocol where it was named."""

    client: tuple[IPAddress, int]
    target: tuple[IPAddress, int]
    protocol: str | None = None


def arguments(source: str, target: str, protocol: str | None = None) -> Asked:
    """The arguments as values.

    Raises:
        ConfigError: one is no endpoint, the families differ, or the protocol is not served.
    """
    asked = Asked(endpoint(source), endpoint(target), protocol.upper() if protocol is not None else None)
    if asked.client[0].version != asked.target[0].version:
        raise ConfigError(
            f"{source} and {target}", "one is IPv4, the other IPv6", "Write both in the family of the VIP"
        )
    if asked.protocol not in (None, *Protocol):
        raise ConfigError(
            f"--protocol {protocol}", "it is not served", f"Write one of {listed([p.lower() for p in Protocol])}"
        )
    return asked


def flow_of(view: View, asked: Asked) -> tuple[Flow, ServiceObject]:
    """The flow and the Service at its VIP that has its port.

    Raises:
        ConfigError: there is no such VIP, or it has no such port.
    """
    vip, port = asked.target
    services = view.services_of(vip)
    if not services:
        raise ConfigError(f"VIP {vip}", "no Service has this address", f"There are: {listed(vips_of(view), 'none')}")
    offered = [(p, s) for s in services for p in s.ports if p.port == port and asked.protocol in (None, p.protocol)]
    if not offered:
        known = listed([f"{p.port}/{p.protocol.lower()}" for s in services for p in s.ports])
        whose = listed([s.name for s in services])
        raise ConfigError(_joined(vip, port), f"Service {whose} has no such port", f"It has: {known}")
    # TCP where both are served: that is what people mean who do not say. Of one port the oldest Service has it.
    chosen, service = min(offered, key=lambda o: o[0].protocol)
    return Flow(*asked.client, vip, port, chosen.protocol), service


def explain(view: View, asked: Asked) -> Answer:
    """The answer. Raises ConfigError as :func:`flow_of`."""
    flow, service = flow_of(view, asked)
    on_air = announcing(view, flow.vip).by
    edges = of_role(view.agents, "edge")
    index, assumed = table_index(edges)
    choices = [choice(edge, flow, view, index, announces=edge.node in on_air) for edge in edges]
    taken = {c.worker for c in choices if c.announces}
    worker = next(iter(taken)) if len(taken) == 1 else None
    router = _router(on_air, agree=len(taken) <= 1)
    pods = pods_for(view, service, flow, worker) if worker is not None else []
    source_allowed = not service.source_ranges or any(flow.client in n for n in service.source_ranges)
    lines = [
        Cell(f"{flow}, Service {service.name}"),
        Cell(f"router: {router}"),
        _edges_table(choices, view),
        *_worker_lines(view, service, flow, worker, pods, taken),
    ]
    if not source_allowed:
        shown = listed(service.source_ranges)
        lines.append(
            Cell(
                f"kube-proxy on the worker drops it: {flow.client} is in none of loadBalancerSourceRanges ({shown})",
                Tone.BAD,
            )
        )
    lines.append(Cell("This is about a new connection; one that exists stays where it is."))
    if assumed and any(dataplane_of(edge) == "ipvs" for edge in edges):
        lines.append(Cell(assumed))
    data: dict[str, Any] = {
        "flow": {
            "client": str(flow.client),
            "client_port": flow.client_port,
            "vip": str(flow.vip),
            "port": flow.port,
            "protocol": flow.protocol,
        },
        "service": str(service.name),
        "router": {
            "known": len(on_air) == 1,
            "edge": on_air[0] if len(on_air) == 1 else None,
            "may_take": list(on_air),
            "said": router,
        },
        "edges": [
            {
                "node": c.edge,
                "announces": c.announces,
                "worker": view.node_of(c.worker) if c.worker is not None else None,
                "because": c.because,
                "doubt": c.doubt,
            }
            for c in choices
        ],
        "worker": view.node_of(worker) if worker is not None else None,
        "pods": [{"name": p.name, "address": str(p.address), "port": p.port, "node": p.node} for p in pods],
        "source_allowed": source_allowed,
        "table_size": TABLE_SIZES[index - FIRST_TABLE_INDEX],
        "table_size_assumed": bool(assumed),
    }
    fine = worker is not None and bool(pods) and source_allowed and not any(c.doubt for c in choices if c.announces)
    return Answer(data, tuple(lines), view.notes, FINE if fine else FOUND_SOMETHING)


def table_index(edges: Sequence[Agent]) -> tuple[int, str]:
    """``CONFIG_IP_VS_MH_TAB_INDEX``, and what to say where the kernels do not show it."""
    told = {e.machine.mh_table_index for e in edges if e.machine is not None} - {None}
    index = next(iter(told), None)
    if index is not None and FIRST_TABLE_INDEX <= index < FIRST_TABLE_INDEX + len(TABLE_SIZES):
        return index, ""
    size = TABLE_SIZES[DEFAULT_TABLE_INDEX - FIRST_TABLE_INDEX]
    return DEFAULT_TABLE_INDEX, (
        f"Assumed: hash tables of {size} slots (CONFIG_IP_VS_MH_TAB_INDEX={DEFAULT_TABLE_INDEX}, the default and Debian's), which these kernels do "
        "not show."
    )


def choice(edge: Agent, flow: Flow, view: View, index: int, *, announces: bool) -> Choice:
    """What one edge node does with the flow."""
    if edge.status is None:
        return Choice(edge.node, announces, None, f"its agent does not answer: {edge.silence}")
    if edge.node_page is None:
        return Choice(edge.node, announces, None, "its agent is too old to tell its destinations")
    service = next(
        (s for s in edge.node_page.services if (s.vip, s.protocol, s.port) == (flow.vip, flow.protocol, flow.port)),
        None,
    )
    if service is None:
        return Choice(edge.node, announces, None, "it has no service for this VIP and port")
    destinations = tuple(d.value for d in service.destinations)
    # Without the drained ones' weight of 0 the flow would go home.
    undrained = tuple(replace(d, drained=False) for d in destinations)
    port = flow.client_port if service.hash_source_port else 0
    dataplane = dataplane_of(edge)
    if dataplane == "xdp":
        chosen, home = (_by_ring(some, flow, port) for some in (destinations, undrained))
    else:
        slots = _table(destinations, flow.port, TABLE_SIZES[index - FIRST_TABLE_INDEX])
        chosen, home = (choose(slots, some, flow.client, port) for some in (destinations, undrained))
    difference = edge.node_page.differences.get(flow.vip, "")
    doubt = f"its kernel is not as planned: {difference}" if difference else ""
    because = _because(view, service, chosen, home, "ring" if dataplane == "xdp" else "mh")
    return Choice(edge.node, announces, chosen.address if chosen else None, because, doubt)


def dataplane_of(edge: Agent) -> DataPlane:
    """The data plane that an edge node tells; IPVS of one that tells nothing."""
    return edge.machine.dataplane if edge.machine is not None else "ipvs"


def _by_ring(destinations: tuple[Destination, ...], flow: Flow, port: int) -> Destination | None:
    owners = ring(destinations)
    key = VirtualKey(flow.vip, Protocol(flow.protocol), flow.port)
    return owners[slot(key, flow.client, port)] if owners else None


@lru_cache(maxsize=16)
def _table(destinations: tuple[Destination, ...], port: int, size: int) -> tuple[int, ...]:
    try:
        return tuple(table(destinations, port, size))
    except ValueError:
        # More destinations than slots: the kernel has no table then either, and takes nobody.
        return ()


def _because(view: View, service: ServiceLine, chosen: Destination | None, home: Destination | None, kind: str) -> str:
    hashed = (
        "client address and port" if service.hash_source_port else "client address alone (sessionAffinity: ClientIP)"
    )
    if not service.destinations:
        return "it has no destination"
    if chosen is None:
        return "all its destinations are drained"
    of = f"{kind} hash of the {hashed} over {listed([view.node_of(d.address) for d in service.destinations])}"
    if home is not None and home.address != chosen.address:
        return f"{of}; the hash points at {view.node_of(home.address)}, which is drained: fallback to the next"
    return of


def pods_for(view: View, service: ServiceObject, flow: Flow, worker: IPAddress) -> list[PodLine]:
    """The pods that the worker delivers to: with policy Local its own, else all. Ready ones; without, those whose Node is Unknown, which the
    worker's own agent delivers to; without those, serving terminating ones. With ``nat`` it is the destination itself."""
    port = next((p for p in service.ports if (p.port, p.protocol) == (flow.port, flow.protocol)), None)
    if port is None:
        return []
    slices = [piece for piece in view.snapshot.slices if piece.service == service.name]
    ports, _ = endpoints_of(slices, port, flow.vip.version)
    if forwarding_of(service, view.settings) == "nat":
        return [
            PodLine(view.pod_names.get(worker, "?"), worker, ports[e], e.node_name or "?")
            for e in ports
            if e.addresses[0] == worker
        ]
    node = view.node_of(worker)
    within_reach = [e for e in ports if not service.local or e.node_name == node]
    ready = [e for e in within_reach if e.ready]
    held = counting_as_ready(view.snapshot.nodes, within_reach, service.name, frozenset())
    chosen = ready or held or [e for e in within_reach if e.serving]
    return [
        PodLine(view.pod_names.get(e.addresses[0], "?"), e.addresses[0], ports[e], e.node_name or "?")
        for e in sorted(chosen, key=lambda e: address_order(e.addresses[0]))
    ]


def _router(on_air: Sequence[str], *, agree: bool) -> str:
    if not on_air:
        return "has no route: no edge node announces this VIP (samegate why says why)"
    if len(on_air) == 1:
        return f"{on_air[0]}, the only edge node that announces this VIP"
    which = "they all take the same worker" if agree else "and it matters, since they do not agree"
    return (
        f"one of {listed(on_air)}; which one is not known: it is the router's own hash over equal-cost paths, whose fields and seed it does not "
        f"tell; {which}"
    )


def _edges_table(choices: Sequence[Choice], view: View) -> Table:
    rows = tuple(
        row(
            c.edge,
            toned("yes" if c.announces else "no", c.announces),
            toned(view.node_of(c.worker) if c.worker is not None else "nobody", c.worker is not None),
            f"{c.because}; {c.doubt}" if c.doubt else c.because,
        )
        for c in choices
    )
    return Table("Edge nodes", ("edge node", "announces", "takes worker", "because"), rows, "no node is one")


def _worker_lines(
    view: View,
    service: ServiceObject,
    flow: Flow,
    worker: IPAddress | None,
    pods: Sequence[PodLine],
    taken: set[IPAddress | None],
) -> list[Table | Cell]:
    if worker is None:
        if len(taken) > 1:
            names = [view.node_of(a) if a is not None else "nobody" for a in taken]
            told = f"worker: the announcing edge nodes do not agree ({listed(sorted(names))}): a flow breaks when the router moves it. See samegate doctor"
            return [Cell(told, Tone.BAD)]
        return [Cell("worker: nobody takes it", Tone.BAD)]
    rows = tuple(row(p.name, _joined(p.address, p.port), p.node) for p in pods)
    if forwarding_of(service, view.settings) == "nat":
        title = "The pod that the edge node sends to by translation (forwarding nat; it sees the edge node's address)"
        shown = Table(title, ("pod", "address", "node"), rows, "it is in no EndpointSlice any more")
        return [Cell(f"pod: {worker}", Tone.GOOD), shown]
    node = view.node_of(worker)
    again = "the same for each connection of a client" if service.client_ip_affinity else "at random"
    policy = (
        f"Local: one of this node's, {again}; it sees the client's address"
        if service.local
        else f"Cluster: any, {again}; it does not see the client's address"
    )
    title = f"Pods that kube-proxy on {node} chooses from (externalTrafficPolicy {policy})"
    empty = "none is ready there: the packet is dropped"
    return [Cell(f"worker: {node}", Tone.GOOD), Table(title, ("pod", "address", "node"), rows, empty)]


def _joined(address: IPAddress, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
