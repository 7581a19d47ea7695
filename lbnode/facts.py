"""What the cluster and the probes say of workers and VIPs, and what is made of it: a verdict for each VIP, a rejection for each mistake.

The facts are made by :mod:`lbnode.translate` and the probes, and judged by :mod:`lbnode.announce`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbnode.model import IPAddress, ServiceName


@dataclass(frozen=True, slots=True)
class RouteAttributes:
    """What routers are told with a route. ``None`` and 0 mean that nothing is said.

    ``communities`` are canonical and in order (:mod:`lbnode.communities`); ``prepend`` is how many more times our AS stands in the path
    (other ASes only); ``local_preference`` goes to peers of our own AS only (RFC 4271 section 5.1.5). ``covered`` routes are kept by the daemon and read
    back, and no router hears of them: an aggregate stands for them.
    """

    communities: tuple[str, ...] = ()
    local_preference: int | None = None
    med: int | None = None
    prepend: int = 0
    covered: bool = False

    def __str__(self) -> str:
        said = [f"community {c}" for c in self.communities]
        said += [f"local preference {self.local_preference}"] if self.local_preference is not None else []
        said += [f"MED {self.med}"] if self.med is not None else []
        said += [f"prepended {self.prepend}x"] if self.prepend else []
        said += ["covered by an aggregate"] if self.covered else []
        return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a VIP is announced by this edge node, and why. ``reason`` is one CamelCase word; ``detail`` is for people."""

    announce: bool
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a Service, one port of it, or its active probe is refused. ``reason`` is one CamelCase word; ``message`` names value, rule and way out."""

    service: ServiceName
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker node in one address family. ``probe_address`` is ``None`` when no probe network gives it one of its own."""

    name: str
    address: IPAddress
    probe_address: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """What an edge node knows of its workers, by node address. A worker in neither set is undecided.

    ``without_endpoints`` holds the pairs of Service and worker for which the worker's own kube-proxy says that it has no endpoint,
    ``failing_probes`` those for which the worker says that its pods fail the Service's active probe.
    """

    healthy: frozenset[IPAddress] = frozenset()
    unhealthy: frozenset[IPAddress] = frozenset()
    without_endpoints: frozenset[tuple[ServiceName, IPAddress]] = frozenset()
    failing_probes: frozenset[tuple[ServiceName, IPAddress]] = frozenset()


@dataclass(frozen=True, slots=True)
class VipFacts:
    """What the cluster says of one VIP.

    ``workers`` may deliver now, probes aside; ``held`` are those of them that count only because their Node is Unknown;
    ``terminating_only`` says that no endpoint is ready and serving terminating ones stand in (kube-proxy reports none then, yet delivers);
    ``endpoints`` counts the endpoints that kube-proxy delivers to, wherever they are. ``attributes`` go with its route; ``elsewhere`` is a
    reason and its explanation when it is for other edge nodes to announce. ``sharing`` are the facts of younger Services that share the
    address, each by itself. With ``probed`` false the VIP is served by translation: then ``workers`` are the pods themselves, which no tunnel
    leads to and nobody probes. ``refused`` is set when no port of the Service is served: the first refusal's reason and message.
    """

    address: IPAddress
    service: ServiceName
    workers: frozenset[IPAddress] = frozenset()
    held: frozenset[IPAddress] = frozenset()
    endpoints: int = 0
    terminating_only: bool = False
    deleting: bool = False
    attributes: RouteAttributes = RouteAttributes()
    elsewhere: tuple[str, str] | None = None
    sharing: tuple[VipFacts, ...] = ()
    probed: bool = True
    refused: tuple[str, str] | None = None

    @property
    def all_services(self) -> tuple[VipFacts, ...]:
        """The facts of each Service at this address, the oldest first."""
        return (self, *self.sharing)
