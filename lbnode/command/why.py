"""``samegate why VIP``: the chain of conditions for a VIP on each edge node, up to the first that fails. Pure.

The chain is that of :mod:`lbnode.announce`, whose verdict is the first guard that speaks: so the reason tells which condition fails, that those
before it hold, and that those after it were not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Cell, Table, Tone, listed, row
from lbnode.command.overview import NOT_CHOSEN, NOT_PROGRAMMED, ours, vips_of
from lbnode.command.pages import Agent, VipLine, of_role
from lbnode.command.view import View
from lbnode.conditions import ACCEPTED
from lbnode.errors import ConfigError
from lbnode.model import IPAddress, ServiceName
from lbnode.objects import EXCLUDE_SERVICE_LABEL, ServiceObject, is_ours


class State(StrEnum):
    HOLDS = "ok"
    FAILS = "FAILS"
    UNKNOWN = "not looked at"


@dataclass(frozen=True, slots=True)
class Step:
    """One condition. ``said`` is what speaks for or against it."""

    condition: str
    state: State
    said: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """The conditions in their order; ``where`` is an edge node, or ``cluster`` for what concerns all of them."""

    where: str
    steps: tuple[Step, ...]

    @property
    def failure(self) -> Step | None:
        return next((s for s in self.steps if s.state is State.FAILS), None)


MAY_SERVE = "the node may serve: labels, kube-proxy"
#: The guards of :mod:`lbnode.announce` in their order: what holds when none of its reasons is given.
GUARDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("a Service wants it", frozenset({"NotWanted", "Deleting", "NotProgrammed"})),
    ("this edge node is chosen for it: pool, labels", frozenset({"NodeExcluded", "NodeNotSelected"})),
    ("the node does not drain", frozenset({"Draining"})),
    (
        MAY_SERVE,
        frozenset({"NodeUnknown", "NotAnEdgeNode", "EdgeNodeIsWorker", "KubeProxyIpvs"}),
    ),
    ("packet filter in place", frozenset({"FilterMissing"})),
    ("sysctls as wanted", frozenset({"SysctlDiffers"})),
    ("the node has an address of its family", frozenset({"NoNodeAddress"})),
    (
        "a port of it can be served",
        frozenset(
            {
                "UnsupportedProtocol",
                "DuplicatePort",
                "ProtocolNotInKernel",
                "SctpWithNat",
                "OnePacketWithNat",
                "NotByXdp",
            }
        ),
    ),
    ("ready endpoints on a worker", frozenset({"NoWorker", "NoReadyEndpoints"})),
    ("the kernel reads back as planned", frozenset({"DataPlaneDiffers", "TranslationMissing"})),
    (
        "enough workers healthy: tunnel, MTU, kube-proxy, active probes",
        frozenset(
            {
                "Starting",
                "AllProbesFail",
                "NotProbed",
                "NoHealthyWorker",
                "NoEndpointsOnWorkers",
                "BelowWatermark",
                "ActiveProbesFail",
            }
        ),
    ),
)


def subject(view: View, text: str) -> tuple[IPAddress | None, ServiceObject | None]:
    """The VIP and the Service that an argument names: an address, or ``NAMESPACE/NAME``.

    Raises:
        ConfigError: neither, or one that is not there; the message says which there are.
    """
    if "/" in text:
        name = ServiceName(*text.split("/", 1))
        service = view.snapshot.services.get(name)
        if service is None:
            known = listed([s.name for s in ours(view)], "none")
            raise ConfigError(f"Service {text}", "there is none of this name", f"Those of samegate: {known}")
        return (service.addresses[0] if service.addresses else None), service
    try:
        vip = ip_address(text)
    except ValueError:
        raise ConfigError(
            text, "neither an address nor NAMESPACE/NAME of a Service", "Write it like 203.0.113.10 or shop/web"
        ) from None
    service = view.service_of(vip)
    if service is None and vip not in vips_of(view):
        inside = any(vip in network for network in view.settings.pool_networks)
        rule = "no Service has this address" + (
            "" if inside else f", and no pool holds it ({listed(view.settings.pool_networks)})"
        )
        raise ConfigError(f"VIP {vip}", rule, f"There are: {listed(vips_of(view), 'none')}")
    return vip, service


def why(view: View, text: str) -> Answer:
    """The answer for an address or a Service. Raises ConfigError as :func:`subject`."""
    vip, service = subject(view, text)
    chains = [_cluster(view, vip, service)]
    edges = of_role(view.agents, "edge")
    if vip is not None:
        chains += [_edge(edge, vip) for edge in edges]
    failures = [(c.where, c.failure) for c in chains if c.failure is not None]
    on_air = [c.where for c in chains[1:] if c.failure is None]
    verdict = _verdict(vip, service, on_air, failures)
    rows = [
        row(chain.where, step.condition, Cell(step.state.value, _TONES[step.state]), step.said)
        for chain in chains
        for step in chain.steps
    ]
    data: dict[str, Any] = {
        "vip": str(vip) if vip is not None else None,
        "service": str(service.name) if service is not None else None,
        "announced_by": on_air,
        "chains": [{"where": c.where, "steps": [asdict(s) for s in c.steps]} for c in chains],
        "first_failures": [{"where": w, "condition": s.condition, "said": s.said} for w, s in failures],
    }
    table = Table("Conditions, in order", ("where", "condition", "state", "because"), tuple(rows))
    wrong = [step for _, step in failures if not _meant(step)]
    return Answer(data, (table, verdict), view.notes, FOUND_SOMETHING if wrong or not on_air else FINE)


def _meant(step: Step) -> bool:
    """Whether the pool's own settings keep the VIP from the edge node, so that nothing is wrong there."""
    return step.said.startswith(NOT_CHOSEN)


_TONES = {State.HOLDS: Tone.GOOD, State.FAILS: Tone.BAD, State.UNKNOWN: Tone.PLAIN}


def _verdict(
    vip: IPAddress | None, service: ServiceObject | None, on_air: Sequence[str], failures: Sequence[tuple[str, Step]]
) -> Cell:
    what = str(vip) if vip is not None else str(service.name if service is not None else "")
    told = "; ".join(f"{where}: {step.condition}: {step.said}" for where, step in failures)
    if on_air:
        by = f"{what} is announced by {listed(on_air)}"
        doubt = any(not _meant(step) for _, step in failures)
        return Cell(f"{by}. Not by: {told}" if failures else by, Tone.DOUBT if doubt else Tone.GOOD)
    return Cell(f"{what} is announced by nobody. First that fails: {told or 'there is no edge node'}", Tone.BAD)


def _cluster(view: View, vip: IPAddress | None, service: ServiceObject | None) -> Chain:
    checks: list[tuple[str, bool, str]] = []
    if service is None:
        checks.append(
            ("a Service has this address", False, "none has; edge nodes that still know it are letting it go")
        )
        return _chain("cluster", checks)
    checks.append(
        ("a Service has this address" if vip is not None else "the Service is there", True, str(service.name))
    )
    checks.append(("it is samegate's", is_ours(service, view.settings), _class(service, view)))
    accepted = next((c for c in service.conditions if c.type == ACCEPTED), None)
    controllers = of_role(view.agents, "controller")
    if accepted is None:
        leads = [a.called for a in controllers if a.status is not None and a.status.leads]
        said = f"no condition on it yet; leading controller: {listed(leads, 'none known')}"
        checks.append(("the controller has accepted it", vip is not None, said))
    else:
        checks.append(
            ("the controller has accepted it", accepted.status == "True", f"{accepted.reason}: {accepted.message}")
        )
    if vip is not None:
        pool = next((p.name for p in view.settings.pools if any(vip in n for n in p.cidrs)), None)
        said = f"pool {pool}" if pool else f"no pool holds it: {listed(view.settings.pool_networks)}"
        checks.append(("its address is in a pool", pool is not None, said))
    else:
        checks.append(("it has an address", False, "none was allocated"))
    edges = of_role(view.agents, "edge")
    selector = listed([f"{k}={v}" for k, v in sorted(view.settings.edge_node_selector.items())])
    checks.append(
        ("there are edge nodes", bool(edges), listed([e.node for e in edges], f"no Node has the labels {selector}"))
    )
    return _chain("cluster", checks)


def _class(service: ServiceObject, view: View) -> str:
    if service.type != "LoadBalancer":
        return f"its type is {service.type}"
    if EXCLUDE_SERVICE_LABEL in service.labels:
        return f"it has the label {EXCLUDE_SERVICE_LABEL}"
    return f"loadBalancerClass is {service.load_balancer_class or 'not set'}, ours is {view.settings.service_class}"


def _edge(edge: Agent, vip: IPAddress) -> Chain:
    if edge.status is None:
        return _chain(edge.node, [("its agent answers", False, edge.silence), *((c, None, "") for c, _ in GUARDS)])
    line = edge.status.vips.get(vip, NOT_PROGRAMMED)
    checks: list[tuple[str, bool | None, str]] = [
        ("its agent answers", True, f"version {edge.status.version or 'unknown'}")
    ]
    checks += _guards(line, edge.status.blocked)
    if line.announce:
        said = "BIRD has the route" if line.announced else "the BGP daemon has not taken it yet"
        checks.append(("BIRD has the route", line.announced, said))
    else:
        checks.append(("BIRD has the route", None, ""))
    sessions = edge.status.sessions
    up = [peer for peer, s in sorted(sessions.items()) if s.established]
    down = [
        f"{peer} {s.state}{f': {s.last_error}' if s.last_error else ''}"
        for peer, s in sorted(sessions.items())
        if not s.established
    ]
    checks.append(
        (
            "a router hears it",
            bool(up) if line.on_air else None,
            "; ".join([f"sessions up: {listed(up, 'none')}", *down]),
        )
    )
    return _chain(edge.node, checks)


def _guards(line: VipLine, blocked: tuple[str, ...] | None) -> list[tuple[str, bool | None, str]]:
    said = f"{line.reason}: {line.detail}" if line.detail else line.reason
    if line.announce:
        # A reason that holds leaves an announced VIP on the air (lbnode.announce): it is told, and nothing fails.
        last = len(GUARDS) - 1
        return [(condition, True, said if i == last else "") for i, (condition, _) in enumerate(GUARDS)]
    stop = next((i for i, (_, reasons) in enumerate(GUARDS) if line.reason in reasons), None)
    if stop is None and blocked and line.reason == blocked[0]:
        stop = [condition for condition, _ in GUARDS].index(MAY_SERVE)
    if stop is None:
        # Of a newer agent: its word stands, and nothing is known of the chain.
        unknown: list[tuple[str, bool | None, str]] = [(condition, None, "") for condition, _ in GUARDS]
        return [*unknown, ("the agent announces it", False, f"{said} (a reason that this command does not know)")]
    return [
        (condition, True if i < stop else False if i == stop else None, said if i == stop else "")
        for i, (condition, _) in enumerate(GUARDS)
    ]


def _chain(where: str, checks: Sequence[tuple[str, bool | None, str]]) -> Chain:
    steps: list[Step] = []
    failed = False
    for condition, holds, said in checks:
        if failed or holds is None:
            steps.append(Step(condition, State.UNKNOWN))
        else:
            steps.append(Step(condition, State.HOLDS if holds else State.FAILS, said))
            failed = not holds
    return Chain(where, tuple(steps))
