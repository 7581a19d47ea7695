"""The cluster and its agents at one moment, as far as this user may see. The one place of the command that asks."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import ip_address
from typing import Any

import httpx2

from lbnode.command.api import Api, MissingRights, Raw, Right, all_of, in_words
from lbnode.command.installed import read_settings
from lbnode.command.pages import Agent, Role, Unreadable, age_notes, read_node_page, read_status
from lbnode.errors import ConfigError, Retry, SamegateError
from lbnode.model import IPAddress
from lbnode.object_reader import read_snapshot
from lbnode.objects import ServiceObject, Snapshot
from lbnode.settings import AgentSettings

NAMESPACE = "samegate-system"
SETTINGS_MAP, SETTINGS_KEY = "samegate-settings", "settings.json"
#: Labels of our pods (components.naming).
COMPONENT_LABEL, POD_SELECTOR = "app.kubernetes.io/component", "app.kubernetes.io/name=samegate"
#: An agent on a network that we reach answers within milliseconds; an operator's machine that cannot reach it waits so long before it asks
#: through the API server.
DIRECT_TIMEOUT = httpx2.Timeout(3.0, connect=1.0)
#: Questions on the way at once: below the client's limit of connections, so that none waits for one until its time is over.
ASKED_AT_ONCE = 50
#: Of a page that is taken.
LONGEST_PAGE_BYTES = 16 * 1024 * 1024

NODES = Right("list", "nodes")
SERVICES = Right("list", "services")
SLICES = Right("list", "endpointslices", "discovery.k8s.io")


@dataclass(frozen=True)
class View:
    """Everything that the verbs judge. ``pod_names`` are by the pod's address, as EndpointSlices tell them; ``notes`` are for the user."""

    settings: AgentSettings
    snapshot: Snapshot = field(default_factory=Snapshot)
    agents: tuple[Agent, ...] = ()
    pod_names: Mapping[IPAddress, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def node_of(self, address: IPAddress) -> str:
        """The name of the node with this address, or the address."""
        return self._node_names.get(address, str(address))

    def services_of(self, vip: IPAddress) -> tuple[ServiceObject, ...]:
        """The Services that have this address, the oldest first."""
        return self._services.get(vip, ())

    def service_of(self, vip: IPAddress) -> ServiceObject | None:
        """The Service that has this address; of several the oldest."""
        return next(iter(self.services_of(vip)), None)

    @cached_property
    def _node_names(self) -> dict[IPAddress, str]:
        return {a: n.name for n in self.snapshot.nodes.values() for a in n.addresses}

    @cached_property
    def _services(self) -> dict[IPAddress, tuple[ServiceObject, ...]]:
        found: dict[IPAddress, tuple[ServiceObject, ...]] = {}
        for service in sorted(self.snapshot.services.values(), key=lambda s: s.seniority):
            for address in dict.fromkeys(service.addresses):
                found[address] = (*found.get(address, ()), service)
        return found


@dataclass(frozen=True, slots=True)
class Objects:
    """What the API server said, as it said it."""

    config_map: Raw
    nodes: list[Raw]
    services: list[Raw]
    slices: list[Raw]
    pods: list[Raw] | None


async def read_objects(api: Api, namespace: str) -> tuple[Objects, list[str]]:
    """All objects that any verb needs, and notes on those that may be missing.

    Raises:
        MissingRights: all rights that are needed and lacking.
        ConfigError: samegate is not installed there.
    """
    config_right = Right("get", "configmaps", namespace=namespace)
    pods_right = Right("list", "pods", namespace=namespace)
    notes: list[str] = []

    async def pods() -> list[Raw] | None:
        try:
            return await api.list(f"/api/v1/namespaces/{namespace}/pods", pods_right, labelSelector=POD_SELECTOR)
        except MissingRights:
            notes.append(
                f"without the right to {pods_right} agents are asked on the node addresses only, and controllers not at all"
            )
            return None

    config_map, nodes, services, slices, found = await all_of(
        api.called,
        api.get(f"/api/v1/namespaces/{namespace}/configmaps/{SETTINGS_MAP}", config_right),
        api.list("/api/v1/nodes", NODES),
        api.list("/api/v1/services", SERVICES),
        api.list("/apis/discovery.k8s.io/v1/endpointslices", SLICES, labelSelector="kubernetes.io/service-name"),
        pods(),
    )
    if config_map is None:
        raise ConfigError(
            api.called,
            f"samegate is not installed there: no ConfigMap {namespace}/{SETTINGS_MAP}",
            "Is this the right --context, or is it in another --namespace?",
        )
    return Objects(config_map, nodes, services, slices, found), notes


def settings_of(objects: Objects, namespace: str) -> tuple[AgentSettings, list[str]]:
    """The settings in the ConfigMap. Raises ConfigError as :func:`lbnode.command.installed.read_settings`."""
    text = str((objects.config_map.get("data") or {}).get(SETTINGS_KEY, ""))
    return read_settings(text, f"ConfigMap {namespace}/{SETTINGS_MAP}")


def expected_agents(objects: Objects, settings: AgentSettings, snapshot: Snapshot) -> list[Agent]:
    """An agent for each node that has a role's labels, and each pod of the controller."""
    pods: dict[tuple[str, str], str] = {}
    controllers: list[Agent] = []
    for raw in objects.pods or ():
        metadata, spec, status = (raw.get(key) or {} for key in ("metadata", "spec", "status"))
        if metadata.get("deletionTimestamp"):
            continue
        role, name, node = (
            (metadata.get("labels") or {}).get(COMPONENT_LABEL),
            metadata.get("name", ""),
            spec.get("nodeName", ""),
        )
        if role == "controller":
            controllers.append(Agent("controller", node, _address(status.get("podIP")), name))
        elif role in ("edge", "worker"):
            pods[(role, node)] = name
    found: list[Agent] = []
    roles: tuple[tuple[Role, Mapping[str, str]], ...] = (
        ("edge", settings.edge_node_selector),
        ("worker", settings.worker_node_selector),
    )
    for role, selector in roles:
        for _, node in sorted(snapshot.nodes.items()):
            if node.matches(selector):
                address = node.addresses[0] if node.addresses else None
                found.append(Agent(role, node.name, address, pods.get((role, node.name), "")))
    return [*found, *sorted(controllers, key=lambda a: a.pod)]


def _address(text: Any) -> IPAddress | None:
    try:
        return ip_address(str(text))
    except ValueError:
        return None


class PageReader:
    """Asks agents on their own addresses, and through the API server where that fails."""

    def __init__(self, api: Api, namespace: str, settings: AgentSettings) -> None:
        self._api = api
        self._namespace = namespace
        self._ports = {
            "edge": settings.ports.edge,
            "worker": settings.ports.worker,
            "controller": settings.ports.controller,
        }
        # Agents speak plain HTTP on the nodes' network: a proxy of the environment is none of the way there, and no certificate is trusted.
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._direct = httpx2.AsyncClient(timeout=DIRECT_TIMEOUT, trust_env=False, verify=nobody)
        self._gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def close(self) -> None:
        await self._direct.aclose()

    async def ask(self, agent: Agent) -> Agent:
        """The agent with what it says, or with why it says nothing. Never raises for what an agent does."""
        tried: list[str] = []
        for through in ("node", "API server"):
            try:
                status = read_status(json.loads(await self.fetch(agent, "/v1/status", through)))
                _same(agent, status.node, status.role)
                asked = time.time()
                page = await self.fetch(agent, "/v1/node", through, optional=True)
                took = time.time() - asked
                node_page = read_node_page(json.loads(page)) if page else None
            except (ValueError, RecursionError, Unreadable, SamegateError) as error:
                tried.append(in_words(error) if through == "node" else f"through the API server: {in_words(error)}")
                continue
            ahead = None
            if node_page is not None and node_page.time_unix_seconds is not None:
                ahead = node_page.time_unix_seconds - asked - took / 2
            return replace(
                agent,
                status=status,
                node_page=node_page,
                through=through,
                clock_seconds=ahead,
                clock_error_seconds=took / 2,
            )
        return replace(agent, silence="; ".join(tried))

    async def fetch(self, agent: Agent, path: str, through: str, *, optional: bool = False) -> str:
        """A page's text; empty when it is ``optional`` and the agent has none of this name.

        Raises:
            Retry: there is no way to the agent, or it answers with an error.
            MissingRights: the API server does not let the user through.
        """
        async with self._gate:
            answer = await (self._from_node(agent, path) if through == "node" else self._through_api(agent, path))
        if optional and answer.status_code == 404:
            return ""
        if answer.status_code != 200:
            raise Retry(f"{path} answers {answer.status_code} {answer.text[:100].strip()}")
        return answer.text

    async def _from_node(self, agent: Agent, path: str) -> httpx2.Response:
        if agent.address is None:
            raise Retry("its node has no address" if agent.role != "controller" else "its pod has no address")
        host = f"[{agent.address}]" if agent.address.version == 6 else str(agent.address)
        url = f"http://{host}:{self._ports[agent.role]}{path}"
        try:
            async with self._direct.stream("GET", url) as answer:
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LONGEST_PAGE_BYTES:
                        raise Retry(f"{url} answers with more than {LONGEST_PAGE_BYTES} bytes")
                return httpx2.Response(answer.status_code, content=body)
        except (httpx2.HTTPError, OSError) as error:
            raise Retry(f"{url}: {in_words(error)}") from None

    async def _through_api(self, agent: Agent, path: str) -> httpx2.Response:
        if not agent.pod:
            raise Retry(f"no pod of the {agent.role} agent is known on the node")
        right = Right("get", "pods/proxy", namespace=self._namespace)
        port = self._ports[agent.role]
        return await self._api.proxied(
            f"/api/v1/namespaces/{self._namespace}/pods/{agent.pod}:{port}/proxy{path}", right
        )


def _same(agent: Agent, node: str, role: str) -> None:
    """On another network somebody else may have the node's address."""
    if role != agent.role or (node and agent.role != "controller" and node != agent.node):
        raise Retry(
            f"at {agent.address} answers {role or 'something'} {node or 'else'}, not the {agent.role} agent of {agent.node}"
        )


async def look(api: Api, namespace: str) -> View:
    """The whole view: objects first, then every agent at the same time.

    Raises:
        ConfigError: no way to the API server, no such installation, or rights are missing.
        Retry: the API server answers with an error.
    """
    objects, notes = await read_objects(api, namespace)
    settings, unknown = settings_of(objects, namespace)
    snapshot = read_snapshot([*objects.services, *objects.slices, *objects.nodes])
    reader = PageReader(api, namespace, settings)
    try:
        agents = await asyncio.gather(*(reader.ask(a) for a in expected_agents(objects, settings, snapshot)))
    finally:
        await reader.close()
    return View(settings, snapshot, tuple(agents), pod_names(objects.slices), (*notes, *unknown, *age_notes(agents)))


def pod_names(slices: Iterable[Raw]) -> dict[IPAddress, str]:
    """The pods behind Services, by address."""
    names: dict[IPAddress, str] = {}
    for piece in slices:
        for endpoint in piece.get("endpoints") or ():
            name = (endpoint.get("targetRef") or {}).get("name")
            for text in endpoint.get("addresses") or ():
                if name and (address := _address(text)) is not None:
                    names[address] = str(name)
    return names
