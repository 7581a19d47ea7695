"""The end of the lab: `down` leaves nothing on the host. Runs after everything else in this folder, by its name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tools
from lab import leftovers, topology
from tests.lab.conftest import lab

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("deployed_lab")]


def test_down_leaves_no_namespace_process_mount_or_file_and_keeps_the_cache() -> None:
    seen = {finding.split()[0] for finding in leftovers.on_host()}
    assert {"namespace", "process", "file"} <= seen, "the search finds the lab while it is up"
    lab("down", timeout_seconds=300)
    assert leftovers.on_host() == []
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout.split()
    # Another lab, with another name, may stand beside this one.
    assert set(listed).isdisjoint(topology.NAMESPACES)
    assert f"{topology.STATE}/" not in Path("/proc/mounts").read_text()
    assert tools.locate("kubectl").exists()


def test_down_of_a_lab_that_is_not_there_is_no_error() -> None:
    lab("down", timeout_seconds=60)
    assert leftovers.on_host() == []
