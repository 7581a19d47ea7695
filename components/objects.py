"""Any Kubernetes object as a Pulumi resource, from a plain manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi

from components.naming import Manifest, logical_name, type_token, with_field_manager

CREATE_TIMEOUT = "8m"
DELETE_TIMEOUT = "5m"


class KubernetesObject(pulumi.CustomResource):
    """One object, sent to the provider as it is written but for the owner of its fields; ``status`` is what the cluster answered.

    The SDK's class per kind would rename every field twice for nothing: manifests are the interface here.
    """

    def __init__(
        self, manifest: Manifest, opts: pulumi.ResourceOptions, values: Mapping[str, pulumi.Input[Any]] | None = None
    ) -> None:
        """``values`` replaces fields at the top of the manifest by values that are not plain (secrets)."""
        super().__init__(
            type_token(manifest),
            logical_name(manifest),
            {**with_field_manager(manifest), **(values or {}), "status": None},
            pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    additional_secret_outputs=["data", "stringData"] if manifest["kind"] == "Secret" else None,
                    custom_timeouts=pulumi.CustomTimeouts(
                        create=CREATE_TIMEOUT, update=CREATE_TIMEOUT, delete=DELETE_TIMEOUT
                    ),
                ),
            ),
        )

    @property
    def status(self) -> pulumi.Output[Any]:
        """The object's status after the provider has waited for it; None for kinds without."""
        status: pulumi.Output[Any] = pulumi.get(self, "status")
        return status
