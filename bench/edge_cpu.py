"""Case `edge-cpu`: what a request costs on the edge node, by tunnel and by what one would use instead."""

from __future__ import annotations

from collections import defaultdict

from bench.case import Bars, Case, Order
from bench.document import Measured
from bench.figures import Row
from bench.rig import VIPS, EdgeNode, standing
from bench.schedule import turns

WAYS = {"tunnel": "samegate", "dnat": "iptables DNAT", "ipvs-nat": "IPVS NAT", "proxy": "nginx stream"}
REQUESTS = {"small": 6000, "large": 1000}
QUICK_REQUESTS = {"small": 200, "large": 40}
AT_ONCE = 8
_MILLISECONDS = 1000.0


def measure(order: Order) -> Measured:
    """CPU milliseconds of the edge machine for each request, by way and size of the answer; and requests a second, which mean little."""
    edges = [EdgeNode(number, way, VIPS[number]) for number, way in enumerate(WAYS, 1)]
    requests = QUICK_REQUESTS if order.quick else REQUESTS
    samples: dict[str, list[float]] = defaultdict(list)
    order.say(f"{len(edges)} edge machines and a worker boot")
    with standing(edges, order.scratch) as rig:
        contenders = [(edge, size) for size in requests for edge in edges]
        for number, (edge, size) in turns(contenders, order.rounds):
            answered = rig.ask(edge.vip, size, requests[size], AT_ONCE)
            spent = answered.edge_cpu_seconds[edge.number]
            samples[f"{edge.way}_{size}"].append(spent / answered.requests * _MILLISECONDS)
            samples[f"{edge.way}_{size}_rate"].append(answered.rate)
            order.say(
                f"round {number + 1}, {edge.way}, {size}: {samples[f'{edge.way}_{size}'][-1]:.3f} ms, {answered.rate:.0f}/s"
            )
        idle = rig.idle_cpu_share()
    shares = ", ".join(f"{WAYS[e.way]} {idle[e.number]:.1%}" for e in edges)
    return Measured(
        samples,
        notes=[
            f"An edge machine that nobody asks anything took of one processor: {shares}. It is part of the figures."
        ],
        conditions={"requests_each_round": dict(requests), "at_once": AT_ONCE},
    )


def _rows() -> tuple[Row, ...]:
    rows = []
    for size, what in (("small", "100 bytes"), ("large", "100 kB")):
        for way, name in WAYS.items():
            if way == "tunnel":
                continue
            rows.append(
                Row(
                    f"edge-cpu-{size}-against-{way}",
                    f"CPU of the edge for a request with an answer of {what}: samegate against {name}",
                    "ms",
                    f"tunnel_{size}",
                    against=f"{way}_{size}",
                    target=0.66 if way == "dnat" else None,
                    why_missed=(
                        "Half of the packets of so short a connection are the client's, which both ways carry; by tunnel the other half is spared."
                    ),
                )
            )
        rows += [
            Row(f"edge-cpu-{size}-{way}", f"the same by {name}", "ms", f"{way}_{size}")
            for way, name in WAYS.items()
            if way != "tunnel"
        ]
    return tuple(rows)


CASE = Case(
    name="edge-cpu",
    title="CPU of the edge for a request",
    question="What does a request cost on the edge node, compared with iptables DNAT, IPVS NAT and a stream proxy?",
    method=(
        "Four edge machines stand side by side on one rack, each set up for one way alone, with one worker behind all of them: samegate's own data "
        "plane (IPVS by tunnel with its filter; the worker answers the client itself), one iptables DNAT rule with connection tracking, IPVS NAT with "
        "the same scheduler, and nginx as a stream proxy. By DNAT, NAT and proxy the answers come back through the edge. `ab` opens a connection for each "
        "request. Counted is the CPU time of all processes of the edge's User-Mode Linux machine on the host while its requests run."
    ),
    rows=_rows(),
    plots=tuple(
        Bars(
            f"edge-cpu-{size}.svg",
            f"CPU of the edge for a request, answer of {what}",
            "milliseconds",
            {name: f"{way}_{size}" for way, name in WAYS.items()},
        )
        for size, what in (("small", "100 bytes"), ("large", "100 kB"))
    ),
    measure=measure,
    minutes=6,
)
