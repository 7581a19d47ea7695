"""The platform that a stack asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pulumi

from components.clouds import Cloud
from components.onprem.platform import provision as onprem
from components.platform import Platform
from components.settings import PREFIX, OnPrem, StackSettings
from lbnode.errors import ConfigError


def provision(
    settings: StackSettings, project: Path, kubeconfig: str | None, bgp_keys: pulumi.Output[Mapping[str, str]] | None
) -> Platform:
    """Register what the platform consists of. ``kubeconfig`` is the stack's secret, which only an existing cluster has.

    Raises:
        ConfigError: the kubeconfig is missing, wrong or for nothing; or no credentials.
    """
    chosen = settings.platform
    if isinstance(chosen, OnPrem):
        return onprem(settings, chosen, project, kubeconfig)
    _without_kubeconfig(chosen, kubeconfig)
    # Here, because either SDK costs a second and half a gigabyte that the other platforms need not pay.
    if chosen.kind == "aws":
        from components.aws import credential as aws_credential
        from components.aws import platform as aws

        aws_credential.require()
        return aws.provision(chosen, settings.agent)
    from components.gcp import credential as gcp_credential
    from components.gcp import platform as gcp

    gcp_credential.require()
    return gcp.provision(chosen, settings.agent, settings.image, bgp_keys)


def _without_kubeconfig(cloud: Cloud, kubeconfig: str | None) -> None:
    if kubeconfig is not None:
        raise ConfigError(
            f"{PREFIX}:kubeconfig",
            f"a stack on {cloud.kind} makes a cluster of its own, and this would be ignored",
            f"Remove it: pulumi config rm {PREFIX}:kubeconfig",
        )
