"""The provider by which the program puts objects into a cluster, the same on every platform."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes


def kubernetes_provider(
    kubeconfig: pulumi.Input[str],
    identifier: str,
    context: str | None = None,
    opts: pulumi.ResourceOptions | None = None,
) -> pulumi_kubernetes.Provider:
    """``identifier`` is what the cluster stays the same by; ``context`` is one of the kubeconfig, else its current one."""
    return pulumi_kubernetes.Provider(
        "kubernetes",
        kubeconfig=kubeconfig,
        context=context,
        # Without it any change of the cluster or of the kubeconfig, a renewed token say, would replace the provider and with it every object.
        cluster_identifier=identifier,
        # The agents read both from a mounted volume and follow changes; a new name would need new pods.
        enable_config_map_mutable=True,
        enable_secret_mutable=True,
        enable_server_side_apply=True,
        opts=opts,
    )
