"""What a role is started with, and what its pages have beside what the role itself says."""

from __future__ import annotations

import json
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from lbnode import __version__
from lbnode.observe import Metrics, Pages
from lbnode.roles import start
from lbnode.roles.loop import Loop, SettingsFile
from tests.unit.lbnode.roles.world import SETTINGS

NETWORKS = (ip_network("203.0.113.0/24"), ip_network("2001:db8:113::/64"))


@pytest.fixture
def settings(tmp_path: Path) -> SettingsFile:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    return SettingsFile(path)


def pages(settings: SettingsFile, loop: Loop) -> Pages:
    return start._pages(
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
    monkeypatch.setattr(start, "MOUNTED_SYSCTLS", tmp_path)
    assert start.networks_of_this_kernel(NETWORKS) == kept


def test_a_place_to_mount_sysctls_at_that_is_empty_is_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "ipv4").mkdir(parents=True)
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(start, "MOUNTED_SYSCTLS", tmp_path / "mounted")
    monkeypatch.setattr(start, "OWN_SYSCTLS", own)
    # `own` is that of a kernel without IPv6: so these are its networks only if it was looked at.
    (tmp_path / "mounted/ipv6").mkdir()
    assert start.networks_of_this_kernel(NETWORKS) == NETWORKS[:1]
