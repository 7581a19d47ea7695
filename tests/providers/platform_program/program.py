"""The program as a function of the platform's settings, so that the mock engine runs it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

LOCAL_ASN = 65010
POOLS = ("203.0.113.0/26",)
IMAGE = "registry.example.com/samegate@sha256:" + "ab" * 32
LABELS = {"samegate.dev/role": "edge"}, {"samegate.dev/role": "worker"}


def run(raw: Mapping[str, Any]) -> None:
    """Provision it, and export the sessions of each edge node."""
    if raw["kind"] == "aws":
        from components.aws import platform as aws
        from components.aws.settings import Aws

        nodes = aws.provision(Aws.model_validate(raw), LOCAL_ASN, POOLS, *LABELS).edge_nodes
    else:
        from components.gcp import platform as gcp
        from components.gcp.settings import Gcp

        made = gcp.provision(Gcp.model_validate(raw), IMAGE, LOCAL_ASN, POOLS, LABELS[1])
        nodes = pulumi.Output.from_input(made.edge_nodes)
    pulumi.export(
        "peers",
        nodes.apply(lambda known: {n.name: [f"{p.address} AS{p.asn}" for p in n.peers] for n in known}),
    )
