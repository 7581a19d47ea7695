"""Rounds of questions to the other agents' pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from lbnode.roles.neighbours import Neighbours

PAGES = {"worker1": "http://198.51.100.21:9475/v1/status", "worker2": "http://198.51.100.22:9475/v1/status"}


def asked_of(seconds: float, *, pause_seconds: float, answer_seconds: float = 0.0) -> tuple[list[str], list[int]]:
    """The URLs asked for within so many seconds, and what the pause was told."""
    urls: list[str] = []
    told: list[int] = []

    async def fetch(url: str, timeout_seconds: float) -> Mapping[str, Any]:
        urls.append(url)
        await asyncio.sleep(answer_seconds)
        return {}

    def pause(asked: int) -> float:
        told.append(asked)
        return pause_seconds

    async def follow() -> None:
        following = asyncio.create_task(Neighbours(lambda: PAGES, fetch, lambda: None, 1.0, pause).run())
        await asyncio.sleep(seconds)
        following.cancel()

    asyncio.run(follow())
    return urls, told


def test_every_page_is_asked_once_a_round_and_the_pause_knows_how_many_were() -> None:
    urls, told = asked_of(0.05, pause_seconds=10)
    assert sorted(urls) == sorted(PAGES.values())
    assert told == [2]


def test_a_slow_answer_is_not_asked_for_again_before_it_came() -> None:
    urls, _ = asked_of(0.1, pause_seconds=0.01, answer_seconds=10)
    assert len(urls) == 2
