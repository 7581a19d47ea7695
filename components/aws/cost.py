"""What the fabric costs a month before a byte has passed, and by the GiB. An estimate: prices, date and source are in ``prices.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.aws.network import ENDPOINTS
from components.aws.settings import PEERS_PER_CONNECT, Aws

_PRICES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("prices.toml").read_text())


@dataclass(frozen=True)
class Estimate:
    """``lines`` maps what is paid for to US dollars a month; machines and workers are not in it."""

    lines: dict[str, float]
    dollars_per_gib: float
    prices_of: str

    @property
    def dollars_per_month(self) -> float:
        return round(sum(self.lines.values()), 2)

    def exported(self) -> dict[str, Any]:
        """As a stack output."""
        return {
            "dollarsPerMonth": self.dollars_per_month,
            "dollarsPerGiB": self.dollars_per_gib,
            "lines": self.lines,
            "pricesOf": self.prices_of,
        }


def estimate(settings: Aws) -> Estimate:
    """The estimate for these settings."""
    count: dict[str, tuple[int, str]] = {
        "EKS control plane": (1, "eks_cluster"),
        "interface endpoints": (len(ENDPOINTS) * len(settings.zones), "interface_endpoint_zone"),
    }
    if settings.fabric == "transit-gateway":
        connects = {(node.number - 1) // PEERS_PER_CONNECT for node in settings.edge.nodes}
        count["Transit Gateway attachments (VPC and Connect)"] = (1 + len(connects), "transit_gateway_attachment")
    else:
        count["Route Server endpoints"] = (2 * len(settings.zones), "route_server_endpoint")
    if settings.nat:
        count["NAT gateway"] = (1, "nat_gateway")
    hours = _PRICES["hours_per_month"]
    return Estimate(
        {what: round(number * _PRICES["per_hour"][unit] * hours, 2) for what, (number, unit) in count.items()},
        _PRICES["per_gib"]["transit_gateway"] if settings.fabric == "transit-gateway" else 0.0,
        f"{_PRICES['date']}: {_PRICES['source']}",
    )
