"""When two Services may have one address: by an equal key, and with no port of their own in common.

Their traffic policies need not agree. A destination here belongs to an address *and* a port, on the edge nodes as in kube-proxy, so a port
with ``externalTrafficPolicy: Local`` goes to the workers of its own Service, whatever another port of the address does. (MetalLB
asks for equal policies, because with it the node that attracts an address also has to have the pods of every port.)
"""

from __future__ import annotations

from lbnode.model import IPAddress
from lbnode.objects import ADDRESS_ANNOTATION, SHARING_ANNOTATION, ServiceObject


def sharing_key(service: ServiceObject, across_namespaces: bool) -> tuple[str, str] | None:
    """What has to be equal in two Services that share an address; ``None`` when this one shares with nobody."""
    text = service.annotations.get(SHARING_ANNOTATION, "").strip()
    if not text:
        return None
    return ("" if across_namespaces else service.name.namespace, text)


def seed(key: tuple[str, str]) -> str:
    """What the first Service with this key is placed by, whichever of them it is. No Service is called like it: names have no colon."""
    return f"sharing-key:{key[0]}/{key[1]}"


def obstacle(
    newcomer: ServiceObject, holder: ServiceObject, address: IPAddress, across_namespaces: bool
) -> tuple[str, str] | None:
    """Why ``newcomer`` cannot have the address of ``holder`` too: a reason and a message with value, rule and way out."""
    theirs, mine = sharing_key(holder, across_namespaces), sharing_key(newcomer, across_namespaces)
    if mine is None and theirs is None:
        return (
            "AddressTaken",
            f"address {address} belongs to {holder.name}. Ask for a free one with {ADDRESS_ANNOTATION}, remove that to get one, "
            f"or give both the same {SHARING_ANNOTATION}",
        )
    if mine != theirs:
        return ("SharingKeyConflict", _keys_differ(newcomer, holder, address))
    held = {(p.protocol, p.port) for p in holder.ports}
    common = [f"{p.protocol} {p.port}" for p in newcomer.ports if (p.protocol, p.port) in held]
    if common:
        return (
            "SharingPortConflict",
            f"address {address} is shared with {holder.name}, which has {', '.join(common)} already: a port of an address has one Service. "
            f"Use other ports, or another {SHARING_ANNOTATION}",
        )
    return None


def _keys_differ(newcomer: ServiceObject, holder: ServiceObject, address: IPAddress) -> str:
    mine, theirs = (s.annotations.get(SHARING_ANNOTATION, "").strip()[:63] for s in (newcomer, holder))
    rule = (
        "a key counts within its namespace unless shareAcrossNamespaces is on"
        if mine == theirs
        else "two Services share an address only by equal keys"
    )
    return (
        f"address {address} belongs to {holder.name}: {SHARING_ANNOTATION} is {mine!r} here and {theirs!r} there, and {rule}. "
        "Use the same key, or ask for another address"
    )
