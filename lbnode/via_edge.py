"""How replies leave a worker by way of an edge node, in settings: ``return: via-edge``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from lbnode.schema import Strict, Whole

#: linux/rtnetlink.h.
_RESERVED_TABLES = {253: "default", 254: "main", 255: "local"}
#: kubelet's and kube-proxy's defaults (``--iptables-masquerade-bit``, ``--iptables-drop-bit``).
_KUBE_PROXY_BITS = {0x4000: "marks what it masquerades", 0x8000: "marked what was to be dropped until Kubernetes 1.27"}


class ViaEdge(Strict):
    """``mark_mask`` is the one bit of connection and packet marks that says "this came by an edge node". Others own other bits: kube-proxy 0x4000
    and 0x8000, the VPC CNI 0x80, Calico 0xffff0000 unless told otherwise. ``rule_priority`` is that of the policy rule that looks for the bit;
    it has to come before rules that choose by source address (the VPC CNI: 1536). ``route_table`` holds the routes and nothing else.
    """

    mark_mask: Annotated[Whole, Field(ge=1, le=0xFFFFFFFF)] = 0x2000
    rule_priority: Annotated[Whole, Field(ge=1, le=32765)] = 100
    route_table: Annotated[Whole, Field(ge=1, le=0xFFFFFFFF)] = 7310

    @field_validator("mark_mask")
    @classmethod
    def _one_free_bit(cls, mask: int) -> int:
        if mask & (mask - 1):
            raise ValueError(
                f"mark mask {mask:#x} has several bits, and one is needed. Use a power of two, like 0x2000"
            )
        if mask in _KUBE_PROXY_BITS:
            raise ValueError(
                f"mark mask {mask:#x} is kube-proxy's, which {_KUBE_PROXY_BITS[mask]}. Use a bit that nobody else has, like 0x2000"
            )
        return mask

    @field_validator("route_table")
    @classmethod
    def _free_table(cls, table: int) -> int:
        if table in _RESERVED_TABLES:
            raise ValueError(
                f"route table {table} is the kernel's table {_RESERVED_TABLES[table]}. Use one that nobody else has, like 7310"
            )
        return table
