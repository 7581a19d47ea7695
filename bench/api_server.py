"""A kube-apiserver with its etcd, of the tools' pinned versions, on the loopback of the sandbox; and a client that writes to it."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

import tools
from lab import netns

_PORT, _ETCD = 6443, "http://127.0.0.1:2379"
_TOKEN = "benchmark"  # noqa: S105 - of a server that nobody else reaches
_AUTHORIZED = {"Authorization": f"Bearer {_TOKEN}"}
_READY_SECONDS = 120.0
_AT_ONCE = 16
_JSON = "application/json"
_PATCH = "application/json-patch+json"


class ApiServerError(RuntimeError):
    """The API server did not start, or refused what it was given; the text holds its words."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """`kubeconfig` is a file with all rights."""

    url: str
    kubeconfig: Path
    process: subprocess.Popen[str]


@contextmanager
def running(scratch: Path) -> Iterator[ApiServer]:
    """Both programs; the sandbox ends them.

    Raises:
        ApiServerError: it does not get ready.
    """
    key, tokens, etcd_data = scratch / "service-account.key", scratch / "tokens.csv", scratch / "etcd"
    netns.run(None, ["openssl", "genrsa", "-out", str(key), "2048"])
    tokens.write_text(f'{_TOKEN},bench,bench,"system:masters"\n')
    etcd = [
        *(str(tools.locate("etcd").resolve()), f"--data-dir={etcd_data}", "--unsafe-no-fsync", "--log-level=warn"),
        *(
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ),
        "--quota-backend-bytes=4000000000",
    ]
    server = [
        *(str(tools.locate("kube-apiserver").resolve()), f"--etcd-servers={_ETCD}", f"--cert-dir={scratch / 'pki'}"),
        *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={_PORT}"),
        *("--authorization-mode=RBAC", f"--token-auth-file={tokens}", "--service-cluster-ip-range=10.96.0.0/16"),
        *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"),
        *(f"--service-account-signing-key-file={key}", "--profiling=false", "--endpoint-reconciler-type=none"),
        # The benchmark's client writes as fast as it can.
        *(
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--enable-priority-and-fairness=false",
        ),
    ]
    with (scratch / "api.log").open("w") as log:
        netns.popen(None, etcd, stdout=log, stderr=log)
        process = netns.popen(None, server, stdout=log, stderr=log)
    found = ApiServer(f"https://127.0.0.1:{_PORT}", scratch / "kubeconfig", process)
    found.kubeconfig.write_text(json.dumps(_kubeconfig(found.url)))
    deadline = time.monotonic() + _READY_SECONDS
    while not _ready(found.url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ApiServerError(f"kube-apiserver is not ready: {(scratch / 'api.log').read_text()[-2000:]}")
        time.sleep(0.2)
    yield found


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", headers=_AUTHORIZED, verify=_unchecked(), timeout=5.0).status_code == 200
    except httpx2.HTTPError:
        return False


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "bench", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }


class Writer:
    """Writes objects as they are."""

    def __init__(self, server: ApiServer) -> None:
        self._client = httpx2.AsyncClient(
            base_url=server.url,
            headers=_AUTHORIZED,
            verify=_unchecked(),
            # A server that is slow for a while loses no change.
            timeout=120.0,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def create(self, objects: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Objects with the paths of their collections; what they have of a status is written too.

        Raises:
            ApiServerError: one is refused.
        """
        waiting = asyncio.Semaphore(_AT_ONCE)

        async def one(path: str, body: dict[str, Any]) -> None:
            async with waiting:
                created = await self._send("POST", path, body)
                if "status" in body:
                    whole = {**created, "status": body["status"]}
                    await self._send("PUT", f"{path}/{body['metadata']['name']}/status", whole)

        async with asyncio.TaskGroup() as group:
            for path, body in objects:
                group.create_task(one(path, body))

    async def replace_value(self, path: str, pointer: str, value: object) -> None:
        """One value of an object (RFC 6902)."""
        await self._send("PATCH", path, [{"op": "replace", "path": pointer, "value": value}], _PATCH)

    async def _send(self, method: str, path: str, body: object, kind: str = _JSON) -> dict[str, Any]:
        answer = await self._client.request(method, path, content=json.dumps(body), headers={"Content-Type": kind})
        if answer.status_code >= 300:
            raise ApiServerError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found
