"""New connections at a bounded rate: each asks one question, and is one sample."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lab.traffic.flows import Channel, TcpChannel, Transport, UdpChannel, reason_of


@dataclass(frozen=True, slots=True)
class Sample:
    """One new connection: when it began, whether it was answered, after how long, by whom, and whom the pod saw."""

    at: float
    source: str | None
    ok: bool
    milliseconds: float
    error: str | None = None
    pod: str | None = None
    node: str | None = None
    client: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectionsPlan:
    """`count` connections (none: until stopped) at `per_second`, from `sources` in turn, each with `timeout_seconds` to be answered."""

    transport: Transport
    target: tuple[str, int]
    per_second: float
    count: int | None = None
    sources: tuple[str, ...] = ()
    timeout_seconds: float = 3.0


async def connect_once(plan: ConnectionsPlan, source: str | None) -> Sample:
    """Open, be answered, close."""
    channel: Channel = (TcpChannel if plan.transport == "tcp" else UdpChannel)(plan.target, source)
    began = time.monotonic()

    def milliseconds() -> float:
        return round((time.monotonic() - began) * 1000, 1)

    try:
        said = await channel.open(plan.timeout_seconds)
    except (OSError, EOFError, ValueError) as error:
        return Sample(began, source, False, milliseconds(), error=reason_of(error))
    finally:
        channel.close()
    return Sample(began, source, True, milliseconds(), pod=said.pod, node=said.node, client=said.client)


async def run(plan: ConnectionsPlan, stopped: asyncio.Event) -> list[Sample]:
    """Open loop: a slow answer does not slow the ones after it, so an outage is sampled at the full rate."""
    sources: Sequence[str | None] = plan.sources or (None,)
    began = time.monotonic()
    running: list[asyncio.Task[Sample]] = []
    while not stopped.is_set() and (plan.count is None or len(running) < plan.count):
        due = began + len(running) / plan.per_second
        if (wait := due - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(stopped.wait(), wait)
                break
            except TimeoutError:
                pass
        running.append(asyncio.create_task(connect_once(plan, sources[len(running) % len(sources)])))
    return list(await asyncio.gather(*running))


def as_json(samples: Sequence[Sample]) -> list[dict[str, object]]:
    return [asdict(sample) for sample in samples]
