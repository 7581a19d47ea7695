"""Every benchmark there is, in the order of the page."""

from __future__ import annotations

from bench import edge_cpu, endpoint_churn, ipvs_load, many_edges, scale_out
from bench.case import Case

CASES: dict[str, Case] = {
    case.name: case for case in (edge_cpu.CASE, ipvs_load.CASE, endpoint_churn.CASE, scale_out.CASE, many_edges.CASE)
}
