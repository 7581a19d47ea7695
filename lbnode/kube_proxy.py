"""Whether this node's kube-proxy delivers a Service's new connections to pods that take them, by what it says and when.

Its health check speaks of ready endpoints, its rules may be older: kube-proxy writes at most once a second, and where a node has both IP
families two of them write one after the other while one of the two answers for both. As long as the older rules name pods that terminate,
new connections may end at a pod that no longer listens. So where a pod of this node terminates, or did a moment ago, an answer counts only
once it is as old as rules can be; and what this node delivers by itself (:mod:`lbnode.delivery`) does not make up for it, because it comes
behind kube-proxy's rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from lbnode.model import ServiceName

#: kube-proxy's --iptables-min-sync-period is 1 s; as much again for the writing of thousands of rules on a busy node.
RULES_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What was heard and seen, in monotonic seconds.

    ``since_seconds``: since when kube-proxy says without a break that it has a ready endpoint, ``-inf`` where it never said otherwise.
    ``without``: of which Services it said last that it has none. ``terminating``: of which a pod of this node terminates; ``ended_seconds``:
    when that was first seen to be over.
    """

    since_seconds: Mapping[ServiceName, float] = field(default_factory=dict)
    without: frozenset[ServiceName] = frozenset()
    terminating: frozenset[ServiceName] = frozenset()
    ended_seconds: Mapping[ServiceName, float] = field(default_factory=dict)


def heard(memory: Memory, answers: Mapping[ServiceName, bool | None], now_seconds: float) -> Memory:
    """The memory after one round of questions: ``True`` has a ready endpoint, ``False`` has none, ``None`` did not answer.

    A slow or restarting kube-proxy says nothing: its rules stay in the kernel, and so does its last answer here. One that never answered has
    no endpoint.
    """
    since: dict[ServiceName, float] = {}
    without: set[ServiceName] = set()
    for service, answer in answers.items():
        has = service in memory.since_seconds if answer is None else answer
        if not has:
            without.add(service)
        elif service in memory.since_seconds:
            since[service] = memory.since_seconds[service]
        else:
            since[service] = now_seconds if service in memory.without else float("-inf")
    return replace(memory, since_seconds=since, without=frozenset(without))


def seen(memory: Memory, terminating: frozenset[ServiceName], now_seconds: float) -> Memory:
    """The memory after a look at the endpoints: ``terminating`` are the Services of which a pod of this node terminates now. Looks may be any
    time apart.
    """
    kept = {s: at for s, at in memory.ended_seconds.items() if now_seconds - at <= RULES_SECONDS}
    ended = kept | dict.fromkeys(memory.terminating - terminating, now_seconds)
    return replace(memory, terminating=terminating, ended_seconds=ended)


def without_endpoints(memory: Memory, delivered: Set[ServiceName], now_seconds: float) -> frozenset[ServiceName]:
    """The Services that this node must get no new connection for; ``delivered`` are those that it delivers by itself."""

    def is_ending(service: ServiceName) -> bool:
        ended_seconds = memory.ended_seconds.get(service, float("-inf"))
        return service in memory.terminating or now_seconds - ended_seconds <= RULES_SECONDS

    lacking = {s for s in memory.without if s not in delivered or is_ending(s)}
    fresh = {s for s, at in memory.since_seconds.items() if now_seconds - at < RULES_SECONDS and is_ending(s)}
    return frozenset(lacking | fresh)
