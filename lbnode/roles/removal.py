"""The controller's last act when it is removed for good: no Service keeps an address, a condition or a finalizer of ours.

Without it a Service that outlives us could never be deleted: its finalizer would wait for a controller that does not come back. The edge
nodes have gone before (components.loadbalancer.manifests orders it so), so nothing here is announced any more.
"""

from __future__ import annotations

from typing import Any

import structlog

from lbnode.conditions import ACCEPTED, ANNOUNCED
from lbnode.errors import Retry
from lbnode.kube.watcher import Copy
from lbnode.object_reader import read_snapshot
from lbnode.objects import ServiceObject, is_ours
from lbnode.roles.controller import FINALIZER, ServiceWriter
from lbnode.settings import AgentSettings

log = structlog.get_logger()


async def release_services(copy: Copy, settings: AgentSettings, writer: ServiceWriter) -> tuple[str, ...]:
    """Take our traces off every Service that was ours; the names of those where the API server refused.

    Foreign Services are not touched; one that has gone to another class keeps the finalizer, which its new controller shares with us.
    """
    refused: list[str] = []
    for name, service in sorted(read_snapshot(copy.services.values()).services.items()):
        was_ours = any(c.type in (ACCEPTED, ANNOUNCED) for c in service.conditions)
        if not was_ours and not is_ours(service, settings):
            continue
        try:
            # The finalizer first: writing the status would outdate the version that its removal is tied to.
            if _finalizer_is_ours(service, settings):
                version = str(copy.services[name].get("metadata", {}).get("resourceVersion", ""))
                await writer.set_finalizers(name, [f for f in service.finalizers if f != FINALIZER], version)
            if was_ours:
                await writer.patch_status(name, _nothing_of_ours(service, settings))
        except Retry as error:
            refused.append(str(name))
            log.error("service.not_released", service=str(name), error=str(error))
        else:
            log.info("service.released", service=str(name), removal=True)
    return tuple(refused)


def _finalizer_is_ours(service: ServiceObject, settings: AgentSettings) -> bool:
    return FINALIZER in service.finalizers and (
        is_ours(service, settings) or service.deleting or service.type != "LoadBalancer"
    )


def _nothing_of_ours(service: ServiceObject, settings: AgentSettings) -> dict[str, Any]:
    status: dict[str, Any] = {"conditions": [{"$patch": "delete", "type": t} for t in (ACCEPTED, ANNOUNCED)]}
    if any(a in network for a in service.addresses for network in settings.pool_networks):
        status["loadBalancer"] = {"ingress": None}
    return status
