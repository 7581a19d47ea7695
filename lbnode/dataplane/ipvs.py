"""IPVS over generic netlink: services, destinations and timeouts of the pools, and nothing else.

A dump gives destinations in list order, head first, which is the order that ``ip_vs_mh`` fills its table in. The socket is pyroute2's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket
from pyroute2.netlink.generic.ipvs import (
    GENL_NAME,
    IPVS_CMD_GET_CONFIG,
    IPVS_CMD_GET_SERVICE,
)

from lbnode.dataplane.base import BalancerOperation
from lbnode.dataplane.ipvs_messages import (
    IpvsMessage,
    destination_of,
    destinations_request,
    request,
    service_of,
    staged,
)
from lbnode.dataplane.netlink import BlockingSocket, Channel, WholeDumps, batch, dump, get
from lbnode.dataplane.refusals import missing_module, missing_privilege
from lbnode.errors import Bug, ConfigError, Retry
from lbnode.model import IPNetwork, IpvsTimeouts, Place, VirtualKey, VirtualService
from lbnode.operations import (
    AddDestination,
    AddService,
    RemoveDestination,
    RemoveService,
    SetWeight,
    UpdateService,
)

Answer = TypeVar("Answer")


class IpvsSocket(BlockingSocket, AsyncGenericNetlinkSocket):
    """A generic netlink socket that knows the IPVS family. Opening it loads the module."""

    marshal_class = WholeDumps
    module_err_level = "debug"

    async def setup_endpoint(self) -> None:
        if not hasattr(self.local, "socket"):
            await super().setup_endpoint()
            await self.bind(GENL_NAME, IpvsMessage)


class Ipvs:
    """IPVS services whose address lies in ``pools``, which may be changed at any time."""

    def __init__(self, pools: Sequence[IPNetwork]) -> None:
        self.pools = tuple(pools)
        self._channel = Channel(IpvsSocket)
        self._last_weight: dict[tuple[VirtualKey, Place], int] = {}

    def close(self) -> None:
        self._channel.close()

    def _ask(self, question: Callable[[IpvsSocket], Coroutine[Any, Any, Answer]], what: str) -> Answer:
        try:
            return self._channel.ask(question)
        except OSError as error:
            self.close()
            if error.errno == errno.ENOENT:
                raise missing_module("ip_vs", "IPVS") from None
            raise Retry(f"cannot {what}: {error.strerror}") from None

    def services(self) -> tuple[VirtualService, ...]:
        """The services of the pools, sorted by key, with their destinations in list order.

        Raises:
            ConfigError: no IPVS.
            Retry: the kernel cannot be asked now.
        """
        return tuple(sorted(self._ask(self._services, "read IPVS"), key=lambda s: s.key.order))

    async def _services(self, socket: IpvsSocket) -> list[VirtualService]:
        found = await dump(socket, socket.prid, request(IPVS_CMD_GET_SERVICE), lambda a: service_of(a, self.pools))
        return [await self._with_destinations(socket, service) for service in found if service is not None]

    def timeouts(self) -> IpvsTimeouts:
        """Raises as :meth:`services`."""
        return self._ask(self._timeouts, "read the IPVS timeouts")

    async def _timeouts(self, socket: IpvsSocket) -> IpvsTimeouts:
        answer = await get(socket, socket.prid, request(IPVS_CMD_GET_CONFIG))
        tcp, tcp_fin, udp = (answer.get_attr(k, 0) for k in ("tcp", "tcp_fin", "udp"))
        return IpvsTimeouts(tcp_seconds=tcp, tcp_fin_seconds=tcp_fin, udp_seconds=udp)

    def apply(self, operations: Sequence[BalancerOperation]) -> None:
        """Send all operations in batches.

        Raises:
            ConfigError: the scheduler is missing, or the privilege, or all of IPVS.
            Retry: at least one operation failed, named in the message; the others of the batch were carried out.
        """

        steps = list(staged(operations))

        async def send(socket: IpvsSocket) -> list[int]:
            return await batch(socket, [(socket.prid, NLM_F_REQUEST | NLM_F_ACK, message) for _, message in steps])

        for (operation, _), result in zip(steps, self._ask(send, "send to IPVS"), strict=True):
            if result:
                raise _failure(operation, result)
            self._remember(operation)

    def _remember(self, operation: BalancerOperation) -> None:
        if isinstance(operation, AddDestination | SetWeight) and operation.weight:
            self._last_weight[operation.key, (operation.address, operation.nat_port)] = operation.weight
        elif isinstance(operation, RemoveDestination):
            self._last_weight.pop((operation.key, (operation.address, operation.nat_port)), None)
        elif isinstance(operation, RemoveService):
            self._last_weight = {k: w for k, w in self._last_weight.items() if k[0] != operation.key}

    async def _with_destinations(self, socket: IpvsSocket, service: VirtualService) -> VirtualService:
        found = await dump(
            socket,
            socket.prid,
            destinations_request(service.key),
            lambda answer: destination_of(answer, service.key, self._last_weight),
        )
        return replace(
            service,
            destinations=tuple(d for d, _ in found),
            intact=service.intact and all(intact for _, intact in found),
        )


def ipvs_knows_sctp(symbols: Path = Path("/proc/kallsyms")) -> bool:
    """Whether the loaded IPVS has SCTP (``ip_vs_proto_sctp.c``). It takes a service of any protocol and then lets its packets pass, so there is
    nothing to try; its function stands among the kernel's symbols. Where those are hidden the answer is yes, as distributions build it.
    """
    try:
        text = symbols.read_text()
    except OSError:
        return True
    return not text or " sctp_conn_schedule" in text


def _failure(operation: BalancerOperation, error: int) -> ConfigError | Retry | Bug:
    if error == errno.ENOENT and isinstance(operation, AddService | UpdateService):
        return missing_module("ip_vs_mh", "IPVS scheduler mh")
    if error == errno.EPERM:
        return missing_privilege()
    return Retry(f"IPVS refused {operation}: {os.strerror(error)}")
