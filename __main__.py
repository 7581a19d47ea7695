"""The program: settings -> platform -> load balancer -> apps -> exports."""

from pathlib import Path

import pulumi

from components.app import App, load
from components.load import load as load_settings
from components.loadbalancer.component import LoadBalancer, LoadBalancerArgs
from components.onprem.platform import provision
from components.routers.render import configurations
from lbnode.errors import ConfigError


def main(project: Path) -> None:
    settings, bgp_keys, kubeconfig = load_settings()
    # All reading comes before the first resource: a mistake leaves the stack untouched.
    apps = {app.path: (load(project / app.path), {"samegate": settings.image, **app.images}) for app in settings.apps}
    routers = configurations(settings)
    platform = provision(settings, project, kubeconfig)
    balancer = LoadBalancer(
        "samegate",
        LoadBalancerArgs(agent=settings.agent, image=settings.image, bgp_keys=bgp_keys),
        pulumi.ResourceOptions(providers=[platform.kubernetes]),
    )
    addresses: dict[str, pulumi.Output[str]] = {}
    for path, (manifests, images) in apps.items():
        app = App(
            Path(path).name,
            manifests,
            images,
            pulumi.ResourceOptions(providers=[platform.kubernetes], depends_on=[balancer]),
        )
        addresses |= app.addresses
    pulumi.export("platform", platform.name)
    pulumi.export("image", settings.image)
    pulumi.export("addresses", addresses)
    pulumi.export("edgeNodes", [node.name for node in platform.edge_nodes])
    pulumi.export(
        "peers",
        {
            node.name: [f"{peer.name} {peer.address} AS{peer.asn}" for peer in node.peers]
            for node in platform.edge_nodes
        },
    )
    # With references in the place of BGP keys, so that the output can be read, reviewed and compared.
    pulumi.export("routers", routers)


try:
    main(Path(__file__).resolve().parent)
except ConfigError as error:
    raise pulumi.RunError(str(error)) from None
