"""The load balancer as one component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.loadbalancer.manifests import bgp_keys, stages
from components.objects import KubernetesObject
from lbnode.settings import AgentSettings


@dataclass(frozen=True)
class LoadBalancerArgs:
    """``bgp_keys`` maps the names that peers use to TCP MD5 keys, and is a Pulumi secret; None where no peer has a key."""

    agent: AgentSettings
    image: str
    bgp_keys: pulumi.Output[Mapping[str, str]] | None = None


class LoadBalancer(pulumi.ComponentResource):
    """Edge, worker and controller agents with their rights and settings.

    It does not create nodes, nor label them, nor configure routers. Apps depend on it, so that on the way down their Services are released
    by a controller that still runs.
    """

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("samegate:index:LoadBalancer", name, {}, opts)
        before: list[KubernetesObject] = []
        for position, stage in enumerate(stages(args.agent, args.image)):
            current = [
                KubernetesObject(manifest, pulumi.ResourceOptions(parent=self, depends_on=before)) for manifest in stage
            ]
            if position == 1 and args.bgp_keys is not None:
                keys: pulumi.Output[Mapping[str, str]] = pulumi.Output.secret(args.bgp_keys)
                current.append(
                    KubernetesObject(
                        bgp_keys({}), pulumi.ResourceOptions(parent=self, depends_on=before), {"stringData": keys}
                    )
                )
            before = current
        self.register_outputs({"image": args.image})
