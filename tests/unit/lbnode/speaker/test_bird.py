"""What the agent does with BIRD's files and answers, with a daemon of a few lines in BIRD's place."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbnode.bgp_settings import Bgp
from lbnode.errors import ConfigError, Retry
from lbnode.speaker.bird import Bird
from tests.unit.lbnode.speaker.speaker_conformance import BGP, NODE, NODE_ADDRESS, POOLS, routes

ACCEPTS = shutil.which("true") or "true"
WITH_KEY = Bgp.model_validate({**BGP.model_dump(), "peers": [{**BGP.peers[0].model_dump(), "password_key": "rack"}]})


class Daemon:
    """Answers every ``configure`` with ``answer`` and remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer = b"0003 Reconfigured"
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"0001 BIRD 2.0.12 ready.\n")
        while line := await reader.readline():
            self.asked.append(line.decode().strip())
            writer.write(self.answer + b"\n")
        writer.close()

    def run(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            server = await asyncio.start_unix_server(self.serve, str(self.folder / "bird.ctl"))
            async with server:
                await act()

        asyncio.run(main())


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    # A UNIX socket's path has at most 107 bytes, which pytest's own folders may exceed.
    with tempfile.TemporaryDirectory() as folder:
        yield Daemon(Path(folder))


def bird(daemon: Daemon, program: str = ACCEPTS, settings: Bgp = BGP) -> Bird:
    return Bird(
        settings, POOLS, NODE, (NODE_ADDRESS,), daemon.folder, daemon.folder / "secret", program, timeout_seconds=2
    )


def text(daemon: Daemon) -> str:
    return (daemon.folder / "bird.conf").read_text()


def test_without_a_daemon_the_file_is_written_for_its_start(daemon: Daemon) -> None:
    with pytest.raises(Retry):
        asyncio.run(bird(daemon).set(routes(5)))
    assert "route 203.0.113.5/32 blackhole;" in text(daemon)


def test_the_file_is_for_its_owner_only_and_nothing_is_left_beside_it(daemon: Daemon) -> None:
    daemon.run(lambda: bird(daemon).set(routes(5)))
    assert (daemon.folder / "bird.conf").stat().st_mode & 0o077 == 0
    assert sorted(p.name for p in daemon.folder.iterdir()) == ["bird.conf", "bird.ctl"]


def test_what_the_check_refuses_changes_nothing_and_is_told(daemon: Daemon) -> None:
    daemon.run(lambda: bird(daemon).set(routes(5)))
    before = text(daemon)
    refusing = daemon.folder / "refusing"
    refusing.write_text("#!/bin/sh\necho bird.conf.new:7:3 syntax error\nexit 1\n")
    refusing.chmod(0o755)
    daemon.asked.clear()
    with pytest.raises(ConfigError, match=r"bird\.conf:7:3 syntax error"):
        daemon.run(lambda: bird(daemon, str(refusing)).set(routes(6)))
    assert text(daemon) == before
    assert daemon.asked == []


def test_what_the_daemon_refuses_is_taken_back_and_told_again_at_each_try(daemon: Daemon) -> None:
    speaker = bird(daemon)
    daemon.run(lambda: speaker.set(routes(5)))
    before = text(daemon)
    daemon.answer = b"8002 bird.conf:9:1 no such thing"
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"bird\.conf:9:1 no such thing"):
            daemon.run(lambda: speaker.set(routes(6)))
        assert text(daemon) == before
    daemon.answer = b"0003 Reconfigured"
    daemon.run(lambda: speaker.set(routes(6)))
    assert "203.0.113.6/32" in text(daemon)


def test_a_daemon_that_is_shutting_down_means_retry_and_the_set_is_told_again(daemon: Daemon) -> None:
    speaker = bird(daemon)
    daemon.answer = b"0006 Reconfiguration ignored, shutting down"
    with pytest.raises(Retry, match="shutting down"):
        daemon.run(lambda: speaker.set(routes(5)))
    daemon.answer = b"0003 Reconfigured"
    daemon.asked.clear()
    daemon.run(lambda: speaker.set(routes(5)))
    assert daemon.asked == ["configure"]


def test_an_unchanged_set_is_not_told_again(daemon: Daemon) -> None:
    speaker = bird(daemon)

    async def thrice() -> None:
        for _ in range(3):
            await speaker.set(routes(5))

    daemon.run(thrice)
    assert daemon.asked == ["configure"]


def test_a_file_that_somebody_filled_with_other_bytes_is_replaced(daemon: Daemon) -> None:
    path = daemon.folder / "bird.conf"
    path.write_bytes(b"\xff\x00\xfe")
    daemon.run(lambda: bird(daemon).set(routes(5)))
    assert "route 203.0.113.5/32 blackhole;" in text(daemon)


def test_a_missing_binary_is_named(daemon: Daemon) -> None:
    with pytest.raises(ConfigError, match="program no-such-bird"):
        asyncio.run(bird(daemon, "no-such-bird").set(routes(5)))


def test_a_key_that_was_never_there_is_named_and_nothing_is_written(daemon: Daemon) -> None:
    with pytest.raises(ConfigError, match="BGP key rack of peer tor-1: it cannot be read"):
        asyncio.run(bird(daemon, settings=WITH_KEY).set(routes(5)))
    assert not (daemon.folder / "bird.conf").exists()


def test_a_key_that_vanishes_does_not_hold_up_a_withdrawal(daemon: Daemon) -> None:
    secret = daemon.folder / "secret"
    secret.mkdir()
    (secret / "rack").write_text("abc")
    speaker = bird(daemon, settings=WITH_KEY)
    daemon.run(lambda: speaker.set(routes(5)))
    (secret / "rack").unlink()
    with pytest.raises(ConfigError, match="BGP key rack"):
        daemon.run(lambda: speaker.set(routes()))
    assert "203.0.113.5" not in text(daemon)
    assert daemon.asked == ["configure", "configure"]
    assert (daemon.folder / "keys" / "tor-1.conf").read_text() == 'password "abc";\n'


def test_a_changed_key_is_told_though_the_text_is_the_same(daemon: Daemon) -> None:
    secret = daemon.folder / "secret"
    secret.mkdir()
    (secret / "rack").write_text("abc")
    speaker = bird(daemon, settings=WITH_KEY)
    daemon.run(lambda: speaker.set(routes(5)))
    (secret / "rack").write_text("xyz")
    daemon.run(lambda: speaker.set(routes(5)))
    assert daemon.asked == ["configure", "configure"]
    assert (daemon.folder / "keys" / "tor-1.conf").read_text() == 'password "xyz";\n'


def test_a_write_that_was_cut_short_before_is_overcome(daemon: Daemon) -> None:
    for name in (".bird.conf.partial", "bird.conf.new", ".bird.conf.new.partial"):
        (daemon.folder / name).write_text("half a li")
        (daemon.folder / name).chmod(0o400)
    daemon.run(lambda: bird(daemon).set(routes(5)))
    assert "203.0.113.5/32" in text(daemon)


def test_a_daemon_with_a_foreign_configuration_shows_no_session_of_ours(daemon: Daemon) -> None:
    daemon.answer = b"8003 No protocols match"
    states = []

    async def act() -> None:
        states.append(await bird(daemon).read())

    daemon.run(act)
    (state,) = states
    assert state.announced == frozenset()
    assert not state.sessions["tor-1"].established
    assert "not ours" in state.sessions["tor-1"].last_error
