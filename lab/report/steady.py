"""What holds while nothing breaks: routes, addresses, shares, affinity, source ranges, ports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from lab import topology
from lab.report.bench import APPS, Bench, NotReached, Target, addresses_of, is_test_only, wait_until
from lab.report.catalogue import CONNECTIONS, over
from lab.report.measurement import Control, Measured
from lab.traffic.connections import Sample
from lab.traffic.flows import Transport

ECHO = "echo"
FAMILIES = (4, 6)
TRANSPORTS: tuple[Transport, ...] = ("tcp", "udp")
AFFINITY, CLUSTER, RANGES = "echo-affinity", "echo-cluster", "echo-ranges"
AFFINITY_CLIENTS = 8
INSIDE, OUTSIDE = topology.CLIENT_NETWORK[253], topology.CLIENT_NETWORK[5]
"""A client inside and one outside of the range that echo-ranges allows."""
KNOWN_PORTS = (
    20, 21, 22, 23, 25, 53, 67, 68, 69, 80, 110, 111, 123, 137, 143, 161, 179, 389, 443, 445, 514, 546, 873, 1790, 2049, 2222, 2375, 2376,
    2379, 2380, 3000, 3128, 3784, 3785, 4240, 4784, 4789, 5000, 5353, 5355, 5432, 6081, 6379, 6443, 6784, 8000, 8080, 8081, 8285, 8443, 8472,
    9000, 9090, 9091, 9100, 9153, 9256, 9443, 9474, 9475, 9476, 10248, 10249, 10250, 10251, 10252, 10255, 10256, 10257, 10259, 30000, 32767,
)  # fmt: skip


def measure_routes(bench: Bench) -> Mapping[str, Measured]:
    """The kernel's next hops on each router for each VIP of an app."""
    seen: dict[int, dict[str, dict[str, list[str]]]] = {4: {}, 6: {}}
    for service in bench.services():
        for vip in addresses_of(service) if not is_test_only(service) else ():
            hops = {router: list(found) for router, found in bench.next_hops(vip).items()}
            seen[topology.version_of(vip)][vip] = hops
    return {over(version, "routes"): Measured(found) for version, found in seen.items()}


def clients_seen(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """By the client's own address, the addresses that the app saw; `failed` stands for unanswered connections."""
    seen: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        seen[str(sample.source)].add(sample.client or "failed")
    return {source: sorted(addresses) for source, addresses in seen.items()}


def measure_client_ip_preserved(bench: Bench) -> Mapping[str, Measured]:
    """Three clients, TCP and UDP. Control: externalTrafficPolicy Cluster, where kube-proxy rewrites the source."""
    seen: dict[int, dict[str, dict[str, list[str]]]] = {4: {}, 6: {}}
    preserved = {4: True, 6: True}
    for version in FAMILIES:
        for transport in TRANSPORTS:
            sources = bench.sources(3, version)
            target = bench.target(ECHO, transport, version=version)
            seen[version][transport] = clients_seen(bench.connect(target, 60, sources=sources))
            preserved[version] &= seen[version][transport] == {source: [source] for source in sources}
    with bench.applied("echo-cluster.yaml"):
        for version in FAMILIES:
            target = ready_target(bench, CLUSTER, version)
            # Until kube-proxy has the Service, up to a second after it is announced, the workers deliver by themselves and rewrite nothing.
            for _ in range(10):
                rewritten = clients_seen(bench.connect(target, 30, sources=bench.sources(1, version)))
                seen[version]["control"] = rewritten
                if _none_kept(rewritten):
                    break
    measured = {}
    for version, samples in seen.items():
        shows = _none_kept(samples["control"])
        control = Control("the same with externalTrafficPolicy: Cluster", not shows, shows)
        measured[over(version, "client_ip_preserved")] = Measured(preserved[version], samples, control)
    return measured


def _none_kept(seen: Mapping[str, list[str]]) -> bool:
    """Whether no app saw the address of its client."""
    return all(source not in addresses for source, addresses in seen.items())


def ready_target(bench: Bench, service: str, version: int = 4) -> Target:
    """A test-only Service over the echo pods, once both edge nodes announce it and send to every worker that has one."""
    wait_until(f"{service} has an address", lambda: has_address(bench, service, version), 20)
    target = bench.target(service, version=version)
    bench.wait_announced(target.vip, bench.edges, 20)
    workers = len(
        {
            pod["spec"]["nodeName"]
            for pod in bench.objects("pods", "-n", APPS, "-l", "app.kubernetes.io/name=echo")["items"]
        }
    )
    wait_until(f"{service} is served by {workers} workers", lambda: _workers_served(bench, target) == {workers}, 20)
    return target


def _workers_served(bench: Bench, target: Target) -> set[int]:
    """How many workers get new connections of the target, by the tables of the edge nodes."""
    tables = (bench.tables(edge.name).table() for edge in topology.EDGES)
    return {sum(weight > 0 for _, weight in table.get(target.key, [])) for table in tables}


def has_address(bench: Bench, service: str, version: int = 4) -> bool:
    """Whether the Service's status holds an address of this IP version."""
    held = addresses_of(bench.objects("service", "-n", APPS, service))
    return any(topology.version_of(address) == version for address in held)


def counted_connections(bench: Bench, target: Target) -> dict[str, int]:
    """Connections that the kernels of the edge nodes counted for the target since its service exists, by edge node."""
    return {edge.name: bench.tables(edge.name).connections(target) for edge in topology.EDGES}


def new_connections(bench: Bench, target: Target, before: Mapping[str, int], expected: int) -> dict[str, int]:
    """Connections by edge node since `before`. IPVS sums its counters up only every two seconds, so this waits for all `expected` ones."""
    counts: dict[str, int] = {}

    def all_counted() -> bool:
        counts.update({edge: count - before[edge] for edge, count in counted_connections(bench, target).items()})
        return sum(counts.values()) >= expected

    with suppress(NotReached):
        wait_until("all connections are counted", all_counted, 6)
    return counts


def measure_spread(bench: Bench) -> Mapping[str, Measured]:
    """1,000 new connections: the pods say which worker served, the kernels of the edge nodes which of them forwarded."""
    return {over(version, "spread"): _spread(bench, version) for version in FAMILIES}


def _spread(bench: Bench, version: int) -> Measured:
    target = bench.target(ECHO, version=version)
    before = counted_connections(bench, target)
    samples = bench.connect(target, CONNECTIONS)
    value = {
        "edges": new_connections(bench, target, before, CONNECTIONS),
        "workers": dict(Counter(str(sample.node or "failed") for sample in samples)),
    }
    pods = dict(Counter(str(sample.pod or "failed") for sample in samples))
    errors = dict(Counter(str(sample.error) for sample in samples))
    return Measured(value, {"pods": pods, "counted_before": before, "errors": errors})


def most_pods(samples: Iterable[Sample]) -> int:
    """The largest number of pods that any one client met; a failed connection counts as a pod of its own."""
    met: dict[str | None, set[str]] = defaultdict(set)
    for sample in samples:
        met[sample.source].add(sample.pod or f"failed at {sample.at}")
    return max(len(pods) for pods in met.values())


def measure_affinity(bench: Bench) -> Mapping[str, Measured]:
    """Eight clients, thirty connections each, so that ports spread them over both edge nodes. Control: a Service without affinity."""
    with bench.applied("echo-affinity.yaml"):
        target = ready_target(bench, AFFINITY)
        before = counted_connections(bench, target)
        samples = bench.connect(target, 30 * AFFINITY_CLIENTS, sources=bench.sources(AFFINITY_CLIENTS))
        over_edges = new_connections(bench, target, before, 30 * AFFINITY_CLIENTS)
    without = most_pods(bench.connect(bench.target(ECHO), 30, sources=bench.sources(1)))
    pods = sorted({str(sample.pod) for sample in samples})
    control = Control(
        "the same without sessionAffinity, and every edge node took part",
        without,
        without > 1 and min(over_edges.values()) > 0,
    )
    return {
        "affinity": Measured(most_pods(samples), {"connections_per_edge": over_edges, "pods_met_by_all": pods}, control)
    }


def measure_source_ranges(bench: Bench) -> Mapping[str, Measured]:
    """One client outside the allowed range, one inside (that is the control)."""
    inside, outside = bench.hold(str(INSIDE)), bench.hold(str(OUTSIDE))
    with bench.applied("echo-ranges.yaml"):
        target = ready_target(bench, RANGES)
        wait_until("the inside client is served", lambda: bench.connect(target, 1, sources=(inside,))[0].ok, 10)
        served = bench.connect(target, 10, sources=(inside,))
        refused = bench.connect(target, 10, sources=(outside,))
        announced = bench.announced_by(target.vip)
    value = {
        "refused": not any(sample.ok for sample in refused),
        "announced": all(edges == bench.edges for edges in announced.values()),
        "inside_served": all(sample.ok for sample in served),
    }
    errors = dict(Counter(str(sample.error) for sample in refused))
    control = Control("a client inside the range is served", value["inside_served"], value["inside_served"])
    return {
        "source_ranges": Measured(
            value, {"outside": errors, "announced": {tor: sorted(e) for tor, e in announced.items()}}, control
        )
    }


def listening(bench: Bench, transport: str) -> set[int]:
    """Ports that anything listens on, on any machine of the rack, in the machine's own network namespace."""
    # The last column of /proc/net/tcp's local address is the port in hex; state 0A is LISTEN, and 07 an unconnected UDP socket.
    state = {"tcp": "0A", "udp": "07"}[transport]
    ports: set[int] = set()
    for node in topology.NODES:
        table = (
            bench.machine(node.name).run(f"cat /proc/net/{transport} /proc/net/{transport}6 2>/dev/null; true").stdout
        )
        for line in table.splitlines():
            words = line.split()
            if len(words) > 3 and words[3] == state:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def measure_exposed_ports(bench: Bench) -> Mapping[str, Measured]:
    """TCP handshakes and datagrams to every VIP, at every port that any machine listens on and those that are known to be dangerous."""
    ports = {transport: sorted(set(KNOWN_PORTS) | listening(bench, transport)) for transport in TRANSPORTS}
    sources = {version: bench.sources(1, version)[0] for version in FAMILIES}
    exposed: dict[int, list[str]] = {4: [], 6: []}
    samples: dict[int, dict[str, Any]] = {version: {"ports_tried": ports} for version in FAMILIES}
    answered = {4: 0, 6: 0}
    for service in bench.services():
        announced = {(p.get("protocol", "TCP").lower(), p["port"]) for p in service["spec"]["ports"]}
        for vip in addresses_of(service):
            version = topology.version_of(vip)
            for transport in TRANSPORTS:
                wanted = sorted(set(ports[transport]) | {port for kind, port in announced if kind == transport})
                verdicts = bench.client.ports(transport, vip, wanted, sources[version])
                samples[version][f"{vip}/{transport}"] = dict(Counter(verdicts.values()))
                opened: set[tuple[str, int]] = {(transport, p) for p, verdict in verdicts.items() if verdict == "open"}
                answered[version] += len(opened & announced)
                exposed[version] += [f"{vip}:{port}/{transport}" for _, port in sorted(opened - announced)]
    return {
        over(version, "exposed_ports"): Measured(
            exposed[version],
            samples[version],
            Control("announced ports found open by the same scan", answered[version], answered[version] > 0),
        )
        for version in FAMILIES
    }
