"""Ways to the API server: the agent's client, a person's, and what can go wrong with either.

:func:`operator_client` is for people: plain HTTP with the rights of a kubeconfig, for :mod:`lbnode.command`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import yaml
from lightkube import AsyncClient
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, KubeConfig, SingleConfig
from lightkube.config.models import NameValue, UserExec
from lightkube.core.exceptions import ConfigError as KubeconfigError
from lightkube.core.exceptions import NotReadyError

from lbnode.errors import ConfigError

#: Time for one request but for watches.
REQUEST_TIMEOUT_SECONDS = 5.0
FIELD_MANAGER = "samegate"

Raw = dict[str, Any]
#: The kubeconfig or its credentials cannot be used, which lightkube finds only when it asks: a plugin that is missing, fails or babbles.
CREDENTIAL_ERRORS = (KubeconfigError, OSError, ValueError, LookupError, TypeError)
#: What can go wrong on the way to the API server or there; everything else is a bug. ``ValueError``: lightkube reads the body of an answer that says
#: no as JSON, which that of a proxy in between need not be. ``NotReadyError``: a list without a resource version.
API_ERRORS = (
    httpx2.HTTPError,
    httpx2.StreamError,
    msgspec.MsgspecError,
    NotReadyError,
    ValueError,
    RecursionError,
    OSError,
    TimeoutError,
)


def client(kubeconfig: Path | None = None) -> AsyncClient:
    """A client by the current context of ``kubeconfig``; without it from the pod's service account, or the kubeconfig in ``KUBECONFIG``.

    Raises:
        ConfigError: none of it is there, or it cannot be used.
    """
    if kubeconfig is not None:
        return _named_client(kubeconfig)
    try:
        return AsyncClient(timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS), field_manager=FIELD_MANAGER)
    except KubeconfigError as error:
        raise ConfigError(
            "Kubernetes API", f"no way to reach it: {error}", "Run in a pod with a service account, or set KUBECONFIG"
        ) from error


def _named_client(path: Path) -> AsyncClient:
    called = f"kubeconfig {path}"
    try:
        config = _kubeconfig(path).get()
        if config is None or config.user is None:
            raise ConfigError(called, "has no current context with a user", "Name both in it")
        if config.user.exec is not None:
            config = config._replace(user=msgspec.structs.replace(config.user, exec=_askable(config.user.exec)))
        return AsyncClient(config, timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS), field_manager=FIELD_MANAGER)
    except CREDENTIAL_ERRORS as error:
        raise ConfigError(called, f"cannot be used: {error}", "Mend it, or name another by --kubeconfig") from None


def operator_client(kubeconfig: Path | None, context: str | None) -> tuple[httpx2.AsyncClient, str]:
    """A client with the address and the credentials of a context, and what to call that context.

    Args:
        kubeconfig: a file; without it the files of ``KUBECONFIG``, else ``~/.kube/config``, else the pod's service account.
        context: a context of it; without it the current one. Of several files the first that knows the context is taken.

    Raises:
        ConfigError: no file, no such context, or one that cannot be used.
    """
    named = os.environ.get("KUBECONFIG", "")
    paths = [kubeconfig] if kubeconfig is not None else [Path(p) for p in named.split(os.pathsep) if p]
    paths = paths or [Path(DEFAULT_KUBECONFIG).expanduser()]
    shown = os.pathsep.join(map(str, paths))
    found = [p for p in paths if p.is_file()]
    if not found:
        if kubeconfig is None and not named and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config = KubeConfig.from_service_account().get()
            return _adapted(config, "the pod's service account"), "the pod's service account"
        raise ConfigError(
            f"kubeconfig {shown}", "there is no such file", "Name one by --kubeconfig, or set KUBECONFIG to it"
        )
    files = [_kubeconfig(path) for path in found]
    wanted = context or next((f.current_context for f in files if f.current_context), None)
    if wanted is None:
        raise ConfigError(f"kubeconfig {shown}", "it has no current context", f"Name one by --context: {_known(files)}")
    for path, file in zip(found, files, strict=True):
        if wanted in file.contexts:
            called = f"context {wanted} of {path}"
            try:
                return _adapted(file.get(wanted), called), called
            except KeyError as error:
                raise ConfigError(
                    called, f"the file has no cluster or user {error}", "Mend the file, or name another --context"
                ) from None
    raise ConfigError(f"context {wanted}", f"{shown} has none of this name", f"There are: {_known(files)}")


def _kubeconfig(path: Path) -> KubeConfig:
    try:
        return KubeConfig.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")), fname=path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError, msgspec.MsgspecError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"kubeconfig {path}", f"cannot be read: {said}", "Name another by --kubeconfig") from None


def _known(files: list[KubeConfig]) -> str:
    return ", ".join(sorted({name for file in files for name in file.contexts})) or "none"


def _adapted(config: SingleConfig | None, called: str) -> httpx2.AsyncClient:
    if config is None or config.user is None:
        raise ConfigError(called, "it names no user", "Add one to the kubeconfig, or name another --context")
    if not _is_url(config.cluster.server):
        raise ConfigError(
            called, f"its server {config.cluster.server!r} is no URL of one", "Write it like https://198.51.100.1:6443"
        )
    if config.user.exec is not None:
        config = config._replace(user=msgspec.structs.replace(config.user, exec=_askable(config.user.exec)))
    connection = client_adapter.ConnectionParams(timeout=httpx2.Timeout(REQUEST_TIMEOUT_SECONDS))
    try:
        return client_adapter.AsyncClient(config, connection)
    except (OSError, ValueError, KubeconfigError) as error:
        raise ConfigError(
            called, f"its certificates or credentials cannot be used: {error}", "Renew them, or name another --context"
        ) from None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Reading the port judges it.
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _askable(plugin: UserExec) -> UserExec:
    """A credential plugin as lightkube can run it: it knows the versions before v1 only, whose answers say the same in the same place, and does
    not tell the plugin which version is wanted (KEP-541)."""
    wanted = {"apiVersion": plugin.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
    told = NameValue("KUBERNETES_EXEC_INFO", json.dumps(wanted))
    group, _, version = plugin.apiVersion.partition("/")
    known = f"{group}/v1beta1" if version == "v1" else plugin.apiVersion
    return msgspec.structs.replace(plugin, apiVersion=known, env=[told, *(plugin.env or [])])
