"""What a role runs until SIGTERM: its loop, the tasks beside it, and its pages with what every role's have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from lbnode import __version__
from lbnode.errors import Retry
from lbnode.model import IPAddress
from lbnode.observe import Metrics, Pages, PageServer
from lbnode.roles.cycles import collect_seldom
from lbnode.roles.loop import Loop, on_termination
from lbnode.roles.outside import Task

#: An agent whose loop has not come by for so long is restarted by its liveness probe.
STUCK_SECONDS = 60.0

log = structlog.get_logger()


def role_pages(
    metrics: Metrics,
    not_ready: Callable[[], list[str]],
    loop: Loop,
    settings_error: Callable[[], str],
    status: Callable[[], dict[str, Any]],
    node_page: Callable[[], dict[str, Any]],
) -> Pages:
    """The pages of a role, which says by itself whether it is ready, and what is on its status page and its node's."""

    def unhealthy() -> list[str]:
        silent = time.monotonic() - loop.last_pass_seconds
        return [f"no pass for {silent:.0f} s"] if silent > STUCK_SECONDS else []

    def with_errors() -> dict[str, Any]:
        errors = {"last_error": loop.last_error, "settings_error": settings_error()}
        return {**status(), **errors, "version": __version__}

    def with_time() -> dict[str, Any]:
        # Not on the status page: the other agents poll that, and wake when it changes.
        return {**node_page(), "time_unix_seconds": time.time()}

    return Pages(metrics=metrics.page, ready=not_ready, healthy=unhealthy, status=with_errors, node=with_time)


async def until_terminated(
    loop: Loop,
    pass_once: Callable[[], Awaitable[None]],
    tasks: list[Task],
    pages: Pages,
    port: int,
    addresses: Sequence[IPAddress],
) -> None:
    """Run the loop and its tasks until SIGTERM. The pages stay until then; what comes after is the role's own end."""
    on_termination(loop.stop)
    server = PageServer(pages)
    running = [asyncio.create_task(t) for t in (*tasks, collect_seldom())]
    for task in running:
        # A task that ends by an error would leave the role deaf: end the process, and the kubelet starts a new one.
        task.add_done_callback(lambda t: None if t.cancelled() or t.exception() is None else _fail(loop, t))
    try:
        serving = asyncio.create_task(_serve(server, addresses, port))
        await loop.run(pass_once)
        serving.cancel()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if loop.failure is not None:
        raise loop.failure
    if loop.restarting:
        await server.close()
        raise SystemExit(0)


def _fail(loop: Loop, task: asyncio.Task[None]) -> None:
    loop.failure = task.exception()
    log.error("task.died", error=repr(loop.failure))
    loop.stop()


async def _serve(server: PageServer, addresses: Sequence[IPAddress], port: int) -> None:
    while True:
        try:
            await server.start(addresses[0], port, *addresses[1:])
        except Retry as error:
            # The predecessor's pod may still hold the port.
            log.warning("pages.retry", error=str(error))
            await asyncio.sleep(1.0)
        else:
            return
