"""The metrics of edge nodes and the controller. Each method that takes a set takes the full set: what is no longer in it disappears from the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import Counter

from lbnode.facts import Verdict
from lbnode.model import Counters, Drops, IPAddress
from lbnode.observe.registry import Metrics, counted, replace

#: From one rack to the health check's timeout.
RTT_BUCKETS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)


class SessionView(Protocol):
    """What a session must tell to be measured: :class:`lbnode.speaker.base.Session` does."""

    @property
    def peer(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def established(self) -> bool: ...
    @property
    def bfd(self) -> str: ...
    @property
    def exported(self) -> int: ...


class ProbeView(Protocol):
    """What a probe must tell to be measured: :class:`lbnode.probe.ProbeResult` does."""

    @property
    def worker(self) -> IPAddress: ...
    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def rtt_ms(self) -> float | None: ...


class TallyView(Protocol):
    """What is counted of a VIP or a worker: :class:`lbnode.traffic.Tally` does."""

    @property
    def grown(self) -> Counters: ...
    @property
    def active_connections(self) -> int: ...
    @property
    def inactive_connections(self) -> int: ...


class EdgeMetrics(Metrics):
    """What an edge node measures. No metric has a VIP and a worker as labels: their product is what would grow without bound."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("edge", kernel_release)
        self._announced = self.gauge(
            "samegate_vip_announced", "1 when this node announces the VIP.", ["vip"], series="VIPs"
        )
        self._reason = self.gauge(
            "samegate_vip_reason_info",
            "Why the VIP is announced or not; always 1.",
            ["vip", "reason"],
            series="VIPs",
            unit="always 1",
        )
        self._vips = self.gauge(
            "samegate_vips",
            'VIPs that are announced (announced="true") and withheld ("false"), by reason.',
            ["announced", "reason"],
            series="reasons (some 20)",
            unit="VIPs",
        )
        self._healthy = self.gauge(
            "samegate_worker_healthy", "1 when the worker counts as healthy.", ["worker"], series="workers"
        )
        self._probes = self.counter(
            "samegate_probe_results_total",
            "Probes by worker and outcome.",
            ["worker", "reason"],
            series="workers x outcomes seen (at most 8)",
            unit="probes",
        )
        self._rtt = self.histogram("samegate_probe_rtt_seconds", "Round trip of answered probes.", RTT_BUCKETS_SECONDS)
        self._session = self.gauge(
            "samegate_bgp_session_up", "1 when the BGP session is established.", ["peer"], series="peers"
        )
        self._session_state = self.gauge(
            "samegate_bgp_session_state_info",
            "State of the BGP session in the daemon's word; always 1.",
            ["peer", "state"],
            series="peers",
            unit="always 1",
        )
        self._bfd = self.gauge(
            "samegate_bfd_session_up",
            "1 when the BFD session is up; absent where BFD is not used.",
            ["peer"],
            series="peers",
        )
        self._exported = self.gauge(
            "samegate_bgp_exported_routes", "Host routes sent to the peer.", ["peer"], series="peers", unit="routes"
        )
        self._draining = self.gauge("samegate_draining", "1 while this node drains.")
        self._alarm = self.gauge(
            "samegate_probe_alarm",
            "1 when all probes fail and no other edge node does better: the prober or the fabric is the suspect.",
        )
        self._vip_traffic = self._traffic("vip", "by VIP", "vip", "VIPs")
        self._vip_open = self.gauge(
            "samegate_vip_open_connections",
            'Connections that IPVS holds now, by VIP: established TCP (state="active") and all others ("inactive"). XDP holds none.',
            ["vip", "state"],
            series="2 x VIPs",
            unit="connections",
        )
        self._destination_traffic = self._traffic("destination", "by worker, over all VIPs", "worker", "workers")
        self._destination_open = self.gauge(
            "samegate_destination_open_connections",
            "Connections that IPVS holds now, by worker, over all VIPs. XDP holds none.",
            ["worker", "state"],
            series="2 x workers",
            unit="connections",
        )
        self._vip_hits = self._hits("vip", "by VIP", "vip", "VIPs")
        self._destination_hits = self._hits("destination", "by worker, over all VIPs", "worker", "workers")
        self._drops = _Totals(
            self.counter(
                "samegate_xdp_drops_total",
                'Packets for VIPs that the XDP program dropped, by reason; those that were answered with "too big" (TooBig) are among them. Only with dataplane: xdp.',
                ["reason"],
                unit="packets",
                series="7",
            )
        )
        self._vip_drops = _Totals(
            self.counter(
                "samegate_vip_xdp_drops_total",
                "Packets for the VIP that the XDP program dropped, by reason, as in samegate_xdp_drops_total. Reasons that were not met have no series.",
                ["vip", "reason"],
                unit="packets",
                series="VIPs x reasons met (at most 7)",
            ),
            only_seen=True,
        )
        self._probe_children: set[tuple[str, str]] = set()
        self._told: dict[IPAddress, Verdict] = {}
        self._last_verdicts: Mapping[IPAddress, Verdict] | None = None
        self._last_healthy: Mapping[IPAddress, bool] = {}

    def _traffic(self, what: str, by: str, label: str, series: str) -> tuple[_Totals, ...]:
        # Of direct return only one direction comes by, so there is nothing to tell of the other.
        counters = (
            self.counter(
                f"samegate_{what}_connections_total",
                f"Connections that IPVS scheduled here, with those that began at another edge node; with XDP, TCP connections that opened here and flows of UDP that are new to its table, {by}.",
                [label],
                unit="connections",
                series=series,
            ),
            self.counter(
                f"samegate_{what}_received_packets_total",
                f"Packets from clients, {by}.",
                [label],
                unit="packets",
                series=series,
            ),
            self.counter(
                f"samegate_{what}_received_bytes_total",
                f"Bytes from clients, {by}. Replies of direct return do not come by.",
                [label],
                unit="bytes",
                series=series,
            ),
        )
        return tuple(_Totals(counter) for counter in counters)

    def _hits(self, what: str, by: str, label: str, series: str) -> _Totals:
        text = f"Packets that XDP found in its table of flows, {by}; the others went by the ring. Only with dataplane: xdp."
        return _Totals(self.counter(f"samegate_{what}_table_hits_total", text, [label], unit="packets", series=series))

    def verdicts(self, verdicts: Mapping[IPAddress, Verdict]) -> None:
        """The full set of decisions, a mapping that is not changed later on."""
        if verdicts is self._last_verdicts:
            return
        self._last_verdicts = verdicts
        # One of a thousand changes, and a sample takes longer to set than to compare.
        for address in [a for a in self._told if a not in verdicts]:
            self._announced.remove(str(address))
            self._reason.remove(str(address), self._told.pop(address).reason)
        for address, verdict in verdicts.items():
            before = self._told.get(address)
            if before is verdict or before == verdict:
                continue
            if before is not None and before.reason != verdict.reason:
                self._reason.remove(str(address), before.reason)
            self._announced.labels(str(address)).set(verdict.announce)
            self._reason.labels(str(address), verdict.reason).set(1)
            self._told[address] = verdict
        kinds = counted((v.announce, v.reason) for v in verdicts.values())
        replace(self._vips, {(str(announce).lower(), reason): n for (announce, reason), n in kinds.items()})

    def destinations(self, healthy: Mapping[IPAddress, bool]) -> None:
        """The full set of probed workers; counters of others go."""
        if healthy != self._last_healthy:
            replace(self._healthy, {(str(a),): float(up) for a, up in healthy.items()})
            self._last_healthy = dict(healthy)
        workers = {str(a) for a in healthy}
        for child in [c for c in self._probe_children if c[0] not in workers]:
            self._probes.remove(*child)
            self._probe_children.discard(child)

    def probes(self, results: Iterable[ProbeView]) -> None:
        """Count one round of probes."""
        for result in results:
            child = (str(result.worker), result.reason)
            self._probe_children.add(child)
            self._probes.labels(*child).inc()
            if result.ok and result.rtt_ms is not None:
                self._rtt.observe(result.rtt_ms / 1000)

    def sessions(self, sessions: Iterable[SessionView]) -> None:
        """The full set of sessions."""
        listed = list(sessions)
        replace(self._session, {(s.peer,): float(s.established) for s in listed})
        replace(self._session_state, {(s.peer, s.state): 1 for s in listed})
        replace(self._bfd, {(s.peer,): float(s.bfd == "Up") for s in listed if s.bfd})
        replace(self._exported, {(s.peer,): s.exported for s in listed})

    def draining(self, draining: bool) -> None:
        """Whether this node drains."""
        self._draining.set(draining)

    def probe_alarm(self, raised: bool) -> None:
        """Whether every probe fails everywhere."""
        self._alarm.set(raised)

    def traffic(self, by_vip: Mapping[IPAddress, TallyView], by_worker: Mapping[IPAddress, TallyView]) -> None:
        """The full set of VIPs and of workers that are destinations: what each one grew by since the last call, and what is open."""
        for place, counter in enumerate(("connections", "received_packets", "received_bytes")):
            self._vip_traffic[place].grow(((str(a),), getattr(t.grown, counter)) for a, t in by_vip.items())
            self._destination_traffic[place].grow(((str(a),), getattr(t.grown, counter)) for a, t in by_worker.items())
        self._vip_hits.grow(_hits_of(by_vip))
        self._destination_hits.grow(_hits_of(by_worker))
        replace(self._vip_open, _open(by_vip))
        replace(self._destination_open, _open(by_worker))

    def drops(self, grown: Drops) -> None:
        """Packets that the data plane dropped since the last call, by each service and reason that it tells."""
        self._drops.grow(((reason,), count) for (_, reason), count in grown.items())
        by_vip = [((str(key.address), reason), count) for (key, reason), count in grown.items() if key is not None]
        self._vip_drops.grow(by_vip)


class ControllerMetrics(Metrics):
    """What the controller measures. Pools, addresses and rejections are told by the replica that leads, and by no other."""

    def __init__(self, kernel_release: str | None = None) -> None:
        super().__init__("controller", kernel_release)
        self._leader = self.gauge("samegate_leader", "1 when this replica holds the Lease.")
        self._size = self.gauge(
            "samegate_pool_addresses",
            "Addresses of the pool that are given out.",
            ["pool"],
            series="pools",
            unit="addresses",
        )
        self._used = self.gauge(
            "samegate_pool_addresses_used",
            "Addresses of the pool that Services hold.",
            ["pool"],
            series="pools",
            unit="addresses",
        )
        self._addresses = self.gauge(
            "samegate_service_address_info",
            "Address of a Service; always 1.",
            ["service", "address"],
            series="addresses of Services",
            unit="always 1",
        )
        self._writes = self.counter(
            "samegate_api_writes_total",
            "Writes to the Kubernetes API, by what was written: status, finalizer or event.",
            ["object"],
            series="3",
            unit="writes",
        )
        self._edges = self.gauge(
            "samegate_edge_node_answers",
            "1 when the edge node's status page answered the controller within the last 5 s.",
            ["edge"],
            series="edge nodes",
        )

    def leader(self, leads: bool) -> None:
        """Whether this replica leads. One that does not forgets what only the leader tells."""
        self._leader.set(leads)
        if not leads:
            for gauge in (self._size, self._used, self._addresses, self._rejections):
                gauge.clear()

    def pools(self, size_and_used: Mapping[str, tuple[int, int]]) -> None:
        """The full set of pools: number of addresses and how many are held."""
        replace(self._size, {(name,): size for name, (size, _) in size_and_used.items()})
        replace(self._used, {(name,): used for name, (_, used) in size_and_used.items()})

    def addresses(self, addresses: Iterable[tuple[str, IPAddress]]) -> None:
        """The full set of (namespace/name, address)."""
        replace(self._addresses, {(service, str(address)): 1 for service, address in addresses})

    def wrote(self, what: str) -> None:
        """Count a write, e.g. ``status``, ``finalizer``, ``event``."""
        self._writes.labels(what).inc()

    def edges(self, answers: Mapping[str, bool]) -> None:
        """The full set of edge nodes, and which of them answer."""
        replace(self._edges, {(node,): float(answering) for node, answering in answers.items()})


class _Totals:
    """A counter that is told by how much each of the full set grew, by label values. Those that never grew have no series, ``only_seen``."""

    def __init__(self, counter: Counter, *, only_seen: bool = False) -> None:
        self._counter = counter
        self._only_seen = only_seen
        self._children: set[tuple[str, ...]] = set()

    def grow(self, rows: Iterable[tuple[tuple[str, ...], int]]) -> None:
        sums: dict[tuple[str, ...], int] = {}
        for labels, count in rows:
            sums[labels] = sums.get(labels, 0) + count
        for gone in self._children - sums.keys():
            self._counter.remove(*gone)
            self._children.discard(gone)
        for labels, count in sums.items():
            if count or not self._only_seen or labels in self._children:
                self._children.add(labels)
                self._counter.labels(*labels).inc(count)


def _hits_of(tallies: Mapping[IPAddress, TallyView]) -> list[tuple[tuple[str], int]]:
    return [((str(a),), t.grown.table_hits) for a, t in tallies.items() if t.grown.table_hits is not None]


def _open(tallies: Mapping[IPAddress, TallyView]) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for address, tally in tallies.items():
        found[str(address), "active"] = tally.active_connections
        found[str(address), "inactive"] = tally.inactive_connections
    return found
