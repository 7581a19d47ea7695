"""What the agents are told, read from their ConfigMap: as plain JSON, since the schema refuses half of what is looked for here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from policy.model import Parameters, Resource, Stack, readable

CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
SETTINGS = "samegate-settings"
FILE = "settings.json"


def settings_of(resource: Resource) -> Mapping[str, Any] | None:
    """The agents' settings if this is their ConfigMap; empty when it holds no JSON object."""
    if resource.type != CONFIG_MAP or (resource.properties.get("metadata") or {}).get("name") != SETTINGS:
        return None
    try:
        found = json.loads((resource.properties.get("data") or {}).get(FILE) or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def stack_settings(stack: Stack) -> tuple[Resource, Mapping[str, Any]] | None:
    """The ConfigMap of the stack and what it says; None in a stack without, or whose settings are unknown yet."""
    for resource, settings in readable(stack.of(CONFIG_MAP), settings_of):
        if settings is not None:
            return resource, settings
    return None


def peers(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The routers that edge nodes announce to."""
    return list((settings.get("bgp") or {}).get("peers") or [])


def bfd_or_graceful_restart(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A BGP peer has BFD or graceful restart, never both.

    Graceful restart keeps the routes of a speaker that is gone (RFC 4724); BFD says that it is gone at once and cancels that. With both, a
    restart of the agent is seen as a dead node, and which of the two wins differs by router.
    """
    for peer in peers(settings_of(resource) or {}):
        if peer.get("bfd") is not None and peer.get("gracefulRestart") is not None:
            yield f"peer {peer.get('name')} has both. Set bfd: null, or leave gracefulRestart out"


def hold_time(resource: Resource, parameters: Parameters) -> Iterator[str]:
    """A BGP session has a hold time of at least minimumSeconds, and of no more than maximumSeconds.

    RFC 4271 section 4.2 forbids 1 and 2 s; 0 switches the timer off, and then only BFD notices a dead edge node. Beyond a few minutes
    traffic goes into a hole for that long where there is no BFD.
    """
    for peer in peers(settings_of(resource) or {}):
        seconds = peer.get("holdTimeSeconds", 9)
        if not parameters["minimumSeconds"] <= seconds <= parameters["maximumSeconds"]:
            yield (
                f"peer {peer.get('name')} has holdTimeSeconds {seconds:g}, not from {parameters['minimumSeconds']:g} to {parameters['maximumSeconds']:g}. "
                "Leave it out for 9"
            )
