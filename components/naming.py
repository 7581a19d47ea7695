"""Names, labels and type tokens: functions of stable configuration, never of a position in a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]
"""One Kubernetes object as plain JSON values."""

NAMESPACE = "samegate-system"
EDGE = "samegate-edge"
WORKER = "samegate-worker"
CONTROLLER = "samegate-controller"
SETTINGS = "samegate-settings"
BGP_KEYS = "samegate-bgp-keys"

#: The provider's annotation for the name under which an object's fields are owned in server-side apply.
FIELD_MANAGER_ANNOTATION = "pulumi.com/patchFieldManager"
FIELD_MANAGER = "samegate"

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
NAME = "app.kubernetes.io/name"


def selector(role: str) -> dict[str, str]:
    """The labels that select a role's pods. They can never change: a DaemonSet's selector is immutable."""
    return {NAME: "samegate", COMPONENT: role}


def labels(role: str) -> dict[str, str]:
    """All labels of a role's objects."""
    return {**selector(role), PART_OF: "samegate"}


def with_field_manager(manifest: Manifest) -> dict[str, Any]:
    """The object with a name of its own for the owner of its fields, unless it has one.

    The provider would draw a name by lot and keep it in the state alone. An ``up`` that is killed leaves objects that no state knows; the next one
    would come under another name, and the API server refuses to change what somebody else owns.
    """
    metadata = manifest.get("metadata") or {}
    annotations = {FIELD_MANAGER_ANNOTATION: FIELD_MANAGER, **(metadata.get("annotations") or {})}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def logical_name(manifest: Manifest) -> str:
    """The Pulumi name of an object: ``Kind/namespace/name``, or ``Kind/name`` for one without a namespace.

    Raises ValueError for an object without kind or name.
    """
    metadata = manifest.get("metadata") or {}
    kind, name = manifest.get("kind"), metadata.get("name")
    if not kind or not name:
        raise ValueError(
            f"manifest {str(manifest)[:80]!r} has no kind or no metadata.name: objects are named by both. Add what is missing"
        )
    return "/".join(part for part in (kind, metadata.get("namespace"), name) if part)


def type_token(manifest: Manifest) -> str:
    """The Pulumi type of an object, as the Kubernetes provider spells it: ``kubernetes:apps/v1:DaemonSet``.

    Raises ValueError for an object without apiVersion or kind.
    """
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if not version or not kind:
        raise ValueError(f"manifest {str(manifest)[:80]!r} has no apiVersion or no kind. Add what is missing")
    # The provider calls the legacy group by the name that the API documentation has for it.
    return f"kubernetes:{version if '/' in version else f'core/{version}'}:{kind}"
