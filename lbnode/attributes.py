"""What routers are told with a VIP: what its pool says, and what its Service asks for beside it.

A Service adds communities and may set numbers of its own. What of it cannot be read or would reach nobody is left out and told; the
route stays, because an address that vanishes by a slip in an annotation is the greater harm.
"""

from __future__ import annotations

from dataclasses import replace

from lbnode.bgp_settings import Bgp
from lbnode.communities import MOST, canonical, in_order
from lbnode.facts import Rejection, RouteAttributes
from lbnode.model import IPAddress
from lbnode.objects import (
    COMMUNITIES_ANNOTATION,
    LOCAL_PREFERENCE_ANNOTATION,
    MED_ANNOTATION,
    PREPEND_ANNOTATION,
    ServiceObject,
)
from lbnode.pools import LARGEST_METRIC, MOST_PREPENDS, Pool

ANNOTATIONS = (COMMUNITIES_ANNOTATION, LOCAL_PREFERENCE_ANNOTATION, MED_ANNOTATION, PREPEND_ANNOTATION)


def attributes_of(
    service: ServiceObject, address: IPAddress, pool: Pool, bgp: Bgp
) -> tuple[RouteAttributes, list[Rejection]]:
    """The attributes of the route to ``address``, and what of the Service's wishes is left out."""
    own = pool.attributes
    asked = [a for a in ANNOTATIONS if service.annotations.get(a, "").strip()]
    if not asked:
        return own, []
    if not pool.service_attributes:
        message = f"{', '.join(asked)}: pool {pool.name} has serviceAttributes off. Remove the annotation, or use another pool"
        return own, [Rejection(service.name, "AttributesNotAllowed", message)]
    if not pool.announces_host_route(address):
        message = (
            f"{', '.join(asked)}: pool {pool.name} announces aggregates without host routes, so {address} has no route of its own. "
            "Remove the annotation, or use another pool"
        )
        return own, [Rejection(service.name, "AttributesCovered", message)]
    refused: list[Rejection] = []

    def refuse(annotation: str, rule: str) -> None:
        message = f"annotation {annotation}: {rule}. The route goes without"
        refused.append(Rejection(service.name, "InvalidAttribute", message))

    def number(annotation: str, default: int | None, largest: int) -> int | None:
        text = service.annotations.get(annotation, "").strip()
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= largest):
            refuse(annotation, f"{text[:40]!r} is no whole number from 0 to {largest}. Write one")
            return default
        return int(text)

    communities = set(own.communities)
    parts = [p for p in (p.strip() for p in service.annotations.get(COMMUNITIES_ANNOTATION, "").split(",")) if p]
    if len(parts) > MOST:
        refuse(
            COMMUNITIES_ANNOTATION, f"{len(parts)} communities are more than {MOST}. Name fewer; the first {MOST} count"
        )
    for part in parts[:MOST]:
        try:
            communities.add(canonical(part[:40]))
        except ValueError as error:
            refuse(COMMUNITIES_ANNOTATION, str(error))
    wanted = RouteAttributes(
        communities=in_order(communities),
        local_preference=number(LOCAL_PREFERENCE_ANNOTATION, own.local_preference, LARGEST_METRIC),
        med=number(MED_ANNOTATION, own.med, LARGEST_METRIC),
        prepend=number(PREPEND_ANNOTATION, own.prepend, MOST_PREPENDS) or 0,
    )
    for annotation, unheard in (
        (LOCAL_PREFERENCE_ANNOTATION, bgp.unheard(wanted.local_preference, 0)),
        (PREPEND_ANNOTATION, bgp.unheard(None, wanted.prepend)),
    ):
        if unheard is not None:
            refuse(annotation, unheard)
    if not bgp.has_internal:
        wanted = replace(wanted, local_preference=None)
    if not bgp.has_external:
        wanted = replace(wanted, prepend=0)
    return wanted, refused


def asks_for_attributes(service: ServiceObject) -> bool:
    """Whether a Service asks for anything about its route."""
    return any(service.annotations.get(a, "").strip() for a in ANNOTATIONS)
