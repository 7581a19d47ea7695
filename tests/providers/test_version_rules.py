"""Which Kubernetes versions the simulated clouds refuse to go to, as EKS, GKE and Kubernetes' version skew policy document it; without any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.providers.standin import aws, gcp
from tests.providers.standin.cloud import Object, Refused, World
from tests.providers.standin.rules import Rules


@dataclass
class Cloud:
    """A cluster at 1.33 with nodes of it, in memory."""

    rules: Rules
    config: Mapping[str, str]
    version_input: str
    world: World = field(default_factory=World)

    def make(self, token: str, name: str, /, **inputs: Any) -> Object:
        made = self.rules.create(self.world, token, name, inputs, self.config)
        self.world.objects[made.identifier] = made
        return made

    def change(self, present: Object, **changes: Any) -> Object:
        return self.rules.update(
            self.world, self.world.get(present.identifier), {**present.inputs, **changes}, self.config
        )


def _on_aws() -> tuple[Cloud, Object, Object]:
    cloud = Cloud(aws.Aws(), {"region": "eu-central-1"}, "version")
    vpc = cloud.make(aws.VPC, "vpc", cidrBlock="10.64.0.0/16").identifier
    subnets = [
        cloud.make(
            aws.SUBNET, zone, vpcId=vpc, cidrBlock=f"10.64.{n * 16}.0/20", availabilityZone=f"eu-central-1{zone}"
        ).identifier
        for n, zone in enumerate("ab")
    ]
    role = cloud.make(aws.ROLE, "role", name="role", assumeRolePolicy="{}").outputs["arn"]
    cluster = cloud.make(
        aws.CLUSTER, "cluster", name="c", roleArn=role, version="1.33", vpcConfig={"subnetIds": subnets}
    )
    nodes = {"clusterName": "c", "nodeGroupName": "n", "nodeRoleArn": role, "subnetIds": subnets}
    return cloud, cluster, cloud.make(aws.NODE_GROUP, "nodes", **nodes, version="1.33")


def _on_gcp() -> tuple[Cloud, Object, Object]:
    cloud = Cloud(gcp.RULES, {"region": "europe-west3", "project": "p"}, "minMasterVersion")
    network = cloud.make(gcp.NETWORK, "network", name="n").identifier
    subnet = cloud.make(
        gcp.SUBNET, "subnet", name="s", network=network, region="europe-west3", ipCidrRange="10.80.0.0/20"
    )
    where = {"network": network, "subnetwork": subnet.identifier, "location": "europe-west3"}
    cluster = cloud.make(gcp.CLUSTER, "cluster", name="c", **where, minMasterVersion="1.33.4-gke.1134000")
    return cloud, cluster, cloud.make(gcp.POOL, "nodes", name="w", cluster=cluster.identifier, version="1.33")


@pytest.fixture(params=[_on_aws, _on_gcp], ids=["aws", "gcp"])
def running(request: pytest.FixtureRequest) -> tuple[Cloud, Object, Object]:
    make: Callable[[], tuple[Cloud, Object, Object]] = request.param
    return make()


@pytest.mark.parametrize("version", ["1.32", "1.35"])
def test_a_control_plane_skips_no_minor_version_and_goes_back_to_none(
    running: tuple[Cloud, Object, Object], version: str
) -> None:
    cloud, cluster, _ = running
    with pytest.raises(Refused, match=rf"from 1\.33.* to {version}"):
        cloud.change(cluster, **{cloud.version_input: version})
    assert cloud.world.get(cluster.identifier).inputs[cloud.version_input].startswith("1.33")


def test_nodes_follow_their_control_plane_and_never_lead(running: tuple[Cloud, Object, Object]) -> None:
    cloud, cluster, nodes = running
    with pytest.raises(Refused, match=r"1\.34"):
        cloud.change(nodes, version="1.34")
    cloud.change(cluster, **{cloud.version_input: "1.34"})
    assert cloud.change(nodes, version="1.34").inputs["version"] == "1.34"
