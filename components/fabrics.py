"""What cannot be the same on every fabric, in one table: `python -m components.fabrics > docs/fabrics.md`, and a stack prints its own column.

Every cell is a fact of the fabric, with its source in the last column of the page; nothing here configures anything.
"""

from __future__ import annotations

from dataclasses import dataclass

FABRICS = ("onprem", "aws-transit-gateway", "aws-route-server", "gcp-router-appliance", "gcp-passthrough")


@dataclass(frozen=True)
class Difference:
    """One property; ``cells`` are in the order of ``FABRICS``."""

    what: str
    cells: tuple[str, ...]
    source: str


DIFFERENCES = (
    Difference(
        "ECMP width",
        (
            "as your routers: at least 8 on most",
            "all edge nodes; 4 for each Connect attachment, any number of these",
            "1: one active edge node for each VIP, the others stand by",
            "up to 64 edge nodes",
            "all healthy edge nodes, by the balancer's hash",
        ),
        "TGW guide, Connect; VPC guide, Route Server; NCC guide, router appliances; next-hop balancer guide",
    ),
    Difference(
        "an edge node dies without a word",
        (
            "below 1 s (BFD 3 x 300 ms)",
            "up to 30 s (hold time)",
            "5-7 s with BFD, about 33 s without",
            "up to 60 s (hold time)",
            "about 4 s (health check 2 x 2 s)",
        ),
        "measured in the lab; TGW guide; field report of 2026-03; Cloud Router guide; our health check",
    ),
    Difference(
        "liveness",
        (
            "BFD, or graceful restart",
            "BGP keepalives only",
            "BFD or keepalives",
            "BGP keepalives only",
            "HTTP health check",
        ),
        "TGW guide: neither BFD nor graceful restart; Cloud Router: BFD for VLAN attachments only",
    ),
    Difference(
        "withdrawal of a single VIP",
        ("yes", "yes", "yes", "yes", "no: the whole pool leads to healthy edge nodes"),
        "BGP; a static route has no health of its own",
    ),
    Difference(
        "return path",
        ("direct from the worker", "by an edge node", "by an edge node", "by an edge node", "by an edge node"),
        "EC2: source/destination check on workers; GCP: a VM sends foreign addresses only with IP forwarding, which GKE nodes lack",
    ),
    Difference(
        "largest packet between edge node and router",
        ("as your network", "8500 less 44 for GRE", "9001", "as the VPC: up to 8896", "as the VPC: up to 8896"),
        "TGW quotas; EC2 and VPC guides, MTU",
    ),
    Difference(
        "TCP MD5 on sessions",
        ("yes", "no", "no", "yes", "no sessions"),
        "ConnectPeer and RouteServerPeer have no such argument; RouterPeer has md5AuthenticationKey",
    ),
    Difference(
        "host routes at most",
        ("as your routers", "1,000 an edge node", "100", "about 250 a region (quota)", "no limit: one route a pool"),
        "TGW quotas; VPC quotas, fixed; Cloud Router quotas",
    ),
    Difference(
        "public address",
        (
            "your own network, announced upstream",
            "none",
            "none",
            "none of the pool; an external passthrough balancer has its own",
            "the same",
        ),
        "an internet gateway's table cannot lead to a TGW; Google announces what it delegates",
    ),
    Difference(
        "flows when an edge node joins",
        (
            "stay, with resilient hashing",
            "may move to another edge node, which goes on with them",
            "stay",
            "may move, as on aws",
            "stay (connection tracking)",
        ),
        "no resilient hashing is documented for TGW or Cloud Router; edge nodes hash alike",
    ),
    Difference("load balancer class, annotations, conditions, metrics, image", ("the same",) * 5, "one program"),
    Difference(
        "address of a Service",
        ("the same on every stack with the same pools",) * 5,
        "lbnode.allocate is a function of name and pool",
    ),
    Difference(
        "client address at the pod",
        ("kept", *("kept with `return: via-edge`, lost with `forwarding: nat`",) * 4),
        "IPIP tunnels; where workers' own replies would be dropped, the settings ask for one of the two",
    ),
)


def of(fabric: str) -> tuple[tuple[str, str], ...]:
    """The fabric's own column as (property, value). KeyError for another name."""
    if fabric not in FABRICS:
        raise KeyError(fabric)
    position = FABRICS.index(fabric)
    return tuple((difference.what, difference.cells[position]) for difference in DIFFERENCES)


def page() -> str:
    """The documentation's page."""
    head = f"| | {' | '.join(FABRICS)} | source |\n"
    rows = "".join(f"| {d.what} | {' | '.join(d.cells)} | {d.source} |\n" for d in DIFFERENCES)
    return (
        "# What is the same on every fabric, and what cannot be\n\n"
        "Written from `components/fabrics.py` by `python -m components.fabrics`. Of the clouds a stack can apply all but gcp-passthrough,\n"
        "and preview them (`make preview STACK=aws`); none has been seen on an account, and [live-checklist.md](live-checklist.md) says which cells only an account can confirm.\n\n"
        + head
        + "|---" * (len(FABRICS) + 2)
        + "|\n"
        + rows
    )


if __name__ == "__main__":
    print(page(), end="")
