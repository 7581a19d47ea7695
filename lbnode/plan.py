"""What would be programmed and announced for the objects in a file, and why not: the agent's own decisions, offline.

Probes and the kernel cannot be asked offline, so a plan shows what comes about once the kernel holds what is desired and every worker
answers. Addresses that no status has yet are allocated as the controller would.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from lbnode.active_probe import read_active_probe
from lbnode.allocate import allocate
from lbnode.announce import EdgeFacts, announce
from lbnode.communities import in_order
from lbnode.documents import read_documents
from lbnode.edge_nodes import with_outside_edges
from lbnode.errors import ConfigError
from lbnode.facts import Rejection, Verdict, VipFacts, WorkerHealth
from lbnode.model import IPAddress, ServiceName, address_order
from lbnode.object_reader import read_snapshot
from lbnode.objects import EXCLUDE_SERVICE_LABEL, NodeObject, ServiceObject, Snapshot, is_ours
from lbnode.plan_report import Report, ServiceReport, VipReport, as_json_text, findings, service_lines
from lbnode.pools import pool_of
from lbnode.settings import AgentSettings, parse, parse_json
from lbnode.standalone import Standalone, is_standalone
from lbnode.standalone import parse as parse_standalone
from lbnode.translate.edge import EdgePlan, translate_edge

#: Stand-in when no settings are given: documentation networks only (RFC 5737, RFC 2544, RFC 5398).
EXAMPLE_SETTINGS = {
    "pools": [{"name": "example", "cidrs": ["203.0.113.0/24"]}],
    "bgp": {"localAsn": 64512, "peers": [{"name": "router", "address": "198.18.0.1", "asn": 64513}]},
    "network": {"nodeCidrs": ["198.18.0.0/24"]},
}
SETTINGS_KEY = "settings.json"
_KINDS = ("Service", "EndpointSlice", "Node")


def plan(objects: Iterable[object], settings: AgentSettings, node: str | None = None) -> Report:
    """The report for Kubernetes objects as JSON dicts, on one edge node or on all that the objects name."""
    snapshot = read_snapshot(objects)
    notes: list[str] = []
    snapshot = _with_nodes(snapshot, settings, notes)
    snapshot, allocated, refused = _with_addresses(snapshot, settings)
    absent = sorted({n.namespace for n in snapshot.services} - snapshot.namespaces.keys())
    if settings.needs_namespaces and absent:
        notes.append(
            f"no Namespace objects for {', '.join(absent)} in the file: their labels are taken to be none but the name"
        )
    if allocated:
        notes.append("addresses marked 'allocated' are in no status yet; the controller would choose them")
    report = _report(snapshot, settings, node, allocated, refused)
    return replace(report, notes=(*notes, *report.notes))


def plan_standalone(file: Standalone, node: str | None = None) -> Report:
    """The report for a standalone file, on one of its edge nodes or on all. It says everything itself, so nothing is assumed."""
    return _report(file.snapshot(), file.agent_settings(), node)


def _report(
    snapshot: Snapshot,
    settings: AgentSettings,
    node: str | None,
    allocated: frozenset[ServiceName] = frozenset(),
    refused: tuple[Rejection, ...] = (),
) -> Report:
    snapshot = with_outside_edges(snapshot, settings)
    edges = [n for n, o in sorted(snapshot.nodes.items()) if o.matches(settings.edge_node_selector)]
    if node is not None:
        if node not in snapshot.nodes:
            known = ", ".join(edges) or "none"
            raise ConfigError(f"--node {node}", "there is no such Node in the file", f"Edge nodes there: {known}")
        edges = [node]
    plans = {name: translate_edge(snapshot, settings, name) for name in edges}
    verdicts = {name: _verdicts(p, settings) for name, p in plans.items()}
    first = next(iter(plans.values()), None)

    xdp = settings.xdp
    notes = (
        (
            f"dataplane xdp: {xdp.flows_per_processor:,} flows take {_mib(16 * xdp.flows_per_processor)} on each processor; all maps of an edge node "
            f"with 2 processors take at most {_mib(xdp.memory_bytes(2))}, with {xdp.most_processors} {_mib(xdp.memory_bytes(xdp.most_processors))}",
        )
        if settings.dataplane == "xdp"
        else ()
    )
    services = []
    for name, service in sorted(snapshot.services.items()):
        if not is_ours(service, settings):
            services.append(ServiceReport(name, ignored=_why_ignored(service, settings)))
            continue
        active_probe, _ = read_active_probe(service, settings.active_probes)
        at = {a: f for a, f in first.vips.items() if any(s.service == name for s in f.all_services)} if first else {}
        ports = {(p.protocol, p.port) for p in service.ports}
        services.append(
            ServiceReport(
                name=name,
                addresses=service.addresses,
                allocated=name in allocated,
                active_probe=str(active_probe or ""),
                vips=tuple(_vip(name, f, settings) for _, f in sorted(at.items(), key=lambda i: address_order(i[0]))),
                programmed=tuple(
                    s
                    for s in (first.state.services if first else ())
                    if s.key.address in at and (s.key.protocol.value, s.key.port) in ports
                ),
                verdicts=tuple((edge, a, verdicts[edge][a]) for a in sorted(at, key=address_order) for edge in edges),
            )
        )
    rejections = [*refused, *(first.rejections if first else snapshot.rejections)]
    return Report(
        services=tuple(services),
        rejections=tuple(dict.fromkeys(rejections)),
        warnings=tuple(dict.fromkeys(w for p in plans.values() for w in p.warnings)),
        notes=notes,
        node_names={a: n.name for n in snapshot.nodes.values() for a in n.addresses},
    )


def check(objects: Iterable[object], settings: AgentSettings) -> Report:
    """Only what is wrong: the rejections and warnings of a plan."""
    return replace(plan(objects, settings), services=())


def check_file(path: Path, settings_path: Path | None = None, as_json: bool = False) -> tuple[str, int]:
    """Text for the terminal and the exit code: 0 when nothing is refused, 1 otherwise.

    Raises:
        ConfigError: the file or the settings cannot be read.
    """
    report, counts = _report_of_file(path, settings_path)
    report = replace(report, services=())
    code = 1 if report.rejections else 0
    if as_json:
        return as_json_text(report), code
    verdict = f"{len(report.rejections)} refused" if code else "nothing refused"
    return "\n".join([*findings(report), f"{path}: {counts}: {verdict}"]), code


def plan_file(
    path: Path, settings_path: Path | None = None, node: str | None = None, as_json: bool = False
) -> tuple[str, int]:
    """Text for the terminal and the exit code: 0 when nothing is refused, 1 otherwise.

    Raises:
        ConfigError: the file or the settings cannot be read, or the file has no such node.
    """
    report, _ = _report_of_file(path, settings_path, node)
    code = 1 if report.rejections else 0
    if as_json:
        return as_json_text(report), code
    lines = [line for service in report.services for line in service_lines(service, report)]
    return "\n".join([*lines, *findings(report)]) or "no Services", code


def _report_of_file(path: Path, settings_path: Path | None, node: str | None = None) -> tuple[Report, str]:
    """The report, and how much of what the file has."""
    text = _text(path)
    documents = read_documents(text, str(path))
    if is_standalone(documents):
        if settings_path is not None:
            raise ConfigError(
                f"--settings {settings_path}", f"{path} is a standalone file and has its own settings", "Leave it out"
            )
        file = parse_standalone(text, str(path))
        counts = f"{len(file.services)} services, {len(file.workers)} workers, {len(file.edge_nodes)} edge nodes"
        return plan_standalone(file, node), counts
    objects = _flat(documents)
    settings, notes = _settings_for(objects, path, settings_path)
    report = plan(objects, settings, node)
    counts = ", ".join(f"{sum(_kind(o) == kind for o in objects)} {kind}s" for kind in _KINDS)
    return replace(report, notes=(*notes, *report.notes)), counts


# What the file does not say


def _with_nodes(snapshot: Snapshot, settings: AgentSettings, notes: list[str]) -> Snapshot:
    """The snapshot with stand-in Nodes where the file has none of a role: workers by the endpoints' node names, one edge node."""
    nodes = dict(snapshot.nodes)
    taken = {a for n in nodes.values() for a in n.addresses}
    networks = {n.version: n for n in reversed(settings.network.node_cidrs)}
    free = [
        (h for h in networks[version] if int(h) & 0xFF not in (0, 255) and h not in taken)
        for version in sorted(networks)
    ]
    if not any(n.matches(settings.worker_node_selector) for n in nodes.values()):
        names = sorted(
            {e.node_name for s in snapshot.slices for e in s.endpoints if e.node_name and e.node_name not in nodes}
        )
        for name in names:
            nodes[name] = NodeObject(name, labels=settings.worker_node_selector, addresses=tuple(map(next, free)))
        if names:
            notes.append(f"no worker Nodes in the file: assumed {', '.join(names)}, with made-up addresses")
    if not any(n.matches(settings.edge_node_selector) for n in nodes.values()):
        nodes["edge"] = NodeObject("edge", labels=settings.edge_node_selector, addresses=tuple(map(next, free)))
        notes.append("no edge Nodes in the file: assumed one called edge")
    return replace(snapshot, nodes=nodes)


def _with_addresses(
    snapshot: Snapshot, settings: AgentSettings
) -> tuple[Snapshot, frozenset[ServiceName], tuple[Rejection, ...]]:
    """The snapshot as the controller would leave it: every Service of ours has the addresses that it is given."""
    allocation = allocate(snapshot.services.values(), settings, snapshot.namespaces)
    services: dict[ServiceName, ServiceObject] = {}
    allocated = set()
    for name, service in snapshot.services.items():
        services[name] = service
        if is_ours(service, settings):
            addresses = allocation.addresses.get(name, ())
            if set(addresses) - set(service.addresses):
                allocated.add(name)
            services[name] = replace(service, addresses=addresses)
    return replace(snapshot, services=services), frozenset(allocated), allocation.rejections


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB"


def _vip(name: ServiceName, facts: VipFacts, settings: AgentSettings) -> VipReport:
    pool = pool_of(facts.address, settings.pools)
    report = VipReport(
        address=facts.address,
        pool=pool.name if pool is not None else "",
        shared_with=tuple(sorted(s.service for s in facts.all_services if s.service != name)),
        attributes=replace(
            facts.attributes, communities=in_order((*settings.bgp.communities, *facts.attributes.communities))
        ),
    )
    if pool is None:
        return report
    return replace(
        report, aggregate=pool.aggregate_of(facts.address), host_route=pool.announces_host_route(facts.address)
    )


def _verdicts(edge: EdgePlan, settings: AgentSettings) -> Mapping[IPAddress, Verdict]:
    health = WorkerHealth(healthy=frozenset(w.address for w in edge.workers))
    facts = EdgeFacts(
        vips=edge.vips,
        workers=edge.workers,
        desired=edge.state,
        observed=edge.state,
        health=health,
        draining=edge.draining,
        blocked=edge.blocked,
        unserved=edge.unserved,
    )
    return announce(facts, settings.health)


def _why_ignored(service: ServiceObject, settings: AgentSettings) -> str:
    if service.type != "LoadBalancer":
        return f"type is {service.type}"
    if EXCLUDE_SERVICE_LABEL in service.labels:
        return f"it has the label {EXCLUDE_SERVICE_LABEL}"
    if service.load_balancer_class is None:
        return "it has no loadBalancerClass, and serveWithoutClass is off"
    return f"loadBalancerClass is {service.load_balancer_class}, ours is {settings.service_class}"


# Files


def _settings_for(
    objects: Iterable[object], path: Path, settings_path: Path | None
) -> tuple[AgentSettings, tuple[str, ...]]:
    if settings_path is not None:
        [raw] = read_documents(_text(settings_path), str(settings_path)) or [None]
        return parse(raw, str(settings_path)), ()
    for item in objects:
        data = item.get("data") if isinstance(item, Mapping) and item.get("kind") == "ConfigMap" else None
        if isinstance(data, Mapping) and isinstance(data.get(SETTINGS_KEY), str):
            return parse_json(data[SETTINGS_KEY], f"{path}: {SETTINGS_KEY}"), ()
    note = "no --settings and no ConfigMap with settings.json in the file: planned with the example pool 203.0.113.0/24"
    return parse(EXAMPLE_SETTINGS), (note,)


def _flat(documents: Iterable[object]) -> list[object]:
    """All objects: of YAML documents, a JSON object or list, or Kubernetes Lists of them."""
    flat: list[object] = []
    waiting = list(documents)[::-1]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += reversed(item)
        elif (
            isinstance(item, Mapping)
            and str(item.get("kind", "")).endswith("List")
            and isinstance(item.get("items"), list)
        ):
            waiting += reversed(item["items"])
        elif item is not None:
            flat.append(item)
    return flat


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(path), f"cannot be read: {error}", "Name a readable file, or - for standard input"
        ) from None


def _kind(item: object) -> str:
    return str(item.get("kind")) if isinstance(item, Mapping) else ""
