"""``samegate drain NODE`` and its undoing: the annotation, and whether it has come into force. The judging is pure; the waiting is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from lbnode.command.answer import FINE, FOUND_SOMETHING, Answer, Cell, Tone, listed
from lbnode.command.api import Api, Right
from lbnode.command.overview import announcing, vips_of
from lbnode.command.pages import of_role
from lbnode.command.view import View
from lbnode.errors import ConfigError
from lbnode.model import address_order
from lbnode.objects import DRAIN_ANNOTATION, NodeObject

PATCH_NODES = Right("patch", "nodes")
POLL_SECONDS = 0.5
#: By role, and whether the drain is undone.
_REACHED = {
    ("edge", False): "announces nothing",
    ("edge", True): "serves again",
    ("worker", False): "gets no new connections",
    ("worker", True): "drains no more: it gets connections where its pods are ready",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Whether the node is where it was sent; ``left`` says what is still to come."""

    done: bool
    left: str = ""


def target(view: View, name: str) -> tuple[NodeObject, str]:
    """The node and its role.

    Raises:
        ConfigError: there is no such Node, or it is neither an edge node nor a worker.
    """
    edge, worker = view.settings.edge_node_selector, view.settings.worker_node_selector
    ours = sorted(n.name for n in view.snapshot.nodes.values() if n.matches(edge) or n.matches(worker))
    node = view.snapshot.nodes.get(name)
    if node is None:
        raise ConfigError(
            f"Node {name}", "there is none of this name", f"Edge nodes and workers: {listed(ours, 'none')}"
        )
    if name not in ours:
        raise ConfigError(
            f"Node {name}", "it is neither an edge node nor a worker of samegate", f"Those are: {listed(ours, 'none')}"
        )
    return node, "edge" if node.matches(edge) else "worker"


def only_here(view: View, name: str) -> list[str]:
    """VIPs that nobody but this edge node announces: its drain would cut them off."""
    return [str(vip) for vip in vips_of(view) if announcing(view, vip).by == (name,)]


def progress(view: View, name: str, role: str, *, draining: bool) -> Progress:
    """How far a drain, or its undoing, has come, by what the agents say."""
    edges = of_role(view.agents, "edge")
    if role == "worker":
        addresses = view.snapshot.nodes[name].addresses if name in view.snapshot.nodes else ()
        silent = [e.node for e in edges if e.node_page is None]
        taking = [
            e.node
            for e in edges
            if e.node_page is not None
            and any(d.address in addresses and not d.drained for s in e.node_page.services for d in s.destinations)
        ]
        if draining:
            left = [f"{listed(taking)} still send new connections"] if taking else []
            left += [f"{listed(silent)} do not tell"] if silent else []
            return Progress(not left, "; ".join(left))
        return Progress(True)
    agent = next((e for e in edges if e.node == name), None)
    if agent is None or agent.status is None:
        return Progress(False, f"the agent on {name} does not answer: {agent.silence if agent else 'there is none'}")
    if draining:
        on_air = [
            str(a) for a, v in sorted(agent.status.vips.items(), key=lambda p: address_order(p[0])) if v.announced
        ]
        if on_air or not agent.status.draining:
            return Progress(
                False, f"{name} still announces {listed(on_air)}" if on_air else f"{name} has not seen the drain yet"
            )
        return Progress(True)
    back = [v.reason for v in agent.status.vips.values() if v.announce and not v.announced]
    if agent.status.draining or back:
        return Progress(
            False, f"{name} still drains" if agent.status.draining else f"{name} has not announced everything yet"
        )
    return Progress(True)


async def drain(
    api: Api,
    look: Callable[[], Awaitable[View]],
    name: str,
    *,
    undo: bool,
    wait: bool,
    force: bool = False,
    timeout_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Set or remove the annotation, and with ``wait`` look until it is in force, at most so long.

    Raises:
        ConfigError: no such node, or the drain would cut off a VIP and is not forced.
        MissingRights: nodes may not be patched.
    """
    view = await look()
    _, role = target(view, name)
    lost = only_here(view, name) if role == "edge" and not undo else []
    if lost and not force:
        raise ConfigError(
            f"drain {name}",
            f"no other edge node announces {listed(lost)}: nothing would reach it any more",
            "See `samegate status` for why none does, or add --force",
        )
    await api.merge(
        f"/api/v1/nodes/{name}",
        {"metadata": {"annotations": {DRAIN_ANNOTATION: None if undo else "true"}}},
        PATCH_NODES,
    )
    verb = "undrain" if undo else "drain"
    began = clock()
    data: dict[str, Any] = {
        "node": name,
        "role": role,
        "drain": not undo,
        "waited": wait,
        "done": None,
        "seconds": None,
        "left": "",
    }
    if not wait:
        return Answer(
            data, (Cell(f"{name}: {verb} asked for; `samegate status` shows how far it is, --wait waits"),), view.notes
        )
    while True:
        view = await look()
        state = progress(view, name, role, draining=not undo)
        seconds = round(clock() - began, 1)
        if state.done:
            what = _REACHED[(role, undo)]
            return Answer(
                {**data, "done": True, "seconds": seconds},
                (Cell(f"{name} {what}, after {seconds} s", Tone.GOOD),),
                view.notes,
                FINE,
            )
        if seconds >= timeout_seconds:
            told = f"{name}: the {verb} is asked for and not in force after {seconds} s: {state.left}"
            return Answer(
                {**data, "done": False, "seconds": seconds, "left": state.left},
                (Cell(told, Tone.BAD),),
                view.notes,
                FOUND_SOMETHING,
            )
        await asyncio.sleep(POLL_SECONDS)
