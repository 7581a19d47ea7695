"""What the controller, and nobody else, writes to the Kubernetes API: status, finalizers, events and its lease."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Event, Service, ServiceStatus
from lightkube.types import PatchType

from lbnode.errors import Retry
from lbnode.kube.client import API_ERRORS, Raw
from lbnode.lease import LeaseRecord
from lbnode.model import ServiceName


class Writer:
    """The controller's writes. Every method raises :class:`lbnode.errors.Retry` when the API server refuses or does not answer."""

    def __init__(self, api: AsyncClient, namespace: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity

    async def patch_status(self, service: ServiceName, status: Raw) -> None:
        """Strategic merge into the Service's status: conditions merge by type, the ingress list is replaced."""
        await self._patch(ServiceStatus, service, {"status": status}, PatchType.STRATEGIC)

    async def set_finalizers(self, service: ServiceName, finalizers: list[str], resource_version: str) -> None:
        """Replace the finalizers, only if the Service is still the one that was read."""
        await self._patch(
            Service,
            service,
            {"metadata": {"finalizers": finalizers, "resourceVersion": resource_version}},
            PatchType.MERGE,
        )

    async def _patch(self, resource: Any, service: ServiceName, patch: Raw, kind: PatchType) -> None:
        try:
            await self._api.patch(resource, service.name, patch, namespace=service.namespace, patch_type=kind)
        except ApiError as error:
            if error.status.code == 404:
                return
            raise Retry(f"{service}: {error.status.message}") from error
        except API_ERRORS as error:
            raise Retry(f"{service}: {error}") from error

    async def event(self, service: ServiceName, uid: str, kind: str, reason: str, message: str) -> None:
        """Create a core/v1 Event about the Service. ``kind`` is Normal or Warning."""
        now = datetime.now(UTC)
        body = Event(
            metadata=ObjectMeta(generateName=f"{service.name[:200]}.", namespace=service.namespace),
            involvedObject=ObjectReference(
                apiVersion="v1", kind="Service", name=service.name, namespace=service.namespace, uid=uid
            ),
            type=kind,
            reason=reason,
            message=message[:1024],
            source=EventSource(component="samegate"),
            reportingComponent="samegate.dev/controller",
            reportingInstance=self._identity,
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        try:
            await self._api.create(body)
        except API_ERRORS as error:
            raise Retry(f"event for {service}: {error}") from error

    async def read_lease(self, name: str) -> tuple[LeaseRecord | None, str]:
        """The lease's record and resource version; ``(None, "")`` where there is none."""
        try:
            found = await self._api.get(Lease, name, namespace=self._namespace)
        except ApiError as error:
            if error.status.code == 404:
                return None, ""
            raise Retry(f"lease {name}: {error.status.message}") from error
        except API_ERRORS as error:
            raise Retry(f"lease {name}: {error}") from error
        spec = found.spec or LeaseSpec()
        version = (found.metadata.resourceVersion if found.metadata else None) or ""
        return LeaseRecord(spec.holderIdentity or "", str(spec.renewTime), spec.leaseDurationSeconds or 0), version

    async def write_lease(self, name: str, holder: str, duration_seconds: int, resource_version: str) -> None:
        """Create the lease (no resource version) or replace the one that was read; a conflict is a Retry."""
        body = Lease(
            metadata=ObjectMeta(name=name, namespace=self._namespace, resourceVersion=resource_version or None),
            spec=LeaseSpec(holderIdentity=holder, leaseDurationSeconds=duration_seconds, renewTime=datetime.now(UTC)),
        )
        try:
            await (self._api.replace(body) if resource_version else self._api.create(body))
        except API_ERRORS as error:
            raise Retry(f"lease {name}: {error}") from error
