"""The existing cluster: its kubeconfig, and whether it answers.

All look-ups happen here, once, before any resource is registered.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from components.settings import PREFIX, OnPrem
from lbnode.errors import ConfigError

CONNECT_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class ApiServer:
    """Where a cluster is reached: host and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def read_kubeconfig(settings: OnPrem, project: Path, secret: str | None) -> str | None:
    """The kubeconfig's text: the file's, else the secret's; None if the file does not exist (yet).

    Raises:
        ConfigError: both or neither are given.
    """
    if (settings.kubeconfig_file is None) == (secret is None):
        given = "both are given" if secret is not None else "neither is given"
        raise ConfigError(
            f"{PREFIX}:platform.kubeconfigFile and {PREFIX}:kubeconfig",
            f"exactly one names the cluster, {given}",
            f"Set platform.kubeconfigFile to a path below the project, or: pulumi config set --secret {PREFIX}:kubeconfig",
        )
    if settings.kubeconfig_file is None:
        return secret
    try:
        return (project / settings.kubeconfig_file).read_text()
    except FileNotFoundError:
        return None


def api_server(kubeconfig: str, context: str | None) -> ApiServer:
    """The API server of a kubeconfig's context (default: its current context).

    Raises:
        ConfigError: the text is no kubeconfig, or has no such context.
    """
    name = f"{PREFIX} kubeconfig"
    try:
        document = yaml.safe_load(kubeconfig)
    except yaml.YAMLError as error:
        raise ConfigError(
            name, f"not YAML: {error}", "Give the text that `kubectl config view --raw --flatten` prints"
        ) from None
    if not isinstance(document, Mapping):
        raise ConfigError(name, "not a kubeconfig", "Give the text that `kubectl config view --raw --flatten` prints")
    wanted = context or document.get("current-context")
    contexts = {entry["name"]: entry.get("context") or {} for entry in _entries(document, "contexts")}
    if wanted not in contexts:
        raise ConfigError(
            f"{PREFIX}:platform.context = {wanted!r}",
            f"the kubeconfig has no such context (it has {', '.join(sorted(contexts)) or 'none'})",
            "Name one of these",
        )
    clusters = {entry["name"]: entry.get("cluster") or {} for entry in _entries(document, "clusters")}
    server = urlsplit(str(clusters.get(contexts[wanted].get("cluster"), {}).get("server", "")))
    if server.hostname is None:
        raise ConfigError(
            name,
            f"the cluster of context {wanted!r} has no server",
            "Give the text that `kubectl config view --raw --flatten` prints",
        )
    return ApiServer(server.hostname, server.port or 443)


def answers(server: ApiServer, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> bool:
    """Whether a TCP connection to the API server opens in time."""
    try:
        with socket.create_connection((server.host, server.port), timeout=timeout_seconds):
            return True
    except OSError:
        return False


def _entries(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [entry for entry in document.get(key) or [] if isinstance(entry, dict) and "name" in entry]
