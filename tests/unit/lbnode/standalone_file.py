"""A standalone file with two edge nodes, two workers and two services, and ways to change it."""

from __future__ import annotations

import copy
from typing import Any

import yaml

FILE: dict[str, Any] = {
    "settings": {
        "pools": [{"name": "public", "cidrs": ["203.0.113.0/24"]}],
        "bgp": {"localAsn": 65010, "peers": [{"name": "tor1", "address": "198.51.100.2", "asn": 65001}]},
        "network": {"nodeCidrs": ["198.51.100.0/24"]},
    },
    "edgeNodes": [
        {"name": "edge1", "addresses": ["198.51.100.11"]},
        {"name": "edge2", "addresses": ["198.51.100.12"]},
    ],
    "workers": [
        {"name": "worker1", "addresses": ["198.51.100.21"]},
        {"name": "worker2", "addresses": ["198.51.100.22"]},
    ],
    "services": [
        {"name": "web", "addresses": ["203.0.113.7"], "ports": [{"port": 80, "targetPort": 8080}]},
        {
            "name": "dns",
            "addresses": ["203.0.113.53"],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}],
            "onePacket": True,
            "sessionAffinity": "ClientIP",
            "workers": [{"name": "worker2", "weight": 3}],
        },
    ],
}


def with_value(value: Any, *path: str | int) -> dict[str, Any]:
    """The file with another value at a place; a list grows by one when the place is its end."""
    raw = copy.deepcopy(FILE)
    place: Any = raw
    for step in path[:-1]:
        place = place[step] if isinstance(step, int) else place.setdefault(step, {})
    last = path[-1]
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value
    return raw


def text_of(raw: dict[str, Any]) -> str:
    return yaml.safe_dump(raw, sort_keys=False, explicit_end=True)
