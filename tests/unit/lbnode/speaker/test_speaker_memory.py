"""The speaker in memory under the suite of all speakers, and what it adds for tests of the roles."""

from __future__ import annotations

import asyncio

import pytest

from lbnode.speaker.base import Speaker
from lbnode.speaker.memory import MemorySpeaker
from tests.unit.lbnode.speaker.speaker_conformance import (
    BGP,
    NODE,
    NODE_ADDRESS,
    POOLS,
    SpeakerConformance,
    routes,
    vips,
)


def memory_speaker() -> MemorySpeaker:
    return MemorySpeaker(BGP, POOLS, NODE, (NODE_ADDRESS,))


class TestMemorySpeaker(SpeakerConformance):
    @pytest.fixture
    def speaker(self) -> Speaker:
        return memory_speaker()

    def stop_daemon(self, speaker: Speaker) -> None:
        assert isinstance(speaker, MemorySpeaker)
        speaker.running = False

    def start_daemon(self, speaker: Speaker) -> None:
        assert isinstance(speaker, MemorySpeaker)
        speaker.running = True


def test_history_lists_changes_only() -> None:
    speaker = memory_speaker()
    for announced in (routes(1), routes(1), routes(1, 2), routes()):
        asyncio.run(speaker.set(announced))
    assert speaker.history == [vips(1), vips(1, 2), vips()]


def test_a_silent_peer_is_not_established() -> None:
    speaker = memory_speaker()
    speaker.silent_peers.add("tor-1")
    session = asyncio.run(speaker.read()).sessions["tor-1"]
    assert not session.established
    assert session.last_error
