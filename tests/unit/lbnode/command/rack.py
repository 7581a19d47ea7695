"""A rack as the command sees it: views as values, and an API server with agents' pages on loopback addresses over real HTTP."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from lbnode import __version__
from lbnode.command.pages import Agent, Role, age_notes, read_node_page, read_status
from lbnode.command.view import View, pod_names
from lbnode.object_reader import read_snapshot
from lbnode.settings import AgentSettings, parse
from tests.unit.lbnode.kube_objects import SETTINGS, endpoint, endpoint_slice, node, service

VIP = "203.0.113.10"
EDGES = {"edge1": "127.0.0.11", "edge2": "127.0.0.12"}
WORKERS = {"worker1": "127.0.0.21", "worker2": "127.0.0.22", "worker3": "127.0.0.23"}
CONTROLLER = "127.0.0.31"
PODS = {
    "web-a": ("198.18.128.10", "worker1"),
    "web-b": ("198.18.129.10", "worker2"),
    "web-c": ("198.18.130.10", "worker3"),
}
RACK_SETTINGS = SETTINGS | {"network": SETTINGS["network"] | {"nodeCidrs": ["127.0.0.0/24"]}}


def settings(**changes: Any) -> AgentSettings:
    return parse(RACK_SETTINGS | changes)


def nodes(**annotations: dict[str, str]) -> list[dict[str, Any]]:
    listed = [(n, a, "edge") for n, a in EDGES.items()] + [(n, a, "worker") for n, a in WORKERS.items()]
    return [node(n, a, role, annotations=annotations.get(n)) for n, a, role in listed]


def web(**changes: Any) -> dict[str, Any]:
    """The Service, with the controller's condition on it."""
    made = service(**changes)
    condition = {
        "type": "samegate.dev/Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": f"Served at {VIP}.",
    }
    made["status"]["conditions"] = [condition]
    return made


def web_slice() -> dict[str, Any]:
    piece = endpoint_slice([endpoint(address, where) for address, where in PODS.values()])
    for one, name in zip(piece["endpoints"], PODS, strict=True):
        one["targetRef"] = {"kind": "Pod", "name": name}
    return piece


def edge_status(name: str, **changes: Any) -> dict[str, Any]:
    """``/v1/status`` of an edge node that serves; ``vip`` changes the line of the one VIP."""
    line = {
        "announce": True,
        "announced": True,
        "reason": "Announced",
        "detail": "3 of 3 workers healthy",
        "service": "default/web",
    }
    line |= changes.pop("vip", {})
    session = {"state": "Established", "bfd": "Up", "exported": 1, "last_error": ""}
    page = {
        "node": name,
        "role": "edge",
        "version": __version__,
        "draining": False,
        "blocked": None,
        "vips": {VIP: line},
        "sessions": {"tor1": session},
        "healthy_workers": list(WORKERS.values()),
        "rejections": [],
        "warnings": [],
        "last_error": "",
        "settings_error": "",
        "kernel_writes": 7,
    }
    return page | changes


def machine(role: str, **changes: Any) -> dict[str, Any]:
    """The facts of a node with nothing wrong."""
    edge = role == "edge"
    sysctls = {
        "net.ipv4.conf.all.rp_filter": "2",
        "net.ipv4.vs.conn_reuse_mode": "1",
        "net.ipv4.vs.expire_nodest_conn": "1",
        "net.ipv4.vs.schedule_icmp": "1",
        "net.ipv4.vs.sloppy_tcp": "1",
    }
    facts = {
        "kernel_release": "6.1.0-40-amd64",
        "kernel_build": "#1 SMP Debian 6.1.153-1",
        "mh_table_index": None,
        "modules": {"ip_vs": "loaded", "ip_vs_mh": "loaded", "ipip": "loaded"} if edge else {"ipip": "loaded"},
        "sysctls": sysctls if edge else {"net.ipv4.ip_forward": "1"},
        "path_mtu_bytes": dict.fromkeys((WORKERS if edge else EDGES).values(), 1500),
        "conntrack": {"count": 100, "max": 262144},
        "proxy_mode": "iptables",
        "proxy_devices": [],
        "other_speaker": False,
    }
    return facts | changes


def edge_page(drained: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """``/v1/node`` of an edge node."""
    destinations = [{"address": a, "weight": 1, "drained": n in drained} for n, a in WORKERS.items()]
    line = {"vip": VIP, "protocol": "TCP", "port": 80, "hash_source_port": True, "one_packet": False}
    page = {
        "time_unix_seconds": time.time(),
        "services": [line | {"destinations": destinations} | changes.pop("service", {})],
        "differences": {},
        "workers": [{"name": n, "address": a, "healthy": True, "probe": "Answered"} for n, a in WORKERS.items()],
        "machine": machine("edge"),
    }
    return page | changes


def worker_status(name: str, **changes: Any) -> dict[str, Any]:
    page = {
        "node": name,
        "role": "worker",
        "version": __version__,
        "not_ready": [],
        "without_endpoints": [],
        "warnings": [],
        "last_error": "",
        "settings_error": "",
    }
    return page | changes


def worker_page(**changes: Any) -> dict[str, Any]:
    return {"time_unix_seconds": time.time(), "machine": machine("worker")} | changes


def controller_status(**changes: Any) -> dict[str, Any]:
    page = {"role": "controller", "version": __version__, "leads": True, "addresses": {}, "rejections": []}
    return page | {"last_error": "", "settings_error": ""} | changes


def agent(
    role: Role, name: str, status: dict[str, Any] | None = None, page: dict[str, Any] | None = None, **changes: Any
) -> Agent:
    """An agent that said this; without pages it is silent."""
    address = ip_address((EDGES | WORKERS).get(name, CONTROLLER))
    said: dict[str, Any] = {"address": address, "pod": f"samegate-{role}-{name}", "clock_seconds": 0.0}
    said |= {"status": read_status(status)} if status is not None else {"silence": "connection refused"}
    said |= {"node_page": read_node_page(page)} if page is not None else {}
    return Agent(role, name, **(said | changes))


def agents() -> dict[str, Agent]:
    """All agents of a rack in which all is well, by node or pod."""
    found = {n: agent("edge", n, edge_status(n), edge_page()) for n in EDGES}
    found |= {n: agent("worker", n, worker_status(n), worker_page()) for n in WORKERS}
    found["controller"] = agent(
        "controller", "worker1", controller_status(), {}, pod="samegate-controller-1", clock_seconds=None
    )
    return found


def view(
    *objects: dict[str, Any], change: dict[str, Agent] | None = None, settings_in_force: AgentSettings | None = None
) -> View:
    """A view; without objects those of a rack in which all is well, ``change`` puts other agents in the place of those of the name."""
    listed = list(objects) or [web(), web_slice(), *nodes()]
    said = tuple((agents() | (change or {})).values())
    names = pod_names([o for o in listed if o["kind"] == "EndpointSlice"])
    return View(settings_in_force or settings(), read_snapshot(listed), said, names, tuple(age_notes(said)))


class Cluster:
    """What the API server and the agents answer; tests change it, also while it is served."""

    def __init__(self) -> None:
        self.objects = {"services": [web()], "endpointslices": [web_slice()], "nodes": nodes()}
        self.statuses: dict[str, dict[str, Any]] = {n: edge_status(n) for n in EDGES}
        self.statuses |= {n: worker_status(n) for n in WORKERS}
        self.pages: dict[str, dict[str, Any] | None] = {n: edge_page() for n in EDGES}
        self.pages |= {n: worker_page() for n in WORKERS}
        self.forbidden: set[str] = set()
        self.direct = True
        self.patches: list[tuple[str, Any]] = []
        self.on_patch: Any = lambda name, patch: None
        self.asked: list[str] = []
        self.authorizations: list[str] = []
        self.settings_changes: dict[str, Any] = {}
        self.settings_text: str | None = None
        self.logs = 'bird: password "hunter2-secret";\n{"event": "fine"}\n'
        self.port = 0

    def pods(self) -> list[dict[str, Any]]:
        listed = [("edge", n, a) for n, a in EDGES.items()] + [("worker", n, a) for n, a in WORKERS.items()]
        made = [self._pod(role, f"samegate-{role}-{n}", n, a) for role, n, a in listed]
        return [*made, self._pod("controller", "samegate-controller-1", "worker1", CONTROLLER)]

    @staticmethod
    def _pod(role: str, name: str, where: str, address: str) -> dict[str, Any]:
        container = {"name": "agent", "env": [{"name": "API_TOKEN", "value": "hunter2-env"}]}
        return {
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/component": role},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {"nodeName": where, "containers": [container]},
            "status": {"podIP": address},
        }

    def config_map(self) -> dict[str, Any]:
        ports = {"ports": {"edge": self.port, "worker": self.port, "controller": self.port}}
        text = (
            self.settings_text
            if self.settings_text is not None
            else json.dumps(RACK_SETTINGS | ports | self.settings_changes)
        )
        return {"kind": "ConfigMap", "metadata": {"name": "samegate-settings"}, "data": {"settings.json": text}}

    def page(self, who: str, path: str) -> tuple[int, str, bytes]:
        """An agent's answer: status, content type, body."""
        if path == "/metrics":
            return 200, "text/plain", b"samegate_up 1\n"
        status = controller_status() if who == "controller" else self.statuses.get(who)
        page = {} if who == "controller" else self.pages.get(who)
        if page is not None and "time_unix_seconds" in page:
            # As an agent does: the time of the answer, whenever it is asked for.
            page = page | {"time_unix_seconds": time.time()}
        found = {"/v1/status": status, "/v1/node": page}.get(path)
        if found is None:
            return 404, "text/plain; charset=utf-8", b"not found\n"
        return 200, "application/json", json.dumps(found).encode()


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        here = self.server.server_address[0]
        if here != "127.0.0.1":
            who = next((n for n, a in (EDGES | WORKERS).items() if a == here), "controller")
            self._send(*self.cluster.page(who, parts.path) if self.cluster.direct else (503, "text/plain", b"closed\n"))
            return
        self.cluster.asked.append(self.path)
        self.cluster.authorizations.append(self.headers.get("Authorization", ""))
        self._api(parts.path, parse_qs(parts.query))

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        cluster, base = self.cluster, "/api/v1/namespaces/samegate-system/"
        for part in cluster.forbidden:
            if part in path:
                self._refuse(403, f'User "eve" cannot get path "{path}"')
                return
        if "/proxy/" in path:
            pod, page = path.split("/pods/", 1)[1].split(f":{cluster.port}/proxy", 1)
            who = pod.split("-")[2] if "controller" not in pod else "controller"
            self._send(*cluster.page(who, page))
        elif path.endswith("/log"):
            self._send(200, "text/plain", cluster.logs.encode())
        elif path == base + "configmaps/samegate-settings":
            self._json(cluster.config_map())
        elif path.endswith("/pods"):
            self._list("Pod", cluster.pods() if path == base + "pods" else [], query)
        elif (kind := path.rsplit("/", 1)[-1]) in cluster.objects:
            self._list(
                {"services": "Service", "endpointslices": "EndpointSlice", "nodes": "Node"}[kind],
                cluster.objects[kind],
                query,
            )
        elif kind in ("daemonsets", "deployments", "events"):
            self._list("Thing", [], query)
        else:
            self._refuse(404, "the server could not find the requested resource")

    def do_PATCH(self) -> None:
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.rsplit("/", 1)[-1]
        if any(part in self.path for part in self.cluster.forbidden):
            self._refuse(403, "no")
            return
        self.cluster.patches.append((self.path, patch))
        self.cluster.on_patch(name, patch)
        self._json({"kind": "Node", "metadata": {"name": name}})

    def _list(self, kind: str, items: list[dict[str, Any]], query: dict[str, list[str]]) -> None:
        """In pieces of two, so that the rest has to be asked for. Items carry no kind, as with the real one."""
        start = int(query.get("continue", ["0"])[0])
        more = {"continue": str(start + 2)} if start + 2 < len(items) else {}
        bare = [{k: v for k, v in item.items() if k != "kind"} for item in items[start : start + 2]]
        self._json({"kind": f"{kind}List", "metadata": more, "items": bare})

    def _json(self, value: dict[str, Any]) -> None:
        self._send(200, "application/json", json.dumps(value).encode())

    def _refuse(self, code: int, message: str) -> None:
        body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
        self._send(code, "application/json", json.dumps(body).encode())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""


class Server:
    """Serves one cluster after the other on loopback addresses, all on one port."""

    def __init__(self) -> None:
        self._handler: Any = type("Handler", (_Handler,), {})
        self._servers = [_Listener(("127.0.0.1", 0), self._handler)]
        self.port = int(self._servers[0].server_address[1])
        addresses = (*EDGES.values(), *WORKERS.values(), CONTROLLER)
        self._servers += [_Listener((a, self.port), self._handler) for a in addresses]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def serve(self, cluster: Cluster) -> str:
        """From now on this one; gives the URL of its API server."""
        cluster.port, self._handler.cluster = self.port, cluster
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


def kubeconfig(folder: Path, server: str, name: str = "kubeconfig") -> Path:
    path = folder / name
    contexts = [{"name": "rack", "context": {"cluster": "rack", "user": "eve"}}]
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "rack", "cluster": {"server": server}}],
                "users": [{"name": "eve", "user": {"token": "hunter2-token"}}],
                "contexts": contexts,
                "current-context": "rack",
            }
        )
    )
    return path
