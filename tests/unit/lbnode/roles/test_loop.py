"""The loop: errors say what happens next; settings: a bad text never displaces a good one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lbnode.errors import ConfigError, Retry
from lbnode.roles.loop import Loop, SettingsFile
from tests.unit.lbnode.roles.world import SETTINGS
from tests.unit.lbnode.simulated_time import simulate


def passes(*outcomes: Exception | None, resync_seconds: float = 0.01) -> tuple[Loop, list[int]]:
    """Run a loop whose passes end as listed, and stop it after the last."""
    loop = Loop(resync_seconds)
    done: list[int] = []

    async def pass_once() -> None:
        outcome = outcomes[len(done)]
        done.append(1)
        if len(done) == len(outcomes):
            loop.stop()
        if outcome is not None:
            raise outcome

    async def go() -> None:
        async with asyncio.timeout(5):
            await loop.run(pass_once)

    asyncio.run(go())
    return loop, done


@pytest.mark.parametrize("error", [Retry("later", 0.01), ConfigError("v", "r", "w"), ValueError("bug")])
def test_no_error_ends_the_loop(error: Exception) -> None:
    loop, done = passes(error, error, None)
    assert len(done) == 3
    assert loop.last_error == ""


def test_the_last_error_is_kept_for_the_status_page() -> None:
    loop, _ = passes(None, ConfigError("pool", "is too wide", "Name a longer prefix"))
    assert loop.last_error == "pool: is too wide. Name a longer prefix"


def test_failures_are_counted_by_their_kind() -> None:
    kinds: list[str] = []
    loop = Loop(0.01, kinds.append)
    outcomes: list[Exception] = [Retry("later", 0.01), ConfigError("v", "r", "w"), KeyError("bug")]

    async def pass_once() -> None:
        if len(kinds) == 2:
            loop.stop()
        raise outcomes[len(kinds)]

    asyncio.run(loop.run(pass_once))
    assert kinds == ["Retry", "ConfigError", "Bug"]


def test_only_a_pass_without_an_error_counts_as_a_success() -> None:
    successes: list[int] = []
    loop = Loop(0.01, succeeded=lambda: successes.append(1))
    outcomes: list[Exception | None] = [Retry("later", 0.01), None, KeyError("bug"), None]

    async def pass_once() -> None:
        outcome = outcomes.pop(0)
        if not outcomes:
            loop.stop()
        if outcome is not None:
            raise outcome

    asyncio.run(loop.run(pass_once))
    assert len(successes) == 2


def test_a_retry_comes_after_its_own_delay_not_at_the_next_resync() -> None:
    _, done = passes(Retry("soon", 0.01), None, resync_seconds=60)
    assert len(done) == 2


def test_a_wake_brings_the_next_pass_before_the_resync() -> None:
    loop = Loop(60)
    done: list[int] = []

    async def pass_once() -> None:
        done.append(1)
        if len(done) == 2:
            loop.stop()
        else:
            asyncio.get_running_loop().call_later(0.02, loop.wake)

    async def go() -> None:
        async with asyncio.timeout(5):
            await loop.run(pass_once)

    asyncio.run(go())
    assert len(done) == 2


def begins(wakes_seconds: Sequence[float], pass_seconds: float) -> list[float]:
    """When passes begin in simulated time, after the one at the start, with an event at each of these seconds after it."""
    found: list[float] = []

    async def go() -> None:
        clock = asyncio.get_running_loop()
        start_seconds, loop = clock.time(), Loop(3600)

        async def pass_once() -> None:
            found.append(clock.time() - start_seconds)
            await asyncio.sleep(pass_seconds)

        for at in wakes_seconds:
            clock.call_later(at, loop.wake)
        clock.call_later(60, loop.stop)
        await loop.run(pass_once)

    simulate(go())
    assert found[0] == 0
    return found[1:]


def test_an_event_after_a_quiet_time_waits_for_a_breath_only() -> None:
    assert begins([10], pass_seconds=0.01) == pytest.approx([10.003])


def test_events_that_come_together_share_passes_that_begin_twenty_milliseconds_apart() -> None:
    assert begins([10 + 0.0001 * n for n in range(400)], pass_seconds=0.001) == pytest.approx([10.003, 10.023, 10.043])


def test_an_event_during_a_long_pass_is_next() -> None:
    assert begins([10, 10.05, 10.06], pass_seconds=0.1) == pytest.approx([10.003, 10.106])


def settings_file(directory: Path) -> tuple[Path, SettingsFile]:
    path = directory / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return path, SettingsFile(path)


@pytest.mark.parametrize(
    "bad",
    ["{", json.dumps(SETTINGS | {"pols": []}), json.dumps(SETTINGS | {"logLevel": 3}), ""],
    ids=["cut", "key", "type", "empty"],
)
def test_a_bad_text_after_a_good_one_leaves_the_good_one_in_force(tmp_path: Path, bad: str) -> None:
    path, settings = settings_file(tmp_path)
    good = settings.current
    path.write_text(bad)
    assert settings.poll()
    assert settings.current == good
    assert str(path) in settings.error
    path.write_text(json.dumps(SETTINGS | {"logLevel": "debug"}))
    assert settings.poll()
    assert (settings.current.log_level, settings.error) == ("debug", "")


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe", json.dumps(SETTINGS).encode()[:-9] + b"\xc3", b'{"serviceClass": "\xff"}']
)
def test_bytes_that_are_no_text_leave_the_good_one_in_force(tmp_path: Path, bad: bytes) -> None:
    path, settings = settings_file(tmp_path)
    good = settings.current
    path.write_bytes(bad)
    assert settings.poll()
    assert settings.current == good
    assert "not JSON" in settings.error


def test_bytes_that_are_no_text_at_the_start_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not JSON"):
        SettingsFile(path)


def test_a_file_that_is_back_as_it_was_is_no_longer_an_error(tmp_path: Path) -> None:
    path, settings = settings_file(tmp_path)
    text = path.read_text()
    path.unlink()
    assert settings.poll()
    path.write_text(text)
    assert settings.poll()
    assert settings.error == ""


def test_a_file_that_vanishes_for_a_moment_leaves_the_good_one_in_force(tmp_path: Path) -> None:
    path, settings = settings_file(tmp_path)
    path.unlink()
    settings.poll()
    assert settings.current.log_level == "info"
    assert "No such file" in settings.error


XDP = SETTINGS | {"dataplane": "xdp", "xdp": {"devices": ["eth0"]}}


def test_settings_with_another_data_plane_than_the_pods_leave_the_last_ones_in_force_and_it_is_said(
    tmp_path: Path,
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    settings = SettingsFile(path, "ipvs")
    good = settings.current
    path.write_text(json.dumps(XDP | {"logLevel": "debug"}))
    assert settings.poll()
    assert settings.current == good
    assert "dataplane xdp" in settings.pending and "rollout status daemonset samegate-edge" in settings.pending
    assert settings.error == "", "nothing is wrong with them"
    assert not settings.poll(), "the same is told once"
    path.write_text("{")
    assert settings.poll()
    assert (settings.pending, "not JSON" in settings.error) == ("", True)
    path.write_text(json.dumps(SETTINGS | {"logLevel": "debug"}))
    assert settings.poll()
    assert (settings.current.log_level, settings.error, settings.pending) == ("debug", "", "")


def test_at_the_start_settings_with_another_data_plane_are_taken_but_for_it_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(XDP | {"logLevel": "debug"}))
    settings = SettingsFile(path, "ipvs")
    assert (settings.current.dataplane, settings.current.log_level) == ("ipvs", "debug")
    assert ("dataplane xdp" in settings.pending, settings.error) == (True, "")
    assert not settings.poll()


def test_at_the_start_settings_that_the_pods_data_plane_cannot_serve_are_an_error_with_the_way_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    with pytest.raises(ConfigError, match=r"dataplane ipvs: this agent was started with xdp.*rollout status"):
        SettingsFile(path, "xdp")


def test_roles_that_do_not_balance_take_settings_with_either_data_plane(tmp_path: Path) -> None:
    path, settings = settings_file(tmp_path)
    path.write_text(json.dumps(XDP))
    assert settings.poll()
    assert (settings.current.dataplane, settings.error) == ("xdp", "")


def test_a_bad_text_at_the_start_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        SettingsFile(path)
