"""What a role is started with, and what its pages have beside what the role itself says."""

from __future__ import annotations

import asyncio
import json
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from lbnode import __version__
from lbnode.dataplane.memory import MemoryEdge
from lbnode.errors import ConfigError
from lbnode.observe import Metrics, Pages
from lbnode.roles import kernels
from lbnode.roles.loop import Loop, SettingsFile
from lbnode.roles.running import role_pages
from tests.unit.lbnode.roles.world import SETTINGS


class Ending:
    """An outside of an agent that ends."""

    def __init__(self, removed: bool, changes: bool) -> None:
        self.removed, self.changes = removed, changes

    async def is_removed(self) -> bool:
        return self.removed

    async def changes_dataplane(self) -> bool:
        return self.changes


class Kernel(MemoryEdge):
    """Notes what is taken away."""

    def __init__(self, refuses: Exception | None = None) -> None:
        super().__init__(NETWORKS)
        self.taken_away: list[str] = []
        self.refuses = refuses

    def clear(self) -> None:
        self.taken_away.append("what balances")
        if self.refuses is not None:
            raise self.refuses

    def clean(self) -> None:
        self.taken_away.append("everything")


@pytest.mark.parametrize(
    ("removed", "changes", "taken_away"),
    [
        (False, False, []),
        (False, True, ["what balances"]),
        (True, False, ["everything"]),
        (True, True, ["everything"]),
    ],
)
def test_an_edge_agent_leaves_all_but_for_another_data_plane_or_for_good(
    removed: bool, changes: bool, taken_away: list[str]
) -> None:
    kernel = Kernel()
    outside: Any = Ending(removed, changes)
    asyncio.run(kernels.leave_edge(outside, kernel))
    assert kernel.taken_away == taken_away


def test_what_cannot_be_taken_away_is_not_tried_again_and_ends_no_process_in_an_error() -> None:
    kernel = Kernel(ConfigError("eth0", "its program is out of reach", "Remove it by hand"))
    outside: Any = Ending(removed=False, changes=True)
    asyncio.run(kernels.leave_edge(outside, kernel))
    assert kernel.taken_away == ["what balances"]


NETWORKS = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))


@pytest.fixture
def settings(tmp_path: Path) -> SettingsFile:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return SettingsFile(path)


def pages(settings: SettingsFile, loop: Loop) -> Pages:
    return role_pages(
        Metrics("edge", "test"),
        list,
        loop,
        lambda: settings.error,
        lambda: {"role": "edge"},
        lambda: {"services": []},
    )


def test_the_status_tells_the_version_and_both_kinds_of_error(settings: SettingsFile, tmp_path: Path) -> None:
    loop = Loop(1.0)
    assert pages(settings, loop).status() == {
        "role": "edge",
        "last_error": "",
        "settings_error": "",
        "version": __version__,
    }
    (tmp_path / "settings.json").write_text("{")
    settings.poll()
    loop.last_error = "no IPVS"
    said = pages(settings, loop).status()
    assert "not JSON" in said["settings_error"]
    assert said["last_error"] == "no IPVS"


def test_the_status_stays_equal_while_nothing_happens_and_the_page_for_people_tells_the_time(
    settings: SettingsFile,
) -> None:
    """The other agents wake when a status changes, so no time may be in it."""
    served = pages(settings, Loop(1.0))
    first: dict[str, Any] = dict(served.status())
    before = time.time()
    page = served.node()
    assert before <= page["time_unix_seconds"] <= time.time()
    assert page["services"] == []
    assert served.status() == first


@pytest.mark.parametrize(("families", "kept"), [(("ipv4",), NETWORKS[:1]), (("ipv4", "ipv6"), NETWORKS)])
def test_a_kernel_without_ipv6_is_given_no_ipv6_network(
    families: tuple[str, ...], kept: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in families:
        (tmp_path / family).mkdir()
    monkeypatch.setattr(kernels, "MOUNTED_SYSCTLS", tmp_path)
    assert kernels.networks_of_this_kernel(NETWORKS) == kept


def test_a_place_to_mount_sysctls_at_that_is_empty_is_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "ipv4").mkdir(parents=True)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(kernels, "MOUNTED_SYSCTLS", tmp_path / "mounted")
    monkeypatch.setattr(kernels, "OWN_SYSCTLS", own)
    # `own` is that of a kernel without IPv6: so these are its networks only if it was looked at.
    (tmp_path / "mounted/ipv6").mkdir()
    assert kernels.networks_of_this_kernel(NETWORKS) == NETWORKS[:1]
