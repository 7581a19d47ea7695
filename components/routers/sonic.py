"""SONiC, with FRR's configuration kept by the operator. Statements: SONiC Configuration Database Manual (`docker_routing_config_mode`: `split` leaves bgpd's text to
the operator) and the design "Generic Hash" (`SWITCH_HASH`); the rest is FRR's, which a root test gives to Debian's daemons. The JSON is read there, not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from components.routers import frr
from components.routers.model import Router

HASH_FIELDS = ("IP_PROTOCOL", "SRC_IP", "DST_IP", "L4_SRC_PORT", "L4_DST_PORT")


def render(router: Router, keys: Mapping[str, str]) -> dict[str, str]:
    """File names and texts; ``keys`` are TCP MD5 keys by name, and a reference stands for one that is not there."""
    database = {
        "DEVICE_METADATA": {"localhost": {"docker_routing_config_mode": "split"}},
        "SWITCH_HASH": {"GLOBAL": {"ecmp_hash": list(HASH_FIELDS)}},
    }
    return {"config_db.json": json.dumps(database, indent=2) + "\n", "frr.conf": frr.text(router, keys)}
