"""Whether an edge node announces a VIP, and why: a list of guards, the first that speaks decides.

A verdict that *holds* leaves things as they are: it announces what is announced now and nothing else. Holding is for doubt (a start, a
prober that may be broken, a kube-proxy that contradicts the API); what is known to be broken withdraws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lbnode.facts import Verdict, VipFacts, Worker, WorkerHealth
from lbnode.health import watermark
from lbnode.model import EdgeState, IPAddress, VirtualKey, VirtualService, address_order, alike
from lbnode.settings import Health

Alike = Callable[[VirtualService, VirtualService], bool]


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """Everything that the decision rests on.

    ``observed`` is ``None`` until the kernel was read for the first time. ``announced`` is what the BGP daemon announces now.
    ``blocked`` and ``unserved`` are reasons and their explanations from translate, for the node and by IP version. ``peers_reach_a_worker`` is
    what the other edge nodes' probes say by IP version: ``True`` when one of them reaches any worker, ``False`` when none does, absent
    when none could be asked.
    """

    vips: Mapping[IPAddress, VipFacts]
    workers: tuple[Worker, ...]
    desired: EdgeState
    observed: EdgeState | None
    health: WorkerHealth
    announced: frozenset[IPAddress] = frozenset()
    draining: bool = False
    blocked: tuple[str, str] | None = None
    unserved: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    peers_reach_a_worker: Mapping[int, bool] = field(default_factory=dict)


#: What the decision about one VIP takes from the facts, beside what concerns all: its own facts, what differs of it, whether it is announced now.
_Own = tuple[VipFacts | None, str | None, bool]


class Memory:
    """What :func:`announce` decided last time, for a caller that asks after every change."""

    def __init__(self) -> None:
        self.around: tuple[object, ...] | None = None
        self.addresses: frozenset[IPAddress] = frozenset()
        self.in_order: list[IPAddress] = []
        self.decided: dict[IPAddress, tuple[_Own, Verdict]] = {}
        self.verdicts: dict[IPAddress, Verdict] = {}


def announce(
    facts: EdgeFacts, settings: Health, alike: Alike = alike, memory: Memory | None = None
) -> Mapping[IPAddress, Verdict]:
    """A verdict for every VIP that is wanted or announced now.

    ``alike`` as in :func:`lbnode.diff.diff_edge`. With the ``memory`` of the last time the same verdicts come sooner.
    """
    memory = Memory() if memory is None else memory
    node = _node_verdict(facts)
    kernel = _Kernel(facts, alike)
    # What concerns every VIP: with another of these nothing that was decided counts.
    around = (
        node,
        kernel.translated,
        facts.unserved,
        facts.workers,
        facts.health,
        facts.peers_reach_a_worker,
        settings,
    )
    before = memory.decided if around == memory.around else {}
    addresses = facts.announced.union(facts.vips)
    if addresses != memory.addresses:
        memory.addresses, memory.in_order = addresses, sorted(addresses, key=address_order)
    decided: dict[IPAddress, tuple[_Own, Verdict]] = {}
    for address in memory.in_order:
        vip = facts.vips.get(address)
        own = (vip, kernel.differences.of(address), address in facts.announced)
        known = before.get(address)
        if known is None or known[0] != own:
            known = (own, _verdict(facts, address, vip, node, settings, kernel))
        decided[address] = known
    verdicts = {address: verdict for address, (_, verdict) in decided.items()}
    memory.around, memory.decided = around, decided
    # The same verdicts are the same object, so that nobody has to look at each of them.
    memory.verdicts = memory.verdicts if memory.verdicts == verdicts else verdicts
    return memory.verdicts


def _verdict(
    facts: EdgeFacts, address: IPAddress, vip: VipFacts | None, node: Verdict | None, settings: Health, kernel: _Kernel
) -> Verdict:
    if vip is None:
        return Verdict(False, "NotWanted", "no Service has this address any more")
    # A shared address is on the air while one of its Services can be served.
    each = [_held(v, address, facts) for v in _service_verdicts(facts, vip, node, settings, kernel)]
    return next((v for v in each if v.announce), each[0])


#: Reasons that leave things as they are. An announced VIP stays, another one does not come. Among them is that every kube-proxy reports
#: no endpoint though the API has ready ones: before the first announcement it means that rules are still to come, later on that kube-proxy
#: is slow or away, and then its rules still deliver.
_HOLDING = frozenset({"Starting", "NodeUnknown", "AllProbesFail", "NoEndpointsOnWorkers"})


def _held(verdict: Verdict, address: IPAddress, facts: EdgeFacts) -> Verdict:
    return replace(verdict, announce=address in facts.announced) if verdict.reason in _HOLDING else verdict


def _service_verdicts(
    facts: EdgeFacts, vip: VipFacts, node: Verdict | None, settings: Health, kernel: _Kernel
) -> list[Verdict]:
    """A verdict by each Service at the address that is not being deleted, or the one that all are."""
    living = [v for v in vip.all_services if not v.deleting]
    if not living:
        return [Verdict(False, "Deleting", f"Service {vip.service} is being deleted")]
    if vip.elsewhere is not None:
        return [Verdict(False, *vip.elsewhere)]
    if node is None and vip.address.version in facts.unserved:
        return [Verdict(False, *facts.unserved[vip.address.version])]
    return [node or _vip_verdict(facts, v, settings, kernel) for v in living]


def _node_verdict(facts: EdgeFacts) -> Verdict | None:
    """What speaks against every VIP of this edge node."""
    if facts.draining:
        return Verdict(False, "Draining", "this edge node drains: samegate.dev/drain on its Node, or its agent stops")
    if facts.blocked is not None:
        return Verdict(False, *facts.blocked)
    if facts.observed is None:
        return Verdict(False, "Starting", "the kernel has not been read yet")
    if facts.observed.filter_digest != facts.desired.filter_digest:
        return Verdict(
            False, "FilterMissing", "the packet filter is not the desired one: no tracking exemption, open ports, loops"
        )
    wrong = [n for n, value in sorted(facts.desired.sysctls.items()) if facts.observed.sysctls.get(n) != value]
    if wrong:
        return Verdict(False, "SysctlDiffers", f"not as desired: {', '.join(wrong)}")
    return None


def _vip_verdict(facts: EdgeFacts, vip: VipFacts, settings: Health, kernel: _Kernel) -> Verdict:
    if vip.refused is not None:
        return Verdict(False, *vip.refused)
    if not vip.workers:
        if vip.endpoints:
            return Verdict(False, "NoWorker", "its endpoints are on no worker that takes traffic")
        return Verdict(False, "NoReadyEndpoints", "no endpoint is ready on a worker that takes traffic")
    if (difference := kernel.differences.of(vip.address)) is not None:
        return Verdict(False, "DataPlaneDiffers", difference)
    if not vip.probed:
        if not kernel.translated:
            return Verdict(
                False,
                "TranslationMissing",
                "the translation of addresses is not as desired: kube-proxy would take the VIP",
            )
        return Verdict(True, "Announced", f"{len(vip.workers)} pods by translation, as ready as the API says")

    family = vip.address.version
    decided, probed = kernel.decided, kernel.probed[family]
    peers_reach = facts.peers_reach_a_worker.get(family)
    # No worker at all, of any VIP of this family, answers this edge node: then the suspect is this node's prober or the fabric, not the workers.
    if probed and not (probed & facts.health.healthy) and probed <= decided and peers_reach is not True:
        peers = "none reaches a worker either" if peers_reach is False else "none could be asked"
        return Verdict(
            False,
            "AllProbesFail",
            f"all {len(probed)} IPv{family} probes of this node fail, and of the other edge nodes {peers}",
        )
    if not vip.workers & probed:
        return Verdict(
            False,
            "NotProbed",
            f"none of its {len(vip.workers)} workers has an IPv{family} probe address: see network.probeCidrs",
        )

    answering = vip.workers & facts.health.healthy
    failing: frozenset[IPAddress] = frozenset()
    fit = answering
    # Of most Services no worker says anything.
    if vip.service in kernel.spoken_against:
        failing = frozenset(a for a in answering if (vip.service, a) in facts.health.failing_probes)
        fit = frozenset(a for a in answering - failing if _kube_proxy_delivers(vip, a, facts.health))
    undecided = vip.workers - decided
    is_up = vip.address in facts.announced
    if watermark(is_up, len(fit), len(vip.workers), settings):
        if vip.held and fit <= vip.held:
            return Verdict(
                True,
                "Held",
                f"its endpoints were ready until the API or their Nodes went away; {_count(fit, vip)} answer probes",
            )
        return Verdict(True, "Announced", f"{_count(fit, vip)} healthy")
    if undecided and watermark(is_up, len(fit) + len(undecided), len(vip.workers), settings):
        return Verdict(False, "Starting", f"{len(undecided)} workers are not probed to a decision yet")
    if fit:
        return Verdict(False, "BelowWatermark", f"{_count(fit, vip)} healthy, too few by the watermarks")
    if answering and answering == failing:
        return Verdict(
            False,
            "ActiveProbesFail",
            f"the pods on all {len(failing)} workers that answer fail the Service's active probe",
        )
    if answering:
        return Verdict(
            False, "NoEndpointsOnWorkers", "the workers answer, but their kube-proxy reports no endpoint yet"
        )
    return Verdict(
        False,
        "NoHealthyWorker",
        f"{_count(fit, vip)} answer the tunnel probe, and other edge nodes reach workers or other workers answer",
    )


def _kube_proxy_delivers(vip: VipFacts, worker: IPAddress, health: WorkerHealth) -> bool:
    # Serving terminating endpoints, and those of Unknown Nodes, are delivered to though kube-proxy's health check counts only ready ones.
    return vip.terminating_only or worker in vip.held or (vip.service, worker) not in health.without_endpoints


def _count(fit: frozenset[IPAddress], vip: VipFacts) -> str:
    return f"{len(fit)} of {len(vip.workers)} workers"


class Differences:
    """What differs between two states, by VIP; each VIP is compared with its own services alone. ``alike`` as in :func:`lbnode.diff.diff_edge`."""

    def __init__(self, desired: EdgeState, observed: EdgeState, alike: Alike = alike) -> None:
        # The other way round nobody is harmed: packets meet XDP before IPVS.
        self._passed_by = sorted(r.device for r in observed.remains if r.dataplane == "xdp")
        self._unseen = sorted(observed.lost_programs)
        want, have = ({s.key: s for s in state.services} for state in (desired, observed))
        found: dict[IPAddress, list[tuple[VirtualKey, str]]] = {}
        for key in have.keys() - want.keys():
            found.setdefault(key.address, []).append((key, f"the data plane has {key}, which is not wanted"))
        for key, service in want.items():
            if (other := have.get(key)) is None:
                found.setdefault(key.address, []).append((key, f"the data plane lacks {key}"))
            elif not alike(service, other):
                found.setdefault(key.address, []).append((key, f"the data plane differs at {key}"))
        self._of = {address: min(each, key=lambda e: e[0].order)[1] for address, each in found.items()}
        self._of |= {a: f"{a} is not on the loopback device" for a in desired.vips - observed.vips}

    def of(self, address: IPAddress) -> str | None:
        """What differs of one VIP, for people, or ``None``."""
        if self._passed_by:
            return f"packets from {', '.join(self._passed_by)} pass IPVS by: the XDP program of an agent with dataplane xdp is still there"
        if self._unseen:
            return f"packets from {', '.join(self._unseen)} are not balanced: the XDP program is not there any more"
        return self._of.get(address)


class _Kernel:
    """What concerns every VIP, looked at once: what differs, whether addresses are translated as desired, which workers are probed and decided,
    of which Services workers say something.
    """

    def __init__(self, facts: EdgeFacts, alike: Alike) -> None:
        observed = facts.observed
        self.translated = observed is not None and observed.translation_digest == facts.desired.translation_digest
        self.differences = Differences(facts.desired, observed or EdgeState(), alike)
        against = (*facts.health.failing_probes, *facts.health.without_endpoints)
        self.spoken_against = {service for service, _ in against}
        self.decided = facts.health.healthy | facts.health.unhealthy
        self.probed = {
            version: {w.address for w in facts.workers if w.probe_address is not None and w.address.version == version}
            for version in (4, 6)
        }
