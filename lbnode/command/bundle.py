"""``samegate bundle``: what a person elsewhere needs to see, in one archive, without secrets.

Secrets are never asked for. What may hold one by mistake (annotations, logs, arguments) passes the same redaction as the agents' logs, and what
only repeats (managed fields, the last applied text) is left out.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lbnode import __version__
from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Cell, Tone
from lbnode.command.api import Api, Raw, Right
from lbnode.command.doctor import doctor
from lbnode.command.overview import ours, status
from lbnode.command.pages import Agent
from lbnode.command.routes import routes
from lbnode.command.view import ASKED_AT_ONCE, PageReader, View, look, read_objects
from lbnode.errors import ConfigError, SamegateError
from lbnode.objects import SERVICE_NAME_LABEL
from lbnode.observe.log import HIDDEN, SECRET_NAMES, redact

#: The end of each container's log: some hours of a quiet agent.
LOG_LINES = 2000
PAGES = {"status.json": "/v1/status", "node.json": "/v1/node", "metrics.txt": "/metrics"}
#: Containers with a log, by role (components.loadbalancer.manifests).
CONTAINERS = {"edge": ("agent", "bird"), "worker": ("agent",), "controller": ("agent",)}
_REPEATS = ("managedFields",)
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Files = dict[str, str]


def clean(value: Any) -> Any:
    """JSON values without secrets and repetitions. A name and value pair, as in an environment, is judged by the name."""
    return _without_repeats(redact(_without_named_secrets(value)))


def _without_named_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A copy in an annotation would bring back what is hidden in its place.
        kept = {k: _without_named_secrets(v) for k, v in value.items() if k != _LAST_APPLIED}
        if isinstance(kept.get("name"), str) and SECRET_NAMES.search(kept["name"]) and kept.get("value"):
            kept["value"] = HIDDEN
        return kept
    if isinstance(value, list | tuple):
        return [_without_named_secrets(item) for item in value]
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        # Settings are JSON inside a ConfigMap.
        try:
            return json.dumps(clean(json.loads(value)), indent=2)
        except (ValueError, RecursionError):
            return value
    return value


def _without_repeats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_repeats(v) for k, v in value.items() if k not in _REPEATS}
    return [_without_repeats(item) for item in value] if isinstance(value, list) else value


def archive(files: Mapping[str, str], root: str, now_unix_seconds: int) -> bytes:
    """The files below a folder ``root`` as a ``tar.gz``, readable by its owner only once it is unpacked."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in sorted(files.items()):
            body = text.encode()
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size, entry.mtime, entry.mode = len(body), now_unix_seconds, 0o600
            tar.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


async def collect(api: Api, namespace: str) -> tuple[Files, list[str], View]:
    """The files, what could not be had and why, and the view that the answers in it rest on.

    Raises:
        ConfigError: no way to the API server, no such installation, or the rights that every verb needs are missing.
    """
    view = await look(api, namespace)
    objects, _ = await read_objects(api, namespace)
    names = {s.name for s in ours(view)}
    files: Files = {}
    lacking: list[str] = []

    def put(name: str, value: Any) -> None:
        files[name] = json.dumps(clean(value), indent=2, default=str) + "\n"

    mine = {(n.namespace, n.name) for n in names}
    put("objects/settings.json", objects.config_map)
    put("objects/nodes.json", objects.nodes)
    put("objects/services.json", [s for s in objects.services if _key(s, "name") in mine])
    put("objects/endpointslices.json", [s for s in objects.slices if _slice_key(s) in mine])
    put("objects/pods.json", objects.pods)
    for name, answer in (("status", status(view)), ("routes", routes(view)), ("doctor", doctor(view))):
        put(f"answers/{name}.json", {**answer.data, "notes": list(answer.notes)})

    async def attempt(name: str, getting: Awaitable[Any], *, as_json: bool) -> None:
        try:
            async with gate:
                got = await getting
        except SamegateError as error:
            lacking.append(f"{name}: {error}")
            return
        if as_json:
            put(name, got)
        else:
            files[name] = redact(str(got))

    reader, gate = PageReader(api, namespace, view.settings), asyncio.Semaphore(ASKED_AT_ONCE)
    try:
        await asyncio.gather(
            *(
                attempt(f"objects/{kind}.json", getting, as_json=True)
                for kind, getting in _more_objects(api, namespace)
            ),
            *(
                attempt(
                    f"agents/{agent.called}-{agent.role}/{name}",
                    _page(reader, agent, path),
                    as_json=name.endswith(".json"),
                )
                for agent in view.agents
                if agent.status is not None
                for name, path in PAGES.items()
            ),
            *(
                attempt(
                    f"agents/{agent.called}-{agent.role}/{container}.log",
                    _log(api, namespace, agent, container),
                    as_json=False,
                )
                for agent in view.agents
                if agent.pod
                for container in CONTAINERS[agent.role]
            ),
        )
    finally:
        await reader.close()
    lacking += [f"agents/{a.called}-{a.role}: {a.silence}" for a in view.agents if a.status is None]
    files["MANIFEST.txt"] = _manifest(api.called, files, lacking, view.notes)
    return files, lacking, view


def _more_objects(api: Api, namespace: str) -> list[tuple[str, Awaitable[list[Raw]]]]:
    apps = f"/apis/apps/v1/namespaces/{namespace}"
    return [
        ("daemonsets", api.list(f"{apps}/daemonsets", Right("list", "daemonsets", "apps", namespace))),
        ("deployments", api.list(f"{apps}/deployments", Right("list", "deployments", "apps", namespace))),
        ("events", api.list(f"/api/v1/namespaces/{namespace}/events", Right("list", "events", namespace=namespace))),
    ]


async def _page(reader: PageReader, agent: Agent, path: str) -> Any:
    text = await reader.fetch(agent, path, agent.through, optional=path == "/v1/node")
    return text if path == "/metrics" else json.loads(text or "{}")


async def _log(api: Api, namespace: str, agent: Agent, container: str) -> str:
    right = Right("get", "pods/log", namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/{agent.pod}/log"
    return await api.text(path, right, container=container, tailLines=str(LOG_LINES))


def _key(raw: Raw, name: str) -> tuple[str, str]:
    metadata = raw.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get(name, ""))


def _slice_key(raw: Raw) -> tuple[str, str]:
    metadata = raw.get("metadata") or {}
    return str(metadata.get("namespace", "")), str((metadata.get("labels") or {}).get(SERVICE_NAME_LABEL, ""))


def _manifest(called: str, files: Files, lacking: Sequence[str], notes: Sequence[str]) -> str:
    return "\n".join(
        [
            f"samegate {__version__}, {called}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "Secrets were not read, and what looks like one is replaced by (hidden). Addresses and names of nodes, Services and pods are in here.",
            *(f"file: {name}" for name in sorted(files)),
            *(f"lacking: {what}" for what in lacking),
            *(f"note: {note}" for note in notes),
            "",
        ]
    )


async def bundle(api: Api, namespace: str, output: Path | None) -> Answer:
    """Collect and write; the exit code says whether anything could not be had.

    Raises:
        ConfigError: as :func:`collect`, or the file cannot be written.
    """
    now = datetime.now(UTC)
    root = f"samegate-{now:%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{root}.tar.gz")
    files, lacking, view = await collect(api, namespace)
    try:
        # For its owner only; an older file of this name is not overwritten unseen.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            target.write(archive(files, root, int(now.timestamp())))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}", "Name another file by --output") from None
    data = {"path": str(path), "files": sorted(files), "lacking": lacking}
    parts = [Cell(f"{path}: {len(files)} files; secrets are left out, names and addresses are not", Tone.GOOD)]
    parts += [Cell(f"lacking: {what}", Tone.BAD) for what in lacking]
    return Answer(data, tuple(parts), view.notes, FOUND_SOMETHING if lacking else FINE)
