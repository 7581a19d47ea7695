"""Single questions to the Kubernetes API: is our own workload going, how will it be started, and what is in a ConfigMap or a Secret."""

from __future__ import annotations

import base64
from typing import Any

from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.resources.apps_v1 import DaemonSet, Deployment
from lightkube.resources.core_v1 import ConfigMap, Secret

from lbnode.errors import Retry
from lbnode.kube.client import API_ERRORS, CREDENTIAL_ERRORS


async def daemonset_is_going(api: AsyncClient, name: str, namespace: str) -> bool | None:
    """Whether the DaemonSet is deleted or being deleted; ``None`` when the API server does not say."""
    return await _is_going(api, DaemonSet, name, namespace)


async def deployment_is_going(api: AsyncClient, name: str, namespace: str) -> bool | None:
    """The same of a Deployment."""
    return await _is_going(api, Deployment, name, namespace)


async def daemonset_environment(api: AsyncClient, name: str, namespace: str, container: str) -> dict[str, str] | None:
    """The plain variables that this container of the DaemonSet's pods to come has; ``None`` when the API server does not say."""
    try:
        found = await api.get(DaemonSet, name, namespace=namespace)
    except API_ERRORS:
        return None
    pod = found.spec.template.spec if found.spec is not None else None
    containers = pod.containers if pod is not None else []
    variables = [variable for each in containers if each.name == container for variable in each.env or []]
    return {variable.name: variable.value for variable in variables if variable.value is not None}


async def _is_going(api: AsyncClient, kind: Any, name: str, namespace: str) -> bool | None:
    try:
        found = await api.get(kind, name, namespace=namespace)
    except ApiError as error:
        return True if error.status.code == 404 else None
    except API_ERRORS:
        return None
    return bool(found.metadata is not None and found.metadata.deletionTimestamp is not None)


async def config_map_text(api: AsyncClient, name: str, namespace: str, key: str) -> str:
    """The text under ``key`` of a ConfigMap.

    Raises:
        Retry: no answer, or no such ConfigMap or key yet.
    """
    try:
        found = await api.get(ConfigMap, name, namespace=namespace)
    except (*CREDENTIAL_ERRORS, *API_ERRORS) as error:
        raise Retry(f"ConfigMap {namespace}/{name} cannot be read: {error}", 5.0) from None
    text = (found.data or {}).get(key)
    if text is None:
        raise Retry(f"ConfigMap {namespace}/{name} has no {key}", 5.0)
    return str(text)


async def secret_values(api: AsyncClient, name: str, namespace: str) -> dict[str, bytes]:
    """The values of a Secret by their keys.

    Raises:
        Retry: no answer, no such Secret yet, or no right to read it.
    """
    try:
        found = await api.get(Secret, name, namespace=namespace)
        return {key: base64.b64decode(value, validate=True) for key, value in (found.data or {}).items()}
    except (*CREDENTIAL_ERRORS, *API_ERRORS) as error:
        raise Retry(f"Secret {namespace}/{name} cannot be read: {error}", 5.0) from None
