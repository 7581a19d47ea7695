"""`python -m lab.traffic COMMAND`: one plan as JSON in the first line of stdin, answers as JSON lines on stdout.

`flows` and `connections` take orders on further lines of stdin (`check`, `stop`); the end of stdin is `stop`, so that a client never
outlives who started it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from typing import Any

from lab.traffic import connections, packets, ports, transfer
from lab.traffic.flows import Flows, FlowsPlan


def say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


async def _orders() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def _plan(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "target": tuple(raw["target"]), "sources": tuple(raw.get("sources", ()))}


async def flows() -> None:
    orders = await _orders()
    running = Flows(FlowsPlan(**_plan(json.loads(await orders.readline()))))
    await running.open()
    say(running.state())
    while (await orders.readline()).strip() == b"check":
        await running.check()
        say(running.state())
    state = running.state()
    await running.close()
    say({**state, "samples": running.samples()})


async def new_connections() -> None:
    orders = await _orders()
    plan = connections.ConnectionsPlan(**_plan(json.loads(await orders.readline())))
    stopped = asyncio.Event()

    async def listen() -> None:
        await orders.readline()
        stopped.set()

    listening = asyncio.create_task(listen())
    samples = await connections.run(plan, stopped)
    listening.cancel()
    say({"samples": connections.as_json(samples)})


def one_transfer(raw: dict[str, Any]) -> None:
    result = transfer.transfer(**{**raw, "target": tuple(raw["target"])})
    say({**dataclasses.asdict(result), "complete": result.complete})


def scan(raw: dict[str, Any]) -> None:
    verdicts = asyncio.run(ports.scan(**raw))
    say({"ports": {str(port): verdict for port, verdict in verdicts.items()}})


def packet(raw: dict[str, Any]) -> None:
    made = bytes.fromhex(raw["packet"])
    listen = raw.get("listen")
    heard: list[tuple[str, bytes]] = []
    if listen:
        heard = packets.send_and_listen(made, (listen[0], listen[1]), raw["wait_seconds"])
    else:
        packets.send(made)
    say({"heard": [{"sender": sender, "payload": payload.decode(errors="replace")} for sender, payload in heard]})


def main(argv: list[str]) -> int:
    match argv:
        case ["flows"]:
            asyncio.run(flows())
        case ["connections"]:
            asyncio.run(new_connections())
        case ["transfer"]:
            one_transfer(json.loads(sys.stdin.readline()))
        case ["ports"]:
            scan(json.loads(sys.stdin.readline()))
        case ["packet"]:
            packet(json.loads(sys.stdin.readline()))
        case _:
            print(
                "usage: python -m lab.traffic flows|connections|transfer|ports|packet  (one JSON plan on stdin)",
                file=sys.stderr,
            )
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
