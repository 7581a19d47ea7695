"""What a router of the rack is told of the edge nodes, as the generator for users' routers takes it (:mod:`components.routers`)."""

from __future__ import annotations

from components.routers import model
from lab import topology
from lab.routers.base import BFD_INTERVAL_MS, BFD_MULTIPLIER, MAXIMUM_PATHS
from lab.topology import Router
from lbnode.bgp_settings import Bfd

KEY = "edges"
"""The name of the TCP-MD5 key (RFC 2385) of the sessions with edge nodes."""
BFD = Bfd(interval_ms=BFD_INTERVAL_MS, multiplier=BFD_MULTIPLIER)


def edge_side(router: Router, *, has_key: bool = False) -> model.Router:
    """What the router is told of the edge nodes; equal to what follows from stacks/Pulumi.lab.yaml."""
    rules = tuple(model.Accepted(pool, pool.max_prefixlen) for pool in topology.VIP_POOLS.values())
    # One session, over IPv4, carries both families.
    session = model.Session((topology.RACK_NETWORK,), (4, 6), password_key=KEY if has_key else None, bfd=BFD)
    return model.Router(
        name=router.name,
        asn=router.asn,
        edge_asn=topology.EDGE_ASN,
        accepted=rules,
        sessions=(session,),
        maximum_prefixes={version: model.most_routes(rules, version) for version in topology.VIP_POOLS},
        maximum_paths=MAXIMUM_PATHS,
        maximum_edge_nodes=len(topology.EDGES),
    )
