"""Case `scale-out`: requests a second with one to four edge nodes behind one VIP."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from bench.case import Case, Lines, Order
from bench.document import Measured
from bench.figures import Row
from bench.processor import busy_share, host_seconds
from bench.rig import VIPS, EdgeNode, Rig, standing
from bench.schedule import turns

NODES = (1, 2, 3, 4)
PORT_KBIT_PER_SECOND = 400
"""About 90 small requests a second: four such nodes leave half of two processors idle."""
AT_ONCE_EACH = 32
"""Requests in flight for each node: enough to keep all of them busy though the hash is blind, and few enough that no packet waits for longer than
TCP's first timeout."""
REQUESTS_EACH, FREE_REQUESTS = 600, 2000
QUICK_REQUESTS_EACH, QUICK_FREE_REQUESTS = 100, 200
_BUSY = 0.9
"""A host whose processors are busier than that has nothing left."""


def measure(order: Order) -> Measured:
    """Requests a second by number of nodes, with ports of a fixed rate and without; and the share of the host's processors that was busy."""
    edges = [EdgeNode(number, "tunnel", VIPS[1]) for number in NODES]
    each, free = (QUICK_REQUESTS_EACH, QUICK_FREE_REQUESTS) if order.quick else (REQUESTS_EACH, FREE_REQUESTS)
    samples: dict[str, list[float]] = defaultdict(list)
    order.say(f"{len(edges)} edge machines and a worker boot")
    with standing(edges, order.scratch) as rig:
        contenders = [(kind, nodes) for kind in ("port", "free") for nodes in NODES]
        for number, (kind, nodes) in turns(contenders, order.rounds):
            requests, at_once = (each * nodes, AT_ONCE_EACH * nodes) if kind == "port" else (free, AT_ONCE_EACH)
            rig.limit(PORT_KBIT_PER_SECOND if kind == "port" else None)
            rate, busy = _run(rig, edges[:nodes], requests, at_once)
            samples[f"{kind}_{nodes}"].append(rate)
            samples[f"{kind}_{nodes}_busy"].append(busy)
            order.say(f"round {number + 1}, {kind}, {nodes} nodes: {rate:.0f}/s, host {busy:.0%} busy")
    curves = {kind: [(float(n), median(samples[f"{kind}_{n}"])) for n in NODES] for kind in ("port", "free")}
    curves["linear"] = [(float(n), n * curves["port"][0][1]) for n in NODES]
    return Measured(samples, curves, _notes(samples), {"port_kbit_per_second": PORT_KBIT_PER_SECOND})


def _run(rig: Rig, edges: list[EdgeNode], requests: int, at_once: int) -> tuple[float, float]:
    rig.route(edges[0].vip, edges)
    before = host_seconds()
    rate = rig.ask(edges[0].vip, "small", requests, at_once).rate
    return rate, busy_share(before, host_seconds())


def _notes(samples: dict[str, list[float]]) -> list[str]:
    busy = {kind: {n: median(samples[f"{kind}_{n}_busy"]) for n in NODES} for kind in ("port", "free")}
    told = [
        f"Share of the host's processors that was busy, with limited ports: {_by_nodes(busy['port'])}; without: {_by_nodes(busy['free'])}."
    ]
    if (full := [n for n in NODES if busy["port"][n] > _BUSY]) != []:
        told.append(
            f"With limited ports the host itself was full from {full[0]} edge nodes on: figures from there on are the host's end, not ours."
        )
    return told


def _by_nodes(shares: dict[int, float]) -> str:
    return ", ".join(f"{nodes} nodes {share:.0%}" for nodes, share in shares.items())


CASE = Case(
    name="scale-out",
    title="More edge nodes",
    question="Do two, three and four edge nodes carry two, three and four times the requests of one?",
    method=(
        "One to four edge machines behind one VIP, spread over by the router's hash of addresses and ports; one worker; `ab` with answers of 100 bytes. All "
        "machines share the host's two processors, and one edge node with its worker and client fills them already, so each edge node gets a port of "
        f"{PORT_KBIT_PER_SECOND} kbit/s (tc-tbf, packets wait and none is dropped) that ends before its processor does: what is asked is whether nodes add up, "
        "not what one of them can do. Without such ports the host is the end, and its rates are told beside."
    ),
    rows=(
        Row("scale-out-1", "requests a second with 1 edge node", "/s", "port_1"),
        *(
            Row(
                f"scale-out-{nodes}",
                f"requests a second with {nodes} edge nodes; the ratio is to {nodes} times those with one",
                "/s",
                f"port_{nodes}",
                against="port_1",
                target=0.95,
                direction="at least",
                per=nodes,
                why_missed=(
                    "Where the host was full (see below) it is its end. Else the router's hash is blind to load: with as many requests in flight for each "
                    "node, some node has none for a moment while others queue."
                ),
            )
            for nodes in NODES[1:]
        ),
        *(
            Row(
                f"scale-out-{n}-free",
                f"the same with {n} edge nodes, ports not limited: the host is the end",
                "/s",
                f"free_{n}",
            )
            for n in NODES
        ),
    ),
    plots=(
        Lines(
            "scale-out.svg",
            "Requests a second by number of edge nodes (medians)",
            "edge nodes",
            "requests a second",
            {"limited ports": "port", "as many times one node": "linear", "ports not limited": "free"},
        ),
    ),
    measure=measure,
    minutes=6,
)
