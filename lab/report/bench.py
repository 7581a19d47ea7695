"""The lab as a measurement sees it: clients with fresh addresses, the cluster's objects, and conditions to wait for."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from lab import cluster, netns, routers, topology
from lab.machines import Machine
from lab.report.tables import Tables, tables_of
from lab.traffic.client import Client, RunningFlows
from lab.traffic.connections import ConnectionsPlan, Sample
from lab.traffic.flows import FlowsPlan, Transport

CLASS = "samegate.dev/lb"
DRAIN = "samegate.dev/drain"
SYSTEM_NAMESPACE = "samegate-system"
APPS = "echo"
"""The namespace of the echo app, and of the test-only Services that select its pods."""
SERVICES = Path(__file__).parent.parent / "services"
"""Test-only Services; the apps themselves are in apps/."""

_FIRST_SOURCE, _LAST_SOURCE = 10, 250
_SOURCES_FILE = topology.STATE / "client-addresses"


class NotReached(Exception):
    """A condition that was waited for did not come; the message says which, for how long, and what was seen last."""


class NotMeasurable(Exception):
    """A measurement cannot be made on this rack; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a Service of ours at its VIP."""

    service: str
    vip: str
    port: int
    transport: Transport

    @property
    def address(self) -> tuple[str, int]:
        return (self.vip, self.port)

    @property
    def version(self) -> int:
        """The IP version."""
        return topology.version_of(self.vip)

    @property
    def in_ipvs(self) -> str:
        """As ipvsadm(8) takes it and prints it: transport option and ADDRESS:PORT."""
        return f"-{self.transport[0]} {self.listed}"

    @property
    def key(self) -> str:
        """As `lab.report.tables` names its service."""
        return f"{self.transport[0]} {self.listed}"

    @property
    def listed(self) -> str:
        """ADDRESS:PORT, an IPv6 address in brackets."""
        return f"{self.vip}:{self.port}" if self.version == 4 else f"[{self.vip}]:{self.port}"


def wait_until(what: str, condition: Callable[[], object], timeout_seconds: float, every_seconds: float = 0.2) -> float:
    """Seconds until `condition` held, asked each `every_seconds`; whatever it returns falsy is shown if it never does.

    Raises NotReached.
    """
    began = time.monotonic()
    while True:
        seen = condition()
        waited = time.monotonic() - began
        if seen:
            return waited
        if waited > timeout_seconds:
            raise NotReached(f"after {timeout_seconds:g} s still not: {what}")
        time.sleep(every_seconds)


class Bench:
    """Everything that measurements touch. It changes nothing by itself but the client's addresses."""

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self.client = Client(topology.CLIENT)
        self.say = say

    # -- clients ---------------------------------------------------------------------------------------------------------------

    def sources(self, count: int = 1, version: int = 4) -> tuple[str, ...]:
        """Client addresses that no measurement used lately: stale kernel state of reused ports would spoil the result."""
        used = int(_SOURCES_FILE.read_text()) if _SOURCES_FILE.is_file() else _FIRST_SOURCE - 1
        span = _LAST_SOURCE - _FIRST_SOURCE + 1
        hosts = [_FIRST_SOURCE + (used - _FIRST_SOURCE + 1 + n) % span for n in range(count)]
        _SOURCES_FILE.write_text(str(hosts[-1]))
        addresses = tuple(str(topology.CLIENT_NETWORKS[version][host]) for host in hosts)
        for address in addresses:
            self.hold(address)
        return addresses

    def hold(self, address: str) -> str:
        """Give the client this address of its network."""
        version = topology.version_of(address)
        held = f"{address}/{topology.CLIENT_NETWORKS[version].prefixlen}"
        nodad = ["nodad"] if version == 6 else []
        netns.run(topology.CLIENT, ["ip", "address", "replace", held, "dev", "eth0", *nodad])
        return address

    def open_flows(self, target: Target, count: int, **settings: Any) -> RunningFlows:
        """Flows from fresh addresses; raises NotReached unless all of them open."""
        sources = settings.pop("sources", None) or self.sources(4, target.version)
        flows = self.client.flows(FlowsPlan(target.transport, target.address, count, sources, **settings))
        if flows.opened.opened != count:
            flows.stop()
            raise NotReached(
                f"only {flows.opened.opened} of {count} flows to {target.vip} opened: {flows.opened.not_opened}"
            )
        return flows

    def connections_plan(
        self, target: Target, per_second: float, count: int | None = None, timeout_seconds: float = 3.0
    ) -> ConnectionsPlan:
        """New connections from fresh addresses."""
        sources = self.sources(4, target.version)
        return ConnectionsPlan(target.transport, target.address, per_second, count, sources, timeout_seconds)

    def connect(
        self, target: Target, count: int, per_second: float = 200, sources: tuple[str, ...] = ()
    ) -> tuple[Sample, ...]:
        """`count` new connections, one after the other at `per_second`."""
        plan = self.connections_plan(target, per_second, count)
        with self.client.connections(replace(plan, sources=sources) if sources else plan) as running:
            return running.wait()

    # -- the cluster -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def objects(*what: str) -> dict[str, Any]:
        """`kubectl get` of these words, as JSON."""
        answer: dict[str, Any] = json.loads(cluster.kubectl("get", *what, "-o", "json"))
        return answer

    def services(self) -> list[dict[str, Any]]:
        """Services of our class that have an address."""
        items = self.objects("services", "-A")["items"]
        return [s for s in items if s["spec"].get("loadBalancerClass") == CLASS and addresses_of(s)]

    def target(
        self, service: str, transport: Transport = "tcp", port_name: str | None = None, version: int = 4
    ) -> Target:
        """A port of a Service beside the echo app at its VIP of this IP version.

        Raises NotReached when it has no such address or no such port.
        """
        found = self.objects("service", "-n", APPS, service)
        for port in found["spec"]["ports"]:
            if port.get("protocol", "TCP").lower() == transport and port_name in (None, port.get("name")):
                vips = [vip for vip in addresses_of(found) if topology.version_of(vip) == version]
                if not vips:
                    raise NotReached(f"Service {service} has no IPv{version} address: {conditions_of(found)}")
                return Target(service, vips[0], port["port"], transport)
        raise NotReached(f"Service {service} has no {transport} port")

    @staticmethod
    def apply(manifest: str) -> None:
        cluster.kubectl("apply", "-f", "-", input=manifest)

    @contextmanager
    def applied(self, *files: str) -> Iterator[None]:
        """Test-only manifests, there while the block runs."""
        paths = [arg for name in files for arg in ("-f", str(SERVICES / name))]
        cluster.kubectl("apply", *paths)
        try:
            yield
        finally:
            cluster.kubectl("delete", "--ignore-not-found", "--wait=true", *paths)

    def pods(self, selector: str, namespace: str = APPS) -> list[dict[str, Any]]:
        """Pods by label selector."""
        items: list[dict[str, Any]] = self.objects("pods", "-n", namespace, "-l", selector)["items"]
        return items

    def restarts(self) -> int:
        """How often containers of the cluster were started again, all together."""
        pods = self.objects("pods", "-A")["items"]
        return sum(c["restartCount"] for pod in pods for c in pod["status"].get("containerStatuses", []))

    @staticmethod
    def drain(node: str) -> None:
        """Ask an edge node to leave, or a worker to get no new connections."""
        cluster.kubectl("annotate", "node", node, f"{DRAIN}=true", "--overwrite")

    @staticmethod
    def undrain(node: str) -> None:
        cluster.kubectl("annotate", "node", node, f"{DRAIN}-")

    # -- routes ----------------------------------------------------------------------------------------------------------------

    @staticmethod
    def next_hops(vip: str) -> dict[str, tuple[str, ...]]:
        """The next hops of a VIP on each router's kernel, by router."""
        return {router.name: routers.routes(router.name, topology.host_route(vip)) for router in topology.ROUTERS}

    def announced_by(self, vip: str) -> dict[str, set[str]]:
        """The edge nodes that each ToR sends a VIP's packets to, by ToR."""
        names = {str(node.address_of(topology.version_of(vip))): node.name for node in topology.EDGES}
        return {
            tor.name: {names.get(hop, hop) for hop in routers.routes(tor.name, topology.host_route(vip))}
            for tor in topology.TORS
        }

    def wait_announced(self, vip: str, edges: set[str], timeout_seconds: float = 30) -> float:
        """Seconds until every ToR sends the VIP's packets to exactly these edge nodes."""

        def exactly() -> bool:
            return all(hops == edges for hops in self.announced_by(vip).values())

        return wait_until(f"{vip} announced by {sorted(edges) or 'nobody'}", exactly, timeout_seconds, 0.05)

    @property
    def edges(self) -> set[str]:
        return {edge.name for edge in topology.EDGES}

    # -- the whole -------------------------------------------------------------------------------------------------------------

    def trouble(self) -> str | None:
        """The first thing that is not as a settled rack has it, or None."""
        for node in self.objects("nodes")["items"]:
            name = node["metadata"]["name"]
            if not any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", [])):
                return f"node {name} is not Ready"
            if DRAIN in node["metadata"].get("annotations", {}):
                return f"node {name} is draining"
        for namespace in (SYSTEM_NAMESPACE, APPS):
            for pod in self.objects("pods", "-n", namespace)["items"]:
                name = f"{namespace}/{pod['metadata']['name']}"
                if pod["metadata"].get("deletionTimestamp"):
                    return f"pod {name} is terminating"
                if not any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", [])):
                    return f"pod {name} is not Ready"
        services = self.services()
        wanted = {vip for service in services for vip in addresses_of(service)}
        for edge in topology.EDGES:
            # A VIP that was withdrawn is still served for some seconds: its removal must not fall into the next measurement.
            if stale := self.held_vips(edge.name) - wanted:
                return f"{edge.name} still holds {', '.join(sorted(stale))}"
            # A flow that begins while one edge node gives a worker nothing new is another worker's on the other edge node.
            if drained := self.drained(edge.name):
                return f"{edge.name} gives nothing new to {drained[0]}"
        for router in topology.TORS:
            # Half of the workers' replies pass each ToR, and it loses them while it knows no way to the clients.
            if not routers.routes(router.name, str(topology.CLIENT_NETWORK)):
                return f"{router.name} has no route to the clients"
        for service in services:
            for vip in addresses_of(service):
                for tor, edges in self.announced_by(vip).items():
                    if edges != self.edges and not is_test_only(service):
                        return f"{tor} sends {vip} ({service['metadata']['name']}) to {sorted(edges) or 'nobody'}"
        return None

    def held_vips(self, edge: str) -> set[str]:
        """Addresses of the pools that an edge node's kernel holds as its own."""
        shown = self.machine(edge).run("ip -o address show dev lo").stdout
        found = (word.split("/")[0] for line in shown.splitlines() for word in line.split()[3:4])
        return {a for a in found if ip_address(a) in topology.VIP_POOLS[topology.version_of(a)]}

    def tables(self, edge: str) -> Tables:
        """What an edge node forwards by now."""
        return tables_of(self.machine(edge))

    def drained(self, edge: str) -> list[str]:
        """Workers that get no new flows of a service from an edge node, as `SERVICE: WORKER`."""
        listed = self.tables(edge).table()
        return [
            f"{service}: {worker}" for service, workers in listed.items() for worker, weight in workers if not weight
        ]

    def settle(self, timeout_seconds: float = 120) -> float:
        """Seconds until nodes, pods and routes are as a settled rack has them.

        Raises NotReached with the first thing that is not.
        """
        last: list[str | None] = [None]

        def settled() -> bool:
            try:
                found = self.trouble()
            except (netns.CommandError, subprocess.TimeoutExpired) as error:
                found = str(error)
            if found not in (None, last[0]):
                self.say(f"not settled: {found}")
            last[0] = found
            return last[0] is None

        try:
            return wait_until("the rack is settled", settled, timeout_seconds, 0.5)
        except NotReached as error:
            raise NotReached(f"{error}: {last[0]}") from None

    # -- machines --------------------------------------------------------------------------------------------------------------

    @staticmethod
    def machine(name: str) -> Machine:
        return Machine(name)

    @staticmethod
    def agent_role(node: str) -> Literal["edge", "worker"]:
        return topology.node(node).role

    def agent_pids(self, node: str) -> list[int]:
        """The agent's processes on a machine."""
        return self.pids(node, f"lbnode run {self.agent_role(node)}")

    def pids(self, node: str, command: str) -> list[int]:
        """Processes on a machine whose command line contains `command`, except the search itself."""
        # In brackets the first letter matches itself, and the search's own command line no longer matches.
        pattern = f"[{command[0]}]{re.escape(command[1:])}"
        found = self.machine(node).run(["pgrep", "-f", pattern], check=False).stdout
        return [int(pid) for pid in found.split()]

    @contextmanager
    def counting(self, node: str, source: str, destination: str) -> Iterator[Callable[[], int]]:
        """Packets with these inner addresses that a machine delivered to itself or sent on, counted after every filter of ours."""
        match = f"-s {source}/32 -d {destination}/32"
        hooks = ("mangle INPUT", "mangle POSTROUTING")
        machine = self.machine(node)

        def reached() -> int:
            listed = machine.run(
                "; ".join(f"iptables-legacy -w -t {hook.split()[0]} -nvxL {hook.split()[1]}" for hook in hooks)
            ).stdout
            rows = [line.split() for line in listed.splitlines()]
            return sum(int(words[0]) for words in rows if len(words) >= 8 and words[-2:] == [source, destination])

        machine.run(
            "; ".join(f"iptables-legacy -w -t {hook.split()[0]} -A {hook.split()[1]} {match}" for hook in hooks)
        )
        try:
            yield reached
        finally:
            undo = "; ".join(f"iptables-legacy -w -t {hook.split()[0]} -D {hook.split()[1]} {match}" for hook in hooks)
            machine.run(undo, check=False)

    def page(self, node: str, path: str) -> str:
        """An HTTP page of the agent on a machine (`/metrics`, `/v1/status`)."""
        port = 9474 if self.agent_role(node) == "edge" else 9475
        url = f"http://{topology.node(node).address}:{port}{path}"
        return netns.run(
            topology.CONTROL, ["curl", "--silent", "--show-error", "--fail", "--max-time", "3", url]
        ).stdout

    @contextmanager
    def paused_agents(self, *nodes: str) -> Iterator[None]:
        """The agents of these nodes stand still (SIGSTOP), so that what is changed by hand stays changed while the block runs."""
        stopped: list[tuple[str, str]] = []
        try:
            for node in nodes:
                pids = " ".join(map(str, self.agent_pids(node)))
                if not pids:
                    raise NotReached(f"no agent runs on {node}")
                stopped.append((node, pids))
                self.machine(node).run(f"kill -STOP {pids}")
            yield
        finally:
            for node, pids in stopped:
                self.machine(node).run(f"kill -CONT {pids}", check=False)


def addresses_of(service: dict[str, Any]) -> list[str]:
    """The addresses in a Service's status."""
    ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return [entry["ip"] for entry in ingress if "ip" in entry]


def conditions_of(service: dict[str, Any]) -> str:
    """A Service's conditions on one line."""
    conditions = service.get("status", {}).get("conditions") or []
    return (
        "; ".join(f"{c['type']}={c['status']} {c.get('reason')}: {c.get('message')}" for c in conditions)
        or "no condition"
    )


def is_test_only(service: dict[str, Any]) -> bool:
    """Whether the Service belongs to a measurement rather than to an app."""
    return bool(service["metadata"].get("labels", {}).get("samegate.dev/test-only"))
