"""The program: settings -> platform -> load balancer -> apps -> exports."""

from pathlib import Path

import pulumi

from components.app import App, load
from components.load import load as load_settings
from components.loadbalancer.component import LoadBalancer, LoadBalancerArgs
from components.provision import provision
from components.routers.render import configurations
from lbnode.errors import ConfigError


def main(project: Path) -> None:
    settings, bgp_keys, kubeconfig = load_settings()
    # All reading comes before the first resource: a mistake leaves the stack untouched.
    apps = {app.path: (load(project / app.path), {"samegate": settings.image, **app.images}) for app in settings.apps}
    routers = configurations(settings)
    platform = provision(settings, project, kubeconfig, bgp_keys)
    balancer = LoadBalancer(
        "samegate",
        LoadBalancerArgs(
            settings.agent,
            settings.image,
            bgp_keys,
            platform.peers,
            platform.outside_user,
            platform.critical_pods_need_quota,
        ),
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
    pulumi.export("peers", platform.sessions())
    # With references in the place of BGP keys, so that the output can be read, reviewed and compared.
    pulumi.export("routers", routers)
    if platform.cost is not None:
        pulumi.export("fabricCost", platform.cost)
    if platform.public_address is not None:
        pulumi.export("publicAddress", platform.public_address)


try:
    main(Path(__file__).resolve().parent)
except ConfigError as error:
    raise pulumi.RunError(str(error)) from None
