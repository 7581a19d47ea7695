"""Small valid settings of each cloud platform, as plain values of a stack file."""

from __future__ import annotations

from typing import Any

IMAGE = "registry.example.com/samegate@sha256:" + "ab" * 32
POOL = "203.0.113.0/26"


def aws(fabric: str = "transit-gateway", numbers: tuple[int, ...] = (1, 2), **changes: Any) -> dict[str, Any]:
    zones = ["eu-central-1a", "eu-central-1b"]
    only = {"routeServer": {"clientCidrs": ["10.64.0.0/16"]}} if fabric == "route-server" else {}
    return {
        "kind": "aws",
        "region": "eu-central-1",
        "zones": zones,
        "vpcCidr": "10.64.0.0/16",
        "kubernetesVersion": "1.34",
        "apiServer": {"access": "in-network"},
        "protect": False,
        "fabric": fabric,
        "edge": {
            "image": "ami-0123456789abcdef0",
            "nodes": [{"number": n, "zone": zones[(n - 1) % 2]} for n in numbers],
        },
        **only,
        **changes,
    }


def gcp(fabric: str = "router-appliance", numbers: tuple[int, ...] = (1, 2), **changes: Any) -> dict[str, Any]:
    zones = ["europe-west3-a", "europe-west3-b"]
    return {
        "kind": "gcp",
        "project": "samegate-test",
        "region": "europe-west3",
        "zones": zones,
        "nodeCidr": "10.80.0.0/20",
        "edgeCidr": "10.80.16.0/24",
        "podCidr": "10.96.0.0/14",
        "serviceCidr": "10.100.0.0/20",
        "kubernetesVersion": "1.34.1-gke.1829001",
        "apiServer": {"access": "in-network"},
        "clientCidrs": ["10.0.0.0/8"],
        "protect": False,
        "fabric": fabric,
        "edge": {
            "image": "projects/debian-cloud/global/images/debian-13-trixie-v20261110",
            "nodes": [{"number": n, "zone": zones[(n - 1) % 2]} for n in numbers],
        },
        **changes,
    }


PLATFORMS = {
    "aws-transit-gateway": aws(),
    "aws-route-server": aws("route-server"),
    "gcp-router-appliance": gcp(),
    "gcp-passthrough": gcp("passthrough", internetIngress="passthrough"),
}
