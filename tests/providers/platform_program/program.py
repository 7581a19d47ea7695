"""The program as a function of the platform's settings, so that the mock engine runs it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from lbnode.settings import AgentSettings
from tests.providers.stacks import IMAGE, POOL


def _agent(pool: str) -> AgentSettings:
    # A platform takes pools, AS number and labels of it; sessions and networks are its own.
    return AgentSettings.model_validate(
        {
            "pools": [{"name": "public", "cidrs": [pool]}],
            "bgp": {"localAsn": 65010, "peers": [{"name": "unused", "address": "198.51.100.2", "asn": 65001}]},
            "network": {"nodeCidrs": ["198.51.100.0/24"]},
        }
    )


def run(raw: Mapping[str, Any], pool: str = POOL) -> None:
    """Provision it, and export the sessions of each edge node. ``pool`` is the network of VIPs."""
    agent = _agent(pool)
    if raw["kind"] == "aws":
        from components.aws import platform as aws
        from components.aws.settings import Aws

        made = aws.provision(Aws.model_validate(raw), agent)
    else:
        from components.gcp import platform as gcp
        from components.gcp.settings import Gcp

        made = gcp.provision(Gcp.model_validate(raw), agent, IMAGE)
    pulumi.export("peers", made.sessions())
