"""Operations on services as a kernel's list has them: a new destination at the head, and an error for what is there twice or not at all."""

from __future__ import annotations

from dataclasses import replace

from lbnode.errors import Retry
from lbnode.model import Destination, VirtualKey, VirtualService
from lbnode.operations import AddDestination, AddService, RemoveDestination, RemoveService, SetWeight, UpdateService

ServiceOperation = AddService | UpdateService | RemoveService | AddDestination | SetWeight | RemoveDestination


def carry_out(services: dict[VirtualKey, VirtualService], operation: ServiceOperation) -> None:
    """Change ``services`` by one operation.

    Raises:
        Retry: the service or destination is there already, or the one that is named is not; nothing is changed.
    """
    match operation:
        case AddService(service):
            if service.key in services:
                raise _refused(operation, "File exists")
            services[service.key] = replace(service, destinations=())
        case UpdateService(service):
            services[service.key] = replace(
                service, destinations=_service(services, operation, service.key).destinations
            )
        case RemoveService(key):
            _service(services, operation, key)
            del services[key]
        case AddDestination() | SetWeight() | RemoveDestination():
            services[operation.key] = _with_destination(_service(services, operation, operation.key), operation)


def _with_destination(
    service: VirtualService, operation: AddDestination | SetWeight | RemoveDestination
) -> VirtualService:
    # The kernel tells destinations apart by address and port, whatever the way of forwarding.
    wanted_port = operation.nat_port or operation.key.port
    there = {(d.address, d.nat_port or operation.key.port): d for d in service.destinations}
    old = there.get((operation.address, wanted_port))
    if isinstance(operation, AddDestination):
        if old is not None:
            raise _refused(operation, "File exists")
        new = Destination(operation.address, operation.weight or 1, operation.weight == 0, operation.nat_port)
        return replace(service, destinations=(new, *service.destinations))
    if old is None:
        raise _refused(operation, "No such file or directory")
    if isinstance(operation, SetWeight):
        changed = replace(old, weight=operation.weight or old.weight, drained=operation.weight == 0)
        return replace(service, destinations=tuple(changed if d is old else d for d in service.destinations))
    return replace(service, destinations=tuple(d for d in service.destinations if d is not old))


def _service(
    services: dict[VirtualKey, VirtualService], operation: ServiceOperation, key: VirtualKey
) -> VirtualService:
    if key not in services:
        raise _refused(operation, "No such process")
    return services[key]


def _refused(operation: ServiceOperation, why: str) -> Retry:
    return Retry(f"the data plane refused {operation}: {why}")
