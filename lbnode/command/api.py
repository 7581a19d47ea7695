"""The Kubernetes API with the rights of the person who asks. Every refusal names the right that is missing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

from lbnode.errors import ConfigError, Retry
from lbnode.kube.client import CREDENTIAL_ERRORS

#: Objects of one answer to a list; the API server hands out the rest on demand.
PAGE_SIZE = 500
MERGE_PATCH = "application/merge-patch+json"

Raw = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Right:
    """What must be allowed, as in a Role. ``namespace`` is empty for the whole cluster."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {what} " + (f"in namespace {self.namespace}" if self.namespace else "in the whole cluster")


class MissingRights(ConfigError):
    """The API server refuses what these rights would allow."""

    def __init__(self, called: str, rights: tuple[Right, ...]) -> None:
        listed = "; ".join(map(str, rights))
        super().__init__(
            called,
            f"its user lacks the right{'s' if len(rights) > 1 else ''} to {listed}",
            "Have it granted (docs/command.md has the ClusterRole), or use another --context",
        )
        self.rights = rights


class Api:
    """Over a client of :func:`lbnode.kube.client.operator_client`; ``called`` is what messages call the context."""

    def __init__(self, client: httpx2.AsyncClient, called: str) -> None:
        self._client = client
        self.called = called

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, right: Right) -> Raw | None:
        """The object at ``path``, or ``None`` where there is none.

        Raises:
            MissingRights: it may not be read.
            ConfigError: the API server cannot be reached or does not know the user.
            Retry: it answers with an error of its own.
        """
        answer = await self._ask("GET", path)
        return None if answer.status_code == HTTPStatus.NOT_FOUND else self._object(answer, path, right)

    async def list(self, path: str, right: Right, **parameters: str) -> list[Raw]:
        """All objects of a list, each with its ``kind``. Raises as :meth:`get`."""
        found: list[Raw] = []
        more = ""
        while True:
            asked = {**parameters, "limit": str(PAGE_SIZE), **({"continue": more} if more else {})}
            page = self._object(await self._ask("GET", path, params=asked), path, right)
            kind = str(page.get("kind", "")).removesuffix("List")
            found += [{"kind": kind, **item} for item in page.get("items") or []]
            more = str((page.get("metadata") or {}).get("continue") or "")
            if not more:
                return found

    async def text(self, path: str, right: Right, **parameters: str) -> str:
        """The text at ``path``, e.g. a log. Raises as :meth:`get`."""
        answer = await self._ask("GET", path, params=parameters)
        self._refuse(answer, path, right)
        return answer.text

    async def proxied(self, path: str, right: Right) -> httpx2.Response:
        """What a pod answers through the API server, whatever its status.

        Raises:
            MissingRights: the API server does not let the user through.
            Retry: it does not reach the pod, or the pod does not answer in time.
        """
        try:
            answer = await self._client.get(path)
        except httpx2.HTTPError as error:
            raise Retry(in_words(error)) from None
        if _status(answer) is not None:
            self._refuse(answer, path, right)
        return answer

    async def merge(self, path: str, patch: Mapping[str, Any], right: Right) -> Raw:
        """Merge ``patch`` into the object at ``path`` (RFC 7386). Raises as :meth:`get`, and ConfigError where there is no such object."""
        answer = await self._ask("PATCH", path, content=json.dumps(patch), headers={"Content-Type": MERGE_PATCH})
        return self._object(answer, path, right)

    async def _ask(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            return await self._client.request(method, path, **request)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ConfigError(
                self.called,
                f"the API server {self._client.base_url} does not answer: {in_words(error)}",
                "Is this the right --context, and the network open?",
            ) from None
        except CREDENTIAL_ERRORS as error:
            raise ConfigError(
                self.called,
                f"its credentials cannot be had: {type(error).__name__}: {error}",
                "Log in anew, or use another --context",
            ) from None

    def _object(self, answer: httpx2.Response, path: str, right: Right) -> Raw:
        self._refuse(answer, path, right)
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Retry(f"{self.called}: {path} answers with something else than a JSON object: is this an API server?")
        return value

    def _refuse(self, answer: httpx2.Response, path: str, right: Right) -> None:
        if answer.is_success:
            return
        if answer.status_code == HTTPStatus.FORBIDDEN:
            raise MissingRights(self.called, (right,))
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise ConfigError(
                self.called,
                "the API server does not know its user",
                "Renew the credentials (log in anew), or use another --context",
            )
        status = _status(answer)
        said = str(status.get("message")) if status is not None else answer.text[:200]
        raise Retry(f"{self.called}: {path}: {answer.status_code} {said}")


def in_words(error: BaseException) -> str:
    """What the kernel said about a connection, which the client library wraps in "all attempts failed", else the error's own words."""
    found, inner = error, error.__cause__ or error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            found = inner
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(found, OSError) and found.errno is not None:
        # Below zero are the resolver's numbers, which have no text of the kernel.
        return os.strerror(found.errno) if found.errno > 0 else str(found.strerror)
    return " ".join(str(found).split()) or type(found).__name__


def _status(answer: httpx2.Response) -> Raw | None:
    """The API server's own word, a ``Status`` object; what a pod says is passed on as it is."""
    if answer.is_success or "json" not in answer.headers.get("Content-Type", ""):
        return None
    try:
        value = answer.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("kind") == "Status" else None


async def all_of(called: str, *asked: Any) -> list[Any]:
    """The results of several questions that are asked at the same time.

    Raises:
        MissingRights: every right that any of them lacks, at once.
        ConfigError: what the first other one failed with, and Retry likewise.
    """
    results = await asyncio.gather(*asked, return_exceptions=True)
    missing = [right for r in results if isinstance(r, MissingRights) for right in r.rights]
    if missing:
        raise MissingRights(called, tuple(dict.fromkeys(missing)))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
