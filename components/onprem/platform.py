"""Joins cluster and edge nodes to what the load balancer needs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pulumi
from pulumi.output import UNKNOWN

from components.kubernetes_provider import kubernetes_provider
from components.onprem.cluster import answers, api_server, read_kubeconfig
from components.onprem.edge import edge_nodes, liveness
from components.platform import Platform
from components.settings import OnPrem, StackSettings
from lbnode.errors import ConfigError


def provision(settings: StackSettings, platform: OnPrem, project: Path, kubeconfig_secret: str | None) -> Platform:
    """The platform of an existing cluster. Registers one resource: the Kubernetes provider.

    Raises:
        ConfigError: the kubeconfig is missing or wrong.
    """
    provider = kubernetes_provider(
        _kubeconfig(platform, project, kubeconfig_secret), "onprem", context=platform.context
    )
    return Platform(
        name="onprem",
        kubernetes=provider,
        edge_nodes=edge_nodes(settings, platform),
        edge_selector=settings.agent.edge_node_selector,
        worker_selector=settings.agent.worker_node_selector,
        mtu_bytes=settings.agent.network.fabric_mtu_bytes,
        liveness=liveness(settings),
        return_path=settings.agent.return_path,
        vip_reachability="routed",
    )


def _kubeconfig(platform: OnPrem, project: Path, secret: str | None) -> pulumi.Output[str]:
    text = read_kubeconfig(platform, project, secret)
    if text is None and not pulumi.runtime.is_dry_run():
        raise ConfigError(
            f"samegate:platform.kubeconfigFile = {platform.kubeconfig_file!r}",
            f"no such file below {project.name}/",
            "Create the cluster first (lab: make lab)",
        )
    if text is not None:
        server = api_server(text, platform.context)
        if not pulumi.runtime.is_dry_run() or answers(server):
            # A secret: a kubeconfig carries credentials, and the state is a file.
            return pulumi.Output.secret(text)
        pulumi.warn(f"the cluster at {server} does not answer: this preview lists the objects without asking it")
    else:
        pulumi.warn(
            f"{platform.kubeconfig_file} does not exist yet: this preview lists the objects without asking a cluster"
        )
    # With an unknown kubeconfig the provider previews from the program alone.
    return pulumi.Output.from_input(cast(str, UNKNOWN))
