"""The load balancer as one component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from components.loadbalancer.manifests import Object, bgp_keys, settings_map, stages
from components.naming import SETTINGS
from components.objects import KubernetesObject
from lbnode.bgp_settings import Peer
from lbnode.settings import AgentSettings


@dataclass(frozen=True)
class LoadBalancerArgs:
    """``bgp_keys`` maps the names that peers use to TCP MD5 keys, and is a Pulumi secret; None where no peer has a key.

    ``peers`` stand in the place of those of ``agent`` where a fabric chooses addresses of sessions only during `up`. ``outside_user`` is who edge
    nodes outside the cluster are to its API server, None where the program makes none. ``critical_pods_need_quota``: see :func:`critical_pods_quota`.
    """

    agent: AgentSettings
    image: str
    bgp_keys: pulumi.Output[Mapping[str, str]] | None = None
    peers: pulumi.Output[tuple[Peer, ...]] | None = None
    outside_user: str | None = None
    critical_pods_need_quota: bool = False


class LoadBalancer(pulumi.ComponentResource):
    """Edge, worker and controller agents with their rights and settings.

    It does not create nodes, nor label them, nor configure routers. Apps depend on it, so that on the way down their Services are released
    by a controller that still runs.
    """

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("samegate:index:LoadBalancer", name, {}, opts)
        before: list[KubernetesObject] = []
        staged = stages(args.agent, args.image, args.outside_user, args.critical_pods_need_quota)
        for position, stage in enumerate(staged):
            current = [
                KubernetesObject(
                    manifest, pulumi.ResourceOptions(parent=self, depends_on=before), _known_later(args, manifest)
                )
                for manifest in stage
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


def _known_later(args: LoadBalancerArgs, manifest: Object) -> dict[str, pulumi.Output[Any]] | None:
    """The settings' text once the fabric has chosen addresses; None for everything that is known before."""
    if args.peers is None or (manifest["kind"], manifest["metadata"]["name"]) != ("ConfigMap", SETTINGS):
        return None

    def data(peers: tuple[Peer, ...]) -> dict[str, str]:
        bgp = args.agent.bgp.model_copy(update={"peers": peers})
        written: dict[str, str] = settings_map(args.agent.model_copy(update={"bgp": bgp}))["data"]
        return written

    return {"data": args.peers.apply(data)}
