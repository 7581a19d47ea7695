"""A stack with one router that uses everything a router can be told."""

from __future__ import annotations

from typing import Any

from stack_values import raw

KEY = "correct-horse-battery-staple"


def router_stack(platform: str, **router: Any) -> dict[str, Any]:
    """Pools of both families, one with aggregates; a session over each family, one with MD5 and, but for Junos, TTL security."""
    values = raw()
    values["platform"]["routers"] = [{"name": "tor1", "platform": platform, "peers": ["tor1", "tor1-v6"], **router}]
    values["agent"]["pools"] = [
        {"name": "public", "cidrs": ["203.0.113.0/25", "2001:db8:113::/120"]},
        {"name": "wide", "cidrs": ["203.0.113.128/25"], "aggregate": {"length": 28, "hostRoutes": False}},
    ]
    values["agent"]["bgp"]["peers"] = [
        {
            "name": "tor1",
            "address": "198.51.100.2",
            "asn": 65001,
            "passwordKey": "tor",
            "ttlSecurity": platform != "junos",
            "addressFamilies": ["IPv4"],
        },
        {"name": "tor1-v6", "address": "2001:db8:1::2", "asn": 65001, "addressFamilies": ["IPv6"]},
    ]
    values["agent"]["network"]["nodeCidrs"] = ["198.51.100.0/24", "2001:db8:1::/64"]
    values["agent"]["network"]["probeCidrs"] = ["192.0.2.0/24", "2001:db8:2::/64"]
    return values
