"""A small valid stack for the tests of the program's pure parts."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from lbnode.settings import AgentSettings

IMAGE = "registry.example.com/samegate@sha256:" + "ab" * 32

_RAW: dict[str, Any] = {
    "platform": {"kind": "onprem", "kubeconfigFile": "cluster.kubeconfig", "edgeNodes": ["edge1", "edge2"]},
    "image": IMAGE,
    "agent": {
        "pools": [{"name": "public", "cidrs": ["203.0.113.0/24"]}],
        "bgp": {
            "localAsn": 65010,
            "peers": [{"name": "tor1", "address": "198.51.100.2", "asn": 65001, "passwordKey": "tor"}],
        },
        "network": {"nodeCidrs": ["198.51.100.0/24"], "podCidrs": ["10.244.0.0/16"], "serviceCidrs": ["10.96.0.0/16"]},
    },
    "apps": [{"path": "apps/web"}],
}


def raw(**changes: Any) -> dict[str, Any]:
    """The stack's configuration as plain values, with top-level keys replaced."""
    return {**deepcopy(_RAW), **changes}


def agent_with(cidr: str = "203.0.113.0/26", asn: int = 65010) -> AgentSettings:
    """The agent's settings with one pool and the edge nodes' AS number."""
    values = raw()["agent"]
    values["pools"][0]["cidrs"] = [cidr]
    values["bgp"]["localAsn"] = asn
    return AgentSettings.model_validate(values)
