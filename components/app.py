"""Apps: folders of plain manifests, the same on every stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pulumi
import yaml

from components.naming import Manifest, logical_name
from components.objects import KubernetesObject
from lbnode.errors import ConfigError


def load(folder: Path) -> tuple[dict[str, Any], ...]:
    """All objects in the folder's YAML files.

    Raises:
        ConfigError: there is no such folder, a file is not YAML, or an object has no name or is there twice.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError(
            f"app {folder.name!r}",
            f"{folder.parent.name}/{folder.name} holds no *.yaml",
            "Name a folder of manifests in samegate:apps",
        )
    manifests: dict[str, dict[str, Any]] = {}
    for file in files:
        where = f"{folder.name}/{file.name}"
        try:
            documents = [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
        except yaml.YAMLError as error:
            raise ConfigError(where, f"not YAML: {error}", "Mend the file") from None
        for document in documents:
            try:
                name = logical_name(document)
            except (ValueError, AttributeError) as error:
                raise ConfigError(where, str(error), "An app is plain Kubernetes objects") from None
            if name in manifests:
                raise ConfigError(where, f"{name} is there twice", "Remove one")
            manifests[name] = document
    return tuple(manifests.values())


def with_images(manifest: Manifest, images: Mapping[str, str]) -> dict[str, Any]:
    """The manifest with image names replaced in its pod template's containers, as `images` of kustomize does; nothing else changes."""
    changed = deepcopy(dict(manifest))
    pod = changed.get("spec") or {}
    if changed.get("kind") != "Pod":
        pod = (pod.get("template") or {}).get("spec") or {}
    for container in [*(pod.get("initContainers") or []), *(pod.get("containers") or [])]:
        container["image"] = images.get(container["image"], container["image"])
    return changed


def load_balancers(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    """The names of those that are Services of type LoadBalancer."""
    return tuple(
        logical_name(m)
        for m in manifests
        if m["kind"] == "Service" and (m.get("spec") or {}).get("type") == "LoadBalancer"
    )


class App(pulumi.ComponentResource):
    """One app; ``addresses`` maps its Services (namespace/name) to the address that each got."""

    def __init__(
        self,
        name: str,
        manifests: Sequence[Manifest],
        images: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("samegate:index:App", name, {}, opts)
        objects: dict[str, KubernetesObject] = {}
        # Namespaces and what pods mount come first; deletion runs backwards.
        first = {"Namespace": 0, "ConfigMap": 1, "Secret": 1, "ServiceAccount": 1}
        before: list[KubernetesObject] = []
        for stage in range(3):
            current = []
            for manifest in manifests:
                if first.get(manifest["kind"], 2) == stage:
                    resource = KubernetesObject(
                        with_images(manifest, images), pulumi.ResourceOptions(parent=self, depends_on=before)
                    )
                    objects[logical_name(manifest)] = resource
                    current.append(resource)
            before = current or before
        self.addresses: dict[str, pulumi.Output[str]] = {
            service.removeprefix("Service/"): objects[service].status.apply(_first_address)
            for service in load_balancers(manifests)
        }
        self.register_outputs({"addresses": self.addresses})


def _first_address(status: Any) -> str:
    for ingress in ((status or {}).get("loadBalancer") or {}).get("ingress") or []:
        if ingress.get("ip"):
            return str(ingress["ip"])
    return ""
