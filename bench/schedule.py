"""Who is measured when: in turns, so that what changes on the host while a benchmark runs meets every contender alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Contender = TypeVar("Contender")

FEWEST_ROUNDS = 5
"""Of a run that counts; a quick one has :data:`QUICK_ROUNDS`."""
QUICK_ROUNDS = 2


def turns(contenders: Sequence[Contender], rounds: int) -> Iterator[tuple[int, Contender]]:
    """Round (from 0) and contender, every contender once a round. Each round begins with another one, so that none always comes first."""
    for number in range(rounds):
        first = number % len(contenders) if contenders else 0
        for contender in (*contenders[first:], *contenders[:first]):
            yield number, contender
